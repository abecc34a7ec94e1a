"""What the start of a real server costs: by its launcher, directly, sandboxed, and as the hub starts it.

For each server all ways take turns in shuffled order, in one run, so that noise of the machine meets
all of them; figures are medians. Times are from the first system call until `initialize` is answered.
Processor time is that of the instance's processes and of what the hub, the zygote and the preparing
process spend on it; short helpers that are gone by then (some milliseconds) are not in it. What a warm
worker, which is waited for before the clock starts, has spent before it was taken is told apart. The memory
is what one more instance costs (private pages, USS) with many of them running.

Where the machine has control groups, direct starts and launchers run in a group each, like an instance, only
without its limits: all ways get the same share of a machine that has other work.

    python benchmarks/starts.py                 all servers, 7 rounds
    python benchmarks/starts.py --burst 20      also 20 starts at once, the ways in turn
    python benchmarks/starts.py --many 100      memory with 100 instances
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import structlog
from processes import descendants

from mcphub.catalog.packages import PackageStore
from mcphub.catalog.settings_file import parse_settings
from mcphub.catalog.spec import SandboxSpec
from mcphub.catalog.toolchain import find_toolchain
from mcphub.ids import instance_id
from mcphub.spawn import cgroups
from mcphub.spawn.findings import Findings
from mcphub.spawn.modes import Prover, mode_of
from mcphub.spawn.process import children, readable
from mcphub.spawn.sandboxed import SandboxedSpawner, SandboxSettings
from mcphub.spawn.spawner import Launch, Process, Spawner
from mcphub.spawn.unsandboxed import UnsandboxedSpawner
from mcphub.spawn.warm.spawner import WarmSpawner
from mcphub.spawn.zygote.spawner import ZygoteSpawner

SERVERS = {
    "time": ("uvx", ["mcp-server-time==2026.10.19", "--local-timezone", "UTC"]),
    "fetch": ("uvx", ["mcp-server-fetch==2026.10.24"]),
    "git": ("uvx", ["mcp-server-git==2026.10.19"]),
    "filesystem": ("npx", ["@modelcontextprotocol/server-filesystem@2026.8.31", "/home/u"]),
    "memory": ("npx", ["@modelcontextprotocol/server-memory@2026.8.31"]),
    "everything": ("npx", ["@modelcontextprotocol/server-everything@2026.8.31"]),
}
HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "bench", "version": "1"},
    },
}
AMPLE = SandboxSpec(memory_mb=4096, pids=4096, cpu=64.0)
"""Limits that a start without a sandbox never reaches."""
LINE = json.dumps(HELLO).encode() + b"\n"


@dataclass
class Server:
    """A server, and how each way starts it."""

    name: str
    mode: str
    launch: Launch
    direct: Launch
    launcher: Launch


@dataclass
class Started:
    """One that answered.

    Attributes:
        seconds: From the first system call until `initialize` was answered.
        stop: Ends it.
    """

    process: Process
    seconds: float
    stop: Callable[[], Awaitable[None]]


class Ways:
    """The spawners behind the names of the columns."""

    def __init__(
        self,
        plain: SandboxedSpawner,
        forking: ZygoteSpawner,
        warm: WarmSpawner,
        bare: UnsandboxedSpawner,
    ):
        self.plain, self.forking, self.warm, self.bare = plain, forking, warm, bare
        self.homes = Path(tempfile.mkdtemp(prefix="bench-homes-"))
        self.homes.chmod(0o711)
        self.count = 0

    def others(self) -> list[int]:
        """Processes that work for every start."""
        found = [os.getpid(), self.forking.preparer.pid or 0]
        for zygote in self.forking.zygotes():
            found += [zygote.pid, *children(zygote.pid)]
            found += [inner for child in children(zygote.pid) for inner in children(child)]
        return found

    async def stocked(self, server: Server) -> None:
        """Wait until workers wait and none is being brought up, as while a server is in use."""
        async with asyncio.timeout(300):
            while not self.warm.is_stocked(server.launch):  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    def _launch(self, server: Server, way: str) -> tuple[Launch, Spawner]:
        self.count += 1
        launch = {"hub": server.launch, "sandboxed": server.launch}.get(way, server.direct)
        launch = server.launcher if way == "launcher" else launch
        spawner = {"hub": self.warm, "sandboxed": self.plain}.get(way, self.bare)
        home = self.homes / str(self.count)
        number = 16 + self.count % 900_000
        launch = replace(launch, instance_id=instance_id(), home=home, number=number)
        if launch.argv[-1] == "/home/u":
            launch = replace(launch, argv=(*launch.argv[:-1], spawner.home_inside(home)))
        return launch, spawner

    async def start(self, server: Server, way: str) -> Started:
        """Start one; returns once `initialize` was answered."""
        launch, spawner = self._launch(server, way)
        group = cgroups.Group()
        if spawner is self.bare:
            group = self.plain.make_group(replace(launch, sandbox=AMPLE))
        begun = time.perf_counter()
        process = await spawner.start(launch)
        if spawner is self.bare:
            await asyncio.to_thread(join, group, process.pid)
        os.write(process.stdin, LINE)
        data = b""
        async with asyncio.timeout(120):
            while b"\n" not in data:
                await readable(process.stdout)
                with contextlib.suppress(BlockingIOError):
                    part = os.read(process.stdout, 65536)
                    if not part:
                        raise RuntimeError(f"{way} {server.name}: {process.stderr.lines()[-5:]}")
                    data += part
        assert b'"result"' in data, data
        taken = time.perf_counter() - begun
        process.prove()

        async def stop() -> None:
            await process.stop(0)
            await group.remove()

        return Started(process, taken, stop)

    async def accounted(self, server: Server, way: str) -> tuple[float, float, float]:
        """Start one alone and end it.

        Returns:
            Its seconds, its processor seconds, and those that it had spent as a worker before it was taken.
        """
        others = self.others()
        waiting = [worker.process.pid for worker in self.warm.workers()]
        earlier = {pid: cpu_s([pid, *descendants(pid)]) for pid in waiting}
        before = cpu_s(others)
        started = await self.start(server, way)
        pid = started.process.pid
        used = cpu_s(others) - before  # first: looking costs this process some, too
        own = [each for each in (pid, *descendants(pid)) if each not in others]
        loaded = earlier.get(pid, 0.0)
        used += cpu_s(own) - loaded
        await started.stop()
        return started.seconds, used, loaded


def join(group: cgroups.Group, pid: int) -> None:
    """Put a process into groups, for which the kernel may take a hundredth of a second."""
    for path in group.paths:
        (path / "cgroup.procs").write_text(str(pid))


def cpu_s(pids: list[int]) -> float:
    """Return the processor seconds of processes that live, with all their threads."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def private_mib(pid: int) -> float:
    """Return the private memory of a process and all below it, in MiB."""
    total = 0
    for each in [pid, *descendants(pid)]:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
                if line.startswith(("Private_Clean", "Private_Dirty")):
                    total += int(line.split()[1])
    return total / 1024


@contextlib.asynccontextmanager
async def prepared(names: list[str], state: Path) -> AsyncIterator[tuple[Ways, list[Server]]]:
    """Install the servers, find out how they may be started, and open the spawners."""
    store = PackageStore(state / "packages", find_toolchain(os.environ["PATH"]), os.environ)
    async with (
        SandboxedSpawner(SandboxSettings(state / "run")) as plain,
        ZygoteSpawner(plain) as forking,
        WarmSpawner(plain, forking) as warm,
        UnsandboxedSpawner() as bare,
    ):
        ways = Ways(plain, forking, warm, bare)
        prover = Prover(warm, Findings(state / "starts"))
        servers = []
        for name in names:
            command, args = SERVERS[name]
            text = json.dumps({"mcpServers": {name: {"command": command, "args": args}}})
            spec = parse_settings(text, {}).specs[name]
            wanted = store.requirement(command, args)
            assert wanted is not None
            installed = await store.install(await store.resolve(wanted), wanted)
            argv = (*installed.argv, *wanted.args)
            launch = Launch(
                instance_id(), "u", 16, argv, ways.homes / name, readable=installed.readable
            )
            mode = mode_of(spec, argv, prover.findings)
            if mode is None:
                await prover.prove(replace(launch, owner="neutral", number=0))
                mode = mode_of(spec, argv, prover.findings)
            assert mode is not None
            print(f"{name}: {mode.kind}: {mode.reason}", file=sys.stderr)
            tools = os.environ["PATH"]
            env = {"PATH": f"{Path(sys.executable).parent}:{tools}", "HOME": str(state / "user")}
            program = shutil.which(command, path=env["PATH"]) or command
            words = args if command == "uvx" else ["-y", *args]
            env |= {
                k: v
                for k, v in os.environ.items()
                if k.startswith(("PIP_", "UV_", "npm_", "SSL_", "NODE_EXTRA"))
            }
            by_launcher = replace(launch, argv=(program, *words), env=env, readable=())
            servers.append(
                Server(
                    name,
                    mode.kind,
                    replace(launch, preload=mode.preload),
                    replace(launch, preload=None),
                    by_launcher,
                )
            )
        yield ways, servers
        shutil.rmtree(ways.homes, ignore_errors=True)


async def compare(
    ways: Ways, server: Server, columns: list[str], rounds: int
) -> dict[str, tuple[float, float, float]]:
    """Return medians for each way: seconds, processor seconds, and those spent before."""
    found: dict[str, list[tuple[float, float, float]]] = {way: [] for way in columns}
    for number in range(rounds + 1):  # the first round warms caches
        for way in random.sample(columns, len(columns)):
            await ways.stocked(server)
            figures = await ways.accounted(server, way)
            if number:
                found[way].append(figures)
    return {
        way: (
            statistics.median(each[0] for each in values),
            statistics.median(each[1] for each in values),
            statistics.median(each[2] for each in values),
        )
        for way, values in found.items()
    }


async def burst(ways: Ways, server: Server, way: str, count: int) -> float:
    """Return the seconds until the last of `count` simultaneous starts is ready."""
    await ways.stocked(server)
    begun = time.perf_counter()
    started = await asyncio.gather(*(ways.start(server, way) for _ in range(count)))
    taken = time.perf_counter() - begun
    await asyncio.gather(*(each.stop() for each in started))
    return taken


async def bursts(
    ways: Ways, server: Server, columns: list[str], count: int, rounds: int
) -> dict[str, float]:
    """Return the median seconds of `count` simultaneous starts for each way, taken in turn."""
    found: dict[str, list[float]] = {way: [] for way in columns}
    for _ in range(rounds):
        for way in random.sample(columns, len(columns)):
            found[way].append(await burst(ways, server, way, count))
    return {way: statistics.median(values) for way, values in found.items()}


async def memory(ways: Ways, server: Server, way: str, count: int) -> float:
    """Return the mean private MiB of `count` instances that run together."""
    running: list[Started] = []
    for _ in range(count):
        if way == "hub":
            await ways.stocked(server)
        running.append(await ways.start(server, way))
    sizes = [private_mib(each.process.pid) for each in running]
    await asyncio.gather(*(each.stop() for each in running))
    return statistics.mean(sizes)


async def run(options: argparse.Namespace) -> None:
    columns = list(dict.fromkeys([*options.ways, "direct", "hub"]))  # what ratios are of
    async with prepared(options.servers, options.state) as (ways, servers):
        heads = "".join(f" {way} ms (CPU) |" for way in columns)
        print(f"| server | mode |{heads} hub ÷ direct | CPU hub ÷ direct | CPU before, ms |")
        print(f"|---|---|{'--:|' * (len(columns) + 3)}")
        for server in servers:
            found = await compare(ways, server, columns, options.rounds)
            cells = "".join(
                f" {found[way][0] * 1000:.0f} ({found[way][1] * 1000:.0f}) |" for way in columns
            )
            ratios = [found["hub"][each] / found["direct"][each] for each in (0, 1)]
            told = f"{cells} {ratios[0]:.3f} | {ratios[1]:.3f} | {found['hub'][2] * 1000:.0f} |"
            print(f"| {server.name} | {server.mode} |{told}", flush=True)
        if options.burst:
            heads = "".join(f" {way} s |" for way in columns)
            print(f"\n| {options.burst} at once |{heads} direct ÷ hub |")
            print(f"|---|{'--:|' * (len(columns) + 1)}")
            for server in servers:
                each = await bursts(ways, server, columns, options.burst, options.rounds)
                cells = "".join(f" {each[way]:.2f} |" for way in columns)
                ratio = each["direct"] / each["hub"]
                print(f"| {server.name} |{cells} {ratio:.1f} |", flush=True)
        if options.many:
            print(f"\n| MiB at {options.many} | direct | hub | hub ÷ direct |\n|---|--:|--:|--:|")
            for server in servers:
                few = min(options.many, 20)  # direct ones do not depend on their number
                direct = await memory(ways, server, "direct", few)
                hub = await memory(ways, server, "hub", options.many)
                print(
                    f"| {server.name} | {direct:.1f} | {hub:.1f} | {hub / direct:.2f} |", flush=True
                )


def main() -> None:
    """Parse options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--servers", nargs="+", choices=list(SERVERS), default=list(SERVERS))
    ways = ["launcher", "direct", "sandboxed", "hub"]
    parser.add_argument("--ways", nargs="+", choices=ways, default=ways)
    parser.add_argument("--burst", type=int, default=0)
    parser.add_argument("--many", type=int, default=0)
    parser.add_argument("--state", type=Path, default=Path(tempfile.gettempdir()) / "mcphub-bench")
    options = parser.parse_args()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(40),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    options.state.mkdir(mode=0o711, exist_ok=True)
    (options.state / "user").mkdir(exist_ok=True)
    asyncio.run(run(options))


if __name__ == "__main__":
    main()
