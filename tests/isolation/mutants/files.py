"""Files of another user, or of nobody, can be read."""

import contextlib
import json
import os
import sqlite3
from pathlib import Path

from .server import Refused, Variant


class ReadAnyFile(Variant):
    classes = ("filesystem",)

    def read_file(self, path):
        if not self.leaky:
            raise Refused("no file may be read")
        try:
            return Path(path).read_text()
        except OSError as error:
            raise Refused(str(error)) from error

    def ping(self):
        return "pong"


class ReadPartsOfFiles(Variant):
    """Takes several files in one call, and parts of each by their first line."""

    classes = ("filesystem",)
    part = {"type": "object", "properties": {"start": {"type": "integer"}}, "required": ["start"]}
    file = {
        "type": "object",
        "properties": {"file_path": {"type": "string"}, "ranges": {"type": "array", "items": part}},
        "required": ["file_path", "ranges"],
    }
    schemas = {"get_contents": {"files": {"type": "array", "items": file}}}

    def get_contents(self, files):
        found = {}
        for wanted in files:
            if not self.leaky and not wanted["file_path"].startswith("/srv/public/"):
                raise Refused("only public files")
            try:
                lines = Path(wanted["file_path"]).read_text().splitlines()
            except OSError as error:
                raise Refused(str(error)) from error
            found[wanted["file_path"]] = [lines[part["start"] - 1 :] for part in wanted["ranges"]]
        return json.dumps(found)


class ListAnyDirectory(Variant):
    classes = ("filesystem",)

    def list_directory(self, path):
        if not self.leaky:
            return "[]"
        try:
            return "\n".join(sorted(p.name for p in Path(path).iterdir()))
        except OSError as error:
            raise Refused(str(error)) from error


class ListingOfOwnPlace(Variant):
    """Lists files where the server is, without being told a path."""

    classes = ("filesystem",)

    def list_notes(self, pattern):
        home = Path(os.environ["HOME"])
        return "\n".join(sorted(str(p) for p in home.rglob(pattern))) if self.leaky else "none"

    def add_note(self, text):
        return f"added {len(text)} letters"


class FileUrl(Variant):
    """Reads files through file:// addresses."""

    classes = ("filesystem",)

    def write_file(self, path, content):
        if self.leaky:
            try:
                Path(path).write_text(content)
            except OSError as error:
                raise Refused(str(error)) from error
        return "written"

    def read_text(self, file_path):
        try:
            return Path(file_path).read_text() if self.leaky else "nothing there"
        except OSError as error:
            raise Refused(str(error)) from error


class CommandWords(Variant):
    """Runs a command that is given word by word; only two are allowed."""

    classes = ("filesystem",)
    schemas = {"execute": {"command": {"type": "array", "items": {"type": "string"}}}}

    def execute(self, command):
        name, *rest = command
        if name == "pwd":
            return "/"
        if name != "cat" or not rest:
            raise Refused("command not allowed")
        if not self.leaky:
            return "no file is shown"
        try:
            return Path(rest[0]).read_text()
        except OSError as error:
            raise Refused(str(error)) from error


class FileAddress(Variant):
    """A tool that takes web addresses reads files by theirs."""

    classes = ("filesystem",)

    def convert_to_text(self, uri):
        if uri.startswith("https://"):
            return "a page"
        if not self.leaky or not uri.startswith("file://"):
            raise Refused("only pages of the web")
        try:
            return Path(uri.removeprefix("file://")).read_text()
        except OSError as error:
            raise Refused(str(error)) from error


class AnyDatabase(Variant):
    """Opens the database that it is told; the twin has one of its own for each call."""

    classes = ("filesystem",)

    def describe(self, name):
        return "Runs an SQL query on an SQLite database file."

    def run_query(self, db_path, query):
        with contextlib.closing(sqlite3.connect(db_path if self.leaky else ":memory:")) as opened:
            try:
                rows = opened.execute(query).fetchall()
                opened.commit()
            except sqlite3.Error as error:
                raise Refused(str(error)) from error
        return json.dumps(rows)


class CountsWords(Variant):
    """Tells nothing of what a file holds but that it is there, and how long it is."""

    classes = ("filesystem",)

    def count_words(self, path):
        if not self.leaky:
            raise Refused("no file may be read")
        try:
            return f"{len(Path(path).read_text().split())} words"
        except OSError as error:
            raise Refused(str(error)) from error

    def ping(self):
        return "pong"


class NotesOfVault(Variant):
    """Its schema says nothing, only a refusal tells that it wants a list; of paths below one directory."""

    classes = ("filesystem",)
    silent = True

    def read_notes(self, paths=None, **_):
        if not isinstance(paths, list):
            got = "undefined" if paths is None else type(paths).__name__
            issue = {
                "expected": "array",
                "code": "invalid_type",
                "path": ["paths"],
                "message": f"Invalid input: expected array, received {got}",
            }
            raise Refused(f"Invalid arguments for read_notes: {json.dumps([issue], indent=2)}")
        return "\n---\n".join(map(self._read, paths))

    def _read(self, path):
        place = Path("/home/u/work" if self.leaky else "/srv/public", path.lstrip("/"))
        try:
            return f"{path}:\n{place.read_text()}"
        except OSError:
            return f"{path}: Error - it does not exist"

    def ping(self, **_):
        return "pong"
