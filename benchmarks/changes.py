"""What a change of one user costs a hub that knows thousands, and how long it keeps another's call waiting.

Two hubs run side by side, one with few users and one with many, and take turns: some seconds without
changes, some seconds in which one user joins and leaves a group again and again while another one
calls. A change is made as `mcphub group join` makes it, by another process than the hub's. Fails when
it costs the large hub more than `--limit` times what it costs the small one.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from endpoints import Endpoint, hub
from load import MODERN, Client
from processes import cpu_exact_s

from mcphub.ground import Ground, ground
from mcphub.settings import load

FEW = 20
PAUSE_S = 0.01
"""Between two calls of the user who is measured."""


@dataclass
class Side:
    """One hub, and what was measured of it.

    Attributes:
        change_ms: Processor time of the hub for each change, by round.
        quiet_ms, changed_ms: The longest call of each round, without and with changes.
    """

    users: int
    endpoint: Endpoint
    services: Ground
    client: Client
    change_ms: list[float] = field(default_factory=list)
    quiet_ms: list[float] = field(default_factory=list)
    changed_ms: list[float] = field(default_factory=list)


async def called(client: Client, seconds: float) -> float:
    """Call for some seconds; returns the longest call in ms."""
    longest, ends = 0.0, time.monotonic() + seconds
    while time.monotonic() < ends:
        began = time.perf_counter()
        await client.call()
        longest = max(longest, time.perf_counter() - began)
        await asyncio.sleep(PAUSE_S)
    return longest * 1000


async def changed(services: Ground, seconds: float, per_s: float) -> int:
    """Let one user join and leave a group; returns how many changes that were."""
    directory, done, ends = services.directory, 0, time.monotonic() + seconds
    while time.monotonic() < ends:
        await (directory.leave if done % 2 else directory.join)("user-1", "changes")
        done += 1
        await asyncio.sleep(1 / per_s)
    if done % 2:
        await directory.leave("user-1", "changes")
    return done


async def round_of(side: Side, options: argparse.Namespace) -> None:
    """Measure one hub without changes, then with them."""
    before = cpu_exact_s(side.endpoint.gateway)
    side.quiet_ms.append(await called(side.client, options.seconds))
    quiet = cpu_exact_s(side.endpoint.gateway) - before
    before = cpu_exact_s(side.endpoint.gateway)
    longest, count = await asyncio.gather(
        called(side.client, options.seconds),
        changed(side.services, options.seconds, options.per_second),
    )
    busy = cpu_exact_s(side.endpoint.gateway) - before
    side.changed_ms.append(longest)
    # the hub looks once a second: what falls together is read together
    readings = min(count, options.seconds)
    side.change_ms.append(max(0.0, busy - quiet) * 1000 / readings)


async def run(folder: Path, endpoints: dict[int, Endpoint], options: argparse.Namespace) -> bool:
    """Measure all rounds and print the table; returns whether the limit was kept."""
    async with AsyncExitStack() as stack:
        sides: list[Side] = []
        for users, endpoint in endpoints.items():
            opened = ground(load(folder / str(users)), beside=True)  # the hub runs
            services = await stack.enter_async_context(opened)
            await services.directory.add_group("changes")
            client = Client(endpoint.targets["own"], 0, MODERN)
            await client.open("x" * 100)
            sides.append(Side(users, endpoint, services, client))
        for _ in range(options.rounds):
            for side in sides:
                await round_of(side, options)
        print(
            "| users | processor time of a reading, ms | longest call, ms: quiet | beside changes |"
        )
        print("|--:|--:|--:|--:|")
        for side in sides:
            figures = (side.change_ms, side.quiet_ms, side.changed_ms)
            print(
                f"| {side.users:,} | " + " | ".join(f"{statistics.median(f):.1f}" for f in figures),
                "|",
            )
            side.client.close()
    few, many = (max(1.0, statistics.median(side.change_ms)) for side in sides)
    print(f"many / few: {many / few:.2f} (limit {options.limit:g})")
    return many <= few * options.limit


def main() -> None:
    """Parse options, measure, and exit with 1 when the limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5, help="each half of a round")
    parser.add_argument("--per-second", type=float, default=4, help="changes")
    parser.add_argument("--limit", type=float, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made, ExitStack() as stack:
        folder = Path(made)
        endpoints = {
            users: stack.enter_context(hub(folder / str(users), users))
            for users in (FEW, options.users)
        }
        kept = uvloop.run(run(folder, endpoints, options))
    sys.exit(not kept)


if __name__ == "__main__":
    main()
