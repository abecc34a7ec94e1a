"""`Case`: one check under way: what is known, what was seen, how much time is left.

Made by `check`, read and added to by `script` and the probes. Not shared between checks.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random, SystemRandom
from typing import Final

from mcphub.isolation.backends import detect
from mcphub.isolation.behind import HubLab
from mcphub.isolation.budget import Budget
from mcphub.isolation.canaries import Canaries, mint
from mcphub.isolation.handles import Handles
from mcphub.isolation.identity import Identity, claims
from mcphub.isolation.lab import Lab, Running
from mcphub.isolation.model import Call, Finding, Observation
from mcphub.isolation.oracle import READ_ONLY, TOLD, UNWRITABLE, worked
from mcphub.isolation.recipe import Recipe
from mcphub.isolation.remote import RemoteLab
from mcphub.isolation.surface import Rank, Surface
from mcphub.isolation.synthesis import Planted, Words, Writer

_TITLES: Final = ("A", "B")


@dataclass(slots=True)
class Run:
    """What was seen from one start to its end.

    Attributes:
        a, b: Observations of the users, in order; B's are of the fixed script.
        follow: What B found with values that B was shown in this run.
        foreign: What B got with handles of A's that B was not shown; without A, what the same calls get.
        again: What B saw in a new session, after both had left.
    """

    a: list[Observation] = field(default_factory=list)
    b: list[Observation] = field(default_factory=list)
    follow: list[Observation] = field(default_factory=list)
    foreign: list[Observation] = field(default_factory=list)
    again: list[Observation] = field(default_factory=list)


@dataclass(slots=True)
class Case:
    """One check under way.

    Attributes:
        lab: Where the subject runs.
        budget: Its time.
        dice: Order of calls: new for each check, so that no server knows the probe by its order.
        canaries: A's canaries.
        origin: Canary -> the observation of the call that planted it.
        learned: Tool -> recipes that worked.
        failing: Tool -> a recipe that did not.
        reshaped: Tools for which other shapes of the stand-in's answers were tried.
        plain_http: It does not trust the stand-ins' certificates: addresses are given without TLS.
        avoided: Tools that ended the server, or do not answer in time.
        treatment, control: The first run with A, the first one without.
        identities: What each user proves to be on HTTP.
        stderr: What the server said there while A was active.
        names: User -> the name by which it claims to be known.
        claiming: Every call says in `_meta` who calls: the server does nothing without.
        heard: Notifications on B's own session while only A was active.
        findings: Of the probes that ran already.
        step: What is being done.
        open: What ends with the check.
    """

    lab: Lab | HubLab | RemoteLab
    budget: Budget
    progress: Callable[[str], None] = lambda _: None
    dice: Random = field(default_factory=SystemRandom)
    canaries: Canaries[Planted] = field(default_factory=Canaries)
    origin: dict[str, Observation] = field(default_factory=dict)
    learned: dict[str, list[Recipe]] = field(default_factory=dict)
    failing: dict[str, Recipe] = field(default_factory=dict)
    reshaped: set[str] = field(default_factory=set)
    plain_http: bool = False
    avoided: set[str] = field(default_factory=set)
    surface: Surface = field(default_factory=Surface)
    treatment: Run = field(default_factory=Run)
    control: Run = field(default_factory=Run)
    identities: Mapping[str, Identity] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=lambda: {user: mint() for user in _TITLES})
    claiming: bool = False
    notes: list[str] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    step: str = ""
    open: AsyncExitStack = field(default_factory=AsyncExitStack)
    _spare: Running | None = None
    words: Words = field(default_factory=Words.new)

    def __post_init__(self) -> None:
        self.lab.witness.words = self.canaries
        territory = self.lab.territory
        for kind, canary, handle in (
            ("seed", territory.a.word, False),
            ("seed", territory.a.name, True),
            ("outside", territory.outside_word, False),
        ):
            self.canaries.plant(Planted("", "file", kind, handle, path=True), canary)

    def begin(self, step: str) -> None:
        """Tell what is being done from now on."""
        self.step = step
        self.progress(step)

    @property
    def kept_from_writing(self) -> list[str]:
        """Names of A's calls that failed because the server could not write, or "" for its stderr."""
        done = {seen.call.name for seen in self.treatment.a if worked(seen)}
        kept = [
            seen.call.name
            for seen in self.treatment.a
            if seen.call.name not in done and self._unwritable(seen)
        ]
        if any(READ_ONLY.search(line) for line in self.stderr):
            kept.append("")
        return list(dict.fromkeys(kept))

    def _unwritable(self, seen: Observation) -> bool:
        """Tell whether a call failed since the server cannot write; one that reads may be refused for more."""
        tool = self.surface.tools.get(seen.call.name)
        observes = tool is not None and tool.rank is Rank.OBSERVE
        return bool((READ_ONLY if observes else UNWRITABLE).search(seen.text[:TOLD]))

    def start_over(self) -> None:
        """Forget what was seen and learned, because it was seen under wrong conditions."""
        self.treatment, self.control = Run(), Run()
        self.learned, self.failing = {}, {}
        self.reshaped, self.avoided = set(), set()
        self.stderr, self.heard = [], []
        self.budget.undone.clear()
        self.budget.unexplained.clear()

    def writer(self, user: str) -> Writer:
        """Return a composer of arguments that knows no handles yet but the launch line's databases."""
        handles, line = Handles(), self.lab.disguise
        for need in (*detect.databases(line.args, line.env), *self.lab.served):
            handles.know(detect.access(need))
        return Writer(user, self.words, self.lab.territory, self.canaries, handles)

    async def join(self, running: Running, *users: str) -> None:
        """Open sessions, each with the user's identity."""
        if self.claiming:
            running.claims = {user: claims(name) for user, name in self.names.items()}
        for user in users or _TITLES:
            identity = self.identities.get(user)
            await running.join(user, identity.headers if identity else None)

    async def join_anew(self, running: Running) -> None:
        """Give both users sessions in which nothing was asked, so that their request ids are alike."""
        if self.lab.subject.is_http:
            for user in _TITLES:
                running.leave(user)
        await self.join(running)

    async def spare(self) -> Running:
        """Return a process with both users, for probes that do not mind what another one left in it.

        Raises:
            HubError: It cannot be started.
        """
        if self._spare is None or self._spare.dead:
            self._spare = await self.open.enter_async_context(self.lab.start(with_a=True))
        await self.join(self._spare)
        return self._spare

    def renamed(self, calls: Sequence[Call]) -> list[Call]:
        """Return calls with new canaries in the place of the old ones, the same for the same."""
        mapping: dict[str, str] = {}
        text = json.dumps(
            [[call.method, call.name, dict(call.arguments), call.sent] for call in calls]
        )
        for sighting in self.canaries.seen(text):
            if sighting.about.tool:
                fresh = self.canaries.plant(sighting.about)
                mapping[sighting.canary] = fresh
                if sighting.canary in self.origin:
                    self.origin[fresh] = self.origin[sighting.canary]
        for old, new in mapping.items():
            text = text.replace(old, new)
        return [Call(*parts) for parts in json.loads(text)]
