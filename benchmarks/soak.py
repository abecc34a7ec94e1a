"""Calls through the hub for minutes, and fails when it keeps memory, descriptors or threads.

Every user calls all the time, and every few seconds each takes a new connection and a new session, as
clients do that come and go. After a third of the time, which fills caches and buffers, nothing may
grow any more: the last third is compared with the one before.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import uvloop
from endpoints import Endpoint, hub
from load import LEGACY, MODERN, Client, measure
from processes import pss_mb

GROWTH_MB = 6.0
GROWTH = 8


@dataclass(frozen=True)
class Look:
    """What the hub's process held at one moment.

    Attributes:
        at_s: Seconds since the beginning.
        calls: Answered so far.
        mb: Proportional set size.
        descriptors: Open ones.
        threads: Running ones.
    """

    at_s: float
    calls: int
    mb: float
    descriptors: int
    threads: int


def look(pid: int, at_s: float, calls: int) -> Look:
    """Look at the hub's process."""
    process = Path(f"/proc/{pid}")
    count = (len(list((process / what).iterdir())) for what in ("fd", "task"))
    return Look(at_s, calls, pss_mb([pid]), *count)


def kinds(endpoint: Endpoint, users: int) -> list[Client]:
    """Return a client for each user: both eras, a shared process or an own one."""
    ways = [("shared", LEGACY), ("own", LEGACY), ("shared", MODERN), ("modern", MODERN)]
    clients: list[Client] = []
    for number in range(users):
        target, era = ways[number % len(ways)]
        clients.append(Client(endpoint.targets[target], number, era))
    return clients


async def soak(endpoint: Endpoint, options: argparse.Namespace) -> list[Look]:
    """Call for the whole time; returns what was seen."""
    (pid,) = endpoint.gateway
    clients = kinds(endpoint, options.users)
    looks: list[Look] = []
    calls, began = 0, time.monotonic()
    ends = began + options.minutes * 60
    while time.monotonic() < ends:
        for at in range(0, len(clients), 8):
            await asyncio.gather(*(each.open("x" * options.size) for each in clients[at : at + 8]))
        _, latencies = await measure(clients, options.seconds, len(clients))
        calls += len(latencies)
        looks.append(look(pid, time.monotonic() - began, calls))
        seen = looks[-1]
        print(
            f"{seen.at_s:6.0f} s {seen.calls:10,} calls {seen.mb:7.1f} MB "
            f"{seen.descriptors:5} descriptors {seen.threads:3} threads",
            flush=True,
        )
    for client in clients:
        client.close()
    return looks


def grown(looks: list[Look]) -> dict[str, tuple[float, float]]:
    """Return the medians of the second and of the last third, by what was counted."""
    third = max(1, len(looks) // 3)
    found: dict[str, tuple[float, float]] = {}
    for what in ("mb", "descriptors", "threads"):
        figures = [float(getattr(seen, what)) for seen in looks]
        found[what] = (
            statistics.median(figures[-2 * third : -third] or figures),
            statistics.median(figures[-third:]),
        )
    return found


def main() -> None:
    """Parse options, soak, print, and exit with 1 when something grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--users", type=int, default=64)
    parser.add_argument("--size", type=int, default=1000, help="bytes of the text that is echoed")
    parser.add_argument("--seconds", type=float, default=5, help="between two looks")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, hub(Path(folder) / "hub", options.users) as here:
        looks = uvloop.run(soak(here, options))
    failed = False
    for what, (before, after) in grown(looks).items():
        most = GROWTH_MB if what == "mb" else GROWTH
        failed = failed or after - before > most
        verdict = "GREW" if after - before > most else "flat"
        print(f"{what}: {before:.1f} -> {after:.1f}, {verdict}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
