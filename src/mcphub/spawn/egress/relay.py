"""One connection of an instance: decide, check, connect, copy both ways. Runs in the gateway."""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from mcphub.names import addresses
from mcphub.spawn.egress import sni
from mcphub.spawn.egress.connect import Entrance, NoRequest, reset
from mcphub.spawn.egress.dns import Names
from mcphub.spawn.egress.rules import Check, Endpoint, Rules, may_connect

IDLE_S: Final = 900.0
TOTAL_S: Final = 24 * 3600.0
_HELLO_S: Final = 10.0
_CONNECT_S: Final = 10.0
_CHUNK: Final = 64 * 1024
_MAX_TRIES: Final = 4

Resolve = Callable[[Endpoint], Awaitable[list[str]]]
Report = Callable[[str, Endpoint, str, int, int], None]
"""kind, endpoint as the instance meant it, reason, bytes sent, bytes received."""


class Refused(Exception):
    """The connection is not allowed or cannot be made; says why in a short stable phrase."""


@dataclass(frozen=True, slots=True)
class Relay:
    """What a connection is judged by.

    Attributes:
        rules: Egress list of the instance.
        names: Its made-up addresses.
        report: Told each decision.
        resolve: Real name resolution; its answers are checked and used, never resolved again.
        may_connect: Judges an address.
    """

    rules: Rules
    names: Names
    report: Report
    resolve: Resolve
    may_connect: Callable[[str, Check], bool] = may_connect

    async def serve(self, client: socket.socket) -> None:
        """Handle one accepted connection to its end; closes it. Raises nothing but cancellation."""
        loop = asyncio.get_running_loop()
        address, port = client.getsockname()[:2]
        meant: Endpoint = (self.names.name(address), port)
        entrance = Entrance(client, proxied=self.rules.is_proxy(*meant))
        with client:
            try:
                if entrance.proxied:
                    meant = await entrance.asked()
                server, hello, meant = await self._open(entrance, meant)
            except NoRequest:
                self.report("refused", meant, "no CONNECT request", 0, 0)
                await entrance.refuse("this port takes CONNECT only", "405 Method Not Allowed")
                return
            except Refused as refusal:
                self.report("refused", meant, str(refusal), 0, 0)
                await entrance.refuse(str(refusal))
                return
            except OSError:
                reset(client)
                return
            with server:
                self.report("allowed", meant, "", 0, 0)
                counts = [len(hello), 0]
                reason = "end"
                try:
                    await loop.sock_sendall(server, hello)
                    await _splice(client, server, counts)
                except TimeoutError:
                    reason = "time limit"
                except OSError:
                    reason = "reset"
                    reset(client)
                self.report("closed", meant, reason, counts[0], counts[1])

    async def _open(
        self, entrance: Entrance, meant: Endpoint
    ) -> tuple[socket.socket, bytes, Endpoint]:
        verdict = self.rules.verdict(*meant)
        if verdict.target is None:
            raise Refused(verdict.reason)
        hello = b""
        target = verdict.target
        if verdict.check is Check.TLS:
            await entrance.welcome()
            hello, offered = await _read_hello(entrance.client)
            name = self.rules.tls_name(target[0], offered)
            if name is None:
                raise Refused("TLS server name does not fit the egress list")
            target = (name, target[1])
            meant = target
        addresses = await self._addresses(target)
        permitted = [text for text in addresses if self.may_connect(text, verdict.check)]
        if not permitted:
            raise Refused("name not found" if not addresses else "address is private or local")
        server = await _connect(permitted[:_MAX_TRIES], target[1])
        try:
            await entrance.welcome()
        except OSError:
            server.close()
            raise
        return server, hello, meant

    async def _addresses(self, target: Endpoint) -> list[str]:
        with contextlib.suppress(ValueError):
            return [str(ipaddress.ip_address(target[0]))]
        try:
            async with asyncio.timeout(_CONNECT_S):
                return await self.resolve(target)
        except (OSError, UnicodeError):  # TimeoutError is an OSError
            return []


async def resolve(instance: str, target: Endpoint) -> list[str]:
    """Resolve a name for an instance with the machine's resolver, IPv4 and IPv6."""
    found = await addresses(*target, instance)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def _read_hello(client: socket.socket) -> tuple[bytes, str | None]:
    loop = asyncio.get_running_loop()
    data = b""
    try:
        async with asyncio.timeout(_HELLO_S):
            while len(data) < sni.MAX_HELLO:
                part = await loop.sock_recv(client, _CHUNK)
                if not part:
                    break
                data += part
                with contextlib.suppress(sni.Incomplete):
                    return data, sni.server_name(data)
    except sni.NotTls:
        raise Refused("not TLS") from None
    except TimeoutError:
        pass
    raise Refused("no TLS ClientHello")


async def _connect(addresses: list[str], port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            async with asyncio.timeout(_CONNECT_S):
                await loop.sock_connect(sock, (address, port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            sock.close()
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise Refused("destination does not answer")


async def _splice(client: socket.socket, server: socket.socket, counts: list[int]) -> None:
    """Copy both ways until both have ended; TimeoutError when idle or too long, ConnectionResetError when one breaks off.

    `sock_sendall` ends when the kernel has taken the bytes, so a slow reader slows its writer.
    """
    loop = asyncio.get_running_loop()
    last = loop.time() + TOTAL_S
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    async with asyncio.timeout(IDLE_S) as limit:

        async def pump(source: socket.socket, sink: socket.socket, index: int) -> None:
            while data := await loop.sock_recv(source, _CHUNK):
                await loop.sock_sendall(sink, data)
                counts[index] += len(data)
                limit.reschedule(min(last, loop.time() + IDLE_S))
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)

        broken = False
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(pump(client, server, 0))
                group.create_task(pump(server, client, 1))
        except* OSError:
            broken = True
        if broken:  # from within `except*` it would come as a group
            raise ConnectionResetError
