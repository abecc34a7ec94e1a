"""Priming: A asks something a few times, and B asks the same right after.

An answer to B that no longer needs the service came from a cache, and so tells B what A asked; a
refusal for too many calls tells B that A called. Alone, B's question goes out and is answered.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from mcphub.errors import HubError
from mcphub.isolation.canaries import mint
from mcphub.isolation.case import Case
from mcphub.isolation.lab import Running
from mcphub.isolation.model import Finding, LeakClass, Observation, Severity
from mcphub.isolation.oracle import PAUSE_S, RATE_LIMITED, excerpt, worked
from mcphub.isolation.surface import Rank

_MOST: Final = 8
_BURST: Final = 4
_MOST_S: Final = 25.0
_REMEDY: Final = "Of public data only traces leak. Run an instance for each user where even these are confidential."


class CacheProbe:
    """Implements `Probe`."""

    name = "cache"

    def applies(self, case: Case) -> bool:
        """When B was answered anything alone."""
        return bool(_answered(case))

    async def run(self, case: Case) -> list[Finding]:
        """Return the first answer that came from a cache, or was refused for A's calls."""
        time = case.budget.slice(_MOST_S)
        try:
            running = await case.spare()
        except HubError:
            return []
        answered = _answered(case)
        await _warmed(case, running, answered)
        for number, alone in enumerate(answered):
            if time.over:
                left = ", ".join(seen.call.name for seen in answered[number:])
                case.budget.leave(f"caches were not looked for in: {left}")
                break
            first = await running.call("A", alone.call)
            if not first.ok and RATE_LIMITED.search(first.text):  # for what was asked before
                await asyncio.sleep(PAUSE_S)
                first = await running.call("A", alone.call)
            if first.timed_out:
                continue
            for _ in range(0 if first.slow else _BURST):
                await running.call("A", alone.call)
            second = await running.call("B", alone.call)
            if running.dead:
                break
            if _told(alone, first, second):
                return [_finding(case, first, second)]
        return []


async def _warmed(case: Case, running: Running, answered: Sequence[Observation]) -> None:
    """Let A make another call than the first that counts: what a server asks for once goes out with that."""
    first = answered[0].call
    other = next((seen.call for seen in answered[1:] if not seen.slow), first)
    text = json.dumps(dict(other.arguments)).replace(case.words.plain, mint())
    other = replace(
        other, arguments=json.loads(text)
    )  # or it would fill the cache that is looked for
    if other != first:
        await running.call("A", other)


def _answered(case: Case) -> list[Observation]:
    """Return B's answered questions, one of each tool, the quick ones and those that went out first."""
    found: dict[str, Observation] = {}
    for seen in case.control.b:
        tool = case.surface.tools.get(seen.call.name)
        if seen.ok and tool is not None and (seen.egress or tool.rank is not Rank.CREATE):
            found.setdefault(seen.call.name, seen)
    return sorted(found.values(), key=lambda seen: (seen.slow, not seen.egress))[:_MOST]


def _told(alone: Observation, first: Observation, second: Observation) -> bool:
    """Tell whether the second answer is another one because of the first.

    What goes out for a question goes out when B is alone as well; the rest a server asks for by itself.
    """
    if not first.ok or second.timed_out:
        return False
    if not second.ok and RATE_LIMITED.search(second.text):
        return True
    asked = {(one.host, one.path) for one in first.egress}
    usual = {(one.host, one.path) for one in alone.egress}
    return worked(first) and worked(second) and bool(asked & usual) and not second.egress


def _finding(case: Case, first: Observation, second: Observation) -> Finding:
    what = first.call.name
    title = (
        f"B is refused by {what} because of A's calls: they share a rate limit."
        if RATE_LIMITED.search(second.text)
        else f"B can tell that A asked {what} the same: the answer comes from a shared cache."
    )
    changes = case.surface.tools[what].rank is Rank.CREATE
    return Finding(
        leak=LeakClass.HISTORY_CACHE,
        severity=Severity.MEDIUM if changes else Severity.LOW,
        title=title,
        trace=(first, second),
        seen=f"B's question did not leave the server. {excerpt(second.text)}",
        control="Alone, B's question is answered, by the service where there is one.",
        confidence=0.9,
        reproduced=1,
        remedy=_REMEDY,
    )
