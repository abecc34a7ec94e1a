"""The hub's side of the egress gateway: starts it when first needed, registers instances, hears events.

If the gateway dies, running instances lose their network (they see resets, then refused
connections) and the next start brings up a new one.
"""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from mcphub.catalog.spec import SandboxSpec
from mcphub.errors import Unavailable
from mcphub.spawn.egress.events import EgressEvent
from mcphub.spawn.egress.rules import Rules

_log = structlog.get_logger()

_MAX_MESSAGE: Final = 256 * 1024
_START_S: Final = 20.0
_ANSWER_S: Final = 10.0
_DIAL: Final = "dial "
_ENV: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
_BOOT: Final = (
    "import sys; sys.path[:] = sys.argv[3:];"
    "from mcphub.spawn.egress.gateway import main;"
    "main(int(sys.argv[1]), int(sys.argv[2]) if sys.argv[2] else None)"
)


@dataclass(slots=True)
class EgressCounts:
    """What one instance did so far."""

    allowed: int = 0
    refused: int = 0
    sent: int = 0
    received: int = 0


@dataclass(slots=True)
class Network:
    """The network of one instance.

    Attributes:
        own: The instance needs nothing but an empty namespace, which bubblewrap makes.
        counts: What it did so far.
    """

    own: bool = True
    counts: EgressCounts = field(default_factory=EgressCounts)
    namespace: int = -1
    user_namespace: int = -1
    on_close: Callable[[], None] | None = None

    def enter(self, *, with_user: bool) -> list[str]:
        """Return the program that enters the namespaces, for the front of a command.

        The descriptors are reached through the hub's `/proc`, so that no process inherits them.
        """
        if self.own:
            return []
        fds = f"/proc/{os.getpid()}/fd"
        user = (
            [f"--user={fds}/{self.user_namespace}", "--preserve-credentials"] if with_user else []
        )
        return ["nsenter", *user, f"--net={fds}/{self.namespace}", "--"]

    async def close(self) -> None:
        """Drop the network. Idempotent."""
        if self.namespace >= 0:
            os.close(self.namespace)
            self.namespace = -1
        if self.on_close is not None:
            self.on_close()
            self.on_close = None


class EgressGateway:
    """Owns the gateway process. Use on one event loop only.

    Args:
        on_event: Called for each event, on the event loop; must not block.
        uid: Kernel uid that a root hub runs the gateway as; None for the own one.
    """

    def __init__(self, on_event: Callable[[EgressEvent], None] | None, *, uid: int | None) -> None:
        self._on_event = on_event
        self._uid = uid
        self._starting = asyncio.Lock()
        self._link: _Link | None = None
        self._networks: dict[str, Network] = {}
        self._dials = 0

    @property
    def pid(self) -> int | None:
        """Pid of the running gateway."""
        return self._link.popen.pid if self._link is not None and not self._link.closed else None

    def counts(self, instance_id: str) -> EgressCounts | None:
        """Return what a running instance did so far."""
        network = self._networks.get(instance_id)
        return network.counts if network else None

    async def register(
        self, instance_id: str, sandbox: SandboxSpec, made: Sequence[int] = ()
    ) -> Network:
        """Make the network of an instance; one without egress needs no gateway.

        Args:
            instance_id: Id of the instance.
            sandbox: Its egress list.
            made: Descriptors of a network namespace and of its sockets, in the order of
                `netns.Namespace`, for the `ports` of this list; stay the caller's. By default the
                gateway makes them.

        Raises:
            InvalidInput: An entry of the egress list is malformed.
            Unavailable: The gateway cannot be started or refused.
        """
        if not sandbox.egress and not sandbox.redirect:
            return Network()
        Rules.parse(sandbox.egress, sandbox.redirect)  # fail here, with the entry in the message
        async with self._starting:
            if self._link is None or self._link.closed:
                self._link = await self._start()
        link = self._link
        message = {"op": "add", "id": instance_id, "egress": sandbox.egress}
        namespace = await link.ask(message | {"redirect": dict(sandbox.redirect)}, fds=made)

        def drop() -> None:
            self._networks.pop(instance_id, None)
            link.tell({"op": "drop", "id": instance_id})

        network = Network(
            own=False, namespace=namespace, user_namespace=link.user_namespace, on_close=drop
        )
        self._networks[instance_id] = network
        return network

    async def dial(self, instance_id: str, port: int) -> socket.socket:
        """Return a connection to a port that a running instance listens on inside its network.

        Raises:
            Unavailable: It has no network here, or nobody listens.
        """
        if self._link is None or instance_id not in self._networks:
            raise _lost()
        self._dials += 1
        call = f"{_DIAL}{self._dials}"
        message = {"op": "dial", "id": instance_id, "call": call, "port": port}
        sock = socket.socket(fileno=await self._link.ask(message, call))
        sock.setblocking(False)
        return sock

    @staticmethod
    def ports(sandbox: SandboxSpec) -> tuple[int, ...] | None:
        """Return the ports that a namespace for this egress list listens on; None if it needs none.

        Raises:
            InvalidInput: An entry is malformed.
        """
        if not sandbox.egress and not sandbox.redirect:
            return None
        return tuple(Rules.parse(sandbox.egress, sandbox.redirect).ports)

    async def aclose(self) -> None:
        """End the gateway."""
        if self._link is not None:
            self._link.close()
            self._link = None

    async def _start(self) -> "_Link":
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        uid = "" if self._uid is None else str(self._uid)
        path = [entry for entry in sys.path if entry]
        argv = [sys.executable, "-I", "-c", _BOOT, str(theirs.fileno()), uid, *path]
        try:
            with theirs:
                popen = subprocess.Popen(  # noqa: ASYNC220  a fork of a millisecond
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env=_ENV,
                    cwd="/",
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
        except OSError:
            ours.close()
            raise Unavailable("The egress gateway cannot be started.", retry_after_s=5) from None
        link = _Link(ours, popen, self._deliver)
        try:
            async with asyncio.timeout(_START_S):
                await asyncio.shield(link.ready)
        except (TimeoutError, Unavailable):
            link.close()
            raise Unavailable(
                "The egress gateway cannot be started.",
                hint="Run `mcphub doctor`: the egress row says what the machine refuses.",
                retry_after_s=5,
            ) from None
        except BaseException:
            link.close()
            raise
        _log.info("egress.started", pid=popen.pid)
        return link

    def _deliver(self, event: EgressEvent) -> None:
        network = self._networks.get(event.instance_id)
        if network is not None:
            counts = network.counts
            counts.allowed += event.kind == "allowed"
            counts.refused += event.kind == "refused"
            counts.sent += event.sent
            counts.received += event.received
        if self._on_event is not None:
            self._on_event(event)


class _Link:
    """One gateway process and the socket to it."""

    def __init__(
        self,
        sock: socket.socket,
        popen: "subprocess.Popen[bytes]",
        deliver: Callable[[EgressEvent], None],
    ) -> None:
        self.popen = popen
        self.closed = False
        self.user_namespace = -1
        self._sock = sock
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, asyncio.Future[int]] = {}
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(sock.fileno(), self._on_message)

    async def ask(self, message: dict[str, Any], name: str = "", *, fds: Sequence[int] = ()) -> int:
        """Send `add` or `dial` and return the descriptor of the answer; `name` is what that is for."""
        name = name or message["id"]
        future: asyncio.Future[int] = self._loop.create_future()
        self._waiting[name] = future
        try:
            self._send(message, fds)
            async with asyncio.timeout(_ANSWER_S):
                return await future
        except OSError:  # TimeoutError is one
            raise _lost() from None
        finally:
            self._waiting.pop(name, None)

    def tell(self, message: dict[str, Any]) -> None:
        """Send without an answer; a gateway that is gone needs none."""
        with contextlib.suppress(OSError):
            self._send(message)

    def close(self) -> None:
        """End the process and fail who waits. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        self.popen.kill()
        self.popen.wait()
        if self.user_namespace >= 0:
            os.close(self.user_namespace)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(_lost())
        if not self.ready.done():
            self.ready.set_exception(_lost())
            self.ready.exception()  # seen: the starter may have given up already

    def _send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        if self.closed:
            raise ConnectionResetError
        socket.send_fds(self._sock, [json.dumps(message).encode()], fds)

    def _on_message(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._sock, _MAX_MESSAGE, 4, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            _log.warning("egress.gone", status=self.popen.poll())
            self.close()
            return
        message = json.loads(data)
        handler = {
            "hello": self._on_hello,
            "added": self._on_added,
            "dialled": self._on_added,
            "failed": self._on_failed,
            "events": self._on_events,
            "fatal": self._on_fatal,
        }[message["op"]]
        handler(message, fds)

    def _on_hello(self, _message: dict[str, Any], fds: list[int]) -> None:
        self.user_namespace = fds[0]
        if not self.ready.done():
            self.ready.set_result(None)

    def _on_added(self, message: dict[str, Any], fds: list[int]) -> None:
        future = self._waiting.get(message["id"])
        if future is not None and not future.done():
            future.set_result(fds[0])
            return
        os.close(fds[0])  # nobody waits any more
        self.tell({"op": "drop", "id": message["id"]})

    def _on_failed(self, message: dict[str, Any], _fds: list[int]) -> None:
        if message["id"] in self._waiting and not message["id"].startswith(_DIAL):
            _log.error("egress.refused", instance=message["id"], error=message["error"])
        future = self._waiting.get(message["id"])
        if future is not None and not future.done():
            future.set_exception(_lost())

    def _on_fatal(self, message: dict[str, Any], _fds: list[int]) -> None:
        _log.error("egress.cannot_start", error=message["error"])
        self.close()

    def _on_events(self, message: dict[str, Any], _fds: list[int]) -> None:
        if message["lost"]:
            _log.warning("egress.events_lost", count=message["lost"])
        for values in message["events"]:
            self._deliver(EgressEvent(*values))


def _lost() -> Unavailable:
    return Unavailable(
        "The network of the instance cannot be set up now.",
        hint="Try again; `mcphub doctor` shows whether the egress gateway works.",
    )
