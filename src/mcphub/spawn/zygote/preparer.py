"""The hub's side of `preparing`: starts that process when first needed and asks it."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog

from mcphub.errors import Unavailable
from mcphub.spawn.zygote.messages import receive
from mcphub.spawn.zygote.preparing import MAX_MESSAGE

_log = structlog.get_logger()
_ANSWER_S: Final = 10.0
_MOST_FDS: Final = 250
_ENV: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
_BOOT: Final = (
    "import sys; sys.path[:] = sys.argv[3:];"
    "from mcphub.spawn.zygote.preparing import main;"
    "main(int(sys.argv[1]), int(sys.argv[2]))"
)


class Asked:
    """A request that is on its way: take its answer, or forget it.

    Args:
        future: Gets the descriptors of the answer.
    """

    def __init__(self, future: "asyncio.Future[list[int]]") -> None:
        self._future = future
        self._taken = False

    async def answer(self) -> list[int]:
        """Return the descriptors, owned by the caller from then on.

        Raises:
            Unavailable: The process is gone, refused, or takes too long.
        """
        try:
            async with asyncio.timeout(_ANSWER_S):
                fds = await self._future
        except TimeoutError:
            raise Unavailable("The instance cannot be prepared now.", retry_after_s=5) from None
        self._taken = True
        return fds

    def forget(self) -> None:
        """Want it no more: what has come and was not taken is closed, as will be what comes. Idempotent."""
        if not self._future.cancel() and not self._taken:
            self._taken = True
            if not self._future.cancelled() and self._future.exception() is None:
                close_all(self._future.result())


class Preparer:
    """Owns the process. Use on one event loop only, on its main thread."""

    def __init__(self) -> None:
        self._popen: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None
        self._waiting: dict[str, asyncio.Future[list[int]]] = {}

    @property
    def pid(self) -> int | None:
        """Pid of the process, once it was needed."""
        return self._popen.pid if self._popen is not None else None

    def prepare(self, name: str, namespace: int, home: Path, ports: Sequence[int] | None) -> Asked:
        """Ask for the home's mount, then, with ports, the network's descriptors.

        Args:
            name: Id of the instance.
            namespace: Descriptor of the zygote's user namespace.
            home: The home on the host.
            ports: Ports to listen on in a new network namespace; None makes none.

        Raises:
            Unavailable: The process cannot be asked.
        """
        asked = {"home": str(home), "ports": None if ports is None else list(ports)}
        return self._ask(name, asked, namespace)

    async def attach(
        self, name: str, mounts: int, home: Path, owners: tuple[int, int] | None
    ) -> None:
        """Put a home into a sandbox that runs.

        Args:
            name: Id of the instance.
            mounts: Descriptor of the sandbox's mount namespace.
            home: The home on the host.
            owners: Kernel uid of the home's files, and the one that the sandbox runs as; None where
                they are the same.

        Raises:
            Unavailable: The process is gone, refused, or takes too long.
        """
        asked = self._ask(name, {"home": str(home), "owners": owners}, mounts)
        try:
            await asked.answer()
        finally:
            asked.forget()

    def _ask(self, name: str, asked: dict[str, object], fd: int) -> Asked:
        sock = self._started()
        try:
            socket.send_fds(sock, [json.dumps(asked | {"id": name}).encode()], [fd])
        except OSError:
            raise Unavailable("The instance cannot be prepared now.", retry_after_s=5) from None
        future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._waiting[name] = future
        future.add_done_callback(lambda _: self._waiting.pop(name, None))
        return Asked(future)

    def close(self) -> None:
        """End the process and fail who waits. Idempotent."""
        if self._sock is None or self._popen is None:
            return
        asyncio.get_running_loop().remove_reader(self._sock.fileno())
        self._sock.close()
        self._sock = None
        self._popen.kill()
        self._popen.wait()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Unavailable("The instance cannot be prepared now."))

    def _started(self) -> socket.socket:
        if self._sock is not None:
            return self._sock
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        path = [entry for entry in sys.path if entry]
        argv = [sys.executable, "-I", "-c", _BOOT, str(theirs.fileno()), str(os.getpid()), *path]
        with theirs:
            self._popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=_ENV,
                cwd="/",
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._sock = ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._on_message)
        return ours

    def _on_message(self) -> None:
        sock = self._sock
        if sock is None:
            return
        try:
            data, fds = receive(sock, MAX_MESSAGE, _MOST_FDS)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            _log.warning("preparer.gone")
            self.close()
            return
        reply = json.loads(data)
        future = self._waiting.get(reply["id"])
        if future is None or future.done():
            for fd in fds:
                os.close(fd)
        elif "error" in reply:
            _log.error("preparer.refused", instance=reply["id"], error=reply["error"])
            future.set_exception(Unavailable("The instance cannot be prepared now."))
        else:
            future.set_result(fds)


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors that were not passed on."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
