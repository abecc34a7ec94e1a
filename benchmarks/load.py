"""Load generator: raw HTTP/1.1 keep-alive connections that call one MCP tool, closed loop.

Every client is one connection; in the legacy era it has one session. It sends the next call when the
answer is there. An answer that is not status 200, for the right id and with the right text ends the
run with an error. Answers may be JSON or an event stream, with a length or in chunks.
"""

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Final

LEGACY: Final = "2025-11-25"
MODERN: Final = "2026-07-28"
_ANSWER_S: Final = 90.0
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"


class Broken(Exception):
    """The endpoint did not do what was asked of it."""


@dataclass(frozen=True)
class Target:
    """An MCP endpoint on loopback.

    Attributes:
        people: Headers that prove who calls; client `n` is person `n` modulo their number.
    """

    port: int
    path: str = "/mcp"
    people: tuple[dict[str, str], ...] = ({},)
    tool: str = "echo"


class Connection(asyncio.Protocol):
    """One keep-alive connection; one request in flight."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0
        self.head = b""
        self.end = -1
        self.waiter: asyncio.Future[tuple[int, bytes, bytes]] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if not self.head:
            if self.parts:
                data = b"".join(self.parts) + data
                self.parts.clear()
            cut = data.find(b"\r\n\r\n")
            if cut < 0:
                self.parts.append(data)
                return
            self.head, data = data[: cut + 2], data[cut + 4 :]
            self.size = 0
            lower = self.head.lower()
            at = lower.find(b"\r\ncontent-length:")
            chunked = b"\r\ntransfer-encoding: chunked" in lower
            self.end = -1 if chunked else int(lower[at + 17 :].split(b"\r\n")[0]) if at >= 0 else 0
        self.parts.append(data)
        self.size += len(data)
        if self.end >= 0:
            if self.size < self.end:
                return
            body = b"".join(self.parts)
        else:
            body = b"".join(self.parts) if len(self.parts) > 1 else data
            if not (body.endswith(_LAST_CHUNK) or body == _LAST_CHUNK[2:]):
                self.parts = [body]
                return
            body = _without_chunks(body)
        head, self.head = self.head, b""
        self.parts.clear()
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result((int(head[9:12]), head, body))

    def connection_lost(self, exc: Exception | None) -> None:
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(Broken(f"connection lost: {exc}"))

    def send(self, request: bytes) -> "asyncio.Future[tuple[int, bytes, bytes]]":
        self.waiter = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.waiter


def _without_chunks(data: bytes) -> bytes:
    found: list[bytes] = []
    at = 0
    while True:
        line = data.index(b"\r\n", at)
        size = int(data[at:line].partition(b";")[0], 16)
        if not size:
            return b"".join(found)
        found.append(data[line + 2 : line + 2 + size])
        at = line + 4 + size


class Client:
    """One client: a connection, its session in the legacy era, and prepared bytes of its calls."""

    def __init__(self, target: Target, number: int, era: str) -> None:
        self.target, self.era = target, era
        self.person = target.people[number % len(target.people)]
        self.session = ""
        self.next = number * 1_000_000 + 1_000_000_000
        self.connection = Connection()

    async def open(self, text: str) -> None:
        """Connect, open a session where the era has one, and prepare calls that echo `text`."""
        await self.reconnect()
        if self.era == LEGACY:
            hello = {
                "protocolVersion": LEGACY,
                "capabilities": {},
                "clientInfo": {"name": "load", "version": "1"},
            }
            head, _ = await self.request("initialize", hello)
            for line in head.split(b"\r\n"):
                name, _, value = line.partition(b":")
                if name.lower() == b"mcp-session-id":
                    self.session = value.strip().decode()
            await self.request("notifications/initialized", None)
        await self.request("tools/list", {})
        call = {"name": self.target.tool, "arguments": {"text": text}}
        whole = self.encode("tools/call", call, 1_000_000_000)
        self.before, self.after = whole.split(b'"id":1000000000')
        self.start, self.length = text[:64].encode(), len(text)

    def encode(self, method: str, params: object, request_id: int | None) -> bytes:
        message: dict[str, object] = {"jsonrpc": "2.0"}
        if request_id is not None:
            message["id"] = request_id
        message["method"] = method
        headers = {
            "Host": f"127.0.0.1:{self.target.port}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            **self.person,
        }
        if self.era == MODERN:
            meta = {
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientInfo": {"name": "load", "version": "1"},
                "io.modelcontextprotocol/clientCapabilities": {},
            }
            params = {**(params if isinstance(params, dict) else {}), "_meta": meta}
            headers |= {"Mcp-Protocol-Version": MODERN, "Mcp-Method": method}
            if "name" in params:
                headers["Mcp-Name"] = params["name"]
        elif self.session:
            headers |= {"Mcp-Session-Id": self.session, "Mcp-Protocol-Version": LEGACY}
        if params is not None:
            message["params"] = params
        body = json.dumps(message, separators=(",", ":"))
        headers["Content-Length"] = str(len(body))
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST {self.target.path} HTTP/1.1\r\n{head}\r\n{body}".encode()

    async def request(self, method: str, params: object) -> tuple[bytes, bytes]:
        notification = method.startswith("notifications/")
        self.next += 1
        data = self.encode(method, params, None if notification else self.next)
        status, head, body = await asyncio.wait_for(self.connection.send(data), _ANSWER_S)
        if status != (202 if notification else 200) or b'"error"' in body:
            raise Broken(f"{method}: {head[:60]!r} {body[:300]!r}")
        return head, body

    async def call(self) -> None:
        """Make one call and check its answer."""
        self.next += 1
        number = b'"id":%d' % self.next
        status, head, body = await self.connection.send(self.before + number + self.after)
        if (
            status != 200
            or (number not in body and b'"id": %d' % self.next not in body)
            or self.start not in body
            or len(body) < self.length
        ):
            raise Broken(f"wrong answer: {head[:60]!r} {body[:300]!r}")

    async def reconnect(self) -> None:
        """Take a new connection for the same session: servers close idle ones between rounds."""
        self.close()
        loop = asyncio.get_running_loop()
        _, self.connection = await loop.create_connection(Connection, "127.0.0.1", self.target.port)

    def close(self) -> None:
        """Close the connection."""
        if hasattr(self.connection, "transport"):
            self.connection.transport.close()


async def measure(
    clients: list[Client], seconds: float, in_flight: int
) -> tuple[float, list[float]]:
    """Let clients call for `seconds`; return the real duration and all latencies in seconds.

    Args:
        clients: Who calls.
        seconds: How long; every worker makes at least one call.
        in_flight: Calls at a time; with fewer than clients, these take turns.
    """
    latencies: list[float] = []
    clock = time.perf_counter
    start = clock()
    until = start + seconds

    async def work(turns: list[Client]) -> None:
        now, index = clock(), 0
        while now < until or not index:
            await turns[index % len(turns)].call()
            index += 1
            after = clock()
            latencies.append(after - now)
            now = after

    try:
        async with asyncio.timeout(seconds + _ANSWER_S), asyncio.TaskGroup() as group:
            for number in range(min(in_flight, len(clients))):
                group.create_task(work(clients[number::in_flight]))
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    return clock() - start, latencies
