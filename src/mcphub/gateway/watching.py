"""Which resources are watched, and what servers are told of it: once per owner, server and resource.

A legacy session subscribes by a request, a modern client by the resources of its listen stream; both
count here. The server hears of the first who watches and of the last who stops; a server that starts
anew is told what its owner still watches. Updates go to those who watch (`gateway.listen`).
"""

from collections import Counter
from collections.abc import Iterable, Sized
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import msgspec

from mcphub.errors import HubError, InvalidInput, LimitExceeded
from mcphub.spawn.instance import Instance
from mcphub.wire.envelope import Members

SUBSCRIBE: Final = "resources/subscribe"
UNSUBSCRIBE: Final = "resources/unsubscribe"
LISTEN: Final = "subscriptions/listen"
MAX_WATCHED: Final = 256
"""Resources that one session or stream may watch."""
_MAX_URI: Final = 8192
_RESTART_S: Final = 10.0
_DONE: Final[Members] = {"result": msgspec.Raw(b"{}")}


def check_watched(watched: Sized, uri: str) -> None:
    """Refuse what a session or stream would have to remember beyond its bounds.

    Raises:
        LimitExceeded, InvalidInput: It watches as many resources as it may; the URI is too long.
    """
    if len(watched) >= MAX_WATCHED:
        raise LimitExceeded(
            f"You watch {MAX_WATCHED} resources here, as many as you may.",
            hint="Unsubscribe from some.",
        )
    if len(uri) > _MAX_URI:
        raise InvalidInput(f"A URI has at most {_MAX_URI} characters to be watched.")


@dataclass(slots=True)
class Watches:
    """All watched resources: how many streams and sessions watch each."""

    _counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self._counts)

    async def begin(self, instance: Instance, uri: str, timeout_s: float) -> Members:
        """Watch a resource once more; returns `result`, or the server's `error`.

        Raises:
            HubError: The server is gone or did not answer.
        """
        answer = await instance.upstream.subscribe(uri, timeout_s)
        if "result" in answer:
            self._counts[(instance.owner, instance.server, uri)] += 1
        return answer

    async def end(self, instance: Instance, uri: str, timeout_s: float) -> Members:
        """Watch a resource once less; as `begin`."""
        if self.drop(instance.owner, instance.server, uri):
            return await instance.upstream.unsubscribe(uri, timeout_s)
        return dict(_DONE)

    def drop(self, owner: str, server: str, uri: str) -> bool:
        """Count one less without telling the server; returns whether nobody watches any more."""
        key = (owner, server, uri)
        self._counts[key] -= 1
        if self._counts[key] > 0:
            return False
        del self._counts[key]
        return True

    def drop_all(self, owner: str, watched: Iterable[tuple[str, str]]) -> None:
        """Count one less of each (server, uri)."""
        for server, uri in watched:
            self.drop(owner, server, uri)

    async def restore(self, instance: Instance) -> None:
        """Tell a server that has just started what its owner watches."""
        wanted = [
            uri for owner, server, uri in self._counts
            if (owner, server) == (instance.owner, instance.server)
        ]  # fmt: skip
        for uri in wanted:
            with suppress(HubError):  # it will be told at the next start
                await instance.upstream.subscribe(uri, _RESTART_S)
