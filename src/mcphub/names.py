"""Names to addresses, so that no name holds up another.

The event loop's own way has a few threads for everybody: with as many names whose name servers do not answer,
nobody connects anywhere for as long as the system waits for those. Here each name is asked for once at a time,
in a thread of its own, and who asks for many at once waits for the own ones. The system's call cannot be ended:
a thread that was given up still counts.

Used by the hub and by the egress gateway. Not here: whether an address may be connected to.
"""

import asyncio
import socket
import threading
from collections import Counter
from contextlib import suppress
from typing import Final
from weakref import WeakKeyDictionary

MOST: Final = 256
"""Lookups at the same time."""
MOST_EACH: Final = 8
"""Of them for one owner."""

Found = tuple[
    socket.AddressFamily,
    socket.SocketKind,
    int,
    str,
    tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes],
]
"""One address as `socket.getaddrinfo` gives it."""


async def addresses(host: str, port: int, owner: str) -> list[Found]:
    """Return the addresses of a name for TCP; those of an address without waiting.

    Args:
        host: Name or address.
        port: Port, which stands in each result.
        owner: Whom it is looked up for: a server, an instance.

    Raises:
        OSError: It has none, or nobody says.
        UnicodeError: It is no name.
    """
    with suppress(socket.gaierror):
        return _asked(host, port, socket.AI_NUMERICHOST)
    loop = asyncio.get_running_loop()
    lookups = _LOOKUPS.get(loop)
    if lookups is None:
        lookups = _LOOKUPS[loop] = _Lookups(loop)
    return await lookups.found(host, port, owner)


class _Lookups:
    """All lookups of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._open: dict[tuple[str, int], asyncio.Future[list[Found]]] = {}
        self._busy: Counter[str] = Counter()
        self._freed: asyncio.Future[None] = loop.create_future()

    async def found(self, host: str, port: int, owner: str) -> list[Found]:
        """Look a name up, with others who want it now."""
        key = (host, port)
        while key not in self._open and not self._is_free(owner):
            await asyncio.shield(self._freed)
        lookup = self._open.get(key)
        if lookup is None:
            lookup = self._open[key] = self._loop.create_future()
            self._busy[owner] += 1
            work = (key, owner, lookup)
            threading.Thread(target=self._ask, args=work, name="names", daemon=True).start()
        return await asyncio.shield(lookup)

    def _is_free(self, owner: str) -> bool:
        return self._busy[owner] < MOST_EACH and self._busy.total() < MOST

    def _ask(self, key: tuple[str, int], owner: str, lookup: "asyncio.Future[list[Found]]") -> None:
        """Ask the system, in a thread."""
        found: list[Found] | Exception
        try:
            found = _asked(*key)
        except Exception as error:  # noqa: BLE001  whoever waits gets it
            found = error
        with suppress(RuntimeError):  # the loop has ended meanwhile
            self._loop.call_soon_threadsafe(self._told, key, owner, lookup, found)

    def _told(
        self,
        key: tuple[str, int],
        owner: str,
        lookup: "asyncio.Future[list[Found]]",
        found: list[Found] | Exception,
    ) -> None:
        del self._open[key]
        self._busy[owner] -= 1
        if not self._busy[owner]:
            del self._busy[owner]
        freed, self._freed = self._freed, self._loop.create_future()
        freed.set_result(None)
        if isinstance(found, Exception):
            lookup.set_exception(found)
            lookup.exception()  # those who waited may be gone
        else:
            lookup.set_result(found)


_LOOKUPS: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, _Lookups]] = WeakKeyDictionary()


def _asked(host: str, port: int, flags: int = 0) -> list[Found]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
