"""Measures what a `tools/call` costs through the hub, other gateways, nginx, and with nothing between.

All endpoints run during the whole run and take turns in shuffled order, so that noise of the machine
meets all of them. See README.md for what is compared and how to read it. `make bench` runs this.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

import peers
import report
import uvloop
from endpoints import Endpoint, direct, hub, nginx
from load import LEGACY, MODERN, Broken, Client, measure
from processes import cpu_s, machine_busy_s, pss_mb

WARM_UP_S = 0.3
MB = 1_000_000
OURS = ("direct", "nginx", "hub")
EVERYBODY = (*OURS, "fastmcp", "mcp-proxy (PyPI)", "mcp-proxy (npm)", "supergateway")
SPEAK_MODERN = (*OURS, "fastmcp", "mcp-proxy (npm)")
TAKE_1_MB = (*OURS, "fastmcp", "mcp-proxy (PyPI)", "mcp-proxy (npm)")


@dataclass(frozen=True)
class Cell:
    """One figure of the table: an endpoint under one kind of load.

    Attributes:
        row: What is measured.
        sessions: Clients, each with a connection.
        in_flight: Calls at a time.
        size: Bytes of the text that is echoed.
        target: One of the endpoint's further targets, or "".
        once: Measured in the first round only.
    """

    row: str
    endpoint: str
    sessions: int
    size: int = 100
    era: str = LEGACY
    target: str = ""
    in_flight: int = 1000
    once: bool = False

    @property
    def key(self) -> str:
        """Name of the cell in JSON."""
        return f"{self.row}/{self.endpoint}/{self.sessions}"


def cells_of(options: argparse.Namespace) -> list[Cell]:
    """Return what is measured."""
    found = [
        *(Cell("100 B", name, count) for name in EVERYBODY for count in (1, 16, 64)),
        *(Cell("100 B, modern", name, 16, era=MODERN) for name in SPEAK_MODERN),
        *(Cell("1 MB", name, 1, MB) for name in TAKE_1_MB),
        *(Cell("16 MB", name, 1, 16 * MB, once=True) for name in OURS),
        Cell("own processes", "hub", 64, target="own"),
        Cell("one user", "hub", 16, target="one user"),
        Cell("200 of 1,000 users", "hub", 200, target="many users", in_flight=16),
        Cell("aggregated", "hub", 16, target="aggregated"),
        *(
            Cell(f"{client} client, {server} server{where}", "hub", 16, era=era, target=target)
            for client, era in (("legacy", LEGACY), ("modern", MODERN))
            for server, where, target in (
                ("legacy", "", "shared"),
                ("modern", "", "modern"),
                ("legacy", ", URL", "url"),
                ("modern", ", URL", "modern-url"),
            )
        ),
    ]
    return [
        cell
        for cell in found
        if (not options.only or cell.endpoint in options.only)
        and (not options.rows or cell.row in options.rows)
    ]


class Bench:
    """One run: endpoints that are up, clients that are connected, samples so far."""

    def __init__(self, endpoints: dict[str, Endpoint]) -> None:
        self.endpoints = endpoints
        self.clients: dict[Cell, list[Client]] = {}
        self.samples: dict[Cell, list[dict[str, float]]] = {}
        self.broken: dict[Cell, str] = {}
        self.idle_mb = {name: pss_mb(list(one.gateway)) for name, one in endpoints.items()}

    async def connect(self, cell: Cell) -> None:
        """Open the clients of a cell, some at a time: servers may have to start."""
        endpoint = self.endpoints[cell.endpoint]
        target = endpoint.targets[cell.target] if cell.target else endpoint.target
        clients = [Client(target, number, cell.era) for number in range(cell.sessions)]
        text = "x" * cell.size
        for at in range(0, len(clients), 8):
            await asyncio.gather(*(client.open(text) for client in clients[at : at + 8]))
        if cell.target == "own":
            await measure(clients, 0, len(clients))  # every user's process has started by then
        self.clients[cell] = clients

    async def sample(self, cell: Cell, seconds: float) -> None:
        """Measure a cell once."""
        clients, endpoint = self.clients[cell], self.endpoints[cell.endpoint]
        gateway, servers, own = list(endpoint.gateway), endpoint.server_pids(), [os.getpid()]
        for client in clients:
            await client.reconnect()
        await measure(clients, WARM_UP_S, cell.in_flight)

        def used() -> list[float]:
            return [cpu_s(gateway), cpu_s(servers), cpu_s(own), machine_busy_s()]

        before = used()
        duration, latencies = await measure(clients, seconds, cell.in_flight)
        spent = [b - a for a, b in zip(before, used(), strict=True)]
        latencies.sort()
        count = len(latencies)
        figures = {
            "calls_per_s": count / duration,
            "p50_ms": latencies[count // 2] * 1000,
            "p99_ms": latencies[min(count - 1, count * 99 // 100)] * 1000,
            "cpu_us": spent[0] / count * 1e6,
            "server_cpu_us": spent[1] / count * 1e6,
            "generator_cpu_us": spent[2] / count * 1e6,
            "foreign_cores": max(0.0, (spent[3] - sum(spent[:3])) / duration),
            "pss_mb": pss_mb(gateway),
        }
        self.samples.setdefault(cell, []).append(figures)

    async def attempt(self, cell: Cell, step: Callable[..., object], *args: object) -> None:
        """Do one step of a cell; what fails is told and ends the cell, not the run."""
        if cell in self.broken:
            return
        try:
            await step(cell, *args)  # type: ignore[misc]
        except (Broken, OSError, TimeoutError) as error:
            self.broken[cell] = str(error) or type(error).__name__
            print(f"{cell.key}: {self.broken[cell][:300]}", file=sys.stderr, flush=True)

    async def run(self, cells: list[Cell], options: argparse.Namespace) -> int:
        """Measure all cells in rounds until the rounds or the minutes are over; return the rounds."""
        ends = time.monotonic() + options.minutes * 60
        for cell in cells:
            await self.attempt(cell, self.connect)
        order = random.Random(options.seed)
        rounds = 0
        while rounds < options.rounds:
            turns = [cell for cell in cells if not (cell.once and rounds)]
            order.shuffle(turns)
            began = time.monotonic()
            for cell in turns:
                await self.attempt(cell, self.sample, options.seconds)
            rounds += 1
            took = time.monotonic() - began
            print(f"round {rounds}: {took:.0f} s", file=sys.stderr, flush=True)
            if time.monotonic() + took > ends:
                break
        for clients in self.clients.values():
            for client in clients:
                client.close()
        return rounds

    def rows(self, cells: list[Cell]) -> list[dict[str, object]]:
        """Return a row for each cell: medians of its quiet rounds, else its least disturbed round."""
        rows: list[dict[str, object]] = []
        for cell in cells:
            row: dict[str, object] = {
                "row": cell.row,
                "endpoint": cell.endpoint,
                "sessions": cell.sessions,
                "idle_mb": self.idle_mb[cell.endpoint],
            }
            samples = self.samples.get(cell, [])
            if samples:
                quiet = [one for one in samples if one["foreign_cores"] <= report.QUIET_CORES]
                best = quiet or [min(samples, key=lambda one: one["foreign_cores"])]
                row |= {what: statistics.median(one[what] for one in best) for what in best[0]}
                # CPU per call stays true under foreign load, caches aside: all rounds count
                row["cpu_us"] = statistics.median(one["cpu_us"] for one in samples)
                row |= {"quiet_rounds": len(quiet), "samples": samples}
            if cell in self.broken:
                row["broken"] = self.broken[cell]
            rows.append(row)
        return rows


def start_all(stack: ExitStack, names: list[str], folder: Path) -> dict[str, Endpoint]:
    """Start endpoints; one that cannot be started is told and left out."""
    ways: dict[str, Callable[[], AbstractContextManager[Endpoint]]] = {
        "direct": direct,
        "nginx": lambda: nginx(folder / "nginx"),
        "hub": lambda: hub(folder / "hub"),
        "fastmcp": peers.fastmcp,
        "mcp-proxy (PyPI)": peers.mcp_proxy_py,
        "mcp-proxy (npm)": peers.mcp_proxy_npm,
        "supergateway": peers.supergateway,
    }
    started: dict[str, Endpoint] = {}
    for name in names:
        try:
            started[name] = stack.enter_context(ways[name]())
        except (RuntimeError, OSError) as error:
            print(f"{name} is left out: {error}", file=sys.stderr, flush=True)
        else:
            print(f"{name}: {started[name].version}", file=sys.stderr, flush=True)
    return started


def main() -> None:
    """Parse options, start the endpoints, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=0.6, help="of one figure, in every round")
    parser.add_argument(
        "--minutes", type=float, default=9, help="begin no round that would pass it"
    )
    parser.add_argument("--only", nargs="+", choices=EVERYBODY, help="these endpoints")
    parser.add_argument("--rows", nargs="+", help='these rows, for example "100 B"')
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--json", type=Path, default=peers.CACHE / "relay.json")
    parser.add_argument("--docs", action="store_true", help="write table and chart into docs/")
    options = parser.parse_args()
    cells = cells_of(options)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        names = [name for name in EVERYBODY if any(cell.endpoint == name for cell in cells)]
        endpoints = start_all(stack, names, folder)
        cells = [cell for cell in cells if cell.endpoint in endpoints]
        bench = Bench(endpoints)
        rounds = uvloop.run(bench.run(cells, options))
        rows = bench.rows(cells)
        versions = {name: endpoint.version for name, endpoint in endpoints.items()}
    model = Path("/proc/cpuinfo").read_text().partition("model name\t: ")[2].partition("\n")[0]
    result = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "rounds": rounds,
        "seconds": options.seconds,
        "machine": {
            "cores": os.cpu_count(),
            "processor": model,
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
        "versions": versions,
        "rows": rows,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(report.text(result))
    print(f"\nEvery round's figures: {options.json}")
    if options.docs:
        report.write_docs(result)


if __name__ == "__main__":
    main()
