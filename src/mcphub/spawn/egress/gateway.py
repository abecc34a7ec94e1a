"""The egress gateway: one process per hub, one thread, an own event loop.

The hub starts it (`client`), talks to it over a socket pair of whole messages (JSON, descriptors
beside) and it ends when that closes. It gives up root first and keeps no right outside of the
network namespaces that it makes. It never sees a credential: TLS stays end to end.

Messages to it: `add` (id, egress, redirect), `drop` (id), `dial` (id, call, port). From it: `hello`
with its user namespace, `added` with the network namespace, `dialled` with a connection to a port
inside of it, `failed`, `events`.
"""

import array
import asyncio
import contextlib
import errno
import json
import os
import resource
import socket
import sys
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

from mcphub.spawn.egress import netns, relay
from mcphub.spawn.egress.connect import reset
from mcphub.spawn.egress.dns import Names
from mcphub.spawn.egress.rules import Endpoint, Rules

MAX_MESSAGE: Final = 256 * 1024
_MOST_FDS: Final = 250
_MAX_CONNECTIONS: Final = 64
_MAX_EVENTS: Final = 2000
_EVENTS_PER_MESSAGE: Final = 200
_FLUSH_S: Final = 0.1
_ACCEPT_PAUSE_S: Final = 0.5
_MAX_DNS: Final = 4096
_DNS_S: Final = 10.0


class Control:
    """The gateway's end of the socket pair: messages out in order, events batched and bounded."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._out: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._events: deque[list[Any]] = deque()
        self._lost = 0
        self._timer: asyncio.TimerHandle | None = None

    def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Queue a message; `fds` are duplicated now, so the caller keeps its own."""
        self._out.append((json.dumps(message).encode(), tuple(map(os.dup, fds))))
        self._write()

    def event(self, *values: Any) -> None:
        """Queue one event; the oldest give way when the hub does not read."""
        if len(self._events) >= _MAX_EVENTS:
            self._events.popleft()
            self._lost += 1
        self._events.append(list(values))
        if self._timer is None:
            self._timer = self._loop.call_later(_FLUSH_S, self._flush)

    def _flush(self) -> None:
        self._timer = None
        if len(self._out) < _EVENTS_PER_MESSAGE:
            count = min(_EVENTS_PER_MESSAGE, len(self._events))
            batch = [self._events.popleft() for _ in range(count)]
            lost, self._lost = self._lost, 0
            self.send({"op": "events", "events": batch, "lost": lost})
        if self._events:
            self._timer = self._loop.call_later(_FLUSH_S, self._flush)

    def _write(self) -> None:
        while self._out:
            data, fds = self._out[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            try:
                self._sock.sendmsg([data], rights)
            except BlockingIOError:
                self._loop.add_writer(self._sock, self._write)
                return
            except OSError:  # the hub is gone; the reader sees it too
                self._out.clear()
                return
            self._out.popleft()
            for fd in fds:
                os.close(fd)
        self._loop.remove_writer(self._sock)


class Tenant:
    """One instance's network: its listeners and connections.

    Args:
        instance: Its id, for events.
        rules: Its egress list.
        space: Its network namespace; owned.
        control: Where events go.
        tasks: The gateway's task group.
        resolve: Real name resolution.
    """

    def __init__(
        self,
        instance: str,
        rules: Rules,
        space: netns.Namespace,
        control: Control,
        tasks: asyncio.TaskGroup,
        resolve: relay.Resolve,
    ) -> None:
        self._instance = instance
        self._space = space
        self._control = control
        self._tasks = tasks
        self._names = Names(rules)
        self._relay = relay.Relay(rules, self._names, self._report, resolve)
        self._connections: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(space.dns_udp, self._on_query)
        for listener in (space.dns_tcp, *space.listeners):
            self._loop.add_reader(listener, self._on_connect, listener)

    def dial(self, port: int) -> socket.socket:
        """Connect to a port inside. Raises OSError when nobody listens."""
        return netns.dial(self._space.fd, port)

    def close(self) -> None:
        """End every connection and the listeners."""
        for sock in self._space.sockets():
            self._loop.remove_reader(sock)
            sock.close()
        os.close(self._space.fd)
        for task in self._connections:
            task.cancel()

    def _report(self, kind: str, meant: Endpoint, reason: str, sent: int, received: int) -> None:
        self._control.event(self._instance, kind, meant[0], meant[1], reason, sent, received)

    def _on_query(self) -> None:
        with contextlib.suppress(OSError):
            query, peer = self._space.dns_udp.recvfrom(_MAX_DNS)
            reply = self._answer(query)
            if reply:
                self._space.dns_udp.sendto(reply, peer)

    def _answer(self, query: bytes) -> bytes:
        found = self._names.answer(query)
        if found is None:
            return b""
        if found[1]:
            self._report("refused", (found[1], 53), "name not in the egress list", 0, 0)
        return found[0]

    def _on_connect(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError:  # out of descriptors: look again later instead of spinning
            self._loop.remove_reader(listener)
            self._loop.call_later(_ACCEPT_PAUSE_S, self._resume, listener)
            return
        client.setblocking(False)
        if len(self._connections) >= _MAX_CONNECTIONS:
            address, port = client.getsockname()[:2]
            meant = (self._names.name(address), port)
            self._report("refused", meant, "too many connections", 0, 0)
            reset(client)
            client.close()
            return
        handler = self._serve_dns if listener is self._space.dns_tcp else self._relay.serve
        task = self._tasks.create_task(self._guard(handler, client))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _guard(
        self, handler: Callable[[socket.socket], Awaitable[None]], client: socket.socket
    ) -> None:
        try:
            await handler(client)
        except Exception:  # noqa: BLE001  one connection never ends the others
            traceback.print_exc()
            client.close()

    def _resume(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            self._loop.add_reader(listener, self._on_connect, listener)

    async def _serve_dns(self, client: socket.socket) -> None:
        """Answer queries over TCP (RFC 1035 §4.2.2)."""
        data = b""
        with client, contextlib.suppress(OSError):
            async with asyncio.timeout(_DNS_S):
                while part := await self._loop.sock_recv(client, _MAX_DNS):
                    data += part
                    while len(data) >= 2 and len(data) >= 2 + int.from_bytes(data[:2]):
                        size = 2 + int.from_bytes(data[:2])
                        reply = self._answer(data[2:size])
                        data = data[size:]
                        if not reply:
                            return
                        await self._loop.sock_sendall(client, len(reply).to_bytes(2) + reply)


async def serve(sock: socket.socket, user_namespace: int) -> None:
    """Serve the hub until it closes the socket pair."""
    loop = asyncio.get_running_loop()
    control = Control(sock)
    control.send({"op": "hello"}, [user_namespace])
    tenants: dict[str, Tenant] = {}
    closed = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:

        def on_message() -> None:
            try:
                data, fds, _, _ = socket.recv_fds(sock, MAX_MESSAGE, _MOST_FDS)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", []
            if not data:
                closed.set()
                return
            message = json.loads(data)
            name = message["id"]
            if message["op"] == "drop":
                tenant = tenants.pop(name, None)
                if tenant is not None:
                    tenant.close()
                return
            if message["op"] == "dial":
                _dial(control, tenants.get(name), message)
                return
            try:
                rules = Rules.parse(message["egress"], message["redirect"])
                space = netns.made(fds) if fds else netns.make(rules.ports)
            except OSError as error:
                control.send({"op": "failed", "id": name, "error": error.strerror or "error"})
                return
            tenants[name] = Tenant(name, rules, space, control, tasks, partial(relay.resolve, name))
            control.send({"op": "added", "id": name}, [space.fd])

        loop.add_reader(sock, on_message)
        await closed.wait()
        os._exit(0)  # nothing to save; connections of a dead hub end at once


def _dial(control: Control, tenant: Tenant | None, message: dict[str, Any]) -> None:
    """Answer with a connection to a port that the instance listens on."""
    call = message["call"]
    try:
        if tenant is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        with tenant.dial(message["port"]) as sock:
            control.send({"op": "dialled", "id": call}, [sock.fileno()])
    except OSError as error:
        control.send({"op": "failed", "id": call, "error": error.strerror or "error"})


def main(control_fd: int, uid: int | None) -> None:
    """Run the gateway on an inherited socket, as `uid` when started by root."""
    sock = socket.socket(fileno=control_fd)
    sock.setblocking(False)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # After the change of uid the interpreter's own files may be out of reach: what is loaded late
    # must be loaded now (name encoding).
    "x".encode("idna")
    try:
        user_namespace = netns.become(uid)
    except OSError as error:
        sock.send(json.dumps({"op": "fatal", "error": error.strerror or "error"}).encode())
        sys.exit(1)
    asyncio.run(serve(sock, user_namespace))
