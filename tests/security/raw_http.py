"""HTTP as no library would send it: bytes in, status and body out."""

import re

import anyio


async def exchange(url: str, *parts: bytes, end: bool = False, seconds: float = 30) -> bytes:
    """Send bytes to the hub and return what comes back until it closes or has answered once.

    Args:
        url: URL of the hub.
        parts: Sent one after the other.
        end: Close the sending side afterwards.
        seconds: Time limit of everything.
    """
    host, _, port = url.removeprefix("http://").rpartition(":")
    with anyio.fail_after(seconds):
        async with await anyio.connect_tcp(host, int(port)) as stream:
            try:
                for part in parts:
                    await stream.send(part)
                if end:
                    await stream.send_eof()
            except (anyio.BrokenResourceError, OSError):
                pass  # it had enough and answered already
            received = b""
            while not _whole(received):
                try:
                    received += await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    break
            return received


def status_of(answer: bytes) -> int:
    """Return the status of an answer, 0 when there is none."""
    found = re.match(rb"HTTP/1\.[01] (\d{3}) ", answer)
    return int(found[1]) if found else 0


def _whole(answer: bytes) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        return False
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    if length is None:
        return body.endswith(b"0\r\n\r\n")
    return len(body) >= int(length[1])
