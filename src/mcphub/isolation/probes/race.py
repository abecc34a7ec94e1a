"""Both users at the same time: answers that are right one after the other and mixed up together.

Request ids collide where each user has a session of its own. Only for servers that keep the users'
answers apart in sequence; otherwise a mix-up proves nothing new.
"""

import asyncio
from typing import Final

from mcphub.errors import HubError
from mcphub.isolation.budget import Slice
from mcphub.isolation.case import Case
from mcphub.isolation.lab import Running
from mcphub.isolation.model import Call, Finding, LeakClass, Observation, Severity
from mcphub.isolation.oracle import excerpt, normal

_TOOLS: Final = 8
_ROUNDS: Final = 12
_ALONE: Final = 4  # an answer out of few may be the other user's by chance
_MOST_S: Final = 20.0
_SLOWEST_S: Final = 4.0


class RaceProbe:
    """Implements `Probe`."""

    name = "race"

    def applies(self, case: Case) -> bool:
        """When nothing was mixed up in sequence."""
        sequential = {LeakClass.STATE, LeakClass.FILESYSTEM}
        known = {finding.leak for finding in case.findings}
        return not known & sequential and bool(case.learned)

    async def run(self, case: Case) -> list[Finding]:
        """Return the first answer to B that was A's."""
        time = case.budget.slice(_MOST_S)
        try:
            running = await case.spare()
            await case.join_anew(running)
        except HubError:
            return []
        slow = {seen.call.name for seen in case.treatment.b if seen.slow}
        names = sorted(case.learned, key=lambda name: name in slow)
        pairs = [pair for name in names if (pair := _pair(case, name)) is not None]
        for number, pair in enumerate(pairs[:_TOOLS]):
            found = await self._rounds(case, time.part(len(pairs) - number, 1.0), running, *pair)
            if found is not None:
                return [found]
        return []

    async def _rounds(
        self, case: Case, time: Slice, running: Running, a: Call, b: Call
    ) -> Finding | None:
        alone = await running.call("B", b)
        other = await running.call("A", a)
        if not (alone.ok and other.ok) or normal(alone.text) == normal(other.text):
            return None
        quiet: bool | None = None
        for _ in range(_ROUNDS):
            if time.over:
                return None
            seen = await asyncio.gather(
                running.call("A", a, _SLOWEST_S), running.call("B", b, _SLOWEST_S)
            )
            for user, own, foreign in ((1, alone, other), (0, other, alone)):
                if _named(case, seen[user], own):
                    return _finding(seen[1 - user], seen[user], own)
                if quiet is not False and _swapped(seen[user], own, foreign):
                    quiet = await self._quiet(running, alone, other)
                    if quiet:
                        return _finding(seen[1 - user], seen[user], own)
            if any(one.timed_out for one in seen):
                return None
        return None

    async def _quiet(self, running: Running, *alone: Observation) -> bool:
        """Tell whether the users' calls, one after the other, say the same again and again."""
        for _ in range(_ALONE):
            for one in alone:
                again = await running.call(one.user, one.call, _SLOWEST_S)
                if again.timed_out or normal(again.text) != normal(one.text):
                    return False
        return True


def _pair(case: Case, name: str) -> tuple[Call, Call] | None:
    """Return a call of each user of one tool that worked, with different arguments."""
    a = next((o.call for o in reversed(case.treatment.a) if o.ok and o.call.name == name), None)
    b = next((o.call for o in case.treatment.b if o.ok and o.call.name == name), None)
    if a is None or b is None or a.arguments == b.arguments:
        return None
    return a, b


def _swapped(seen: Observation, own: Observation, foreign: Observation) -> bool:
    """Tell whether an answer is the other user's, word for word."""
    if seen.timed_out or normal(seen.text) == normal(own.text):
        return False
    return normal(seen.text) == normal(foreign.text)


def _named(case: Case, seen: Observation, own: Observation) -> bool:
    """Tell whether an answer holds a word of the other user's that is not there alone."""
    mine = str(dict(seen.call.arguments))
    canaries = case.canaries.seen(seen.text, but=[mine])
    return not seen.timed_out and bool(canaries) and not case.canaries.seen(own.text, but=[mine])


def _finding(other: Observation, seen: Observation, own: Observation) -> Finding:
    return Finding(
        leak=LeakClass.RACE,
        severity=Severity.HIGH,
        title=f"{seen.user} gets from {seen.call.name} the answer to {other.user} when both call at once.",
        trace=(other, seen),
        seen=excerpt(seen.text),
        control=f"one after the other: {excerpt(own.text)}",
        reproduced=1,
        remedy="Run an instance for each user.",
    )
