"""Off-boarding: everything of a user is destroyed, and the audit log says what.

The order makes a crash harmless: the user is disabled first (nothing authenticates, the hub ends the
sessions and instances), files go next, then authorizations at other servers are revoked; the row goes
last, and with it keys, memberships and sealed credentials. Whatever was interrupted is done again by the next attempt. Used by the command line at
once, and by the hub when a period of grace is over.
"""

import asyncio
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
"""Of one file; beyond it a file is only deleted."""
_DEEPEST: Final = 64


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
    await directory.remove_user(user.id)
    await ground.db.forget()
    gone = Destroyed(
        held.keys, held.memberships, held.credentials, files, ended.revoked, ended.kept
    )
    counts = {name: str(count) for name, count in asdict(gone).items()}
    detail = {"name": user.name, "stopped_instances": str(stopped), **counts}
    await ground.audit.write(actor, log.USER_REMOVED, user.id, detail)
    return gone


def shred(home: Path) -> int:
    """Overwrite and delete everything below a directory, and the directory; return how many files.

    Overwriting once helps where a file system writes in place. It is no promise on flash memory,
    on file systems that copy on write, or for snapshots and backups. Never follows a link; a file
    with a second name is only unlinked.

    Raises:
        Unavailable: Something could not be deleted.
    """
    try:
        top = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    except OSError:
        raise _left(home) from None
    try:
        files = 0
        while os.listdir(top):  # noqa: PTH208  a descriptor; what was too deep lies on top then
            files += sum(_shred_below(top, top))
        home.rmdir()
    except OSError:
        raise _left(home) from None
    finally:
        os.close(top)
    return files


def _shred_below(folder: int, top: int, depth: int = 0) -> Iterator[int]:
    """Empty a directory by descriptors, so that nothing on the way can be exchanged for a link.

    What lies too deep is moved to the top instead: how deep a server nests costs neither descriptors
    nor frames.
    """
    os.fchmod(folder, 0o700)  # its owner may have closed it, to the hub too
    for name in os.listdir(folder):
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            if depth == _DEEPEST:
                os.chmod(name, 0o700, dir_fd=folder)  # its own entry `..` changes
                os.rename(name, f"mcphub-{secrets.token_hex(8)}", src_dir_fd=folder, dst_dir_fd=top)
                continue
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            os.chmod(name, 0o700, dir_fd=folder)
            below = os.open(name, flags, dir_fd=folder)
            try:
                yield from _shred_below(below, top, depth + 1)
            finally:
                os.close(below)
            os.rmdir(name, dir_fd=folder)
            continue
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            _overwrite(name, folder, found.st_size)
        os.unlink(name, dir_fd=folder)
        yield 1


def _overwrite(name: str, folder: int, size: int) -> None:
    if size > _MOST_OVERWRITTEN:
        return
    try:
        os.chmod(name, 0o600, dir_fd=folder)
        fd = os.open(
            name, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder
        )
    except OSError:
        return  # deleted all the same
    try:
        while size > 0:
            size -= os.write(fd, _ZEROS[: min(size, _CHUNK)])
        os.fsync(fd)
    finally:
        os.close(fd)


def _left(home: Path) -> Unavailable:
    return Unavailable(
        "The files of the user could not all be deleted; the user stays disabled.",
        hint=f"Delete the directory homes/{home.name} of the hub as root, then remove the user again.",
    )
