"""Files with credentials that an entry of one person's client names, and what takes their place. Pure.

Such a file is one person's and on that person's machine. Behind the hub each user has an own one at the
same place below the home (`files` of an entry), whose text each user sets.
"""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from mcphub.catalog.files import place_below_home
from mcphub.catalog.inputs import slot_name
from mcphub.catalog.secrets_in_text import is_secret_name
from mcphub.errors import InvalidInput

_HOMES: Final = re.compile(
    r"(?:~|\$\{USER_HOME\}|/Users/[^/]+|/home/[^/]+|/root|[A-Za-z]:/Users/[^/]+)/(?P<below>.+)\Z"
)
_PATH: Final = re.compile(r"(?:~|\$\{USER_HOME\}|\.{0,2}|[A-Za-z]:)?/[^\n]*[^/\n]\Z")
_SUFFIX: Final = re.compile(r"_?(?:FILE_?PATH|FILE_?NAME|PATH|FILE|JSON)\Z")
_FOR_FILES: Final = frozenset(
    {"GOOGLE_APPLICATION_CREDENTIALS", "KUBECONFIG", "NETRC", "PGPASSFILE"}
)
_ALSO_SECRET: Final = re.compile(
    r"(?:^|_)(?:OAUTH|SERVICE_ACCOUNT|KUBECONFIG|NETRC|PGPASS)(?:_|\Z)"
)
_ENDINGS: Final = frozenset({".json", ".pem", ".key", ".yaml", ".yml", ".toml", ".ini", ".netrc"})
_NO_TEXT: Final = frozenset({".p12", ".pfx", ".jks", ".kdbx"})
"""Files that no credential can hold: it is text."""
_FLAG: Final = re.compile(r"--?(?P<name>[A-Za-z][\w-]*)(?:=(?P<value>.+))?\Z", re.DOTALL)


def with_key_files(entry: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return an entry whose files with credentials are each user's own, and notes about them.

    Only where both the name and the value say that it is a file: a name such as `GMAIL_OAUTH_PATH`,
    or one of a secret with a value such as `~/.x/key.json`.
    """
    if "command" not in entry:
        return dict(entry), []
    found = _Found(entry.get("env"), entry.get("args"))
    parts = {"env": found.env, "args": found.args, "files": found.files}
    return {**entry, **{key: part for key, part in parts.items() if part}}, found.notes


class _Found:
    """The parts of one entry, rewritten."""

    def __init__(self, env: object, args: object) -> None:
        self.files: dict[str, str] = {}
        self.notes: list[str] = []
        self.env: dict[str, Any] = dict(env) if isinstance(env, dict) else {}
        self.args: list[Any] = list(args) if isinstance(args, list) else []
        for name, value in self.env.items():
            self.env[name] = self._rewritten(name, value, f"env.{name}")
        before = ""
        for index, word in enumerate(self.args):
            flag = _FLAG.match(word) if isinstance(word, str) else None
            place = f"args[{index}]"
            if flag is not None and flag["value"] is not None:
                made = self._rewritten(flag["name"], flag["value"], place)
                self.args[index] = f"{word[: -len(flag['value'])]}{made}"
            elif flag is None and before:
                self.args[index] = self._rewritten(before, word, place)
            before = flag["name"] if flag is not None and flag["value"] is None else ""

    def _rewritten(self, name: str, value: Any, place: str) -> Any:
        if not isinstance(value, str) or (slot := _slot_of(name, value)) is None:
            return value
        below = _below_home(value)
        if below is None:
            return value
        file, text = f"~/{below}", f"${{USER_{slot}}}"
        if self.files.get(file, text) != text or text in {
            other for at, other in self.files.items() if at != file
        }:
            return value  # two different files would become one
        self.files[file] = text
        self.notes.append(
            f"{place} named a file with a credential; it is now ~/{below} of each user's own, from the "
            f"credential {slot}: mcphub credential set … {slot} --from-file FILE."
        )
        return f"${{USER_HOME}}/{below}"


def _slot_of(name: str, value: str) -> str | None:
    """Return the slot for a file that a variable or a flag names; None for anything else."""
    upper = re.sub(r"[^A-Z0-9]+", "_", name.upper()).strip("_")
    path = value.replace("\\", "/")
    bare = _SUFFIX.sub("", upper)
    named = upper in _FOR_FILES or bare != upper
    if not (is_secret_name(bare) or _ALSO_SECRET.search(bare) or upper in _FOR_FILES):
        return None
    if PurePosixPath(path).suffix.lower() in _NO_TEXT:
        return None
    if not _PATH.match(path) and not (named and PurePosixPath(path).suffix.lower() in _ENDINGS):
        return None
    # a secret may begin with a slash: only what ends as a file does, or is said to be one
    if not named and PurePosixPath(path).suffix.lower() not in _ENDINGS:
        return None
    return slot_name(bare)


def _below_home(value: str) -> str | None:
    path = value.replace("\\", "/")
    home = _HOMES.match(path)
    below = home["below"] if home is not None else PurePosixPath(path).name
    try:
        return place_below_home(f"~/{below}")
    except InvalidInput:
        return None
