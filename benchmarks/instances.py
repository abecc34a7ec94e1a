"""What many live instances cost on one machine: the curve over their number.

One hub process, up to 500 users, two servers each, every instance in its own sandbox. The number grows
in steps; at each step every instance that exists has answered a call, and then is measured:

- start: the first call of a user to a server, sent alone, until its answer; and how many such calls a
  second the hub answers when several are in flight. With them the processor time that a start takes.
- memory: of an instance (proportional and private, of all its processes), and of the hub's process.
- a warm call: latency and the hub's processor time, over all instances in turn. A second hub with a few
  instances runs all the time, and rounds of calls to it alternate with those to the first: the ratio
  of the two does not know how busy the machine was.

    python benchmarks/instances.py                               10, 100, 300 and 1,000 instances
    python benchmarks/instances.py --at 10 100                   fewer
    python benchmarks/instances.py --servers time memory         one server in Python, one in Node.js

It stops at the first step for which the machine's memory does not suffice (`--keep-free`).
"""

import argparse
import asyncio
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from endpoints import PYTHON, mcphub, people_of, serving
from load import LEGACY, Broken, Client, Target
from processes import children_of_all, cpu_exact_s, descendants, memory_mb

FEW = 10
ALONE = 20
IN_FLIGHT = 4
ROUNDS = 7
CALLS = 200
IDLE_S = 5.0
NOT_YET = ("It is not installed yet.", "A running hub finds out after the first start.")


@dataclass(frozen=True)
class Kind:
    """A server that is run, and the call that its instances answer."""

    command: str
    args: tuple[str, ...]
    tool: str
    arguments: dict[str, object]
    says: str


TIME = ("mcp-server-time==2026.10.19", "--local-timezone", "UTC")
NOW = ("get_current_time", {"timezone": "UTC"}, "datetime")
KINDS = {
    "time": Kind("uvx", TIME, *NOW),
    "clock": Kind("uvx", TIME, *NOW),
    "memory": Kind(
        "npx", ("@modelcontextprotocol/server-memory@2026.8.31",), "read_graph", {}, "entities"
    ),
    "everything": Kind(
        "npx",
        ("@modelcontextprotocol/server-everything@2026.8.31",),
        "echo",
        {"message": "hello"},
        "hello",
    ),
}


class Caller(Client):
    """One user's client of one server."""

    def __init__(self, target: Target, number: int, kind: Kind) -> None:
        super().__init__(target, number, LEGACY)
        self.kind = kind

    async def meet(self) -> None:
        """Connect and open a session; starts nothing."""
        await self.reconnect()
        hello = {
            "protocolVersion": LEGACY,
            "capabilities": {},
            "clientInfo": {"name": "load", "version": "1"},
        }
        head, _ = await self.request("initialize", hello)
        found = [line for line in head.split(b"\r\n") if line.lower().startswith(b"mcp-session-id")]
        self.session = found[0].partition(b":")[2].strip().decode()
        await self.request("notifications/initialized", None)
        self.params = {"name": self.kind.tool, "arguments": self.kind.arguments}

    async def ask(self) -> float:
        """Make one call; returns its seconds."""
        if self.connection.transport.is_closing():
            await self.reconnect()
        begun = time.perf_counter()
        _, body = await self.request("tools/call", self.params)
        taken = time.perf_counter() - begun
        if self.kind.says.encode() not in body:
            raise Broken(f"{self.kind.tool}: {body[:300]!r}")
        return taken


@dataclass
class Hub:
    """A hub that runs, and its clients; two of each user, one for each server."""

    directory: Path
    port: int
    pid: int
    keys: list[str]
    servers: list[str]
    clients: list[Caller] = field(default_factory=list)

    def next_clients(self, count: int) -> list[Caller]:
        """Return the clients of the next `count` instances."""
        found = []
        for number in range(len(self.clients), len(self.clients) + count):
            user, server = number // len(self.servers), self.servers[number % len(self.servers)]
            person = ({"Authorization": f"Bearer {self.keys[user]}"},)
            found.append(Caller(Target(self.port, f"/mcp/{server}", person), number, KINDS[server]))
        return found

    def others(self) -> list[int]:
        """Return the processes that work for all instances: the hub, zygotes, preparers."""
        instances = {pid for pids in self.instances().values() for pid in pids}
        return [self.pid, *(pid for pid in descendants(self.pid) if pid not in instances)]

    def instances(self) -> dict[str, list[int]]:
        """Return the processes of each instance, by its id."""
        told = json.loads(mcphub(self.directory, "instances", "--json"))
        below = children_of_all()
        return {each["id"]: [each["pid"], *descendants(each["pid"], below)] for each in told}


@contextmanager
def hub_with(directory: Path, servers: list[str], people: int) -> Iterator[Hub]:
    """Run a hub with its users and servers, ready to start them as it will from then on."""
    mcphub(directory, "init", "--json")
    prefix = Path(PYTHON).parents[1]
    readable = [] if prefix.is_relative_to("/usr") else [f"{prefix}/bin", f"{prefix}/lib"]
    settings = {
        name: {
            "command": KINDS[name].command,
            "args": list(KINDS[name].args),
            "groups": ["everyone"],
            "riskLevel": "critical",
            "sandbox": {"idleSeconds": 7200, "readable": readable},
        }
        for name in servers
    }
    (directory / "mcp_settings.json").write_text(json.dumps({"mcpServers": settings}))
    keys = asyncio.run(people_of(directory, people))
    with serving(directory, end_s=120) as (port, pid):
        hub = Hub(directory, port, pid, keys, servers)
        for name in servers:
            print(f"{directory.name}: {name}: {_mode(hub, name)}", file=sys.stderr, flush=True)
        yield hub


def _mode(hub: Hub, name: str) -> str:
    """Wait until the hub has found out how a server may be started; returns what it found."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        start = json.loads(mcphub(hub.directory, "server", "show", name, "--json"))["start"]
        if start["reason"] not in NOT_YET:
            return f"{start['mode']}: {start['reason']}"
        time.sleep(2)
    return "not found out in time"


@dataclass
class Step:
    """The figures at one number of instances; times in ms unless named otherwise."""

    count: int
    start_p50: float = 0.0
    start_p95: float = 0.0
    per_second: float = 0.0
    start_cpu: float = 0.0
    pss_mb: float = 0.0
    private_mb: float = 0.0
    hub_mb: float = 0.0
    idle_percent: float = 0.0
    call_p50: float = 0.0
    call_p99: float = 0.0
    call_cpu_us: float = 0.0
    latency_ratio: float = 0.0
    cpu_ratio: float = 0.0


async def grow(hub: Hub, count: int, step: Step) -> None:
    """Start instances until there are `count`, all but the last ones with several in flight."""
    fresh = hub.next_clients(count - len(hub.clients))
    for client in fresh:
        await client.meet()
    alone = min(ALONE, max(1, len(fresh) // 2))
    many, one = iter(fresh[:-alone]), fresh[-alone:]

    async def work() -> None:
        for client in many:
            await client.ask()

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(work())
    step.per_second = (len(fresh) - alone) / (time.perf_counter() - begun)
    before = cpu_exact_s(hub.others())
    taken = sorted([await client.ask() for client in one])
    shared = cpu_exact_s(hub.others()) - before
    hub.clients += fresh
    newest = list(hub.instances().values())[-alone:]
    own = sum(cpu_exact_s(pids) for pids in newest)
    step.start_cpu = (shared + own) / alone * 1000
    step.start_p50 = statistics.median(taken) * 1000
    step.start_p95 = taken[min(len(taken) - 1, int(0.95 * len(taken)))] * 1000


async def calls(hub: Hub, turn: int) -> tuple[list[float], float]:
    """Make one round of calls over all instances in turn; returns latencies and the hub's CPU for each."""
    clients = hub.clients
    begun = cpu_exact_s([hub.pid])
    taken = [await clients[(turn * CALLS + n) % len(clients)].ask() for n in range(CALLS)]
    return taken, (cpu_exact_s([hub.pid]) - begun) / CALLS


async def compare(big: Hub, small: Hub, step: Step, rounds: int) -> None:
    """Measure warm calls to both hubs, in alternating rounds."""
    latencies: list[float] = []
    medians: dict[str, list[float]] = {"big": [], "small": []}
    costs: dict[str, list[float]] = {"big": [], "small": []}
    for turn in range(-1, rounds):
        for name, hub in (("big", big), ("small", small)):
            taken, cost = await calls(hub, turn + 1)
            if turn >= 0:
                medians[name].append(statistics.median(taken))
                costs[name].append(cost)
                latencies += taken if hub is big else []
    latencies.sort()
    step.call_p50 = statistics.median(latencies) * 1000
    step.call_p99 = latencies[int(0.99 * len(latencies))] * 1000
    step.call_cpu_us = statistics.median(costs["big"]) * 1e6
    step.latency_ratio = statistics.median(medians["big"]) / statistics.median(medians["small"])
    step.cpu_ratio = statistics.median(costs["big"]) / statistics.median(costs["small"])


def free_mb() -> float:
    """Return the memory that the machine could still give, in MB."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 1000


async def measure(big: Hub, small: Hub, options: argparse.Namespace) -> list[Step]:
    """Go up the steps as far as the memory lasts."""
    await grow(small, FEW, Step(FEW))
    steps: list[Step] = []
    for count in sorted(options.at):
        if steps:
            needed = (count - steps[-1].count) * max(steps[-1].pss_mb, 10.0) * 1.2
            if free_mb() - needed < options.keep_free * 1000:
                print(f"{count} instances would take {needed:.0f} MB more: not tried", flush=True)
                break
        step = Step(count)
        await grow(big, count, step)
        await asyncio.sleep(2)
        with suppress(OSError):
            sizes = [memory_mb(pids) for pids in big.instances().values()]
            step.pss_mb = statistics.mean(pss for pss, _ in sizes)
            step.private_mb = statistics.mean(private for _, private in sizes)
        await compare(big, small, step, options.rounds)
        before = cpu_exact_s([big.pid])
        await asyncio.sleep(IDLE_S)
        step.idle_percent = (cpu_exact_s([big.pid]) - before) / IDLE_S * 100
        step.hub_mb = memory_mb([big.pid])[0]
        steps.append(step)
        print(line_of(step), flush=True)
    return steps


HEAD = (
    "| instances | start ms, alone: p50 | p95 | starts/s, 4 at once | start, CPU ms | instance MB (PSS) | private MB "
    "| hub MB | hub idle, CPU % | call ms: p50 | p99 | call, hub CPU µs | latency ÷ 10 | hub CPU ÷ 10 |"
)


def line_of(step: Step) -> str:
    """Return one row of the table."""
    cells = (
        f"{step.count:,}", f"{step.start_p50:.0f}", f"{step.start_p95:.0f}", f"{step.per_second:.1f}",
        f"{step.start_cpu:.0f}", f"{step.pss_mb:.1f}", f"{step.private_mb:.1f}", f"{step.hub_mb:.0f}",
        f"{step.idle_percent:.1f}", f"{step.call_p50:.2f}", f"{step.call_p99:.2f}",
        f"{step.call_cpu_us:.0f}", f"{step.latency_ratio:.2f}", f"{step.cpu_ratio:.2f}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Parse options and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--at", type=int, nargs="+", default=[10, 100, 300, 1000])
    parser.add_argument("--servers", nargs="+", choices=list(KINDS), default=["time", "clock"])
    parser.add_argument(
        "--keep-free", type=float, default=4.0, help="GB of memory that the machine shall keep"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of calls to each hub")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # and the hubs with it
    people = -(-max(options.at) // len(options.servers))
    print(
        f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}; "
        f"{people} users, {' and '.join(options.servers)}"
    )
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-instances-")))
        root.chmod(0o711)
        big = stack.enter_context(hub_with(root / "big", options.servers, people))
        small = stack.enter_context(hub_with(root / "small", options.servers, FEW))
        print(f"{HEAD}\n|{'--:|' * HEAD.count(' |')}", flush=True)
        uvloop.run(measure(big, small, options))
        begun = time.monotonic()
    print(f"both hubs ended, with all instances, after {time.monotonic() - begun:.1f} s")


if __name__ == "__main__":
    main()
