"""What a server remembers of a user: `user.state`, a mapping that is that user's only.

A state is reached through a verified user and through nothing else: its place in the store is a digest
of issuer and subject, no method takes a user's name, and each access looks whether the user of the
running request is still the owner. A state that a server kept in a global variable refuses to work in
another user's request. Values are kept as JSON text, so no object is ever shared between two users.
"""

import contextlib
import hashlib
import json
import os
import secrets
import threading
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any, Final, Protocol

from mcp.server.mcpserver.exceptions import ToolError

MAX_STATE_BYTES: Final = 1024 * 1024
_MAX_USERS: Final = 10_000


class WrongUser(Exception):
    """A user's state was touched outside of that user's own request: a fault of the server's code."""


class StateTooLarge(ToolError):
    """A user's state is over its limit; nothing was changed."""


class Store(Protocol):
    """Where states are kept. `place` is a digest: it names no user and is safe in a path."""

    def load(self, place: str) -> bytes | None:
        """Return what is kept at a place, or None."""
        ...

    def save(self, place: str, content: bytes) -> None:
        """Keep content at a place; all or nothing."""
        ...


class MemoryStore:
    """States in memory, of the users seen last. The default."""

    def __init__(self, users: int = _MAX_USERS) -> None:
        self._users = users
        self._kept: dict[str, bytes] = {}

    def load(self, place: str) -> bytes | None:
        """Return a state."""
        found = self._kept.pop(place, None)
        if found is not None:
            self._kept[place] = found  # seen last
        return found

    def save(self, place: str, content: bytes) -> None:
        """Keep a state; the one that was not seen for longest makes room."""
        self._kept.pop(place, None)
        self._kept[place] = content
        if len(self._kept) > self._users:
            self._kept.pop(next(iter(self._kept)))


class FileStore:
    """States in files of a directory that only this server's account can read."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = Path(directory)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def load(self, place: str) -> bytes | None:
        """Return a state."""
        try:
            return (self._directory / f"{place}.json").read_bytes()
        except FileNotFoundError:
            return None

    def save(self, place: str, content: bytes) -> None:
        """Replace a state's file; a crash leaves the old one or the new one."""
        new = self._directory / f".{place}.{secrets.token_hex(4)}"
        try:
            with open(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:  # noqa: PTH123
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._directory / f"{place}.json")
        finally:
            with contextlib.suppress(FileNotFoundError):
                new.unlink()


class States:
    """Makes the states of one server's users, on one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.RLock()

    def of(self, issuer: str, subject: str, is_current: Callable[[str], bool]) -> "State":
        """Return the state of a verified user.

        Args:
            issuer: Of the verified assertion.
            subject: Of the verified assertion.
            is_current: Whether the place is the one of the user of the running request.
        """
        return State(self._store, self._lock, place_of(issuer, subject), is_current)


def place_of(issuer: str, subject: str) -> str:
    """Return where the state of a user is kept: a digest of issuer and subject."""
    return hashlib.sha256(json.dumps([issuer, subject]).encode()).hexdigest()


class State(MutableMapping[str, Any]):
    """A user's values by name: anything that JSON can say. Each read is a fresh copy.

    Raises (every operation):
        WrongUser: The running request is another user's, or there is none.
    """

    __slots__ = ("_is_current", "_lock", "_place", "_store")

    def __init__(
        self,
        store: Store,
        lock: "threading.RLock",  # pyright: ignore[reportGeneralTypeIssues]
        place: str,
        is_current: Callable[[str], bool],
    ) -> None:
        self._store, self._lock, self._place, self._is_current = store, lock, place, is_current

    def __getitem__(self, name: str) -> Any:
        return self._read()[name]

    def __setitem__(self, name: str, value: Any) -> None:
        with self._lock:
            self._write(self._read() | {name: value})

    def __delitem__(self, name: str) -> None:
        with self._lock:
            values = self._read()
            del values[name]
            self._write(values)

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __repr__(self) -> str:
        return "State(…)"

    def update_with(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Read, change and keep all values as one step that no other request of the user comes between.

        Raises:
            StateTooLarge: The result is over the limit; nothing was changed.
        """
        with self._lock:
            values = self._read()
            change(values)
            self._write(values)

    def _read(self) -> dict[str, Any]:
        self._check()
        content = self._store.load(self._place)
        return json.loads(content) if content else {}

    def _write(self, values: dict[str, Any]) -> None:
        self._check()
        content = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
        if len(content) > MAX_STATE_BYTES:
            raise StateTooLarge(f"A user's state has at most {MAX_STATE_BYTES} bytes.")
        self._store.save(self._place, content)

    def _check(self) -> None:
        if not self._is_current(self._place):
            raise WrongUser("This state belongs to another user than the running request.")
