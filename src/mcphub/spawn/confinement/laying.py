"""Lays files into the memory of a sandbox, and links to them into the home. Standard library only.

Runs inside, as the sandbox' own user and without any right beyond: whatever lies in the home, a link
out of it too, opens nothing that this user could not open anyhow.
"""

import os
import secrets
from collections.abc import Mapping
from typing import Final

PLACE: Final = "/run/mcp/files"
"""Directory in memory, of the instance alone."""
MOST_BYTES: Final = 1024 * 1024
"""Size of its file system."""


def lay(files: Mapping[str, str], home: str) -> None:
    """Make the files, path below the home -> text, and a link at each path.

    A file or link that is there is replaced: what counts is what the hub gives. Where that is not
    possible, a directory is in the way perhaps, the process says so on stderr and ends.
    """
    for below, text in files.items():
        try:
            _lay(below, text.encode(), home)
        except OSError as error:
            said = f"The file ~/{below} cannot be given to the server: {error.strerror}."
            os.write(2, f"{said}\n".encode(errors="replace"))
            os._exit(1)


def _lay(below: str, text: bytes, home: str) -> None:
    path, link = f"{PLACE}/{below}", f"{home}/{below}"
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(text)
    _make_directories(home, os.path.dirname(below))
    new = f"{link}.{secrets.token_hex(4)}"
    os.symlink(path, new)
    try:
        os.replace(new, link)
    except OSError:
        os.unlink(new)
        raise


def _make_directories(home: str, below: str) -> None:
    """Make the directories on the way, closed to others; `makedirs` gives its mode to the last one only."""
    path = home
    for part in below.split("/") if below else ():
        path = f"{path}/{part}"
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            continue  # a link to a directory is fine, too: it is the home's owner's
