"""Copies of a package's directory, one for each owner, for servers that keep data beside their code.

Made at the first start, kept beside the home, and laid over the directory inside of the sandbox. The
store itself stays read-only and everybody else's. A copy is never below the home, where its owner
could put a link in its place.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from mcphub.errors import InvalidInput, Unavailable
from mcphub.spawn.spawner import Launch

_MOST_BYTES: Final = 64 * 1024 * 1024
_MOST_FILES: Final = 20_000


def beside(home: Path) -> Path:
    """Return where the copies of a home's owner lie; no server's home has such a name."""
    return home.with_name(f".{home.name}.own")


def of(launch: Launch) -> list[tuple[Path, Path]]:
    """Return (copy, place inside) of everything that an instance has of its own."""
    return [(_copy(launch.home, source), source) for source in launch.own]


def make(launch: Launch, uid: int) -> None:
    """Make the copies that are not there yet, for a kernel uid. Blocking.

    Raises:
        InvalidInput: A directory is too large.
        Unavailable: The disk refuses.
    """
    for copy, source in of(launch):
        if copy.is_dir():
            continue
        _refuse_large(source)
        with contextlib.ExitStack() as undo:
            try:
                copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                work = tempfile.mkdtemp(prefix=".new-", dir=copy.parent)
                undo.callback(shutil.rmtree, work, ignore_errors=True)
                inner = Path(work, "copy")
                shutil.copytree(source, inner, symlinks=True)
                _give(inner, uid)
                inner.rename(copy)
            except OSError as error:
                if copy.is_dir():
                    continue  # another start was faster
                raise Unavailable(
                    f"The instance's copy of its package cannot be made ({error.strerror}).",
                    hint="Check the free space of the hub's `homes` directory.",
                ) from None


def _copy(home: Path, source: Path) -> Path:
    # the path names package and version: another version, another copy
    return beside(home) / hashlib.sha256(os.fsencode(source)).hexdigest()[:16]


def _refuse_large(source: Path) -> None:
    size, count = 0, 0
    for directory, _, files in os.walk(source):
        for name in files:
            size += Path(directory, name).lstat().st_size
            count += 1
        if size > _MOST_BYTES or count > _MOST_FILES:
            raise InvalidInput(
                "The package's directory is too large for a copy for each user.",
                hint="Remove `sandbox.ownPackage`, and tell the server by its settings where to write.",
            )


def _give(tree: Path, uid: int) -> None:
    """Make a tree belong to a uid and writable for it; links are not followed."""
    for directory, names, files in os.walk(tree):
        here = Path(directory)
        for path in (here, *(here / name for name in (*names, *files))):
            if path.is_symlink():
                continue
            path.chmod(path.stat().st_mode | 0o600 | (0o100 if path.is_dir() else 0))
            if os.geteuid() == 0:
                os.chown(path, uid, uid, follow_symlinks=False)
