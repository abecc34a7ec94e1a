"""One `subscriptions/listen` per connection to a modern server: what it tells outside of calls.

Opened with the connection where the server says that its lists change or that resources can be
watched; opened anew when the watched resources change and, after a pause, when the server ends it.
Source: MCP 2026-07-28 patterns/subscriptions.
"""

import asyncio
from typing import Final, Protocol

from mcphub.wire import envelope
from mcphub.wire.envelope import Members, Message
from mcphub.wire.pieces import Raw

_FLAGS: Final = {
    "tools": "toolsListChanged",
    "prompts": "promptsListChanged",
    "resources": "resourcesListChanged",
}
_ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"
_ENDED: Final = "notifications/cancelled"
_REOPEN_S: Final = (1.0, 5.0, 30.0)
_MAX_URIS: Final = 1024


class _Connection(Protocol):
    """What a `Listening` needs of its upstream."""

    def next_id(self) -> int: ...

    def write_listen(self, upstream_id: int, params: Members) -> None: ...

    def tell_cancelled(self, upstream_id: int) -> None: ...


class Listening:
    """What one connection listens to.

    Args:
        upstream: The connection.
        opening: The server's InitializeResult, raw: what it has to tell.
    """

    METHOD: Final = "subscriptions/listen"

    def __init__(self, upstream: _Connection, opening: bytes) -> None:
        capabilities = envelope.object_of(envelope.object_of(opening).get("capabilities"))
        self._flags = [
            flag
            for name, flag in _FLAGS.items()
            if bytes(envelope.object_of(capabilities.get(name)).get("listChanged", b"")) == b"true"
        ]
        self._upstream = upstream
        self._uris: set[str] = set()
        self._honoured: set[str] = set()
        self._id = 0
        self._failures = 0
        self._acknowledged: asyncio.Future[None] | None = None
        self._again: asyncio.TimerHandle | None = None
        self._stopped = False

    def start(self) -> None:
        """Listen, where there is something to listen to; ends an older stream."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        old, self._id = self._id, 0
        if not self._stopped and (self._flags or self._uris):
            self._id = self._upstream.next_id()
            wanted: dict[str, object] = dict.fromkeys(self._flags, True)
            if self._uris:
                wanted["resourceSubscriptions"] = sorted(self._uris)
            try:
                self._upstream.write_listen(self._id, {"notifications": envelope.raw(wanted)})
            except BrokenPipeError:
                self._id = 0
        if old:
            self._upstream.tell_cancelled(old)

    def stop(self) -> None:
        """Listen no longer: the connection ends."""
        self._stopped = True
        self._id = 0
        if self._again is not None:
            self._again.cancel()
            self._again = None
        self._settle()

    async def add(self, uri: str, timeout_s: float) -> bool:
        """Listen to a resource too; returns whether the server agreed."""
        if uri not in self._uris:
            if len(self._uris) >= _MAX_URIS:
                return False
            self._uris.add(uri)
            await self._acknowledgement(timeout_s)
        if uri not in self._honoured:
            self._uris.discard(uri)
            return False
        return True

    async def remove(self, uri: str, timeout_s: float) -> None:
        """Listen to a resource no longer."""
        if uri in self._uris:
            self._uris.discard(uri)
            self._honoured.discard(uri)
            await self._acknowledgement(timeout_s)

    def took(self, message: Message, mark: Raw | None, params: Members) -> bool:
        """Take what is about the subscription itself; also what comes of an older one is dropped."""
        if message.method == _ACKNOWLEDGED:
            if mark is not None and bytes(mark) == b"%d" % self._id:
                agreed = envelope.object_of(params.get("notifications"))
                uris = envelope.array_of(agreed.get("resourceSubscriptions"))
                self._honoured = {envelope.text(raw) for raw in uris}
                self._failures = 0
                self._settle()
            return True
        if message.method == _ENDED:
            if bytes(params.get("requestId", b"")) == b"%d" % self._id:
                self.ended(self._id)
            return True
        return False

    def ended(self, upstream_id: int, *, refused: bool = False) -> None:
        """The stream ended; another one is opened after a pause, unless the server refuses to tell."""
        if upstream_id != self._id or not self._id:
            return
        self._id = 0
        self._settle()
        if not self._stopped and not refused and self._failures < len(_REOPEN_S):
            pause = _REOPEN_S[self._failures]
            self._failures += 1
            self._again = asyncio.get_running_loop().call_later(pause, self.start)

    async def _acknowledgement(self, timeout_s: float) -> None:
        """Listen anew and wait for the server's word; calls that overlap wait for the last one."""
        if self._acknowledged is None or self._acknowledged.done():
            self._acknowledged = asyncio.get_running_loop().create_future()
        self.start()
        if not self._id:
            self._settle()
            return
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(self._acknowledged)
        except TimeoutError:
            return

    def _settle(self) -> None:
        if self._acknowledged is not None and not self._acknowledged.done():
            self._acknowledged.set_result(None)
