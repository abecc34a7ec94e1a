"""A caller that only says that it is A, and one on A's session: B must get nothing by that.

A plants in a process of its own part. B looks as itself, then says to be A, in `_meta` and in headers
without proof, and at last uses A's session. What only the claim shows is A's by a name that anybody knows.
"""

from collections.abc import Sequence
from typing import Final

from mcphub.errors import HubError
from mcphub.isolation.budget import Slice
from mcphub.isolation.case import Case, Run
from mcphub.isolation.channel import HttpChannel
from mcphub.isolation.identity import claim_headers, claims
from mcphub.isolation.lab import Running
from mcphub.isolation.model import Arrangement, Call, Finding, LeakClass, Observation, Severity
from mcphub.isolation.oracle import excerpt
from mcphub.isolation.probes.token import aware
from mcphub.isolation.script import Script
from mcphub.isolation.surface import Rank

_MOST_S: Final = 30.0
_TOOLS: Final = 10
_SESSIONS: Final = (
    "One session for both users shows B what A did: each user needs a session of its own."
)
_REMEDY: Final = (
    "Let only the hub reach it, and use `userAware`: the hub sends who the user is and strips what clients "
    "claim. Or run an instance for each user."
)


class ClaimsProbe:
    """Implements `Probe`."""

    name = "claims"

    def applies(self, case: Case) -> bool:
        """When the users were kept apart so far, and something could be called."""
        known = {finding.leak for finding in case.findings}
        return bool(case.learned) and not known & {LeakClass.STATE, LeakClass.IDENTIFIER}

    async def run(self, case: Case) -> list[Finding]:
        """Return at most one finding."""
        slow = {seen.call.name for seen in case.treatment.a if seen.slow}
        changing = [n for n in case.learned if case.surface.tools[n].rank is not Rank.OBSERVE]
        names = ([name for name in changing if name not in slow] or changing[:1])[:_TOOLS]
        calls = _looks(case)
        if not names or not calls:
            return []
        try:
            running = await case.spare()
            await case.join_anew(running)
        except HubError:
            return []
        time = case.budget.slice(_MOST_S, 1 / 2)
        running.claims = {user: claims(name) for user, name in case.names.items()}
        try:
            found = await _tried(case, running, names, calls, time)
        except HubError:
            found = None
        running.claims = {}
        return [] if found is None else [found]


async def _tried(
    case: Case, running: Running, names: Sequence[str], calls: Sequence[Call], time: Slice
) -> Finding | None:
    await Script(case, running).plant(Run(), only=names)
    own = await _look(running, calls)
    found = None if time.over else await _claimed(case, running, calls, own)
    if found is None and case.lab.subject.is_http and not time.over:
        found = await _on_session_of_a(case, running, calls, own)
    if found is None and time.over:
        case.budget.leave("claims to be another user were not tried to the end")
    return found


def _looks(case: Case) -> list[Call]:
    """Return B's calls that show something."""
    tools = case.surface.tools
    quick = [one for one in case.treatment.b if not one.slow]
    calls = [
        one.call
        for one in quick or case.treatment.b
        if one.ok and not (one.call.name in tools and tools[one.call.name].rank is Rank.CREATE)
    ]
    return calls[: 2 * _TOOLS]


async def _look(running: Running, calls: Sequence[Call]) -> list[Observation]:
    return [await running.call("B", call) for call in calls]


async def _claimed(
    case: Case, running: Running, calls: Sequence[Call], own: Sequence[Observation]
) -> Finding | None:
    """Look as B that says to be A."""
    name = case.names["A"]
    running.claims["B"] = claims(name)
    if case.lab.subject.is_http:
        identity = case.identities.get("B")
        headers = dict(identity.headers) if identity is not None else {}
        running.leave("B")
        await running.join("B", {**headers, **claim_headers(name)})
    seen = await _look(running, calls)
    running.claims["B"] = claims(case.names["B"])
    if case.lab.subject.is_http:
        running.leave("B")
        await case.join(running, "B")
    return _finding(case, own, seen, "by saying that it is A, without proof", Arrangement.SHARED)


async def _on_session_of_a(
    case: Case, running: Running, calls: Sequence[Call], own: Sequence[Observation]
) -> Finding | None:
    """Look as B, with B's identity, on A's session; only a note where nobody has to prove anything."""
    a, b = running.channel("A"), running.channel("B")
    if not (isinstance(a, HttpChannel) and isinstance(b, HttpChannel) and a.session_id):
        return None
    mine, b.session_id = b.session_id, a.session_id
    seen = await _look(running, calls)
    b.session_id = mine
    found = _finding(case, own, seen, "on A's session, with B's identity", Arrangement.ONE_SESSION)
    if found is None or await _must_prove(case, running):
        return found
    case.notes.append(_SESSIONS)
    return None


async def _must_prove(case: Case, running: Running) -> bool:
    """Tell whether callers have to prove who they are."""
    if aware(case) or case.lab.proves:
        return True
    running.leave("B")
    try:
        await running.join("B", {})
        refused = not (await running.call("B", Call("tools/list"))).ok
    except HubError:
        refused = True
    running.leave("B")
    await case.join(running, "B")
    return refused


def _finding(
    case: Case,
    own: Sequence[Observation],
    seen: Sequence[Observation],
    how: str,
    arrangement: Arrangement,
) -> Finding | None:
    """Return the first content of A's that B got, and did not get as itself."""
    before = "\n".join(one.text for one in own)
    for one in seen:
        told = [before, str(dict(one.call.arguments)), one.call.name]
        for sighting in case.canaries.seen(one.text, but=told):
            origin = case.origin.get(sighting.canary)
            if origin is None or origin.user != "A":
                continue
            what = one.call.name or one.call.method
            return Finding(
                leak=LeakClass.IDENTIFIER,
                severity=Severity.HIGH,
                title=f"B gets with {what} what A gave to {origin.call.name}, {how}.",
                trace=(origin, one),
                seen=excerpt(sighting.around, sighting.canary),
                control="As itself, B does not get it.",
                arrangement=arrangement,
                reproduced=1,
                remedy=_REMEDY,
            )
    return None
