"""Long streams from the hub to a client: the legacy GET stream and the modern `subscriptions/listen`.

An `Outlet` belongs to one user; what a server sends outside a call goes to the outlets of the
instance's owner only (rule R9). Bounded: an outlet that is not read loses its oldest messages.
Source: MCP 2025-11-25 transports §Listening; 2026-07-28 patterns/subscriptions.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

import msgspec

from mcphub.spawn.instance import Instance
from mcphub.spawn.launching import SHARED
from mcphub.wire import envelope
from mcphub.wire.codes import LOG_LEVELS, META_SUBSCRIPTION
from mcphub.wire.envelope import Message
from mcphub.wire.pieces import Text

_MAX_QUEUE: Final = 512
_MAX_BYTES: Final = 8 * 1024 * 1024
LIST_CHANGED: Final = {
    "notifications/tools/list_changed": "toolsListChanged",
    "notifications/prompts/list_changed": "promptsListChanged",
    "notifications/resources/list_changed": "resourcesListChanged",
}
UPDATED: Final = "notifications/resources/updated"


@dataclass(slots=True, eq=False)
class Outlet:
    """One open stream to one client.

    Attributes:
        user_id: Its owner.
        covers: Whether a server, by name, belongs to the endpoint of the stream for its owner.
        methods: Notification methods that it takes; None takes all.
        log_level: Least severity of log messages that it takes, "" for none.
        watches: Whether it takes `resources/updated` of (server, uri).
        subscription: Raw JSON-RPC id of a modern listen request, or b"".
        alive: Whether the key that opened the stream still counts.
    """

    user_id: str
    covers: Callable[[str], bool]
    methods: Collection[str] | None = None
    log_level: Callable[[], str] = lambda: ""
    watches: Callable[[str, str], bool] = lambda _server, _uri: True
    subscription: bytes = b""
    alive: Callable[[], bool] = lambda: True
    closed: bool = False
    _queue: deque[Text] = field(default_factory=deque)
    _held: int = 0
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def offer(self, server: str, message: Message, *, unasked: bool = False) -> None:
        """Queue a notification when this stream takes it.

        Args:
            server: Whose it is.
            message: The notification.
            unasked: An update of a resource of a server that takes no subscriptions.
        """
        if not self.closed and self._takes(server, message, unasked=unasked):
            data = envelope.written(self._addressed(message))
            self._queue.append(data)
            self._held += len(data)
            while len(self._queue) > _MAX_QUEUE or (
                self._held > _MAX_BYTES and len(self._queue) > 1
            ):
                self._held -= len(self._queue.popleft())
            self._wake.set()

    def close(self) -> None:
        """End the stream."""
        self.closed = True
        self._wake.set()

    async def next(self, timeout_s: float) -> list[Text]:
        """Return queued messages; empty after `timeout_s` seconds of silence or when closed."""
        if not self._queue and not self.closed:
            self._wake.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wake.wait()
            except TimeoutError:
                return []
        messages = list(self._queue)
        self._queue.clear()
        self._held = 0
        return messages

    def _takes(self, server: str, message: Message, *, unasked: bool) -> bool:
        method = message.method
        if not self.covers(server) or (self.methods is not None and method not in self.methods):
            return False
        params = message.inner("params")
        if method == "notifications/message":
            wanted = self.log_level()
            return bool(wanted) and severe_enough(envelope.text(params.get("level")), wanted)
        if method == UPDATED:
            return unasked or self.watches(server, envelope.text(params.get("uri")))
        return True

    def _addressed(self, message: Message) -> envelope.Members:
        if not self.subscription:
            return message.members
        params = message.inner("params")
        meta = message.inner("params", "_meta")
        meta[META_SUBSCRIPTION] = msgspec.Raw(self.subscription)
        params["_meta"] = envelope.object_raw(meta)
        return message.members | {"params": envelope.object_raw(params)}


class Outlets:
    """All open streams, by owner."""

    def __init__(self) -> None:
        self._by_user: dict[str, set[Outlet]] = {}

    def __len__(self) -> int:
        return sum(len(outlets) for outlets in self._by_user.values())

    def add(self, outlet: Outlet) -> None:
        """Register an open stream."""
        self._by_user.setdefault(outlet.user_id, set()).add(outlet)

    def remove(self, outlet: Outlet) -> None:
        """Forget a stream."""
        own = self._by_user.get(outlet.user_id)
        if own is not None:
            own.discard(outlet)
            if not own:
                del self._by_user[outlet.user_id]

    def close_of_user(self, user_id: str) -> None:
        """End all streams of a user."""
        for outlet in list(self._by_user.get(user_id, ())):
            outlet.close()

    def recheck(self) -> None:
        """End streams whose key counts no longer: it was revoked or has expired."""
        for outlets in list(self._by_user.values()):
            for outlet in list(outlets):
                if not outlet.alive():
                    outlet.close()

    def close_all(self) -> None:
        """End every stream: the hub stops."""
        for user_id in list(self._by_user):
            self.close_of_user(user_id)

    def publish(self, instance: Instance, message: Message) -> None:
        """Hand a server's notification to the outlets of its owner.

        From a shared server only list changes travel, since nobody owns its log or its resources, and
        without their parameters, which may hold what it got from one of its users.
        """
        if instance.owner != SHARED:
            unasked = message.method == UPDATED and not _takes_subscriptions(instance)
            for outlet in self._by_user.get(instance.owner, ()):
                outlet.offer(instance.server, message, unasked=unasked)
        elif message.method in LIST_CHANGED:
            self._tell_all(instance.server, message.method)

    def changed(self, server: str) -> None:
        """Tell everyone who sees `server` that its lists may be others: its spec or its pin changed."""
        for method in LIST_CHANGED:
            self._tell_all(server, method)

    def _tell_all(self, server: str, method: str) -> None:
        """Tell everyone who sees `server` that a list changed, and nothing that a server says with it."""
        message = envelope.parse(envelope.notification(method, None))
        for outlets in list(self._by_user.values()):
            for outlet in outlets:
                outlet.offer(server, message)


def _takes_subscriptions(instance: Instance) -> bool:
    """Whether a server can be told what is watched; frameworks that cannot be send updates all the same."""
    opening = envelope.object_of(instance.upstream.opening)
    resources = envelope.object_of(envelope.object_of(opening.get("capabilities")).get("resources"))
    return bytes(resources.get("subscribe", b"")) == b"true"


def severe_enough(level: str, wanted: str) -> bool:
    """Whether a message of `level` is at least as severe as `wanted` (RFC 5424)."""
    if level not in LOG_LEVELS or wanted not in LOG_LEVELS:
        return True
    return LOG_LEVELS.index(level) >= LOG_LEVELS.index(wanted)
