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

    async def prepare(
        self, name: str, namespace: int, home: Path, ports: Sequence[int] | None
    ) -> list[int]:
        """Return descriptors, owned by the caller: the home's mount, then, with ports, the network's.

        Args:
            name: Id of the instance.
            namespace: Descriptor of the zygote's user namespace.
            home: The home on the host.
            ports: Ports to listen on in a new network namespace; None makes none.

        Raises:
            Unavailable: The process is gone, refused, or takes too long.
        """
        asked = {"home": str(home), "ports": None if ports is None else list(ports)}
        return await self._asked(name, asked, namespace)

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
            Unavailable: As `prepare`.
        """
        await self._asked(name, {"home": str(home), "owners": owners}, mounts)

    async def _asked(self, name: str, asked: dict[str, object], fd: int) -> list[int]:
        sock = self._started()
        future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._waiting[name] = future
        asked["id"] = name
        try:
            socket.send_fds(sock, [json.dumps(asked).encode()], [fd])
            async with asyncio.timeout(_ANSWER_S):
                return await future
        except OSError:  # TimeoutError is one
            raise Unavailable("The instance cannot be prepared now.", retry_after_s=5) from None
        finally:
            self._waiting.pop(name, None)

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
