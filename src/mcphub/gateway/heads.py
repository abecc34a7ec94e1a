"""Request heads that the fast lane understands completely, and whose they are.

A head is plain when every byte of it is what HTTP/1.1 clients ordinarily send (RFC 9112 §3 to §5):
`POST /mcp…`, each header once, nothing that changes how the message is read. Everything about it is
then decided by the code of the ASGI door. A head that is not plain, or that the ASGI door would
refuse, is none of the fast lane's.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, cast

from mcphub.gateway import intake
from mcphub.gateway.calls import target_of
from mcphub.gateway.door import Door
from mcphub.gateway.http import Ambiguous, Reply, read_headers
from mcphub.gateway.intake import Inbound
from mcphub.gateway.plane import DataPlane
from mcphub.gateway.warm import Ways

_MAX_HEADS: Final = 2048
_MOST: Final = 64 * 1024
_UPGRADE: Final = re.compile(rb"\r\nupgrade[ \t]*:[^\r\n]*(?=\r\n)", re.IGNORECASE)
_END: Final = len(b"\r\n\r\n")
_REQUEST: Final = re.compile(rb"POST (/mcp(?:/[A-Za-z0-9@._-]{1,64})?) HTTP/1\.1")
_HEADER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}):[ \t]*([\x21-\x7e][\x20-\x7e]*)")
_ODD: Final = frozenset(
    b"content-length transfer-encoding expect upgrade te trailer content-encoding proxy-connection "
    b"keep-alive http2-settings".split()
)
"""Headers that change how a message is read; `connection` may say nothing but keep-alive."""


class _NoReply:
    """Stands where a reply is made only when it is needed."""

    async def emit(self, message: bytes) -> None:
        """Drop it: nobody is there any more."""

    def watch(self, gone: Callable[[], None]) -> None:
        """Do nothing: the connection itself is watched."""


_NO_REPLY: Final = cast(Reply, _NoReply())


@dataclass(slots=True, eq=False)
class Head:
    """A request head that was understood, and whose it is as long as `generation` is the hub's.

    Attributes:
        before, after: Its bytes around the digits of Content-Length, to its end.
        inbound: What it says.
        ways: Of its caller's calls.
        noted: Where the use of its key was noted last.
    """

    before: bytes = field(repr=False)
    after: bytes = field(repr=False)
    inbound: Inbound = field(repr=False)
    user_id: str
    valid_until: float | None
    generation: int
    ways: Ways = field(default_factory=Ways, repr=False)
    noted: dict[str, float] | None = field(default=None, repr=False)


@dataclass(slots=True)
class Heads:
    """Reads heads, and remembers those of known callers byte for byte.

    What is remembered holds API keys: it is bounded, never shown, and counts only for the generation
    of `Access` that it was made from, so that a revocation takes effect on the next request.

    Args:
        plane: Services.
        door: Allowed hosts and origins.
    """

    plane: DataPlane
    door: Door
    _known: dict[bytes, Head] = field(default_factory=dict, repr=False)

    def read(self, before: bytes, after: bytes) -> Head | None:
        """Return a head that is plain and whose caller is known now; else None.

        Args:
            before: Its bytes to the digits of the one plain Content-Length that was found.
            after: Its bytes from behind them, with the empty line.
        """
        raw = before + after
        known = self._known.get(raw)
        if known is not None and known.before == before and self.counts(known):
            return known
        inbound = self._understood(before, after)
        if inbound is None:
            self._known.pop(raw, None)
            return None
        if len(self._known) >= _MAX_HEADS:
            self._known.clear()
        whose, generation = inbound.principal, self.plane.access.generation
        head = self._known[raw] = Head(
            before, after, inbound, whose.user_id, whose.valid_until, generation
        )
        return head

    def counts(self, head: Head) -> bool:
        """Whether a head that was read before is still its caller's."""
        plane = self.plane
        if head.generation != plane.access.generation:
            return False
        if head.valid_until is not None and plane.clock() >= head.valid_until:
            return False
        if head.noted is not plane.seen_keys:  # once each time that they are written to the store
            head.noted = plane.seen_keys
            head.noted[head.inbound.principal.key_id] = plane.clock()
        return True

    def _understood(self, before: bytes, after: bytes) -> Inbound | None:
        first, *lines = before.rpartition(b"\r\n")[0].split(b"\r\n")
        lines += after[2:-4].split(b"\r\n") if len(after) > _END else []
        request = _REQUEST.fullmatch(first)
        found: dict[bytes, bytes] = {}
        for line in lines:
            header = _HEADER.fullmatch(line)
            if header is None or (name := header[1].lower()) in found or name in _ODD:
                return None
            found[name] = header[2]
        if request is None or found.get(b"connection", b"keep-alive").lower() != b"keep-alive":
            return None
        try:
            headers = read_headers(found.items())
        except Ambiguous:
            return None
        target = target_of(request[1].decode())
        if self.door.refusal(headers) or target is None or not intake.is_json(headers):
            return None
        principal = intake.authenticated(self.plane, headers)
        if principal is None:
            return None
        session_id = headers.get("mcp-session-id", "")
        return Inbound(principal, target, target.path, session_id, headers, "", _NO_REPLY)


def without_upgrade(data: bytes) -> bytes:
    """Return bytes that begin with a request without its wish for another protocol (RFC 9110 §7.8).

    Java's HTTP client asks for HTTP/2 with each first request; uvicorn's parser would lose the body.
    """
    cut = data.find(b"\r\n\r\n", 0, _MOST)
    if cut < 0 or _UPGRADE.search(data, 0, cut + 2) is None:
        return data
    return _UPGRADE.sub(b"", data[: cut + 2]) + data[cut + 2 :]
