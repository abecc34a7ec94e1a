"""`Sessions`: both users' sessions with an endpoint that somebody else runs, a hub or a remote server."""

from collections.abc import Mapping
from typing import Final

from mcphub.errors import UpstreamFailed
from mcphub.isolation.channel import Channel, Ended, HttpChannel, opened
from mcphub.isolation.lab import Running
from mcphub.isolation.witness.server import Witness
from mcphub.tasks import Tasks

_START_S: Final = 60.0


class Sessions(Running):
    """Implements what `Running` does where there is no process to look at.

    Args:
        witness: Where the server's connections end, if they do.
        url: Of the endpoint.
        own: User -> headers that nothing replaces: what the user really proves.
        tasks: Where connections live.
        who: What is at the endpoint, for errors: `The hub`.
        waits: A user's first call waits for the start of an instance.
    """

    def __init__(
        self,
        witness: Witness,
        url: str,
        own: Mapping[str, Mapping[str, str]],
        tasks: Tasks,
        *,
        who: str,
        waits: bool = False,
    ) -> None:
        self._at, self._url, self._own, self._work = witness, url, own, tasks
        self._who = who
        self._connections: dict[str, Channel] = {}
        self._called: set[str] = set() if waits else set(own)
        self.claims = {}
        self.calls = 0
        self.dead = False
        self.initialized = {}

    @property
    def witness(self) -> Witness:
        """Where the server's connections end."""
        return self._at

    @property
    def stderr(self) -> list[str]:
        """Nothing: it is not ours to read."""
        return []

    async def join(self, user: str, headers: Mapping[str, str] | None = None) -> Channel:
        """Open a session with what the user proves; what else the user claims to be is sent too.

        Raises:
            UpstreamFailed: The endpoint refuses.
        """
        known = self._connections.get(user)
        if known is not None:
            return known
        sent = {**(headers or {}), **self._own[user]}
        channel = HttpChannel("", self._url, sent, self._work)
        try:
            self.initialized = await opened(channel, _START_S)
        except (TimeoutError, Ended) as error:
            await channel.gone()
            raise UpstreamFailed(
                f"{self._who} does not answer: {str(error) or 'time limit'}."
            ) from None
        except UpstreamFailed:
            await channel.gone()
            raise
        self._connections[user] = channel
        return channel

    def leave(self, user: str) -> None:
        """End a user's session."""
        channel = self._connections.pop(user, None)
        if channel is not None:
            channel.close()

    def part(self, user: str) -> Channel:
        """Return a user's session, which is the caller's to close: the user can join anew beside it."""
        return self._connections.pop(user)

    def channel(self, user: str) -> Channel:
        """Return a user's connection."""
        return self._connections[user]

    def patience(self, user: str, timeout_s: float) -> float:
        """Return a longer time for a user's first call, where it waits for a start."""
        first = user not in self._called
        self._called.add(user)
        return max(timeout_s, _START_S) if first else timeout_s

    async def _gone(self) -> None:
        """Wait for nothing: the endpoint stays."""

    @property
    def ended(self) -> bool:
        """Never: it is somebody else's to start again."""
        return False

    async def aclose(self) -> None:
        """End both sessions."""
        for channel in self._connections.values():
            await channel.gone()
        self._connections.clear()
