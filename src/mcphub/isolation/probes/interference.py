"""Non-interference: what B sees must not depend on what A did, canary or not.

B's fixed part is compared between a run with A and runs without. A difference counts when two runs
without A agree, a second run with A differs again, and a short trace shows it once more.
"""

from collections.abc import Sequence
from typing import Final

from mcphub.errors import HubError
from mcphub.isolation.case import Case, Run
from mcphub.isolation.model import Finding, LeakClass, Observation, Severity
from mcphub.isolation.oracle import (
    RATE_LIMITED,
    comparable,
    first_difference,
    normal,
    same,
    worked,
)
from mcphub.isolation.recipe import language, uses_paths
from mcphub.isolation.replay import perform, replayed
from mcphub.isolation.script import Script

_ALONE: Final = 3
_EXPLAIN_S: Final = 45.0
_MOST_STEPS: Final = 7
_REPLAYED: Final = 80  # calls of A that are all repeated, or more that took no longer together than
_REPLAYED_S: Final = 8.0  # else only what worked: what failed may have left something, too
_LEAST_S: Final = 15.0
_SHRINK_S: Final = 30.0
_REMEDY: Final = "Run an instance for each user: set riskLevel critical or requiresUserIsolation."


class InterferenceProbe:
    """Implements `Probe`."""

    name = "interference"

    def applies(self, case: Case) -> bool:
        """Whenever both runs exist."""
        return bool(case.treatment.b and case.control.b)

    async def run(self, case: Case) -> list[Finding]:
        """Return at most one finding for each class."""
        known = {finding.leak for finding in case.findings}
        candidates = [
            (seen, without)
            for seen, without in _candidates(case, case.treatment, case.control)
            if class_of(case, seen, without) not in known
        ]
        if not candidates:
            return []
        told = "answers that differ with and without A were not tried again"
        if case.budget.left < _LEAST_S:
            case.budget.leave(told)
            return []
        try:
            steady = await _seen_again(case, candidates)
        except HubError:
            return []
        findings: dict[LeakClass, Finding] = {}
        time = case.budget.slice(_EXPLAIN_S)
        for number, (seen, without) in enumerate(steady):
            leak = class_of(case, seen, without)
            if leak in findings:
                continue
            if number and time.over:
                _leave(case, seen)
                break
            found = await _finding(case, leak, seen, without)
            if found is not None and found.leak not in known:
                findings.setdefault(found.leak, found)
        return list(findings.values())


async def _seen_again(
    case: Case, candidates: Sequence[tuple[Observation, Observation]]
) -> list[tuple[Observation, Observation]]:
    """Return those of the differences that both runs show once more.

    Raises:
        HubError: The server does not start again.
    """
    # what comes after the last one is of no interest
    end = 1 + max(case.control.b.index(without) for _, without in candidates)
    script_b = case.control.b[:end]
    control, treatment = Run(), Run()
    async with case.lab.start(with_a=False) as running:
        await case.join(running)
        await Script(case, running).repeat(control.b, script_b, what="alone again")
    # what differs from one lonely run to the next says nothing
    steady = [pair for pair in candidates if _steady(control, pair[1])]
    if not steady:
        return []
    async with case.lab.start(with_a=True) as running:
        await case.join(running)
        script = Script(case, running)
        if _all_again(case):
            again = case.renamed([seen.call for seen in case.treatment.a])
            await perform(running, "A", again, treatment.a)
        else:
            await script.plant(treatment)
        await script.repeat(treatment.b, script_b, what="after A again")
    return [
        (seen, without)
        for seen, without in steady
        if (other := _at(treatment.b, without)) is not None and not same(other, without)
    ]


def _all_again(case: Case) -> bool:
    """Tell whether A's calls are few or quick enough to be repeated all."""
    calls = case.treatment.a
    return len(calls) <= _REPLAYED or sum(seen.seconds for seen in calls) <= _REPLAYED_S


def _leave(case: Case, seen: Observation) -> None:
    """Note a difference that only the long run shows: too little for a finding, too much for "no leak seen"."""
    if not _differs_by_itself(seen):
        what = seen.call.name or seen.call.method
        case.budget.wonder(f"B's answer from {what} differs after A was active, and not by itself")


def _differs_by_itself(seen: Observation) -> bool:
    """Tell whether a difference needs no explanation: a stand-in answered, or B's own calls were too many."""
    return bool(seen.egress) or bool(RATE_LIMITED.search(seen.text))


def class_of(case: Case, seen: Observation, without: Observation) -> LeakClass:
    """Return the class of a difference."""
    if RATE_LIMITED.search(seen.text) and not RATE_LIMITED.search(without.text):
        return LeakClass.HISTORY_CACHE
    tool = case.surface.tools.get(seen.call.name)
    if tool is None or language(tool) is not None:  # it is told where to run, not what to open
        return LeakClass.STATE
    return LeakClass.FILESYSTEM if uses_paths(seen.call.arguments, tool) else LeakClass.STATE


def _candidates(case: Case, treatment: Run, control: Run) -> list[tuple[Observation, Observation]]:
    """Return (with A, without A) where they differ."""
    found: list[tuple[Observation, Observation]] = []
    for without in control.b:
        seen = _at(treatment.b, without)
        if seen is None or same(seen, without) or not comparable(seen, without):
            continue
        if case.canaries.seen(seen.text, but=[str(dict(seen.call.arguments))]):
            continue  # proof already
        found.append((seen, without))
    return found


def _steady(control: Run, without: Observation) -> bool:
    """Tell whether another run without A said the same."""
    quiet = _at(control.b, without)
    return quiet is not None and same(quiet, without)


def _at(run: Sequence[Observation], like: Observation) -> Observation | None:
    """Return a run's observation of the same call."""
    return next((seen for seen in run if comparable(seen, like)), None)


async def _finding(
    case: Case, leak: LeakClass, seen: Observation, without: Observation
) -> Finding | None:
    """Return what a short trace shows, or nothing without one."""
    trace = await _shortest(case, seen, without)
    if not trace:
        return None
    last = trace[-1]
    if not worked(last) and _never_worked(case, seen):
        _leave(case, seen)  # the first failure of a process may be told otherwise than the next
        return None
    if leak is LeakClass.FILESYSTEM and not _by_path(case, trace[:-1]):
        leak = LeakClass.STATE  # B's path leads elsewhere since A chose something
    what = seen.call.name or seen.call.method
    by = f" after A called {trace[0].call.name}" if len(trace) == 2 else " after A was active"
    return Finding(
        leak=leak,
        severity=Severity.LOW if leak is LeakClass.HISTORY_CACHE else Severity.MEDIUM,
        title=f"B gets another answer from {what}{by}.",
        trace=trace,
        seen=first_difference(last.text, without.text),
        control=first_difference(without.text, last.text),
        confidence=0.95,
        reproduced=3,
        remedy=_REMEDY,
    )


def _never_worked(case: Case, seen: Observation) -> bool:
    """Tell whether what was called never did what it was asked, with A or without."""
    runs = (case.treatment, case.control)
    return not any(
        one.call.name == seen.call.name and worked(one)
        for run in runs
        for one in (*run.a, *run.b, *run.foreign)
    )


def _by_path(case: Case, calls: Sequence[Observation]) -> bool:
    """Tell whether any of A's calls names a path."""
    tools = case.surface.tools
    return any(
        one.call.name in tools and uses_paths(one.call.arguments, tools[one.call.name])
        for one in calls
    )


async def _shortest(case: Case, seen: Observation, without: Observation) -> tuple[Observation, ...]:
    """Halve A's calls as long as the difference stays; nothing when it cannot be shown by itself."""
    alone: list[Observation] = []
    for _ in range(_ALONE):  # an answer out of few may be the same by chance
        alone += await replayed(case, [], [seen.call])
        if not all(same(one, alone[0]) for one in alone):
            return ()
    if not alone or not same(alone[0], without):
        _leave(case, seen)  # it depends on what B did before
        return ()
    every = _all_again(case)
    calls = [a.call for a in case.treatment.a if a.ok or every]
    trace = await replayed(case, calls, [seen.call])
    if not _differs(trace, without):
        _leave(case, seen)
        return ()
    time = case.budget.slice(_SHRINK_S, 1 / 2)
    for _ in range(_MOST_STEPS):
        if len(calls) < 2 or time.over:
            break
        half = len(calls) // 2
        for part in (calls[half:], calls[:half]):
            shorter = await replayed(case, part, [seen.call])
            if _differs(shorter, without):
                calls, trace = part, shorter
                break
        else:
            break
    again = await replayed(case, calls, [seen.call])
    if not _differs(again, without):
        _leave(case, seen)
        return ()
    return trace


def _differs(trace: tuple[Observation, ...], without: Observation) -> bool:
    return (
        bool(trace) and not trace[-1].timed_out and normal(trace[-1].text) != normal(without.text)
    )
