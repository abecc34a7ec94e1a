"""One check from its start to its result: rehearse with A, run without A, let the probes look.

Above it: the command line and the manifest, which make subjects; below: `lab`, `script`, `probes`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

from mcphub.catalog.older_sdk import needs_older_sdk
from mcphub.errors import HubError, InvalidInput, UpstreamFailed
from mcphub.isolation import identity
from mcphub.isolation.backends import detect
from mcphub.isolation.budget import USUAL_S, Budget
from mcphub.isolation.case import Case
from mcphub.isolation.discovery import discover
from mcphub.isolation.lab import Lab, Running, Sandbox
from mcphub.isolation.model import Call, Coverage, Result, Verdict
from mcphub.isolation.oracle import TOLD, UNWRITABLE, refused_endpoints, worked
from mcphub.isolation.probes import Probe
from mcphub.isolation.probes.cache import CacheProbe
from mcphub.isolation.probes.claims import ClaimsProbe
from mcphub.isolation.probes.handles import HandleProbe
from mcphub.isolation.probes.interference import InterferenceProbe
from mcphub.isolation.probes.notifications import NotificationProbe
from mcphub.isolation.probes.openness import OpennessProbe
from mcphub.isolation.probes.outgoing import OutgoingProbe
from mcphub.isolation.probes.planted import PlantedProbe
from mcphub.isolation.probes.race import RaceProbe
from mcphub.isolation.probes.reconnect import ReconnectProbe
from mcphub.isolation.probes.secrets import SecretProbe
from mcphub.isolation.probes.token import TokenProbe
from mcphub.isolation.script import Script, settle
from mcphub.isolation.subject import Subject
from mcphub.isolation.surface import Rank, Surface
from mcphub.isolation.verdict import judged

_MOST_STARTS: Final = 3
_MOST_CONDITIONS: Final = 2  # an own package and services; a server could ask for more without end
_ASKED: Final = 40
_SHORTEN_S: Final = 45.0


def reading(planted: PlantedProbe) -> list[Probe]:
    """Return the probes that only read what was seen: they run however little time there was."""
    return [TokenProbe(), SecretProbe(), NotificationProbe(), planted, ReconnectProbe()]


def acting() -> list[Probe]:
    """Return the probes that call the server again, the most telling first."""
    return [
        OutgoingProbe(),
        InterferenceProbe(),
        HandleProbe(),
        CacheProbe(),
        OpennessProbe(),
        ClaimsProbe(),
        RaceProbe(),
    ]


@dataclass(frozen=True, slots=True)
class Options:
    """How a check is made.

    Attributes:
        real_egress: Hosts that the server may really reach; without them everything is stand-ins.
        budget_s: Seconds after which it ends, with what was seen until then.
    """

    real_egress: tuple[str, ...] = ()
    budget_s: float = USUAL_S


async def check(
    subject: Subject,
    sandbox: Sandbox,
    directory: Path,
    *,
    uid: int,
    options: Options = Options(),
    progress: Callable[[str], None] = lambda _: None,
) -> Result:
    """Check one server; never raises for what the server does.

    Args:
        subject: What is checked.
        sandbox: Starts it.
        directory: Private, empty directory; what is left in it is worthless.
        uid: Kernel uid of what the sandbox starts.
        options: How.
        progress: Told each step in a few words.
    """
    began, budget = monotonic(), Budget(options.budget_s)
    notes: list[str] = []
    try:
        async with Lab(
            subject, sandbox, directory, uid=uid, real_egress=options.real_egress
        ) as lab:
            case = Case(lab, budget, progress, notes=notes)
            return await checked(case, began)
    except HubError as error:
        wanted = needs_older_sdk(error.message) and not subject.older_sdk
        older = " It may need an older SDK: `mcp<2` beside it." if wanted else ""
        return Result(
            id=subject.id,
            version=subject.version,
            verdict=Verdict.INCONCLUSIVE,
            safe_to_share=None,
            reason=f"It could not be started: {error.message} {error.hint}{older}".strip(),
            seconds=round(monotonic() - began, 1),
            notes=(*subject.notes, *dict.fromkeys(notes)),
        )


async def checked(case: Case, began: float) -> Result:
    """Run both parts and the probes of a case whose lab is open. Raises HubError when nothing starts."""
    ran: list[str] = []
    planted = PlantedProbe()
    async with case.open:
        async with _in_time(case):
            await _rehearse(case)
            if case.lab.starts_anew:
                case.begin("B alone")
                await _alone(case)
        for probe in reading(planted):
            await _run(case, probe, ran)
        waiting = acting()
        async with _in_time(case):
            while waiting:
                await _run(case, waiting[0], ran)
                waiting.pop(0)
        for probe in waiting[1:]:
            if probe.applies(case):
                case.budget.leave(f"the probe {probe.name} did not run")
        await _shorten(case, planted)
    return judged(case, case.findings, _coverage(case, ran), monotonic() - began)


@asynccontextmanager
async def _in_time(case: Case) -> AsyncIterator[None]:
    """End what is done inside when the time is over, and note it."""
    try:
        async with asyncio.timeout(case.budget.left):
            yield
    except TimeoutError:
        case.budget.leave(f"the time was over during: {case.step}")


async def _run(case: Case, probe: Probe, ran: list[str]) -> None:
    if probe.applies(case):
        case.begin(f"probe: {probe.name}")
        case.findings += await probe.run(case)
        ran.append(probe.name)


async def _shorten(case: Case, planted: PlantedProbe) -> None:
    """Look for the shortest traces of what was found; the findings stand without."""
    if not case.lab.starts_anew:
        return
    case.begin("shortest traces")
    time = case.budget.slice(_SHORTEN_S)
    for index, finding in enumerate(case.findings):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(time.left):
                case.findings[index] = await planted.shorten(case, finding)


async def _rehearse(case: Case) -> None:
    """Run A and then B in a first process; again under the conditions that it turns out to need."""
    for changes in range(_MOST_CONDITIONS, -1, -1):
        try:
            met = await _rehearsed(case, adapt=changes > 0)
        except UpstreamFailed as failure:
            if not (changes and await _adapted(case, f"{failure.message} {failure.hint}")):
                raise
            met = False
        except InvalidInput as refusal:
            if not case.lab.close_package():
                raise
            case.notes.append(
                f"It writes into its package's directory. {refusal.message} "
                "Tell it by its settings or its working directory where to write."
            )
            met = False
        if met:
            break
        case.start_over()


async def _rehearsed(case: Case, *, adapt: bool) -> bool:
    """Start it, let A explore and B look; again without a call that ended it.

    With `adapt` returns False as soon as A's calls show that it needs other conditions, which the next
    start has.
    """
    for attempt in range(_MOST_STARTS):
        case.begin("starting")
        run = case.treatment
        async with case.lab.start(with_a=True) as running:
            await _joined(case, running)
            case.surface = await discover(running, "A")
            script = Script(case, running)
            case.begin(f"A tries {len(case.surface.tools)} tools")
            before = running.channel("B").notifications.mark()
            await script.explore(run)
            if not case.learned and not case.claiming and not running.dead:
                case.claiming = True  # it may want to be told who calls
                await case.join(running)
                await script.explore(run)
                case.claiming = bool(case.learned)
            if case.lab.subject.is_http:
                case.heard += running.channel("B").notifications.since(before)
            if running.dead and attempt + 1 < _MOST_STARTS:
                ended = run.a[-1].call.name if run.a else ""
                case.notes.append(f"The server ended during a call of {ended}.")
                case.avoided.add(ended)
                run.a.clear()
                continue
            case.stderr += running.stderr
            if adapt and await _adapted(case):
                return False
            await settle()
            case.begin("B looks around")
            await script.look(run.b)
            await script.follow(run)
            await script.trespass(run)
            if case.lab.subject.is_http and not running.dead:
                case.begin("B comes again")
                await _again(case, running)
        break
    return True


async def _adapted(case: Case, failure: str = "") -> bool:
    """Change what the next start finds, by what failed; returns whether that is anything new.

    A server that cannot write gets an own copy of its package; one that calls a service on this machine
    which nobody named finds the stand-in there, or a database.
    """
    changed = bool(UNWRITABLE.search(failure) or case.kept_from_writing) and case.lab.open_package()
    refused = [seen.text[:TOLD] for seen in case.treatment.a if not worked(seen)]
    told = [failure, *refused, *case.stderr]
    for host, port in refused_endpoints(told):
        if not detect.is_usual(port):
            changed |= case.lab.stand_in(host, port)
    for kind in detect.missed(told):
        changed |= await case.lab.serve(kind)
    return changed


async def _again(case: Case, running: Running) -> None:
    """End A's session, and let B look in a new one.

    B's first session stays open, so that it is A's place that may be given to the next.
    """
    running.leave("A")
    await settle()
    first = running.part("B")
    tools = case.surface.tools
    makers = {name for name, tool in tools.items() if tool.rank is Rank.CREATE}
    like = [seen for seen in case.treatment.b if seen.ok and seen.call.name not in makers]
    try:
        await case.join(running, "B")
        await Script(case, running).repeat(case.treatment.again, like, what="in a new session")
    except HubError as error:
        case.budget.leave(f"B's second session was refused: {error.message}")
    finally:
        first.close()


async def _joined(case: Case, running: Running) -> None:
    """Open both users' sessions with the first identity that the server takes."""
    if not case.lab.subject.is_http or case.lab.proves:
        await case.join(running)
        return
    known = case.lab.disguise.credentials
    ways = {user: identity.attempts(user, name, known) for user, name in case.names.items()}
    problem: UpstreamFailed | None = None
    for index in range(len(ways["A"])):
        case.identities = {user: ways[user][index] for user in ways}
        try:
            await case.join(running)
            tools = await discover(running, "A")
            if not (tools.tools or tools.resources or tools.templates or tools.prompts):
                raise UpstreamFailed("The server lists no tools, resources or prompts.")
        except UpstreamFailed as error:
            problem = problem or error
            for user in ways:
                running.leave(user)
            continue
        await _scoped(case, running, tools, index)
        for user, chosen in case.identities.items():
            if chosen.sentinel:
                case.lab.secrets.plant(f"user:{user}", chosen.sentinel)
        return
    case.identities = {}
    raise problem or UpstreamFailed("The server takes no session.")


async def _scoped(case: Case, running: Running, surface: Surface, index: int) -> None:
    """Ask for the scopes that refusals name, where the users' claims are signed."""
    if case.identities["A"].way != "signed":
        return
    wanted: list[str] = []
    for name in list(surface.tools)[:_ASKED]:
        refused = await running.call("A", Call("tools/call", surface.tools[name].wire_name, {}))
        wanted += identity.scopes_in("" if refused.ok else refused.text)
    if not wanted:
        return
    known = case.lab.disguise.credentials
    for user in ("A", "B"):
        running.leave(user)
    scopes = sorted(set(wanted))
    case.identities = {
        user: identity.attempts(user, name, known, scopes)[index]
        for user, name in case.names.items()
    }
    await case.join(running)


async def _alone(case: Case) -> None:
    """Run B's part in a fresh process without A."""
    run = case.control
    try:
        async with case.lab.start(with_a=False) as running:
            await case.join(running)
            script = Script(case, running)
            await script.repeat(run.b, case.treatment.b)
            theirs = [seen for seen in case.treatment.foreign if worked(seen)]
            await script.repeat(run.foreign, theirs, what="alone with A's handles")
    except HubError as error:
        case.notes.append(f"The run without A failed: {error.message}")


def _coverage(case: Case, ran: list[str]) -> Coverage:
    runs = (case.treatment, case.control)
    seen = [o for run in runs for o in (*run.a, *run.b, *run.follow, *run.foreign)]
    tools = [o for o in seen if o.call.method == "tools/call"]
    return Coverage(
        tools=len(case.surface.tools),
        tried=tuple(sorted({o.call.name for o in tools} & case.surface.tools.keys())),
        succeeded=tuple(sorted({o.call.name for o in tools if worked(o)})),
        skipped=case.surface.skipped,
        resources=len({o.call.name for o in seen if o.ok and o.call.method == "resources/read"}),
        prompts=len({o.call.name for o in seen if o.ok and o.call.method == "prompts/get"}),
        calls=case.lab.calls,
        starts=case.lab.starts,
        probes=tuple(ran),
        undone=(*case.budget.undone, *case.budget.unexplained),
    )
