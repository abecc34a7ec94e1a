"""How long others wait while one user does what is expensive: p99 beside a disturbance, and without.

Quiet and disturbed windows take turns in shuffled order. The others are users who call all the time,
each with an own process. A disturbance is one more user, with a load generator of its own.
"""

import argparse
import asyncio
import multiprocessing
import random
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop
from endpoints import Endpoint, hub
from load import LEGACY, Client, Target, measure

MB = 1_000_000
LIMIT = 2.0
_SLOW_READERS = 8
_FLOOD_LINES = 100_000

Disturbance = Callable[[Target, int], Awaitable[None]]


async def slow_reader(target: Target, number: int) -> None:
    """Ask for 1 MB on eight connections, and read hardly anything of it."""
    client = Client(target, number, LEGACY)
    await client.open("x" * MB)

    async def read_slowly(request: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.target.port, limit=4096)
        try:
            writer.write(request)
            await writer.drain()
            while await reader.read(1024):  # noqa: ASYNC110  slow on purpose
                await asyncio.sleep(0.05)
        finally:
            writer.close()

    async with asyncio.TaskGroup() as group:
        for each in range(_SLOW_READERS):
            group.create_task(read_slowly(client.before + b'"id":%d' % each + client.after))


async def large_messages(target: Target, number: int) -> None:
    """Send 16 MB and get them back, again and again."""
    client = Client(target, number, LEGACY)
    await client.open("x" * (16 * MB))
    while True:
        await client.call()


async def flooding_child(target: Target, number: int) -> None:
    """Let the own server write what nobody asked for, as fast as it can."""
    client = Client(target, number, LEGACY)
    await client.open("x")
    while True:
        await client.request("tools/call", {"name": "flood", "arguments": {"lines": _FLOOD_LINES}})


DISTURBANCES: dict[str, Disturbance] = {
    "slow reader": slow_reader,
    "16 MB messages": large_messages,
    "flooding child": flooding_child,
}


def disturb(what: str, target: Target, number: int) -> None:
    """Disturb until the process is ended."""
    uvloop.run(DISTURBANCES[what](target, number))


def p99_ms(latencies: list[float]) -> float:
    """Return the time that 99 of 100 calls did not exceed, in milliseconds."""
    latencies.sort()
    return latencies[len(latencies) * 99 // 100] * 1000


async def compare(endpoint: Endpoint, options: argparse.Namespace) -> dict[str, list[float]]:
    """Return the latencies of the others, by what went on beside them; "" is nothing."""
    target, processes = endpoint.targets["own"], multiprocessing.get_context("spawn")
    others = [Client(target, number, LEGACY) for number in range(options.users)]
    for client in others:
        await client.open("x" * 100)
    await measure(others, 0.5, len(others))
    found: dict[str, list[float]] = {what: [] for what in ("", *options.only)}
    for _ in range(options.rounds):
        for what in random.sample(list(found), len(found)):
            beside = None
            if what:
                beside = processes.Process(target=disturb, args=(what, target, options.users))
                beside.start()
                await asyncio.sleep(2)  # it starts, and opens its session
            _, latencies = await measure(others, options.seconds, len(others))
            found[what] += latencies
            if beside is not None:
                if not beside.is_alive():
                    raise RuntimeError(f"{what}: it ended by itself")
                beside.terminate()
                beside.join()
                await asyncio.sleep(1)
    for client in others:
        client.close()
    return found


def main() -> None:
    """Parse options, measure, print, and exit with 1 above the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--limit", type=float, default=LIMIT, help="p99 beside ÷ p99 quiet")
    parser.add_argument("--only", nargs="+", choices=list(DISTURBANCES), default=list(DISTURBANCES))
    options = parser.parse_args()
    people = options.users + 1
    with tempfile.TemporaryDirectory() as folder, hub(Path(folder) / "hub", people) as here:
        found = uvloop.run(compare(here, options))
    quiet = p99_ms(found.pop(""))
    print(f"| beside | p99 ms | ÷ quiet |\n|---|--:|--:|\n| nothing | {quiet:.1f} | 1.0 |")
    worst = 0.0
    for what, latencies in found.items():
        ratio = p99_ms(latencies) / quiet
        worst = max(worst, ratio)
        print(f"| {what} | {p99_ms(latencies):.1f} | {ratio:.1f} |")
    sys.exit(worst > options.limit)


if __name__ == "__main__":
    main()
