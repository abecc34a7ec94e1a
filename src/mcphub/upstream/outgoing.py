"""How a caller's request goes to a server: all but its params, before it is written in the server's era.

Values only. `gateway.onward` makes it, the upstream writes it: the same for every pair of eras.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from mcphub.upstream.lines import NO_HEADERS
from mcphub.wire.envelope import Members


class Tell(Protocol):
    """Tells a server who the user of a request is, for each writing anew: each answer is for one only."""

    def is_ready(self, written: Members) -> bool:
        """Whether that takes no longer than a step; if not, `prepare` has to be waited for."""
        ...

    async def prepare(self, written: Members) -> None:
        """Get ready for a request; raises a `HubError` to send nothing."""
        ...

    def __call__(self, written: Members) -> tuple[Members, Mapping[str, str]]:
        """Return keys of `_meta` and HTTP headers, for params exactly as they are written."""
        ...


@dataclass(frozen=True, slots=True)
class Outgoing:
    """How one request goes, or all those of a caller that go alike.

    Attributes:
        method: JSON-RPC method.
        timeout_s: Seconds until the sweeper cancels the call; with each progress they begin anew.
        longest_s: Seconds that it may take in all, questions apart; 0 for no more than `timeout_s`.
        rename: Member of params and its new value when the caller's name is not the server's.
        progress_token: The caller's own token, raw, for the way back; b"" for none.
        log_level: Least severity of log messages that the caller wants, "" for none in particular.
        wants_log: Whether log messages may travel on this request's stream.
        asks: What the server may ask the calling client: keys of `wire.eras.NEEDS`.
        capabilities: What the calling client can, raw, as a modern server reads it.
        one_by_one: The caller answers questions one by one while the call is open (legacy era); if
            not, it gets `input_required` as the result.
        headers: Further HTTP headers of this request; they mean nothing on other transports.
        meta: Keys of `_meta` that the hub itself adds.
        tell: Says who the user is, where the server is told; raises a `HubError` to send nothing.
    """

    method: str
    timeout_s: float
    longest_s: float = 0.0
    rename: tuple[str, str] | None = None
    progress_token: bytes = b""
    log_level: str = ""
    wants_log: bool = False
    asks: frozenset[str] = frozenset()
    capabilities: bytes = b"{}"
    one_by_one: bool = True
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)
    meta: Members = field(default_factory=dict)
    tell: Tell | None = None

    def additions(self, written: Members) -> tuple[Members, Mapping[str, str]]:
        """Return the keys of `_meta` and the headers that the hub adds to one writing.

        Args:
            written: The params as the server gets them; their `_meta` does not count.

        Raises:
            HubError: Nothing may be sent.
        """
        if self.tell is None:
            return self.meta, self.headers
        meta, headers = self.tell(written)
        return {**self.meta, **meta}, {**self.headers, **headers}
