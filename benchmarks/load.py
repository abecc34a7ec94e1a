"""Load generator: raw HTTP/1.1 keep-alive connections that call one MCP tool, closed loop.

Every client is one connection with one session; it sends the next call when the answer is there.
An answer that is not status 200, JSON, and for the right id ends the run with an error.
"""

import asyncio
import json
import time
from dataclasses import dataclass, field

VERSION = "2025-06-18"


@dataclass(frozen=True)
class Target:
    """An MCP endpoint on loopback."""

    port: int
    path: str = "/mcp"
    headers: dict[str, str] = field(default_factory=dict)
    tool: str = "echo"


class Connection(asyncio.Protocol):
    """One keep-alive connection; one request in flight."""

    def __init__(self) -> None:
        self.buffer = b""
        self.waiter: asyncio.Future[tuple[int, bytes, bytes]] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer = self.buffer + data if self.buffer else data
        cut = self.buffer.find(b"\r\n\r\n")
        if cut < 0:
            return
        head = self.buffer[:cut]
        lower = head.lower()
        at = lower.find(b"content-length:")
        if at < 0 and b"transfer-encoding" in lower:
            self._done(error=f"no JSON answer with a length: {head!r}")
            return
        length = int(lower[at + 15 :].partition(b"\r\n")[0]) if at >= 0 else 0
        end = cut + 4 + length
        if len(self.buffer) < end:
            return
        body, self.buffer = self.buffer[cut + 4 : end], self.buffer[end:]
        self._done((int(head[9:12]), head, body))

    def connection_lost(self, exc: Exception | None) -> None:
        self._done(error=f"connection lost: {exc}")

    def _done(self, value: tuple[int, bytes, bytes] | None = None, error: str = "") -> None:
        waiter, self.waiter = self.waiter, None
        if waiter is None or waiter.done():
            return
        if value is None:
            waiter.set_exception(RuntimeError(error))
        else:
            waiter.set_result(value)

    def send(self, request: bytes) -> "asyncio.Future[tuple[int, bytes, bytes]]":
        self.waiter = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.waiter


class Client:
    """One client: a connection, its session, and prepared bytes of its calls."""

    def __init__(self, target: Target, connection: Connection, number: int) -> None:
        self.target, self.connection = target, connection
        self.session = ""
        self.next = number * 10_000_000 + 1_000_000_000

    @classmethod
    async def connect(cls, target: Target, number: int, text: str) -> "Client":
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, "127.0.0.1", target.port)
        client = cls(target, connection, number)
        hello = {
            "protocolVersion": VERSION,
            "capabilities": {},
            "clientInfo": {"name": "load", "version": "1"},
        }
        head, _ = await client.request("initialize", hello)
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"mcp-session-id":
                client.session = value.strip().decode()
        await client.request("notifications/initialized", None)
        await client.request("tools/list", {})
        call = {"name": target.tool, "arguments": {"text": text}}
        client.prefix = client.encode("tools/call", call, 1_000_000_000).replace(
            b'"id":1000000000', b'"id":%d'
        )
        client.expected = text.encode()
        return client

    def encode(self, method: str, params: object, request_id: int | None) -> bytes:
        message: dict[str, object] = {"jsonrpc": "2.0"}
        if request_id is not None:
            message["id"] = request_id
        message["method"] = method
        if params is not None:
            message["params"] = params
        body = json.dumps(message, separators=(",", ":"))
        headers = {
            "Host": f"127.0.0.1:{self.target.port}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            **self.target.headers,
            "Content-Length": str(len(body)),
        }
        if self.session:
            headers |= {"Mcp-Session-Id": self.session, "Mcp-Protocol-Version": VERSION}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST {self.target.path} HTTP/1.1\r\n{head}\r\n{body}".encode()

    async def request(self, method: str, params: object) -> tuple[bytes, bytes]:
        notification = method.startswith("notifications/")
        self.next += 1
        data = self.encode(method, params, None if notification else self.next)
        status, head, body = await asyncio.wait_for(self.connection.send(data), 60)
        if status != (202 if notification else 200) or b'"error"' in body:
            raise RuntimeError(f"{method}: {head!r} {body[:500]!r}")
        return head, body

    async def calls(self, until: float, latencies: list[float]) -> None:
        """Call until `until` (perf_counter seconds); append the seconds of each call."""
        clock, connection, prefix = time.perf_counter, self.connection, self.prefix
        now = clock()
        while now < until:
            self.next += 1
            status, head, body = await connection.send(prefix % self.next)
            after = clock()
            if status != 200 or b"%d" % self.next not in body or self.expected not in body:
                raise RuntimeError(f"wrong answer: {head!r} {body[:500]!r}")
            latencies.append(after - now)
            now = after

    async def reconnect(self) -> None:
        """Take a new connection for the same session: servers close idle ones between rounds."""
        self.close()
        loop = asyncio.get_running_loop()
        _, self.connection = await loop.create_connection(Connection, "127.0.0.1", self.target.port)

    def close(self) -> None:
        self.connection.transport.close()


async def measure(clients: list[Client], seconds: float) -> tuple[float, list[float]]:
    """Let all clients call for `seconds`; return the real duration and all latencies."""
    latencies: list[float] = []
    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.calls(start + seconds, latencies))
    return time.perf_counter() - start, latencies
