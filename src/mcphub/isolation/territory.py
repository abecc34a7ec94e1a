"""The home directory of a server under check: whose files lie where, as the server sees it.

Each user has a directory with a private file and a small git repository in it; one file lies outside
of every declared directory. A's exist only in runs with A. Names of A's directory are canaries too.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

from mcphub.isolation import samples
from mcphub.isolation.canaries import mint

INSIDE: Final = PurePosixPath("/home/u")
_GIT: Final = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "someone",
    "GIT_AUTHOR_EMAIL": "someone@example.com",
    "GIT_COMMITTER_NAME": "someone",
    "GIT_COMMITTER_EMAIL": "someone@example.com",
    "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z",
    "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z",
}


@dataclass(frozen=True, slots=True)
class Holding:
    """One user's files.

    Attributes:
        directory: As the server sees it; its name holds `name`.
        name: A's is a canary.
        word: Content of its file and message of its commit; A's is another canary.
    """

    directory: PurePosixPath
    name: str
    word: str

    def file(self, extension: str = samples.PLAIN) -> PurePosixPath:
        """Return the private file of a format (`samples`)."""
        return self.directory / f"private{extension}"


@dataclass(frozen=True, slots=True)
class Territory:
    """Where things are; `lay` puts them into a home on the host.

    Attributes:
        roots: Directories that the launch line declares; the home itself when it declares none.
        a, b: Holdings of the users, below the first root.
        outside: A file of nobody's, outside of every root.
        outside_word: Its content, a canary.
        is_repository: The roots are git repositories.
    """

    roots: tuple[PurePosixPath, ...]
    a: Holding
    b: Holding
    outside: PurePosixPath
    outside_word: str
    is_repository: bool = False
    parents: tuple[PurePosixPath, ...] = ()
    files: tuple[tuple[PurePosixPath, str], ...] = ()

    @classmethod
    def plan(cls, mentioned: Sequence[str], *, repository: bool) -> "Territory":
        """Plan the home of a launch line that mentions these absolute paths."""
        paths = [PurePosixPath(os.path.normpath(text)) for text in mentioned]
        below = [path for path in paths if path.is_relative_to(INSIDE) and path != INSIDE]
        roots = tuple(path for path in below if not path.suffix and not _is_file_name(path))
        first = roots[0] if roots else INSIDE / "work"
        a, b = (Holding(first / f"dir{name}", name, mint()) for name in (mint(), mint()))
        return cls(
            roots or (first,),
            a,
            b,
            INSIDE / "elsewhere" / "other.txt",
            mint(),
            repository,
            tuple(path.parent for path in below),
        )

    def with_file(self, path: str, text: str) -> "Territory":
        """Return the same with one more file, if its path lies in the home."""
        place = PurePosixPath(os.path.normpath(path))
        if not place.is_relative_to(INSIDE):
            return self
        return replace(self, files=(*self.files, (place, text)))

    def holding(self, user: str) -> Holding:
        """Return a user's files."""
        return self.a if user == "A" else self.b

    def lay_for(self, home: Path, user: str) -> None:
        """Fill the home of one user who has a home of its own; of nobody (""), with roots only.

        Blocking.
        """
        self._lay(home, (self.holding(user),) if user else (), outside=user == "A")

    def lay(self, home: Path, *, with_a: bool) -> None:
        """Fill an empty home. Blocking, some tens of milliseconds for git."""
        self._lay(home, (self.a, self.b) if with_a else (self.b,), outside=with_a)

    def _lay(self, home: Path, holdings: Sequence[Holding], *, outside: bool) -> None:
        for parent in (*self.roots, *self.parents):
            _host(home, parent).mkdir(parents=True, exist_ok=True)
        for path, text in self.files:
            _host(home, path).parent.mkdir(parents=True, exist_ok=True)
            _host(home, path).write_text(text)
        if self.is_repository:
            for root in self.roots:
                _repository(_host(home, root), "first")
        for holding in holdings:
            place = _host(home, holding.directory)
            place.mkdir(parents=True, exist_ok=True)
            for extension, content in samples.samples(f"private note {holding.word}").items():
                _host(home, holding.file(extension)).write_bytes(content)
            _repository(place, f"note {holding.word}")
        if outside:
            other = _host(home, self.outside)
            other.parent.mkdir(parents=True, exist_ok=True)
            other.write_text(f"private note {self.outside_word}\n")


def give(home: Path, uid: int) -> None:
    """Make everything in a home belong to a kernel uid, where we may."""
    if os.geteuid() != 0:
        return
    for directory, _, files in os.walk(home):
        for name in (directory, *(os.path.join(directory, file) for file in files)):  # noqa: PTH118
            os.chown(name, uid, uid, follow_symlinks=False)


def _host(home: Path, inside: PurePosixPath) -> Path:
    return home / inside.relative_to(INSIDE)


def _is_file_name(path: PurePosixPath) -> bool:
    return path.name.startswith(".") or path.name.lower() in {
        "kubeconfig",
        "config",
        "db",
        "database",
    }


def _repository(place: Path, message: str) -> None:
    git = shutil.which("git", path=_GIT["PATH"])
    if git is None:
        return
    where = ["-C", str(place), "-c", "safe.directory=*", "-c", "gc.auto=0"]
    commands = (
        ["init", "--quiet", "--template=", "--initial-branch=main"],
        ["add", "--all", "."],
        ["commit", "--quiet", "--allow-empty", "--message", message],
    )
    for command in commands:
        subprocess.run(
            [git, *where, *command], env=_GIT, capture_output=True, check=False, timeout=20
        )
