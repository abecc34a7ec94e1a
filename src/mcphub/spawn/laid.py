"""The files that a server is given below its home, as the hub handles them (`files` of its entry).

Their text holds credentials, so it is in no file of the host: it travels in a descriptor or a pipe into
the sandbox, lies there in a file system in memory that no other process has in view, mode 0600, and
ends with the instance. In the home, which is on disk, stands a link to it. The server may write
through that link; a file that it puts in the link's place is on disk, and `clear` removes it.

Without namespaces there is no such memory: those who start servers there refuse (`refuse`).
"""

import contextlib
import json
import os
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from mcphub.errors import InvalidInput, Unavailable
from mcphub.spawn.confinement.laying import PLACE
from mcphub.spawn.spawner import Launch
from mcphub.vault.secret import Secret

_MOST_BYTES: Final = 512 * 1024
_TELLING: Final = 12
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def plain(launch: Launch) -> dict[str, str]:
    """Return path below the home -> text, revealed.

    Raises:
        InvalidInput: A text holds a NUL character, or all together are too large.
    """
    found = {
        below: text.reveal() if isinstance(text, Secret) else text
        for below, text in (launch.files or {}).items()
    }
    if any("\0" in text for text in found.values()):
        raise InvalidInput(
            "A file of the server would hold a NUL character.",
            hint="Set the credential again without it.",
        )
    if sum(len(text.encode()) for text in found.values()) > _MOST_BYTES:
        raise InvalidInput(
            f"The files of the server are larger than {_MOST_BYTES // 1024} KiB together.",
            hint="Set a smaller value of the credential that goes into them.",
        )
    return found


def refuse(launch: Launch) -> None:
    """Refuse a start where a file could only be laid on the host's disk.

    Raises:
        Unavailable: The launch has files.
    """
    if launch.files:
        raise Unavailable(
            "This server is given its credentials in a file, and this machine has no sandbox that "
            "keeps one in memory.",
            hint="An administrator finds the cause with: mcphub doctor",
        )


def script(places: Iterable[str], home: str) -> str:
    """Return shell commands that link each place below the home to the file in memory."""
    lines: list[str] = []
    for below in places:
        link, target = shlex.quote(f"{home}/{below}"), shlex.quote(f"{PLACE}/{below}")
        folder = shlex.quote(os.path.dirname(f"{home}/{below}"))  # noqa: PTH120  a path inside
        lines.append(f"(umask 077; mkdir -p -- {folder}) && ln -sfT -- {target} {link} || exit 1\n")
    return "".join(lines)


def secrets_of(launch: Launch) -> list[str]:
    """Return what must show in no message of the instance: its secrets, and what is told in them."""
    texts = (*launch.argv, *launch.env.values(), *(launch.files or {}).values(), *launch.secrets)
    found = {text.reveal() for text in texts if isinstance(text, Secret)}
    return [*found, *(inner for text in found for inner in _told_in(text))]


def _told_in(text: str) -> Iterator[str]:
    """Yield the longer texts of a JSON document, such as a private key, which are said without it too."""
    if not text.lstrip().startswith(("{", "[")):
        return
    try:
        waiting: list[object] = [json.loads(text)]
    except (ValueError, RecursionError):
        return
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str) and len(value) >= _TELLING and "://" not in value:
            yield value


def clear(home: Path, places: Iterable[str]) -> None:
    """Remove the links, and what a server has put on disk in their place. Follows no link. Blocking.

    No instance may run in the home.
    """
    for below in places:
        *folders, name = below.split("/")
        with contextlib.ExitStack() as open_fds, contextlib.suppress(OSError):
            folder = os.open(home, _FOLDER)
            open_fds.callback(os.close, folder)
            for part in folders:
                folder = os.open(part, _FOLDER, dir_fd=folder)
                open_fds.callback(os.close, folder)
            os.unlink(name, dir_fd=folder)
