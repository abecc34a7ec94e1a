"""Showing a leak again from nothing, with as few calls as possible.

A trace that shows it in a fresh process, with new canaries, is worth more than a long record. What
needs ids that the server makes up is not reproduced by repetition; the first sighting then stands.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from mcphub.errors import HubError
from mcphub.isolation.case import Case
from mcphub.isolation.lab import Running
from mcphub.isolation.model import Call, Observation
from mcphub.isolation.synthesis import Planted

_LEAST_S: Final = 12.0
_MOST_CALLS: Final = 12


async def reproduced(
    case: Case,
    a: Sequence[Observation],
    b: Observation,
    shows: Callable[[Observation], bool],
    *,
    settle_s: float = 0.0,
) -> tuple[Observation, ...]:
    """Return the shortest trace whose last call showed the same again, or nothing.

    Tried: A's call alone; with A's earlier successful calls of the same tool; with all its earlier
    successful calls that are few.

    Args:
        case: The check.
        a: A's calls that it takes; of the first one the earlier ones are known.
        b: B's call.
        shows: Tells of a call of B's whether it is there.
        settle_s: Seconds between A's calls and B's.
    """
    attempts = [list(a)]
    if a:
        before = earlier(case, a[0])
        same = [seen for seen in before if seen.call.name == a[0].call.name]
        for more in (same, before[-_MOST_CALLS:]):
            if more and [*more, *a] != attempts[-1]:
                attempts.append([*more, *a])
    for calls in attempts:
        if case.budget.left < _LEAST_S:
            return ()
        trace = await replayed(case, [seen.call for seen in calls], [b.call], settle_s=settle_s)
        if any(map(shows, trace[len(calls) :])):
            return trace
    return ()


def shown(case: Case, about: Planted) -> Callable[[Observation], bool]:
    """Return what tells whether an answer holds what A gave in that place."""

    def shows(seen: Observation) -> bool:
        told = [str(dict(seen.call.arguments)), seen.call.name]
        return any(s.about == about for s in case.canaries.seen(seen.text, but=told))

    return shows


def sent(case: Case, about: Planted) -> Callable[[Observation], bool]:
    """Return what tells whether a call went out with what A gave in that place."""

    def shows(seen: Observation) -> bool:
        return any(case.canaries.about(c) == about for one in seen.egress for c in one.said)

    return shows


async def replayed(
    case: Case, a: Sequence[Call], b: Sequence[Call], *, settle_s: float = 0.0
) -> tuple[Observation, ...]:
    """Start the subject anew, let A and then B call; A's canaries are replaced by new ones."""
    calls = case.renamed([*a, *b])
    seen: list[Observation] = []
    try:
        async with case.lab.start(with_a=bool(a) or _seeded(case, b)) as running:
            await case.join(running)
            await perform(running, "A", calls[: len(a)], seen)
            if settle_s:
                await asyncio.sleep(settle_s)
            await perform(running, "B", calls[len(a) :], seen)
    except HubError:
        return ()
    return tuple(seen)


async def perform(
    running: Running, user: str, calls: Sequence[Call], seen: list[Observation]
) -> None:
    """Make calls one after the other."""
    seen.extend([await running.call(user, call) for call in calls])


def earlier(case: Case, seen: Observation) -> list[Observation]:
    """Return A's successful calls before one."""
    found: list[Observation] = []
    for other in case.treatment.a:
        if other is seen:
            break
        if other.ok:
            found.append(other)
    return found


def _seeded(case: Case, calls: Sequence[Call]) -> bool:
    """Tell whether the calls name files of A."""
    territory = case.lab.territory
    text = str([dict(call.arguments) for call in calls])
    return any(str(p) in text for p in (territory.a.directory, territory.outside))
