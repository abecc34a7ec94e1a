"""Spawners without processes: a small MCP server in a thread behind real pipes.

For tests of what is above the `Spawner` seam (the pool), where thousands of starts must cost nothing.
Named for what they do wrong: `SlowSpawner`, `NeverReadySpawner`, `CrashingSpawner`; the honest one is
`ThreadSpawner`. Not a sandbox and never for a hub that serves anybody.
"""

import asyncio
import itertools
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mcphub.spawn.spawner import Launch

_PIDS: Final = itertools.count(1_000_000)
_INITIALIZED: Final[Mapping[str, object]] = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"tools": {}},
    "serverInfo": {"name": "thread", "version": "1"},
}


class Words:
    """The stderr of a thread: what its spawner says."""

    def __init__(self, *lines: str) -> None:
        self._lines = list(lines)

    def lines(self) -> list[str]:
        """Return the lines."""
        return list(self._lines)


class ThreadProcess:
    """One thread that reads lines and answers; ends when its input does, or by `crash`.

    Attributes:
        launch: What it was started with, for tests that ask whose it is.
        heard: Methods that it was sent, in order.
        paused: Whether it would get no processor time.
    """

    def __init__(self, launch: Launch, *, answers: bool = True, last_words: str = "") -> None:
        self.launch = launch
        self.pid = next(_PIDS)
        self.heard: list[str] = []
        self.paused = False
        self.stderr = Words(*([last_words] if last_words else []))
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int] = self._loop.create_future()
        self.proven: asyncio.Future[None] = self._loop.create_future()
        self._answers = answers
        self._status = 0
        self._server_in, self.stdin = os.pipe()
        self.stdout, self._server_out = os.pipe()
        for descriptor in (self.stdin, self.stdout):
            os.set_blocking(descriptor, False)
        self._open = True
        self._thread = threading.Thread(target=self._run, name=launch.instance_id, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether its thread lives."""
        return self._thread.is_alive()

    def crash(self, status: int = 3) -> None:
        """End without a word, as a process that is killed does."""
        self._status = status
        if self._open:
            os.close(self.stdin)
            self.stdin = -1

    def prove(self) -> None:
        """Note it."""
        if not self.proven.done():
            self.proven.set_result(None)

    def why(self) -> str:
        """Return nothing: threads have no limits."""
        return ""

    async def pause(self) -> None:
        """Note it; a thread runs on."""
        self.paused = True

    def resume(self) -> None:
        """Note it."""
        self.paused = False

    async def stop(self, grace_s: float = 5.0) -> None:
        """Close its input, wait for its end."""
        del grace_s
        if not self._open:
            await asyncio.shield(self.exited)
            return
        self._open = False
        if self.stdin >= 0:
            os.close(self.stdin)
        await asyncio.shield(self.exited)
        os.close(self.stdout)

    def _run(self) -> None:
        with os.fdopen(self._server_in, "rb") as lines, os.fdopen(self._server_out, "wb", 0) as out:
            for line in lines:
                message = json.loads(line)
                self.heard.append(message["method"])
                if self._answers and "id" in message:
                    out.write(json.dumps(self._answer(message)).encode() + b"\n")
        self._loop.call_soon_threadsafe(self._ended)

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        result = (
            _INITIALIZED
            if message["method"] == "initialize"
            else {"owner": self.launch.owner, "instance": self.launch.instance_id}
        )
        return {"jsonrpc": "2.0", "id": message["id"], "result": result}

    def _ended(self) -> None:
        if not self.exited.done():
            self.exited.set_result(self._status)


class ThreadSpawner:
    """Starts honest servers. Implements `spawner.Spawner`.

    Attributes:
        processes: Everything it has started, oldest first.
    """

    level = 5
    means = "threads"
    warning = ""

    def __init__(self) -> None:
        self.processes: list[ThreadProcess] = []

    @property
    def running(self) -> list[ThreadProcess]:
        """What still runs."""
        return [process for process in self.processes if process.running]

    def home_inside(self, launch_home: Path) -> str:
        """Return the home as it is."""
        return str(launch_home)

    async def start(self, launch: Launch) -> ThreadProcess:
        """Start a thread."""
        return self._keep(ThreadProcess(launch))

    def _keep(self, process: ThreadProcess) -> ThreadProcess:
        self.processes.append(process)
        return process


class SlowSpawner(ThreadSpawner):
    """Starts nothing until `go` is set, and counts who waits."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.waiting = 0

    async def start(self, launch: Launch) -> ThreadProcess:
        """Wait for `go`, then start."""
        self.waiting += 1
        try:
            await self.go.wait()
        finally:
            self.waiting -= 1
        return await super().start(launch)


class NeverReadySpawner(ThreadSpawner):
    """Starts servers that read and never answer."""

    async def start(self, launch: Launch) -> ThreadProcess:
        """Start a thread that listens only."""
        return self._keep(ThreadProcess(launch, answers=False))


class CrashingSpawner(ThreadSpawner):
    """Starts servers that end at once, with a word on stderr."""

    last_words = "cannot find my configuration"

    async def start(self, launch: Launch) -> ThreadProcess:
        """Start a thread and end it."""
        process = self._keep(ThreadProcess(launch, answers=False, last_words=self.last_words))
        process.crash()
        return process


class SpawnerByServer:
    """Another spawner for some servers, by the last part of the home's path. Implements `Spawner`."""

    level = 5
    means = "threads"
    warning = ""

    def __init__(self, default: ThreadSpawner, others: Mapping[str, ThreadSpawner]) -> None:
        self.default, self.others = default, dict(others)

    @property
    def running(self) -> list[ThreadProcess]:
        """What still runs, of all."""
        return [process for one in (self.default, *self.others.values()) for process in one.running]

    def home_inside(self, launch_home: Path) -> str:
        """Return the home as it is."""
        return str(launch_home)

    async def start(self, launch: Launch) -> ThreadProcess:
        """Start with the server's own spawner."""
        return await self.others.get(launch.home.name, self.default).start(launch)
