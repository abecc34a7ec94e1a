"""Measures a warm `tools/call` of 100 bytes: direct, through the hub, through the FastMCP proxy.

All endpoints run at once and take turns in shuffled order, so that noise of the machine meets all
of them; figures are medians over the rounds. See README.md for how to read them.
"""

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import uvloop
from endpoints import Endpoint, direct, fastmcp, hub
from load import Client, measure
from processes import cpu_s, descendants, machine_busy_s

WARM_UP_S = 0.3


async def one_round(endpoint: Endpoint, clients: list[Client], seconds: float) -> dict[str, float]:
    """Return the figures of one endpoint with these clients."""
    for client in clients:
        await client.reconnect()
    await measure(clients, WARM_UP_S)
    below = descendants(endpoint.pid)
    own = [os.getpid()]
    before = [cpu_s([endpoint.pid]), cpu_s(below), cpu_s(own), machine_busy_s()]
    duration, latencies = await measure(clients, seconds)
    after = [cpu_s([endpoint.pid]), cpu_s(below), cpu_s(own), machine_busy_s()]
    gateway, children, generator, machine = (b - a for a, b in zip(before, after, strict=True))
    latencies.sort()
    count = len(latencies)
    return {
        "calls_per_s": count / duration,
        "p50_ms": latencies[count // 2] * 1000,
        "p99_ms": latencies[min(count - 1, count * 99 // 100)] * 1000,
        "cpu_us_per_call": gateway / count * 1e6,
        "children_cpu_us_per_call": children / count * 1e6,
        "foreign_cores": max(0.0, (machine - gateway - children - generator) / duration),
    }


async def run(endpoints: list[Endpoint], options: argparse.Namespace) -> list[dict[str, object]]:
    """Run all rounds and return one row for each endpoint and number of clients."""
    text = "x" * options.bytes
    cells = [(endpoint, count) for endpoint in endpoints for count in options.clients]
    clients: dict[tuple[str, int], list[Client]] = {}
    for endpoint, count in cells:
        connected = [await Client.connect(endpoint.target, n, text) for n in range(count)]
        clients[endpoint.name, count] = connected
    samples: dict[tuple[str, int], list[dict[str, float]]] = {key: [] for key in clients}
    order = random.Random(options.seed)
    for number in range(options.rounds):
        order.shuffle(cells)
        for endpoint, count in cells:
            key = endpoint.name, count
            samples[key].append(await one_round(endpoint, clients[key], options.seconds))
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    for connected in clients.values():
        for client in connected:
            client.close()
    rows: list[dict[str, object]] = []
    for (name, count), rounds in sorted(samples.items(), key=lambda item: (item[0][1], item[0][0])):
        figures = {what: statistics.median(r[what] for r in rounds) for what in rounds[0]}
        rows.append({"endpoint": name, "clients": count, **figures, "rounds": rounds})
    return rows


def table(rows: list[dict[str, object]]) -> str:
    """Return the rows as a Markdown table, with ratios to the other endpoints of the same run."""
    found = {(row["endpoint"], row["clients"]): row for row in rows}

    def ratio(row: dict[str, object], other: str, what: str) -> str:
        base = found.get((other, row["clients"]))
        return f"{row[what] / base[what]:.2f}" if base else "-"  # type: ignore[operator]

    lines = [
        "| clients | endpoint | calls/s | p50 ms | p99 ms | CPU µs/call | server CPU µs/call "
        "| calls/s ÷ direct | calls/s ÷ fastmcp | foreign cores |",
        "|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    return "\n".join(
        [
            *lines,
            *(
                f"| {row['clients']} | {row['endpoint']} | {row['calls_per_s']:,.0f} "
                f"| {row['p50_ms']:.3f} | {row['p99_ms']:.2f} | {row['cpu_us_per_call']:.0f} "
                f"| {row['children_cpu_us_per_call']:.0f} | {ratio(row, 'direct', 'calls_per_s')} "
                f"| {ratio(row, 'fastmcp', 'calls_per_s')} | {row['foreign_cores']:.2f} |"
                for row in rows
            ),
        ]
    )


def main() -> None:
    """Parse options, start the endpoints, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--bytes", type=int, default=100)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", nargs="+", choices=["direct", "hub", "fastmcp"], default=None)
    parser.add_argument("--json", type=Path, help="write the figures of every round here")
    options = parser.parse_args()
    wanted = options.only or ["direct", "hub", "fastmcp"]
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "hub"
        start = {"direct": direct, "fastmcp": fastmcp, "hub": lambda: hub(directory)}
        endpoints = [stack.enter_context(start[name]()) for name in wanted]
        rows = uvloop.run(run(endpoints, options))
    print(table(rows))
    if options.json:
        machine = {"cores": os.cpu_count(), "python": platform.python_version()}
        given = {name: value for name, value in vars(options).items() if name != "json"}
        options.json.write_text(
            json.dumps({"options": given, "machine": machine, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
