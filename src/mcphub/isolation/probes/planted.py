"""Canaries of A in what B sees: state, files, history, identifiers. A sighting is proof."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from mcphub.isolation.canaries import Sighting
from mcphub.isolation.case import Case
from mcphub.isolation.kinds import PATHS, Kind, parameters
from mcphub.isolation.model import Finding, LeakClass, Observation, Severity
from mcphub.isolation.oracle import excerpt
from mcphub.isolation.recipe import uses_paths
from mcphub.isolation.replay import reproduced, shown
from mcphub.isolation.surface import Rank, Tool
from mcphub.isolation.synthesis import Planted

_SHRINK_S = 25.0
_REMEDY = {
    LeakClass.STATE: "Run an instance for each user: set riskLevel critical or requiresUserIsolation.",
    LeakClass.FILESYSTEM: "Run an instance for each user, with a home of its own.",
    LeakClass.HISTORY_CACHE: "Run an instance for each user.",
    LeakClass.IDENTIFIER: "Run an instance for each user: knowing an id must not be a right.",
}


@dataclass(frozen=True, slots=True)
class _Hit:
    leak: LeakClass
    seen: Observation
    sighting: Sighting[Planted]
    order: int


class PlantedProbe:
    """Implements `Probe`."""

    name = "planted"

    def __init__(self) -> None:
        self._hits: dict[LeakClass, list[_Hit]] = {}

    def applies(self, case: Case) -> bool:  # noqa: ARG002  the seam names it
        """Always."""
        return True

    async def run(self, case: Case) -> list[Finding]:
        """Return one finding for each class, the clearest sighting; `shortened` looks for less."""
        self._hits = _by_class(case)
        return [_finding(case, hits[0]) for hits in self._hits.values()]

    async def shorten(self, case: Case, finding: Finding) -> Finding:
        """Return a finding of `run` with its shortest reproduction, where there is one in time."""
        time = case.budget.slice(_SHRINK_S)
        for hit in self._hits.get(finding.leak, [])[:3]:
            if time.over:
                break
            start = case.origin.get(hit.sighting.canary)
            shows = shown(case, hit.sighting.about)
            trace = await reproduced(case, [start] if start else [], hit.seen, shows)
            if trace:
                seen = excerpt(trace[-1].text, shortest_canary(case, trace))
                title = _title(hit, start)
                return replace(finding, title=title, trace=trace, reproduced=1, seen=seen)
        return finding


def _by_class(case: Case) -> dict[LeakClass, list[_Hit]]:
    """Return the sightings of each class, the clearest first."""
    hits = sorted(_hits(case), key=lambda hit: hit.order)
    content = {hit.leak for hit in hits}
    if content & {LeakClass.STATE, LeakClass.FILESYSTEM, LeakClass.HISTORY_CACHE}:
        hits = [hit for hit in hits if hit.leak is not LeakClass.IDENTIFIER]
    return {leak: of for leak in LeakClass if (of := [hit for hit in hits if hit.leak is leak])}


def _hits(case: Case) -> Iterable[_Hit]:
    run = case.treatment
    shown = "\n".join(seen.all_text for seen in (*run.b, *run.follow)).lower()
    said: list[str] = []
    for seen in (*run.b, *run.follow):
        said.append(_said(seen))
        found = case.canaries.seen(seen.text, but=said)
        if found:
            leak = _class_of(case, seen, found)
            yield from (
                _Hit(leak, seen, sighting, _order(sighting, seen)) for sighting in found[:4]
            )
    for seen in run.foreign:
        said.append(_said(seen))
        for sighting in case.canaries.seen(seen.text, but=said):
            if sighting.canary in shown:
                continue
            leak = _class_of(case, seen, [sighting])
            if leak is LeakClass.STATE:
                leak = LeakClass.IDENTIFIER
            yield _Hit(leak, seen, sighting, 10 + _order(sighting, seen))


def _said(seen: Observation) -> str:
    """Return what B named in a call: what comes back of it, now or later, B may have made itself."""
    return f"{seen.call.name} {dict(seen.call.arguments)}"


def _order(sighting: Sighting[Planted], seen: Observation) -> int:
    """Return how clear a sighting is, the clearest first."""
    return (0 if seen.ok else 2) + (1 if sighting.about.handle else 0)


def _class_of(case: Case, seen: Observation, found: list[Sighting[Planted]]) -> LeakClass:
    tool = case.surface.tools.get(seen.call.name)
    said = f"{seen.call.name} {dict(seen.call.arguments)}"
    territory = case.lab.territory
    named = str(territory.a.directory) in said or str(territory.outside) in said
    by_path = named or (tool is not None and uses_paths(seen.call.arguments, tool))
    given = [sighting for sighting in found if sighting.about.tool]
    kept = [s for s in given if _kept(case, s)]
    if len(kept) < len(given) and not by_path:
        return LeakClass.HISTORY_CACHE  # of calls that keep nothing
    if len(given) < len(found):
        # a file: without a path of B's own, B looks where A has led the server, or where it is by itself
        if by_path or (tool is not None and _takes_paths(tool) and not _led(case)):
            return LeakClass.FILESYSTEM
        return LeakClass.STATE
    if by_path and any(_by_path(case, sighting) for sighting in found):
        return LeakClass.FILESYSTEM
    return LeakClass.STATE


def _by_path(case: Case, sighting: Sighting[Planted]) -> bool:
    """Tell whether A named a path where it gave the word."""
    origin = case.origin.get(sighting.canary)
    tool = case.surface.tools.get(origin.call.name) if origin else None
    if origin is None or tool is None:
        return sighting.about.path
    return uses_paths(origin.call.arguments, tool)


def _takes_paths(tool: Tool) -> bool:
    """Tell whether a tool could have been given a path or a pattern of paths."""
    return any(kind in PATHS or kind is Kind.PATTERN for _, kind, _ in parameters(tool))


def _led(case: Case) -> bool:
    """Tell whether A gave its directory itself to a tool that changes something."""
    own, tools = case.lab.territory.a.directory, case.surface.tools
    names = {
        str(own),
        own.name,
        *(str(own.relative_to(r)) for r in case.lab.territory.roots if own.is_relative_to(r)),
    }
    return any(
        seen.ok
        and seen.call.name in tools
        and tools[seen.call.name].rank is not Rank.OBSERVE
        and not names.isdisjoint(map(str, seen.call.arguments.values()))
        for seen in case.treatment.a
    )


def _kept(case: Case, sighting: Sighting[Planted]) -> bool:
    """Tell whether a server was asked to keep the word: by its own call, or by one that passed it on."""
    origin = case.origin.get(sighting.canary)
    if not sighting.about.reads and (origin is None or origin.ok):
        return True
    return any(
        seen.ok
        and seen is not origin
        and seen.call.name in case.surface.tools
        and case.surface.tools[seen.call.name].rank is not Rank.OBSERVE
        and sighting.canary in str(dict(seen.call.arguments))
        for seen in case.treatment.a
    )


def _finding(case: Case, hit: _Hit) -> Finding:
    origin = case.origin.get(hit.sighting.canary)
    content = not hit.sighting.about.handle
    return Finding(
        leak=hit.leak,
        severity=Severity.HIGH if content else Severity.MEDIUM,
        title=_title(hit, origin),
        trace=tuple(seen for seen in (origin, hit.seen) if seen is not None),
        seen=excerpt(hit.sighting.around, hit.sighting.canary),
        control="Without A's activity the canary does not exist.",
        confidence=1.0,
        remedy=_REMEDY.get(hit.leak, ""),
    )


def shortest_canary(case: Case, trace: tuple[Observation, ...]) -> str:
    """Return the canary that the last observation of a trace shows."""
    last = trace[-1]
    seen = case.canaries.seen(last.text, but=[str(dict(last.call.arguments))])
    return seen[0].canary if seen else ""


def _title(hit: _Hit, origin: Observation | None) -> str:
    what = hit.seen.call.name or hit.seen.call.method
    about = hit.sighting.about
    if about.kind == "outside":
        return f"B reads a file outside of the declared directories with {what}."
    if about.kind == "seed" or origin is None:
        return f"B reads a private file of A with {what}."
    if hit.leak is LeakClass.HISTORY_CACHE:
        return f"B learns from {what} that A called {origin.call.name}, and with what."
    if hit.leak is LeakClass.IDENTIFIER:
        return (
            f"B gets with {what} what A gave to {origin.call.name}, by an id that B was not shown."
        )
    return f"B sees with {what} what A gave to {origin.call.name}."
