"""Off-boarding: everything of a user is destroyed, and the audit log says what.

The order makes a crash harmless: the user is disabled first (nothing authenticates, the hub ends the
sessions and instances), files go next, then authorizations at other servers are revoked; the row goes
last, and with it keys, memberships and sealed credentials. Whatever was interrupted is done again by the next attempt. Used by the command line at
once, and by the hub when a period of grace is over.
"""

import asyncio
import contextlib
import ctypes
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from mcphub.audit import log
from mcphub.errors import Unavailable
from mcphub.ground import Ground

_CHUNK: Final = 1024 * 1024
_ZEROS: Final = bytes(_CHUNK)
_MOST_OVERWRITTEN: Final = 1024 * 1024 * 1024
"""Of one file; what lies behind it is only deleted."""
_LEAST: Final = 4096
_MOST_HELD: Final = 256
_DEEPEST: Final = 64
_libc: Final = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class Destroyed:
    """What was there and is gone.

    Attributes:
        revoked: Authorizations among the credentials whose issuer was told.
        not_revoked: Those whose issuer could not be told: their tokens live until they expire.
    """

    keys: int
    memberships: int
    credentials: int
    files: int
    revoked: int = 0
    not_revoked: int = 0


async def destroy(ground: Ground, user_id: str, *, actor: str, stopped: int) -> Destroyed:
    """Remove a user, who is disabled and has no instance any more, with all that belongs to the user.

    Args:
        ground: Of the hub.
        user_id: Opaque id.
        actor: Who says so, for the audit log.
        stopped: Instances that were ended before, for the audit log.

    Raises:
        NotFound: There is no such user.
        Conflict: It is the last administrator.
        Unavailable: A file could not be deleted; the user stays disabled.
    """
    directory = ground.directory
    user = await directory.user(user_id)
    held = await directory.holdings(user.id)
    # The path comes from the opaque id (rule R23).
    files = await asyncio.to_thread(shred, ground.settings.homes / user.id)
    ended = await ground.grants.end_all(user.id)
    gone = Destroyed(
        held.keys, held.memberships, held.credentials, files, ended.revoked, ended.kept
    )
    counts = {name: str(count) for name, count in asdict(gone).items()}
    detail = {"name": user.name, "stopped_instances": str(stopped), **counts}
    async with ground.db.together():
        await directory.remove_user(user.id)
        await ground.audit.write(actor, log.USER_REMOVED, user.id, detail)
    await ground.db.forget()
    return gone


def shred(home: Path) -> int:
    """Overwrite and delete everything below a directory, and the directory; return how many files.

    Overwriting once helps where a file system writes in place. It is no promise on flash memory,
    on file systems that copy on write, or for snapshots and backups. Never follows a link; a file
    with a second name is only unlinked. What a file does not hold (holes) is not written.

    Raises:
        Unavailable: Something could not be deleted.
    """
    try:
        top = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    except OSError:
        raise _left(home) from None
    overwritten = _Overwritten(top)
    try:
        files = 0
        while os.listdir(top):  # noqa: PTH208  a descriptor; what was too deep lies on top then
            files += sum(_shred_below(top, overwritten))
        home.rmdir()
    except OSError:
        raise _left(home) from None
    finally:
        overwritten.write_out()
        os.close(top)
    return files


class _Overwritten:
    """Files that hold zeros and have no name any more, kept open until the zeros are on the disk.

    One call for many: to wait for the disk at each file takes minutes for what a user may leave.

    Args:
        top: The directory, whose file system it is.
    """

    def __init__(self, top: int) -> None:
        self.top = top
        self._held: list[int] = []

    def take(self, file: int) -> None:
        """Overwrite what a file holds, and keep it."""
        self._held.append(file)
        with contextlib.suppress(OSError):  # deleted all the same
            _overwrite(file)
        if len(self._held) >= _MOST_HELD:
            self.write_out()

    def write_out(self) -> None:
        """Wait until all of it is on the disk."""
        if self._held:
            _libc.syncfs(self.top)
        while self._held:
            os.close(self._held.pop())


def _shred_below(folder: int, overwritten: _Overwritten, depth: int = 0) -> Iterator[int]:
    """Empty a directory by descriptors, so that nothing on the way can be exchanged for a link.

    What lies too deep is moved to the top instead: how deep a server nests costs neither descriptors
    nor frames.
    """
    for name in os.listdir(folder):
        # it names the thing itself, whatever has the name a moment later, and needs no right to it
        thing = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            found, this = os.fstat(thing), f"/proc/self/fd/{thing}"
            if stat.S_ISDIR(found.st_mode):
                os.chmod(this, 0o700)  # noqa: PTH101  its owner may have closed it, to the hub too
                if depth == _DEEPEST:  # its own entry `..` changes
                    to = f"mcphub-{secrets.token_hex(8)}"
                    os.rename(name, to, src_dir_fd=folder, dst_dir_fd=overwritten.top)
                    continue
                below = os.open(this, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    yield from _shred_below(below, overwritten, depth + 1)
                finally:
                    os.close(below)
                os.rmdir(name, dir_fd=folder)
                continue
            file = _opened(this) if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 else None
        finally:
            os.close(thing)
        os.unlink(name, dir_fd=folder)
        if file is not None:
            overwritten.take(file)
        yield 1


def _opened(file: str) -> int | None:
    """Return a file that can be overwritten, and holds something."""
    try:
        os.chmod(file, 0o600)  # noqa: PTH101
        opened = os.open(file, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None  # deleted all the same
    if os.fstat(opened).st_size:
        return opened
    os.close(opened)
    return None


def _overwrite(file: int) -> None:
    """Write zeros over what a file holds, its holes left as they are: to fill them takes what is free."""
    held = max(os.fstat(file).st_blocks * 512, _LEAST)  # small ones may lie in the directory itself
    left, at = min(held, _MOST_OVERWRITTEN), 0
    while left > 0:
        try:
            at = os.lseek(file, at, os.SEEK_DATA)
        except OSError:
            return  # there is none behind
        end = os.lseek(file, at, os.SEEK_HOLE)
        while at < end and left > 0:
            wrote = os.pwrite(file, _ZEROS[: min(end - at, _CHUNK)], at)
            at, left = at + wrote, left - wrote


def _left(home: Path) -> Unavailable:
    return Unavailable(
        "The files of the user could not all be deleted; the user stays disabled.",
        hint=f"Delete the directory homes/{home.name} of the hub as root, then remove the user again.",
    )
