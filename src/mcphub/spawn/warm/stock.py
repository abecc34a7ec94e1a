"""The warm workers that wait for a user: brought up in the background, kept, dropped.

How many wait for a server follows how often it was started in the last minute. They are brought up one
after the other, and only when a start that took one has proven itself: until then the processor is
for that start. Not here: how one is given to a user (`spawner`).
"""

import asyncio
import contextlib
import json
import os
import struct
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

import structlog

from mcphub.catalog.spec import SandboxSpec
from mcphub.errors import HubError
from mcphub.ids import instance_id
from mcphub.spawn.discarding import discard
from mcphub.spawn.process import ChildProcess, readable
from mcphub.spawn.sandboxed import SandboxedSpawner
from mcphub.spawn.spawner import Launch, Warm
from mcphub.spawn.warm.finding import CODE, MOST_TEXT
from mcphub.tasks import Tasks

_log = structlog.get_logger()
SLOTS: Final = 10_000_000
"""Number of the first worker; users' numbers are below."""
_MOST_SLOTS: Final = 1_000_000
_WORKER: Final = "mcp-worker.cjs"
# Both for memory, together a quarter of it: a small young generation, one heap of the C library.
_FLAGS: Final = ("--max-semi-space-size=1",)
_ENV: Final = {"MALLOC_ARENA_MAX": "1"}
_READY: Final = b"ready\n"
_READY_S: Final = 60.0
_CALM_S: Final = 1.0
_MOST_WAITING: Final = 12
_MOST_OF_ONE: Final = 4
_RECENT_S: Final = 60.0
_UNUSED_S: Final = 900.0
_OLDEST_S: Final = 86_400.0
_PAUSE_S: Final = 60.0
_SWEEP_S: Final = 15.0


class WorkerFailed(Exception):
    """A worker cannot be used; the start goes another way. Says nothing of a user."""


@dataclass(frozen=True, slots=True)
class _Key:
    """What workers for the same server have in common."""

    warm: Warm
    readable: tuple[Path, ...]
    sandbox: str
    files: bool


@dataclass(slots=True, eq=False)
class Worker:
    """A process that waits for its user.

    Attributes:
        name: Opaque id under which it was started.
        number: Number of its kernel uid.
        process: The process.
        born: Event loop time.
    """

    name: str
    number: int
    process: ChildProcess
    born: float


@dataclass(slots=True)
class Shelf:
    """The workers for one server.

    Attributes:
        files: Its servers are given files: there is a place for them.
        failed_at: Event loop time at which one could not be brought up.
        used: Event loop time at which one was last asked for.
    """

    warm: Warm
    readable: tuple[Path, ...]
    sandbox: SandboxSpec
    files: bool = False
    waiting: list[Worker] = field(default_factory=list)
    starts: deque[float] = field(default_factory=lambda: deque(maxlen=_MOST_OF_ONE))
    failed_at: float = float("-inf")
    used: float = 0.0

    @classmethod
    def of(cls, launch: Launch, warm: Warm) -> Self:
        """Return an empty one for launches like this."""
        files = launch.files is not None
        return cls(replace(warm, trial=False), launch.readable, launch.sandbox, files)

    def lacks(self, now: float) -> bool:
        """Tell whether another worker should be brought up."""
        recent = sum(now - at < _RECENT_S for at in self.starts)
        wanted = max(1, recent) if now - self.used < _UNUSED_S else 0
        return len(self.waiting) < wanted and now - self.failed_at > _PAUSE_S


class Stock:
    """All workers that wait. Enter it after the spawner that starts them.

    Args:
        plain: Starts the workers.
    """

    def __init__(self, plain: SandboxedSpawner) -> None:
        self._plain = plain
        self._homes = plain.settings.state / "waiting"
        self._shelves: dict[_Key, Shelf] = {}
        self._slots: set[int] = set()
        self._slot = 0
        self._wanted = asyncio.Event()
        self._stack = contextlib.AsyncExitStack()
        self._tasks = Tasks()
        self._open = False
        self._not_before = float("-inf")

    async def __aenter__(self) -> Self:
        """Begin to look after workers; remove what a hub that was killed has left of them."""
        await asyncio.to_thread(discard, self._homes)
        # in the instances' `/etc`: of the hub's own directories a sandbox shows nothing, not even names
        shown = self._plain.etc / _WORKER
        shown.write_bytes((CODE / "worker.cjs").read_bytes())
        shown.chmod(0o644)
        await self._stack.enter_async_context(self._tasks)
        self._stack.callback(self._tasks.cancel_all)
        self._tasks.start("warm.fill", self._fill())
        self._open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the workers that wait."""
        self._open = False
        await self._stack.aclose()
        await asyncio.gather(*(worker.process.stop(0) for worker in self.workers()))
        await asyncio.to_thread(discard, self._homes)

    def workers(self) -> list[Worker]:
        """Return the workers that wait for a user."""
        return [worker for shelf in self._shelves.values() for worker in shelf.waiting]

    def shelves(self) -> list[Shelf]:
        """Return what there is for each server that was started lately."""
        return list(self._shelves.values())

    def shelf(self, launch: Launch, warm: Warm) -> Shelf:
        """Return where workers for a launch wait, marked as used."""
        key = _Key(warm, launch.readable, repr(launch.sandbox), launch.files is not None)
        found = self._shelves.setdefault(key, Shelf.of(launch, warm))
        found.used = asyncio.get_running_loop().time()
        return found

    def order(self) -> None:
        """Bring up in a moment what is lacking."""
        self._wanted.set()

    def take(self, launch: Launch, warm: Warm) -> Worker | None:
        """Take a worker for ever, if one waits; another is brought up when it is ordered."""
        shelf = self.shelf(launch, warm)
        shelf.starts.append(shelf.used)
        while shelf.waiting:
            worker = shelf.waiting.pop(0)
            if not worker.process.exited.done():
                return worker
            self._tasks.start("warm.stop", worker.process.stop(0))
        return None

    def rest(self, seconds: float) -> None:
        """Bring up and give out none for a while: they are of no use."""
        self._not_before = asyncio.get_running_loop().time() + seconds

    def rests(self) -> bool:
        """Tell whether workers are of no use now."""
        return asyncio.get_running_loop().time() < self._not_before

    def leave(self, worker: Worker) -> None:
        """Remove the home in which a worker waited: who still has it open can make nothing there."""
        self._discard(self._homes / worker.name)

    async def raised(self, shelf: Shelf) -> Worker:
        """Start a worker and wait until it waits.

        Raises:
            WorkerFailed, HubError, OSError: It cannot be started.
        """
        number = self._free_number()
        name = "w" + instance_id()[1:]
        home = self._homes / name
        argv = (shelf.warm.node, *_FLAGS, f"/etc/{_WORKER}")
        launch = Launch(
            *(name, "waiting", number, argv, home, _ENV),
            files={} if shelf.files else None,
            readable=shelf.readable,
            sandbox=shelf.sandbox,
        )
        try:
            process = await self._plain.start(launch)
        except BaseException:
            self._slots.discard(number)
            raise
        process.exited.add_done_callback(lambda _: self._ended(number, home))
        worker = Worker(name, number, process, asyncio.get_running_loop().time())
        try:
            modules = [module.split(" ", 1) for module in shelf.warm.modules]
            os.write(process.stdin, message({"modules": modules}))
            async with asyncio.timeout(_READY_S):
                await _ready(process)
        except BaseException:
            await process.stop(0)
            _log.warning("warm.not_ready", said=process.stderr.lines()[-3:])  # nobody's yet
            raise
        return worker

    def _free_number(self) -> int:
        """Return a number that was not used lately: what had it may still be ending."""
        while True:
            self._slot = (self._slot + 1) % _MOST_SLOTS
            number = SLOTS + self._slot
            if number not in self._slots:
                self._slots.add(number)
                return number

    def _ended(self, number: int, home: Path) -> None:
        self._slots.discard(number)
        self._discard(home)

    def _discard(self, home: Path) -> None:
        try:
            home.rmdir()
        except FileNotFoundError:
            return
        except OSError:  # a package wrote into it; what is left when the hub ends is removed then
            if self._open:
                work = asyncio.to_thread(discard, home)
                self._tasks.start("warm.clean", work)

    async def _fill(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                # not `wait_for`: it swallows a cancellation that comes together with the event
                async with asyncio.timeout(_SWEEP_S):
                    await self._wanted.wait()
                self._wanted.clear()
                await asyncio.sleep(_CALM_S)  # the first calls of what has proven itself come first
            await self._sweep()
            for shelf in self.shelves():
                await self._fill_one(shelf)

    async def _fill_one(self, shelf: Shelf) -> None:
        """Bring up one worker after the other, so that they never take more than one core."""
        loop = asyncio.get_running_loop()
        while shelf.lacks(loop.time()) and not self.rests():
            try:
                worker = await self.raised(shelf)
            except (HubError, WorkerFailed, OSError) as error:
                shelf.failed_at = loop.time()
                _log.warning("warm.not_ready", why=str(error))
                return
            shelf.waiting.append(worker)
            if len(self.workers()) > _MOST_WAITING:
                await self._drop_one()

    async def _drop_one(self) -> None:
        """End a worker of the server that was started longest ago."""
        oldest = min(
            (shelf for shelf in self._shelves.values() if shelf.waiting),
            key=lambda shelf: shelf.used,
        )
        await oldest.waiting.pop(0).process.stop(0)

    async def _sweep(self) -> None:
        now = asyncio.get_running_loop().time()
        for key, shelf in list(self._shelves.items()):
            unused = now - shelf.used > _UNUSED_S
            worn = [
                worker
                for worker in shelf.waiting
                if unused or worker.process.exited.done() or now - worker.born > _OLDEST_S
            ]
            shelf.waiting = [worker for worker in shelf.waiting if worker not in worn]
            for worker in worn:
                await worker.process.stop(0)
            if unused and not shelf.waiting:
                del self._shelves[key]


def message(value: dict[str, Any]) -> bytes:
    """Return a message as a worker hears it: it must fit into a pipe that nobody reads yet."""
    text = json.dumps(value).encode()
    if len(text) > MOST_TEXT:
        raise WorkerFailed("too much to say")
    return struct.pack(">I", len(text)) + text


async def _ready(process: ChildProcess) -> None:
    """Wait until a worker has loaded everything."""
    said = b""
    while said != _READY:
        await readable(process.stdout)
        with contextlib.suppress(BlockingIOError):
            part = os.read(process.stdout, len(_READY) - len(said))
            said += part
            if not part or not _READY.startswith(said):
                raise WorkerFailed("it ended while loading" if not part else "it speaks")
