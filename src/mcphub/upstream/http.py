"""A legacy Streamable HTTP server as a pipe of lines: one connection pool and session for one user.

Each message is a POST; what comes back, as JSON or as an event stream, is handed on line by line, as
from a process. Nothing of this connection (cookies, session id, TCP connections) is ever another
user's: it lives and dies with the instance. Redirects are not followed and no proxy of the
environment is used, so credentials go where the administrator's URL says and nowhere else (R20).

Not here: headers with identity or credentials (`spawn.launching`), JSON-RPC (`upstream.legacy`).
Source: MCP 2025-11-25 transports §Streamable HTTP.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final

import aiohttp

from mcphub.errors import UpstreamFailed
from mcphub.tasks import Tasks
from mcphub.upstream.lines import LineTooLong
from mcphub.wire import envelope
from mcphub.wire.codes import HUB_UPSTREAM_FAILED

_CONNECT_S: Final = 10.0
_MAX_POSTS: Final = 256
_REOPEN_S: Final = (1.0, 5.0, 30.0)
_CHUNK: Final = 64 * 1024
_TYPES: Final = "application/json, text/event-stream"


class HttpPipe:
    """Implements `upstream.lines.Pipe` over HTTP.

    Args:
        name: Name of the server spec, for error texts.
        url: Where to post.
        headers: Headers of every request: credentials of this user, identity.
        limit: Longest message, in bytes.
        tasks: Where requests run.
        on_line, on_end: As `upstream.lines.Connect`.
    """

    def __init__(
        self,
        name: str,
        url: str,
        headers: Mapping[str, str],
        limit: int,
        tasks: Tasks,
        on_line: Callable[[bytes], None],
        on_end: Callable[[Exception | None], None],
    ) -> None:
        self._name, self._url, self._limit = name, url, limit
        self._tasks = tasks
        self._on_line, self._on_end = on_line, on_end
        self._own: dict[str, str] = {}
        self._posts: dict[bytes, asyncio.Task[None]] = {}
        self._stream: asyncio.Task[None] | None = None
        self._open = True
        self._http = aiohttp.ClientSession(
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=0),
            auto_decompress=True,
            trust_env=False,
        )

    @property
    def congested(self) -> bool:
        """Whether as many requests are open as may be."""
        return len(self._posts) >= _MAX_POSTS

    def write(self, line: bytes) -> None:
        """Post one message."""
        if not self._open:
            raise BrokenPipeError
        message = envelope.parse(line)
        key = message.id if message.is_request else b"-%d" % id(line)
        self._posts[key] = self._tasks.start("upstream.post", self._post(key, line, message))

    async def drain(self) -> None:
        """Wait until one request has ended."""
        while self.congested and self._open:
            await asyncio.wait(list(self._posts.values()), return_when=asyncio.FIRST_COMPLETED)

    def abandon(self, request_id: int) -> None:
        """Close the request's connection."""
        task = self._posts.pop(b"%d" % request_id, None)
        if task is not None:
            task.cancel()

    def close(self, reason: Exception | None = None) -> None:
        """End the session: open requests are dropped, the server is told."""
        if not self._open:
            return
        self._open = False
        for task in (*self._posts.values(), *([self._stream] if self._stream is not None else [])):
            task.cancel()
        self._posts.clear()
        self._tasks.start("upstream.close", self._leave())
        self._on_end(reason)

    async def _post(self, key: bytes, line: bytes, message: envelope.Message) -> None:
        problem = ""
        try:
            async with self._http.post(
                self._url,
                data=line,
                headers={"Content-Type": "application/json", "Accept": _TYPES, **self._own},
                allow_redirects=False,
            ) as response:
                problem = await self._take(response, message)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            problem = f"It cannot be reached ({type(error).__name__})."
        except LineTooLong as error:
            self.close(error)
        finally:
            self._posts.pop(key, None)
        if problem and message.is_request:
            text = f"Server '{self._name}': {problem}"
            self._on_line(envelope.error(message.id, HUB_UPSTREAM_FAILED, text))

    async def _take(self, response: aiohttp.ClientResponse, message: envelope.Message) -> str:
        """Hand on what a response holds; returns what is wrong with it, or ""."""
        if response.status == 404 and self._own:
            self.close(
                UpstreamFailed(f"Server '{self._name}' ended the session.", hint="Call again.")
            )
            return ""
        if response.status in {401, 403}:
            return (
                f"It refused your credentials (HTTP {response.status}). Set them again: "
                f"mcphub credential list shows which there are."
            )
        if response.status >= 300:
            return f"It answered HTTP {response.status}."
        if message.method == "initialize":
            self._opened(response)
        answered = False
        async for line in self._messages(response):
            answered = answered or _answers(line, message.id)
            self._on_line(line)
        if message.method == "notifications/initialized":
            self._stream = self._tasks.start("upstream.listen", self._listen())
        return (
            ""
            if answered or not message.is_request
            else "It closed the connection without an answer."
        )

    def _opened(self, response: aiohttp.ClientResponse) -> None:
        given = response.headers.get("Mcp-Session-Id", "")
        self._own = {"MCP-Protocol-Version": "2025-11-25"}
        if given and len(given) <= 1024 and given.isprintable():
            self._own["Mcp-Session-Id"] = given

    async def _messages(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind == "text/event-stream":
            async for data in _events(response.content, self._limit):
                yield data
        elif kind == "application/json":
            body = await _whole(response.content, self._limit)
            batch = envelope.split_batch(body) if body else None
            for raw in [body] if batch is None else batch:
                if bytes(raw).strip():
                    yield envelope.one_line(bytes(raw))

    async def _listen(self) -> None:
        """Keep the server's GET stream open, where it has one."""
        headers = {"Accept": "text/event-stream", **self._own}
        for pause in (0.0, *_REOPEN_S):
            await asyncio.sleep(pause)
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with self._http.get(
                    self._url, headers=headers, allow_redirects=False
                ) as response:
                    if response.status != 200:
                        return
                    async for data in _events(response.content, self._limit):
                        self._on_line(data)

    async def _leave(self) -> None:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            if "Mcp-Session-Id" in self._own:
                timeout = aiohttp.ClientTimeout(total=2)
                async with self._http.delete(
                    self._url, headers=self._own, timeout=timeout, allow_redirects=False
                ):
                    pass
        await self._http.close()


def _answers(line: bytes, request_id: bytes) -> bool:
    try:
        message = envelope.parse(line)
    except envelope.Malformed:
        return False
    return not message.method and message.id == request_id


async def _whole(content: aiohttp.StreamReader, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in content.iter_chunked(_CHUNK):
        size += len(part)
        if size > limit:
            raise LineTooLong
        parts.append(part)
    return b"".join(parts)


async def _events(content: aiohttp.StreamReader, limit: int) -> AsyncIterator[bytes]:
    """Yield the data of `message` events, each on one line (WHATWG HTML §9.2)."""
    held: list[bytes] = []
    data: list[bytes] = []
    kind, size = b"", 0
    async for part in content.iter_chunked(_CHUNK):
        size += len(part)
        if size > limit:
            raise LineTooLong
        held.append(part)
        if b"\n" not in part and b"\r" not in part:
            continue
        text = b"".join(held)
        # a lone CR at the end may be half of a CRLF: it waits for the next part
        half = text.endswith(b"\r")
        lines = (
            (text[:-1] if half else text).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        )
        held = [lines.pop() + (b"\r" if half else b"")]
        for line in lines:
            name, _, value = line.partition(b":")
            if name == b"data":
                data.append(value.removeprefix(b" "))
            elif name == b"event":
                kind = value.removeprefix(b" ")
            elif not line:
                if any(data) and kind in {b"", b"message"}:
                    yield envelope.one_line(b"\n".join(data))
                data, kind, size = [], b"", len(held[0])
