"""Fails when a warm call through the hub costs far more processor time than without it.

Compares processor time per call with that of a direct connection in the same run, window by window,
and takes the cheaper windows of each: load from elsewhere makes both dearer and neither cheaper. The
limit leaves room for noise; it is there to catch a call path that became twice as dear.
"""

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import uvloop
from endpoints import Endpoint, direct, hub
from load import LEGACY, Client, measure
from processes import cpu_exact_s

LIMIT = 6.5
CLIENTS = 16


async def ratio(endpoints: list[Endpoint], windows: int, seconds: float) -> tuple[float, float]:
    """Return the processor time of a call in µs through the hub, and directly."""
    groups: list[list[Client]] = []
    for endpoint in endpoints:
        clients = [Client(endpoint.target, number, LEGACY) for number in range(CLIENTS)]
        for client in clients:
            await client.open("x" * 100)
        await measure(clients, 0.5, CLIENTS)
        groups.append(clients)
    costs: list[list[float]] = [[] for _ in endpoints]
    for _ in range(windows):
        for endpoint, clients, cost in zip(endpoints, groups, costs, strict=True):
            before = cpu_exact_s(endpoint.gateway)
            _, latencies = await measure(clients, seconds, CLIENTS)
            cost.append((cpu_exact_s(endpoint.gateway) - before) / len(latencies) * 1e6)
    for clients in groups:
        for client in clients:
            client.close()
    through, without = (sorted(cost)[windows // 4] for cost in costs)
    return through, without


def main() -> None:
    """Measure, print, and exit with 1 above the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=0.15)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "hub"
        endpoints = [stack.enter_context(hub(folder, CLIENTS)), stack.enter_context(direct())]
        through, without = uvloop.run(ratio(endpoints, options.windows, options.seconds))
    found = through / without
    verdict = "within" if found <= LIMIT else "ABOVE"
    print(
        f"A warm call costs {through:.0f} µs of processor time through the hub, {without:.0f} µs without: "
        f"{found:.1f} times, {verdict} the limit of {LIMIT:g}."
    )
    sys.exit(found > LIMIT)


if __name__ == "__main__":
    main()
