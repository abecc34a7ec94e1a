"""How requests reach a server under check: a pipe of lines, or HTTP into its network.

Lenient where the hub is strict: what a server says wrong is shown, not refused. Everything is
bounded. Legacy era; a server of both eras is met in the legacy one, where sessions exist.
"""

import asyncio
import contextlib
import itertools
import json
import os
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, Protocol

import aiohttp

from mcphub.errors import UpstreamFailed
from mcphub.tasks import Tasks
from mcphub.upstream.lines import Line, LinePipe
from mcphub.wire.envelope import without_halves

_LINE: Final = 16 * 1024 * 1024
_NOTIFICATIONS: Final = 2000
_PROTOCOL: Final = "2025-06-18"
_ACCEPT: Final = "application/json, text/event-stream"


class Ended(Exception):
    """The server is gone, or refuses to talk; the text says how."""


class Channel(Protocol):
    """One connection of one user, or of both where the transport has no sessions."""

    @property
    def notifications(self) -> "Notifications":
        """What the server said by itself."""
        ...

    async def request(
        self, method: str, params: Mapping[str, Any], timeout_s: float
    ) -> dict[str, Any]:
        """Return the whole JSON-RPC answer.

        Raises:
            TimeoutError: None came.
            Ended: The server is gone.
        """
        ...

    async def notify(self, method: str) -> None:
        """Send a notification."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...

    async def gone(self) -> None:
        """End the connection, and wait for its end; at most some seconds."""
        ...


class Notifications:
    """What a server said by itself on one connection, as JSON texts; bounded."""

    def __init__(self) -> None:
        self._kept: deque[str] = deque(maxlen=_NOTIFICATIONS)
        self._count = 0

    def mark(self) -> int:
        """Return the present, for `since`."""
        return self._count

    def add(self, message: Mapping[str, Any]) -> None:
        """Keep one."""
        self._kept.append(json.dumps(message, ensure_ascii=False)[:20_000])
        self._count += 1

    def since(self, mark: int) -> tuple[str, ...]:
        """Return what came after `mark`."""
        new = min(self._count - mark, len(self._kept))
        return tuple(itertools.islice(self._kept, len(self._kept) - new, None)) if new > 0 else ()


class StdioChannel:
    """Lines over the pipes of a process.

    Args:
        stdout, stdin: Descriptors of the process; they stay its own.
    """

    def __init__(self, stdout: int, stdin: int) -> None:
        self.notifications = Notifications()
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._ended = False
        self._pipe = LinePipe(stdout, stdin, _LINE, self._on_line, self._on_end, large=_LINE)

    async def request(
        self, method: str, params: Mapping[str, Any], timeout_s: float
    ) -> dict[str, Any]:
        """Return the answer. Raises as `Channel.request`."""
        number = next(self._ids)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            self._send({"jsonrpc": "2.0", "id": number, "method": method, "params": dict(params)})
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            with contextlib.suppress(Ended):
                cancelled = {"requestId": number, "reason": "time limit"}
                self._send(
                    {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancelled}
                )
            raise
        finally:
            self._waiting.pop(number, None)

    async def notify(self, method: str) -> None:
        """Send a notification."""
        self._send({"jsonrpc": "2.0", "method": method})

    def close(self) -> None:
        """Stop reading and writing."""
        self._pipe.close()

    async def gone(self) -> None:
        """Stop reading and writing."""
        self.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        if self._ended:
            raise Ended("the server ended")
        if self._pipe.congested:
            raise Ended("the server does not read what it is told")
        try:
            self._pipe.write(json.dumps(message).encode())
        except BrokenPipeError:
            raise Ended("the server ended") from None

    def _on_line(self, line: Line, _stream: int = 0) -> None:
        message = parsed(bytes(line))
        if message is None:
            return
        if "method" in message:
            if "id" in message:
                with contextlib.suppress(Ended):
                    self._send(refusal(message))
            self.notifications.add(message)
            return
        number = message.get("id")
        future = self._waiting.get(number) if isinstance(number, int) else None
        if future is not None and not future.done():
            future.set_result(message)

    def _on_end(self, _: Exception | None) -> None:
        self._ended = True
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Ended("the server ended"))


class HttpChannel:
    """Streamable HTTP over a socket path that leads into the server's network.

    Args:
        socket: Path of the forwarder's socket; empty for the URL's own host.
        url: As the server would be reached from inside.
        headers: Of every request: what the user proves to be.
        tasks: Where the stream of the server's own messages is read.
    """

    def __init__(self, socket: str, url: str, headers: Mapping[str, str], tasks: Tasks) -> None:
        self.notifications = Notifications()
        self.headers = dict(headers)
        self.session_id = ""
        self._url = url
        self._ids = itertools.count(1)
        self._tasks = tasks
        self._stream: asyncio.Task[None] | None = None
        self._http = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(socket, limit=0, force_close=True)
            if socket
            else aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            read_bufsize=_LINE,
        )

    async def request(
        self, method: str, params: Mapping[str, Any], timeout_s: float
    ) -> dict[str, Any]:
        """Return the answer. Raises as `Channel.request`."""
        number = next(self._ids)
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": dict(params)}
        try:
            async with asyncio.timeout(timeout_s), self._post(message) as response:
                if response.status >= 300:
                    text = (await response.content.read(4000)).decode("utf-8", "replace")
                    return {
                        "error": {
                            "code": response.status,
                            "message": f"HTTP {response.status}: {text}",
                        }
                    }
                if method == "initialize":
                    self.session_id = response.headers.get("Mcp-Session-Id", "")
                return await self._answer(response, number)
        except aiohttp.ClientError as error:
            raise Ended(_why(error)) from None

    async def notify(self, method: str) -> None:
        """Send a notification, and listen to the server once the session is open."""
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with (
                asyncio.timeout(10),
                self._post({"jsonrpc": "2.0", "method": method}) as response,
            ):
                await response.read()
        if method == "notifications/initialized":
            self._stream = self._tasks.start("isolation.listen", self._listen())

    def close(self) -> None:
        """End the session."""
        if self._stream is not None:
            self._stream.cancel()
        self._tasks.start("isolation.close", self._leave())

    async def gone(self) -> None:
        """End the session, also while tasks are being cancelled because something failed."""
        if self._stream is not None:
            self._stream.cancel()
        await self._leave()

    async def _leave(self) -> None:
        try:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                if self.session_id:
                    async with (
                        asyncio.timeout(2),
                        self._http.delete(self._url, headers=self._sent()),
                    ):
                        pass
        finally:
            await self._http.close()

    def _post(self, message: Mapping[str, Any]) -> Any:
        return self._http.post(self._url, json=message, headers=self._sent(), allow_redirects=False)

    def _sent(self) -> dict[str, str]:
        own = {"Accept": _ACCEPT, **self.headers}
        if self.session_id:
            own["Mcp-Session-Id"] = self.session_id
        if self._stream is not None or self.session_id:
            own["MCP-Protocol-Version"] = _PROTOCOL
        return own

    async def _answer(self, response: aiohttp.ClientResponse, number: int) -> dict[str, Any]:
        if "event-stream" not in response.headers.get("Content-Type", ""):
            message = parsed(await _whole(response.content))
            return message if message is not None else {"error": {"message": "no JSON came"}}
        async for message in _events(response):
            if message.get("id") == number and "method" not in message:
                return message
            self.notifications.add(message)
        return {"error": {"message": "the answer ended early"}}

    async def _listen(self) -> None:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):
            headers = {**self._sent(), "Accept": "text/event-stream"}
            async with self._http.get(
                self._url, headers=headers, allow_redirects=False
            ) as response:
                if response.status == 200:
                    async for message in _events(response):
                        self.notifications.add(message)


async def opened(channel: Channel, timeout_s: float) -> dict[str, Any]:
    """Initialise a session; return the InitializeResult.

    Raises:
        UpstreamFailed: The server refuses.
        TimeoutError, Ended: As `Channel.request`.
    """
    answer = await channel.request(
        "initialize",
        {
            "protocolVersion": _PROTOCOL,
            "capabilities": {},
            "clientInfo": {"name": "client", "version": "1.0.0"},
        },
        timeout_s,
    )
    result = answer.get("result")
    if not isinstance(result, dict):
        error = answer.get("error")
        told = error.get("message") if isinstance(error, dict) else error
        raise UpstreamFailed(f"The server refuses to start a session: {str(told)[:300]}")
    await channel.notify("notifications/initialized")
    return result


def refusal(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer to what a server asks its client: nothing but a ping is known."""
    if message.get("method") == "ping":
        return {"jsonrpc": "2.0", "id": message["id"], "result": {}}
    error = {"code": -32601, "message": "Method not found"}
    return {"jsonrpc": "2.0", "id": message["id"], "error": error}


def parsed(data: bytes) -> dict[str, Any] | None:
    """Return a JSON object, or None for anything else; its texts can be written down."""
    try:
        value = json.loads(without_halves(data).decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


async def _whole(content: aiohttp.StreamReader) -> bytes:
    """Return a body to its end, however many parts it comes in; cut at the longest line."""
    body = bytearray()
    while len(body) < _LINE and (part := await content.read(_LINE - len(body))):
        body += part
    return bytes(body)


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """Yield the messages of an event stream (WHATWG HTML §9.2)."""
    data: list[bytes] = []
    async for raw in response.content:
        line = raw.rstrip(b"\r\n")
        if line.startswith(b"data:"):
            data.append(line[5:].lstrip())
        elif not line and data:
            message = parsed(b"\n".join(data))
            data = []
            if message is not None:
                yield message


def _why(error: aiohttp.ClientError) -> str:
    """Return why a request came to nothing, in words that are not the library's."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not valid here"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name is not known"
    number = error.errno if isinstance(error, aiohttp.ClientOSError) else None
    return os.strerror(number) if number else "the connection broke off"
