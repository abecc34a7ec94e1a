"""Starts Node.js servers in warm workers; whatever has none goes to the next spawner.

A warm worker is a plainly sandboxed start of nobody's: same profile, limits and network as its
server's instances have, an own kernel uid, an empty home, no value of a user. It has loaded the
server's packages and waits. Taken for a start, it gets that user's home, attached in the place of the empty one,
then arguments and environment through its stdin, and belongs to this user until its end: a worker
serves one user ever, and is never put back.

Workers are brought up in the background, after a server was started; how many wait follows how often it
is. A start that finds none, or whose worker fails, goes the plain way.
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
from mcphub.spawn import bubblewrap
from mcphub.spawn.building import environment
from mcphub.spawn.discarding import discard
from mcphub.spawn.egress.events import EgressEvent
from mcphub.spawn.layered import Layered
from mcphub.spawn.process import ChildProcess, children, readable
from mcphub.spawn.sandboxed import SandboxedSpawner
from mcphub.spawn.spawner import Launch, Process, Warm
from mcphub.spawn.stderr import names_of
from mcphub.spawn.warm.finding import CODE, MOST_TEXT
from mcphub.spawn.zygote.spawner import ZygoteSpawner
from mcphub.tasks import Tasks
from mcphub.vault.secret import Secret

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
_REFUSED_S: Final = 600.0
_SWEEP_S: Final = 15.0


class WorkerFailed(Exception):
    """A worker cannot be used; the start goes another way. Says nothing of a user."""


@dataclass(frozen=True, slots=True)
class _Key:
    """What workers for the same server have in common."""

    warm: Warm
    readable: tuple[Path, ...]
    sandbox: str


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
class _Stock:
    """The workers of one key."""

    warm: Warm
    readable: tuple[Path, ...]
    sandbox: SandboxSpec
    waiting: list[Worker] = field(default_factory=list)
    starts: deque[float] = field(default_factory=lambda: deque(maxlen=_MOST_OF_ONE))
    failed_at: float = float("-inf")
    used: float = 0.0

    def lacks(self, now: float) -> bool:
        """Tell whether another worker should be brought up."""
        recent = sum(now - at < _RECENT_S for at in self.starts)
        wanted = max(1, recent) if now - self.used < _UNUSED_S else 0
        return len(self.waiting) < wanted and now - self.failed_at > _PAUSE_S


class WarmSpawner(Layered):
    """Implements `spawner.Spawner` on top of two others. Enter it after them.

    Args:
        plain: Starts the workers.
        following: Starts everything that has no worker.
    """

    def __init__(self, plain: SandboxedSpawner, following: ZygoteSpawner) -> None:
        super().__init__(plain)
        self._following = following
        self._root = os.geteuid() == 0
        self._homes = plain.settings.state / "waiting"
        self._stocks: dict[_Key, _Stock] = {}
        self._instances: dict[str, str] = {}
        self._slots: set[int] = set()
        self._slot = 0
        self._wanted = asyncio.Event()
        self._stack = contextlib.AsyncExitStack()
        self._tasks = Tasks()
        self._open = False
        self._told, plain.on_egress = plain.on_egress, self._heard
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
        """End the workers that wait; those that became instances end with the plain spawner's."""
        self._open = False
        await self._stack.aclose()
        await asyncio.gather(*(worker.process.stop(0) for worker in self.workers()))
        await asyncio.to_thread(discard, self._homes)

    def workers(self) -> list[Worker]:
        """Return the workers that wait for a user."""
        return [worker for stock in self._stocks.values() for worker in stock.waiting]

    async def start(self, launch: Launch) -> Process:
        """Start one process tree, in a worker when the launch names one; raises as any spawner."""
        warm = launch.preload
        if not isinstance(warm, Warm):
            return await self._following.start(launch)
        if warm.trial:
            return await self._tried(launch, warm)
        # nobody's instances are seldom started, and have no network: not worth a worker
        usable = launch.number and not launch.own and self._plain.means == "bubblewrap"
        if not usable or self._is_refused():
            return await self._following.start(launch)
        worker = self._taken(launch, warm)
        if worker is not None:
            try:
                return await self._given(worker, launch)
            except (HubError, WorkerFailed, OSError) as error:
                _log.warning("warm.failed", instance=launch.instance_id, why=str(error))
                await worker.process.stop(0)
        return await self._following.start(launch)

    def is_stocked(self, launch: Launch) -> bool:
        """Tell whether as many workers wait for starts like this one as should; orders what lacks."""
        warm = launch.preload
        now = asyncio.get_running_loop().time()
        return not isinstance(warm, Warm) or not self._ordered(launch, warm).lacks(now)

    def _is_refused(self) -> bool:
        """Tell whether a home could not be attached a short time ago: workers are of no use then."""
        return asyncio.get_running_loop().time() < self._not_before

    def _ordered(self, launch: Launch, warm: Warm) -> _Stock:
        """Return the stock for a launch, marked as used."""
        key = _Key(warm, launch.readable, repr(launch.sandbox))
        stock = self._stocks.setdefault(key, _Stock(warm, launch.readable, launch.sandbox))
        stock.used = asyncio.get_running_loop().time()
        self._wanted.set()
        return stock

    def _taken(self, launch: Launch, warm: Warm) -> Worker | None:
        """Take a worker out of its stock for ever, and order another."""
        stock = self._ordered(launch, warm)
        stock.starts.append(stock.used)
        while stock.waiting:
            worker = stock.waiting.pop(0)
            if not worker.process.exited.done():
                return worker
            self._tasks.start("warm.stop", worker.process.stop(0))
        return None

    async def _tried(self, launch: Launch, warm: Warm) -> Process:
        stock = _Stock(replace(warm, trial=False), launch.readable, launch.sandbox)
        try:
            worker = await self._raised(stock)
            try:
                return await self._given(worker, launch)
            except BaseException:
                await worker.process.stop(0)
                raise
        except WorkerFailed as failure:
            raise OSError(str(failure)) from None

    async def _given(self, worker: Worker, launch: Launch) -> Process:
        """Give a worker to the user of a launch.

        Raises:
            WorkerFailed, HubError, OSError: It cannot be used, and must be ended.
        """
        process = worker.process
        said = _message(self._what(launch))
        self._plain.prepare_home(launch)
        mounts = self._mounts_of(process)
        try:
            base = self._plain.settings.uid_base
            owners = (base + launch.number, base + worker.number) if self._root else None
            await self._following.preparer.attach(worker.name, mounts, launch.home, owners)
        except HubError:
            # the file system cannot show files as another uid's, or the kernel refuses: it will again
            self._not_before = asyncio.get_running_loop().time() + _REFUSED_S
            raise
        finally:
            os.close(mounts)
        self._discard(self._homes / worker.name)
        secrets = [
            value.reveal()
            for value in (*launch.argv, *launch.env.values())
            if isinstance(value, Secret)
        ]
        inside = self.home_inside(launch.home)
        process.stderr.know(secrets, names_of(launch.home, inside, launch.readable))
        self._instances[worker.name] = launch.instance_id
        if os.write(process.stdin, said) < len(said):
            raise WorkerFailed("it does not listen")
        return process

    def _mounts_of(self, process: ChildProcess) -> int:
        """Return a descriptor of the mount namespace of a worker's sandbox."""
        found = children(process.pid)
        if len(found) != 1:
            raise WorkerFailed("it ended")
        fd = os.open(f"/proc/{found[0]}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        if children(process.pid) != found:  # else the pid may have been somebody else's by then
            os.close(fd)
            raise WorkerFailed("it ended")
        return fd

    def _what(self, launch: Launch) -> dict[str, Any]:
        """Return everything that a worker is told of its user."""
        argv = [word.reveal() if isinstance(word, Secret) else word for word in launch.argv]
        home = bubblewrap.HOME
        env = environment(launch.env, home, "/tmp")  # noqa: S108  inside the sandbox
        bubblewrap.refuse_nul([*argv, *env.values()])
        cwd = os.path.normpath(os.path.join(home, launch.cwd))  # noqa: PTH118
        env["PWD"] = cwd  # as bubblewrap sets it
        made = cwd != home and Path(cwd).is_relative_to(home)
        return {"argv": argv[1:], "env": env, "cwd": cwd, "made": made}

    async def _raised(self, stock: _Stock) -> Worker:
        """Start a worker and wait until it waits.

        Raises:
            WorkerFailed, HubError, OSError: It cannot be started.
        """
        number = self._free_number()
        name = "w" + instance_id()[1:]
        home = self._homes / name
        argv = (stock.warm.node, *_FLAGS, f"/etc/{_WORKER}")
        launch = Launch(
            *(name, "waiting", number, argv, home, _ENV),
            readable=stock.readable,
            sandbox=stock.sandbox,
        )
        try:
            process = await self._plain.start(launch)
        except BaseException:
            self._slots.discard(number)
            raise
        process.exited.add_done_callback(lambda _: self._ended(name, number, home))
        worker = Worker(name, number, process, asyncio.get_running_loop().time())
        try:
            modules = [module.split(" ", 1) for module in stock.warm.modules]
            os.write(process.stdin, _message({"modules": modules}))
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

    def _ended(self, name: str, number: int, home: Path) -> None:
        self._slots.discard(number)
        self._instances.pop(name, None)
        self._discard(home)

    def _discard(self, home: Path) -> None:
        """Remove the home in which a worker waited: who still has it open can make nothing there."""
        try:
            home.rmdir()
        except FileNotFoundError:
            return
        except OSError:  # a package wrote into it; what is left when the hub ends is removed then
            if self._open:
                work = asyncio.to_thread(discard, home)
                self._tasks.start("warm.clean", work)

    def _heard(self, event: EgressEvent) -> None:
        """Pass on what a worker did with its network, in the name of the instance that it is."""
        if self._told is not None:
            name = self._instances.get(event.instance_id, event.instance_id)
            self._told(replace(event, instance_id=name))

    async def _fill(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                # not `wait_for`: it swallows a cancellation that comes together with the event
                async with asyncio.timeout(_SWEEP_S):
                    await self._wanted.wait()
                self._wanted.clear()
                await asyncio.sleep(_CALM_S)  # what was just started needs the processor first
            await self._sweep()
            for stock in list(self._stocks.values()):
                await self._fill_one(stock)

    async def _fill_one(self, stock: _Stock) -> None:
        """Bring up one worker after the other, so that they never take more than one core."""
        loop = asyncio.get_running_loop()
        while stock.lacks(loop.time()) and not self._is_refused():
            try:
                worker = await self._raised(stock)
            except (HubError, WorkerFailed, OSError) as error:
                stock.failed_at = loop.time()
                _log.warning("warm.not_ready", why=str(error))
                return
            stock.waiting.append(worker)
            if len(self.workers()) > _MOST_WAITING:
                await self._drop_one()

    async def _drop_one(self) -> None:
        """End a worker of the server that was started longest ago."""
        oldest = min(
            (stock for stock in self._stocks.values() if stock.waiting),
            key=lambda stock: stock.used,
        )
        await oldest.waiting.pop(0).process.stop(0)

    async def _sweep(self) -> None:
        now = asyncio.get_running_loop().time()
        for key, stock in list(self._stocks.items()):
            unused = now - stock.used > _UNUSED_S
            worn = [
                worker
                for worker in stock.waiting
                if unused or worker.process.exited.done() or now - worker.born > _OLDEST_S
            ]
            stock.waiting = [worker for worker in stock.waiting if worker not in worn]
            for worker in worn:
                await worker.process.stop(0)
            if unused and not stock.waiting:
                del self._stocks[key]


def _message(value: dict[str, Any]) -> bytes:
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
