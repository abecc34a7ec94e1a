"""Server-sent events, writing side. Source: WHATWG HTML §9.2; MCP streamable-http."""

from typing import Final

HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]
KEEP_ALIVE: Final = b":\n\n"
"""A comment: keeps proxies from closing a quiet stream."""


def event(message: bytes) -> bytes:
    """Return one `message` event. The message must be on one line (`envelope.one_line`)."""
    return b"event: message\ndata: " + message + b"\n\n"
