"""Ids and paths of A's that work for B: nothing of A's has to be in the answer, a made-up thing is A's all the same.

B used what only A was shown. A call that worked so, and is refused in a run without A, acted on something
of A's. What works without A as well is no secret of A's: a name that everybody knows.
"""

from collections.abc import Iterator
from typing import Final

from mcphub.errors import HubError
from mcphub.isolation.case import Case, Run
from mcphub.isolation.kinds import PATHS
from mcphub.isolation.model import Finding, LeakClass, Observation, Severity
from mcphub.isolation.oracle import comparable, excerpt, worked
from mcphub.isolation.recipe import handle_parameters
from mcphub.isolation.script import Script
from mcphub.isolation.surface import Rank

_LEAST_S: Final = 10.0
_MOST: Final = 4


class HandleProbe:
    """Implements `Probe`."""

    name = "handles"

    def applies(self, case: Case) -> bool:
        """When nothing clearer was found, and B tried handles of A's in a run with A and in one without."""
        known = {finding.leak for finding in case.findings}
        clearer = {
            LeakClass.STATE,
            LeakClass.FILESYSTEM,
            LeakClass.HISTORY_CACHE,
            LeakClass.IDENTIFIER,
        }
        return bool(case.control.foreign) and not known & clearer

    async def run(self, case: Case) -> list[Finding]:
        """Return at most one finding: that another run without A confirms."""
        candidates = list(_candidates(case, case.control))[:_MOST]
        if not candidates:
            return []
        if case.budget.left < _LEAST_S:
            case.budget.leave("ids of A's that worked for B were not tried again without A")
            return []
        again = Run()
        try:
            async with case.lab.start(with_a=False) as running:
                await case.join(running)
                script = Script(case, running)
                await script.repeat(again.b, case.control.b, what="alone again")
                like = [seen.call for seen, _, _ in candidates]
                wanted = [seen for seen in case.control.foreign if seen.call in like]
                await script.repeat(again.foreign, wanted, what="alone again with A's ids")
        except HubError:
            return []
        steady = {id(seen) for seen, _, _ in _candidates(case, again)}
        return [_finding(*one) for one in candidates if id(one[0]) in steady][:1]


def _candidates(
    case: Case, alone: Run
) -> Iterator[tuple[Observation, Observation, Observation | None]]:
    """Yield B's call that worked, the same one without A, and A's call that was shown the id; None for a path."""
    run = case.treatment
    known = "\n".join(
        f"{seen.all_text}\n{dict(seen.call.arguments)}" for seen in (*run.b, *run.follow)
    )
    for seen in run.foreign:
        if not worked(seen):
            continue
        without = next((one for one in alone.foreign if comparable(one, seen)), None)
        if without is None or worked(without):
            continue
        for value, is_path in _handles(case, seen):
            if value in known:
                continue
            made = next((one for one in run.a if worked(one) and value in one.text), None)
            # what changes something may only have looked whether the path is there
            shows = case.surface.tools[seen.call.name].rank is Rank.OBSERVE
            local = not seen.egress  # a path in a question to a service is no file here
            if is_path and shows and local and _is_foreign(case, value):
                yield seen, without, None
                break
            if made is not None and not is_path:
                yield seen, without, made
                break


def _is_foreign(case: Case, path: str) -> bool:
    """Tell whether a path leads to what is there in runs with A only."""
    territory = case.lab.territory
    return path == str(territory.outside) or str(territory.a.directory) in path


def _handles(case: Case, seen: Observation) -> list[tuple[str, bool]]:
    """Return the ids, names and paths among a call's arguments, on the first level, and which are paths."""
    tool = case.surface.tools.get(seen.call.name)
    if tool is None:
        return []
    found: list[tuple[str, bool]] = []
    for name, kind in handle_parameters(tool):
        value = seen.call.arguments.get(name)
        if isinstance(value, (str, int)) and str(value):
            found.append((str(value), kind in PATHS))
    return found


def _finding(seen: Observation, without: Observation, made: Observation | None) -> Finding:
    what = seen.call.name
    return Finding(
        leak=LeakClass.IDENTIFIER if made else LeakClass.FILESYSTEM,
        severity=Severity.HIGH if made else Severity.MEDIUM,
        title=f"{what} works for B on what A's call of {made.call.name} made, by an id that B was not shown."
        if made
        else f"{what} works for B on a file of A's, by its path.",
        trace=(made, seen) if made else (seen,),
        seen=excerpt(seen.text),
        control=f"Without A: {excerpt(without.text)}",
        confidence=0.95,
        reproduced=1,
        remedy="Run an instance for each user: knowing an id must not be a right."
        if made
        else "Run an instance for each user, with a home of its own.",
    )
