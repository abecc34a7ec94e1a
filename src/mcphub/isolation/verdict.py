"""From findings and coverage to a verdict that a person can act on. Pure but for reading the case."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from mcphub.isolation.case import Case
from mcphub.isolation.model import Coverage, Finding, LeakClass, Result, Severity, Verdict
from mcphub.isolation.oracle import normal, worked
from mcphub.isolation.probes.token import aware
from mcphub.isolation.surface import Rank
from mcphub.isolation.territory import INSIDE

_QUOTED: Final = 200
_HOST: Final = re.compile(r"[\w.:\[\]-]+")
_ENOUGH: Final = 1 / 3
_ORDER: Final = list(Severity)
_ALIKE: Final = 3  # tools that say the same
_TELLING: Final = 12  # characters of it; less is "OK" or an empty list
_HEADER: Final = re.compile(r"(?:illegal|invalid) header value", re.IGNORECASE)


def judged(case: Case, findings: Sequence[Finding], coverage: Coverage, seconds: float) -> Result:
    """Return the result of a check."""
    subject = case.lab.subject
    worst_first = tuple(sorted(findings, key=lambda f: (_ORDER.index(f.severity), f.leak.value)))
    verdict, safe, reason = _verdict(case, worst_first, coverage)
    return Result(
        id=subject.id,
        version=subject.version,
        verdict=verdict,
        safe_to_share=safe,
        reason=reason,
        findings=worst_first,
        coverage=coverage,
        seconds=round(seconds, 1),
        recommendation=_recommended(case, worst_first, safe),
        identity=_identity(case),
        notes=(*subject.notes, *case.lab.notes, *dict.fromkeys((*case.notes, *_copied(case)))),
    )


def _copied(case: Case) -> list[str]:
    """Return the note of a server that keeps data beside its code."""
    kept = "It keeps data in its package's directory: it was given an own copy."
    return [kept] if case.lab.wrote_package else []


def _verdict(
    case: Case, findings: Sequence[Finding], coverage: Coverage
) -> tuple[Verdict, bool | None, str]:
    doubt = _doubt(case, coverage)
    if findings:
        return _of_findings(findings, doubt)
    if doubt:
        return Verdict.INCONCLUSIVE, None, doubt
    return (
        Verdict.NO_LEAK_SEEN,
        True if case.lab.starts_anew else None,  # a fresh process may show more
        f"No leak was seen in {coverage.calls} calls; {_told(coverage)}.",
    )


def _told(coverage: Coverage) -> str:
    """Return how much was tried; of a server without tools, what was read."""
    if coverage.tools:
        return f"{len(coverage.succeeded)} of {coverage.tools} tools were called with success"
    return (
        f"it has no tools, {coverage.resources} resources and {coverage.prompts} prompts were read"
    )


def _doubt(case: Case, coverage: Coverage) -> str:
    """Return why what was tried is too little to say that there is nothing, or an empty text."""
    if not (coverage.succeeded or coverage.resources or coverage.prompts):
        return f"No call succeeded, so nothing could be seen.{_said(case)}{_real(case)}"
    if _thin(coverage):
        return (
            f"Only {len(coverage.succeeded)} of {coverage.tools} tools could be called with success."
            f"{_said(case)}{_real(case)}"
        )
    if case.lab.starts_anew and not case.control.b:
        return "The run without A failed."
    if coverage.undone:
        return _left(case)
    if coverage.skipped and len(coverage.skipped) * 2 > coverage.tools:
        return "Most tools look destructive and were not called."
    unproven = _alike(case, coverage) or _unproven(case)
    if unproven:
        return unproven
    kept = case.kept_from_writing
    if kept:
        where = ", ".join(filter(None, kept[:3])) or "see its stderr"
        return f"The server could not write where it keeps its data ({where})."
    unmade = _unmade(case, coverage)
    if unmade:
        return (
            f"{unmade[0]} never worked, so nothing was there for {unmade[1]} to show."
            f"{_last(case, unmade[0])}{_real(case)}"
        )
    idle = _idle(case, coverage)
    if idle:
        return (
            f"Most of the tools that may change something did not work ({', '.join(idle[:3])})."
            f"{_last(case, idle[0])}{_real(case)}"
        )
    return ""


def _left(case: Case) -> str:
    """Return what was not done, or was seen and not explained, and what to do about that."""
    if case.budget.undone:
        what = "; ".join(case.budget.undone[:3])
        return f"Not everything was done in the time: {what}. `--budget SECONDS` gives it more."
    what = "; ".join(case.budget.unexplained[:3])
    return f"{what}. Check it again; until that is explained, give each user an instance."


def _alike(case: Case, coverage: Coverage) -> str:
    """Return that most tools said the same without asking any service: a refusal, in whatever words."""
    said: dict[str, set[str]] = {}
    for seen in case.treatment.a:
        if worked(seen) and not seen.egress and seen.call.name in coverage.succeeded:
            said.setdefault(normal(seen.text), set()).add(seen.call.name)
    text, tools = max(said.items(), key=lambda one: len(one[1]), default=("", set[str]()))
    if len(tools) < _ALIKE or len(tools) * 2 <= len(coverage.succeeded) or len(text) < _TELLING:
        return ""
    return f"{len(tools)} of {coverage.tools} tools said the same: {text[:_QUOTED]}{_asked(text)}"


def _asked(said: str) -> str:
    """Return what to give to a server that says so only between the lines."""
    return (
        " A header's value is empty: give the credential with --env."
        if _HEADER.search(said)
        else ""
    )


def _unproven(case: Case) -> str:
    """Return that its requests carried no credential where one was due: with it, whose it is would show."""
    seen = [
        arrival
        for run in (case.treatment, case.control)
        for one in (*run.a, *run.b)
        for arrival in one.egress
    ]
    given = ", ".join(sorted(credential.label for credential in case.lab.disguise.given))
    hollow = next((arrival for arrival in seen if arrival.hollow), None)
    if any(arrival.credentials for arrival in seen) or not (hollow or (seen and given)):
        return ""
    what = "with an empty credential" if hollow else "without a credential"
    unused = f"; {given} went nowhere: is that its name?" if given else "; give it with --env."
    return f"It calls {(hollow or seen[0]).host or 'a service'} {what}{unused}"


def _said(case: Case) -> str:
    """Return what the server refused with most, which tells what it lacks."""
    refused = [seen.text.strip() for seen in case.treatment.a if not worked(seen)]
    said = Counter(text[:_QUOTED] for text in refused if text)
    if not said:
        return ""
    most = said.most_common(1)[0][0]
    return f" Most often it said: {most}{_asked(most)}"


def _real(case: Case) -> str:
    """Return which service could be asked really, where stand-ins were in vain and no credential is needed."""
    failed = [seen for seen in case.treatment.a if not worked(seen)]
    hosts = Counter(arrival.host for seen in failed for arrival in seen.egress)
    if case.lab.disguise.given or case.lab.behind_hub or not hosts:
        return ""
    host = hosts.most_common(1)[0][0].partition(":")[0]
    return f" A stand-in answered for {host}: `--allow-egress {host}` lets it reach the real one."


def _last(case: Case, tool: str) -> str:
    """Return what a tool that never worked said last, which tells what it lacks."""
    said = [seen.text.strip() for seen in case.treatment.a if seen.call.name == tool]
    return f" {tool} said last: {said[-1][:_QUOTED]}" if said and said[-1] else ""


def _of_findings(findings: Sequence[Finding], doubt: str) -> tuple[Verdict, bool | None, str]:
    harmful = [f for f in findings if f.severity is not Severity.LOW]
    if harmful:
        return Verdict.LEAK, False, harmful[0].title
    if doubt:
        return Verdict.LEAK, None, f"{findings[0].title} Whether there is more is open: {doubt}"
    return Verdict.LEAK, True, f"{findings[0].title} Nothing else was seen."


def _idle(case: Case, coverage: Coverage) -> list[str]:
    """Return the tools that may change something and never worked, when they are most of their kind.

    What a client of a service asked it in vain is left out: what it would have changed is there.
    """
    done = {seen.call.name for seen in case.treatment.a if worked(seen)}
    outside = _outside(case)
    elsewhere = outside - done if _is_client(coverage, outside) else set[str]()
    by_rank = {
        rank: {tool.name for tool in case.surface.tools.values() if tool.rank is rank}
        - set(coverage.skipped)
        - elsewhere
        for rank in (Rank.CREATE, Rank.OTHER)
    }
    for due in (by_rank[Rank.CREATE], by_rank[Rank.CREATE] | by_rank[Rank.OTHER]):
        idle = sorted(due - done)
        if len(idle) * 2 > len(due):
            return idle
    return []


def _outside(case: Case) -> set[str]:
    """Return the tools that asked a service."""
    return {seen.call.name for seen in case.treatment.a if seen.egress}


def _is_client(coverage: Coverage, outside: set[str]) -> bool:
    """Tell whether a server is the client of a service: most of its tools ask it."""
    return len(outside & set(coverage.tried)) * 2 > len(coverage.tried)


def _unmade(case: Case, coverage: Coverage) -> tuple[str, str] | None:
    """Return a tool that makes things and never worked, and one that shows them and did.

    What is shown by asking a service is the service's own, where most tools ask it: its users'
    credentials tell them apart there.
    """
    outside = _outside(case)
    called = [case.surface.tools[name] for name in sorted(coverage.tried)]
    client = _is_client(coverage, outside)
    done = set(coverage.succeeded)
    made = {noun for tool in called if tool.makes and tool.name in done for noun in tool.nouns}
    for maker in called:
        if not maker.makes or maker.name in done:
            continue
        for shower in called:
            shows = shower.rank is Rank.OBSERVE and shower.name in done
            remote = shower.name in outside and (maker.name in outside or client)
            if shows and not remote and maker.nouns & shower.nouns - made:
                return maker.name, shower.name
    return None


def _thin(coverage: Coverage) -> bool:
    read = coverage.resources or coverage.prompts
    return coverage.share < _ENOUGH and not (read and not coverage.tools)


def _identity(case: Case) -> str:
    if aware(case):
        return "header"
    chosen = case.identities.get("B")
    return chosen.way if chosen is not None and chosen.way == "signed" else "none"


def _recommended(case: Case, findings: Sequence[Finding], safe: bool | None) -> dict[str, Any]:
    """Return the fields of `mcp_settings.json` that follow from what was seen."""
    if case.lab.behind_hub:
        return {}  # the settings are right, or the hub is wrong
    leaks = {finding.leak for finding in findings}
    patch: dict[str, Any] = {}
    hosts = sorted(
        {
            arrival.host.partition(":")[0]
            for run in (case.treatment, case.control)
            for seen in (*run.a, *run.b)
            for arrival in seen.egress
            if _HOST.fullmatch(arrival.host)
            and not arrival.host.partition(":")[0].endswith("example.com")
            and not arrival.host.startswith(("127.", "localhost"))
        }
    )
    if safe and not case.lab.subject.is_http:
        patch |= {"riskLevel": "low", "isolation": "shared"}
    elif safe:
        patch |= {"riskLevel": "low"}
    elif safe is False:
        patch |= {
            "riskLevel": "critical" if leaks - {LeakClass.HISTORY_CACHE} else "high",
            "requiresUserIsolation": True,
            "isolation": "user",
        }
    if _identity(case) != "none":
        patch |= {"userAware": LeakClass.TOKEN not in leaks}
    slots = _slots(case) if safe is not True else {}
    if slots:
        patch["env"] = slots
    box: dict[str, Any] = {"egress": hosts[:20]} if hosts else {}
    if case.lab.wrote_package:
        box["ownPackage"] = True
    return {**patch, "sandbox": box} if box else patch


def _slots(case: Case) -> dict[str, str]:
    """Return the variables that hold credentials, with slots of each user in their place."""
    found: dict[str, str] = {}
    for name, value in case.lab.subject.env.items():
        text = case.lab.disguise.env.get(name, value)
        for credential in () if "${USER_" in value else case.lab.disguise.given:
            if credential.value in text:
                slot = re.sub(r"\W+", "_", credential.label.removeprefix("env:")).upper()
                text = text.replace(credential.value, f"${{USER_{slot}}}")
                found[name] = text.replace(str(INSIDE), "${USER_HOME}")
    return found
