"""What the command line says of an error that no one raised on purpose: cause and next step.

For whoever runs the command on the hub's machine: paths and reasons are named. Nothing here travels
to clients of the hub.
"""

import errno
from socket import gaierror
from typing import Final

from mcphub.errors import HubError, InvalidInput, Unavailable

_ROOM: Final = "Make room there and run the command again; what was stored before is still there."
_UNCLEAR: Final = "Is there room on its disk, and may this account write there?"
_SERVICE: Final = "Is PostgreSQL running, and is `database` in mcphub.toml right?"
_CROWDED: Final = (
    "Raise max_connections of PostgreSQL, or end other clients: the hub needs up to 9."
)
_NAME: Final = "Correct `database` in mcphub.toml; / @ : in its password are written %2F %40 %3A."
_ACCOUNT: Final = "Run it as the account that owns it, or name another directory with --dir."
_HINTS: Final = {
    errno.EACCES: _ACCOUNT,
    errno.EPERM: _ACCOUNT,
    errno.EROFS: "Name another directory with --dir, or make this one writable.",
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EMFILE: "Raise the limit of open files: ulimit -n",
}
_DATABASE: Final = (
    ("disk is full", _ROOM),
    ("readonly", _ACCOUNT),
    (
        "read-only transaction",
        "PostgreSQL takes no changes: is it a standby, or default_transaction_read_only on?",
    ),
    ("No space left", "Make room on PostgreSQL's disk and run the command again."),
    ("too many clients", _CROWDED),
    ("too many connections", _CROWDED),
    ("connection slots", _CROWDED),
    ("starting up", "Run the command again when PostgreSQL has started."),
    ("shutting down", _SERVICE),
    ("locked", "Another program holds the database; when it is done, run the command again."),
    ("malformed", "Stop the hub and restore hub.db from a backup."),
    ("not a database", "Stop the hub and restore hub.db from a backup."),
    ("unable to open", _UNCLEAR),
    ("disk I/O", _UNCLEAR),
    ("Connection refused", _SERVICE),
    ("Connect call failed", _SERVICE),
    ("not known", _NAME),
    ("password authentication", "Correct the user and password of `database` in mcphub.toml."),
    ("does not exist", "Make the role and the database first: docs/how-to/postgresql.md"),
)


def explained(error: BaseException) -> HubError:
    """Return an error of any kind with its cause and the next step.

    An error of the hub's own whose cause is the database or the system gets that cause in its words.
    """
    if isinstance(error, HubError):
        cause = _first(error)
        if cause is error or isinstance(cause, HubError):
            return error
        known = _known(cause)
        if known is None or _line(cause) in error.message or _reason(cause) in error.message:
            return error
        database = isinstance(known, Unavailable)
        hint = (known.hint or error.hint) if database else (error.hint or known.hint)
        return HubError(f"{error.message} {known.message}", hint=hint, code=error.code)
    known = _known(_first(error))
    if known is not None:
        return known
    what = _line(error)
    return HubError(
        f"{type(error).__name__}: {what}".rstrip(": "),
        hint="This is a bug of MCPHub; MCPHUB_DEBUG=1 shows where.",
    )


def _first(error: BaseException) -> BaseException:
    """Return what an error came from: the driver's error of a database, the end of a chain."""
    seen = error
    while True:
        cause = getattr(seen, "orig", None) or seen.__cause__
        if not isinstance(cause, BaseException):
            return seen
        seen = cause


def _known(error: BaseException) -> HubError | None:
    text = _line(error)
    module = type(error).__module__.partition(".")[0]
    if module in {"sqlite3", "asyncpg"} or isinstance(error, (ConnectionError, gaierror)):
        hint = next((hint for word, hint in _DATABASE if word in text), "")
        if module == "sqlite3" and not hint:
            return None
        said = _reason(error)
        return Unavailable(f"{said[:1].upper()}{said[1:]}.", hint=hint)
    if isinstance(error, OSError) and error.errno in _HINTS:
        name = error.filename if isinstance(error.filename, str) else ""
        what = f"{name}: {error.strerror}." if name else f"{error.strerror}."
        return InvalidInput(what, hint=_HINTS[error.errno])
    if isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError)):
        if not isinstance(
            error.filename, str
        ):  # `tempfile` found no directory, and names those it tried
            text = f"{_reason(error)}."
            return InvalidInput(text, hint="Make one of them writable, or set TMPDIR.")
        return InvalidInput(f"{error.filename}: {error.strerror}.", hint="Correct the path.")
    return None


def _reason(error: BaseException) -> str:
    return (isinstance(error, OSError) and error.strerror) or _line(error)


def _line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "").strip().rstrip(".")
