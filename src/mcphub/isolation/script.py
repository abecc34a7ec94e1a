"""What the users do.

A tries everything and plants. B does the same things with plain words, looks at everything, follows
what it is shown, and at last tries what it should not know. A's first run is also where recipes are learned; every later run repeats what worked.
"""

import asyncio
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Final

from mcphub.isolation import dialects, samples
from mcphub.isolation.budget import Slice
from mcphub.isolation.case import Case, Run
from mcphub.isolation.discovery import LISTS
from mcphub.isolation.kinds import PATHS, Kind
from mcphub.isolation.lab import Running
from mcphub.isolation.model import Call, Observation
from mcphub.isolation.oracle import (
    PAUSE_S,
    RATE_LIMITED,
    TOLD,
    missing,
    worked,
)
from mcphub.isolation.recipe import (
    Recipe,
    about,
    choices,
    corrected,
    handle_parameters,
    language,
    recipes,
    spoken,
    tongue,
    typed,
)
from mcphub.isolation.surface import (
    Rank,
    Tool,
    looks_destructive,
    names_of,
)
from mcphub.isolation.synthesis import Writer

_RESOURCES: Final = 20
_PROMPTS: Final = 6
_FOLLOWED: Final = 3
_FOREIGN: Final = 7
_MORE: Final = range(1, _FOREIGN)
_EXPLORE_S: Final = 30.0
_LOOK_S: Final = 25.0
_FOLLOW_S: Final = 10.0
_TRESPASS_S: Final = 20.0
_TOOL_S: Final = 3.0  # for the further ways of one tool, however many tools there are
_TELLING: Final = 2  # of these
_LATER: Final = 3  # handles that are tried where a tool failed without
_ROUNDS: Final = 3  # in which a tool's refusals name what is missing
_PAUSES: Final = 12  # after refusals for too many calls


def ordered(case: Case) -> list[Tool]:
    """Return the tools that are called: creators first, observers last, shuffled within."""
    usable = [tool for tool in case.surface.tools.values() if not tool.destructive]
    return sorted(usable, key=lambda tool: (tool.rank, case.dice.random()))


class Script:
    """Performs the users' parts on a started server.

    Args:
        case: The check.
        running: The server, both users joined.
    """

    def __init__(self, case: Case, running: Running) -> None:
        self._case = case
        self._running = running
        self._writers = {user: case.writer(user) for user in ("A", "B")}
        self._pauses = _PAUSES
        self._too_fast = False

    async def explore(self, run: Run) -> None:
        """Let A try every tool in several ways, keep what works, and plant."""
        time = self._case.budget.slice(_EXPLORE_S, 1 / 3)
        writer = self._writers["A"]
        tools = ordered(self._case)
        offered = self._case.surface.capabilities.get("resources")
        if isinstance(offered, dict) and offered.get("subscribe"):
            for uri in self._case.surface.resources[:_RESOURCES]:
                await self._running.raw("A", "resources/subscribe", {"uri": uri})
        for number, tool in enumerate(tools):
            ways = recipes(tool, "A")
            if not await self._try(
                run, writer, tool, ways, time.part(len(tools) - number, _TOOL_S)
            ):
                break
            if time.over:
                uncalled = ", ".join(tool.name for tool in tools[number + 1 :])
                if uncalled:
                    self._case.budget.leave(f"A did not call: {uncalled}")
                break
        early = set(self._case.learned)
        for tool in tools:
            if tool.name in self._case.learned or tool.name in self._case.avoided:
                continue
            if time.over or not await self._other_ways(run, writer, tool, time):
                break
        await self._after_what_came_late(run, writer, tools, early, time)
        await self._handles_for_creators(run, tools, time)

    async def plant(self, run: Run, only: Sequence[str] | None = None) -> None:
        """Let A do again what worked, with new canaries."""
        writer = self._writers["A"]
        for tool in ordered(self._case):
            if only is not None and tool.name not in only:
                continue
            for recipe in self._case.learned.get(tool.name, []):
                observation = await self._perform(writer, tool, recipe)
                run.a.append(observation)
                if self._running.dead:
                    return

    async def repeat(
        self, seen: list[Observation], like: Sequence[Observation], what: str = "alone"
    ) -> None:
        """Let B make exactly the calls of an earlier run in their order.

        Args:
            seen: Where the observations go.
            like: The earlier run.
            what: Which repetition it is, for what is left undone.
        """
        time = self._case.budget.slice(_LOOK_S, 1 / 2)
        for number, old in enumerate(like):
            if time.over:
                self._case.budget.leave(f"B made {number} of {len(like)} calls {what}")
            if time.over or self._running.dead:
                return
            if not old.timed_out:  # nothing would be compared with it
                seen.append(await self._call("B", old.call))

    async def look(self, seen: list[Observation]) -> None:
        """Let B do its fixed part."""
        time = self._case.budget.slice(_LOOK_S, 1 / 2)
        calls: Iterable[tuple[Tool, Recipe]] = self._plain_part()
        listed = False
        for tool, recipe in calls:
            if not listed and tool.rank is not Rank.OBSERVE:
                seen += await self._lists_and_resources("B")
                listed = True
            if time.over:
                done = {one.call.name for one in seen}
                done |= self._case.avoided
                missing = [t.name for t in ordered(self._case) if t.name not in done]
                if missing:
                    self._case.budget.leave(f"B did not call: {', '.join(sorted(missing))}")
                break
            seen.append(await self._perform(self._writers["B"], tool, recipe))
            if self._running.dead:
                return
        if not listed:
            seen += await self._lists_and_resources("B")

    async def follow(self, run: Run) -> None:
        """Let B use what it was shown: ids, names and paths of its own answers."""
        time = self._case.budget.slice(_FOLLOW_S, 1 / 4)
        writer = self._writers["B"]
        for tool in self._with_handles():
            for parameter, _ in handle_parameters(tool)[:2]:
                shown = [
                    value
                    for value in writer.handles.fitting(parameter, tool.name)
                    if self._case.canaries.seen(value) or self._case.words.plain not in value
                ]
                for value in shown[:_FOLLOWED]:
                    if time.over or self._running.dead:
                        return
                    fixed = {parameter: typed(tool, parameter, value)}
                    recipe = self._worked(tool, fixed)
                    run.follow.append(await self._perform(writer, tool, recipe))

    async def trespass(self, run: Run) -> None:
        """Let B use what only A was shown, and paths that B has no business with."""
        time = self._case.budget.slice(_TRESPASS_S, 1 / 3)
        writer, foreign = self._writers["B"], self._writers["A"].handles
        territory = self._case.lab.territory
        # the roots first: what B has named itself proves nothing when it shows up later
        roots = list(map(str, territory.roots[:2]))
        directories = [*roots, str(territory.a.directory)]
        made = self._paths_of(run)
        wanted: list[tuple[Tool, str, list[str]]] = []
        for tool in reversed(self._with_handles(every=True)):
            theirs = territory.a.file(samples.extension_of(about(tool)))
            files = [str(theirs), str(territory.outside)]
            for parameter, kind in handle_parameters(tool)[:2]:
                if kind in PATHS:
                    values = (
                        [*roots, *files[:1], *made[:3], *files[1:], *directories]
                        if tool.rank is not Rank.CREATE
                        else directories
                    )
                else:
                    values = foreign.fitting(parameter, tool.name)[:2] + self._names_for(parameter)
                    if kind is Kind.URL:  # whoever fetches an address may read files by it
                        values = [f"file://{file}" for file in files] + values
                wanted.append((tool, parameter, list(dict.fromkeys(values))[:_FOREIGN]))
        wanted += self._reading(territory.a.file(), territory.outside)
        # every tool once, then every tool again: a short time still says something of each
        looking = [one for one in wanted if one[0].rank is Rank.OBSERVE]
        others = [one for one in wanted if one[0].rank is not Rank.OBSERVE]
        for turns, among in ((range(1), wanted), (_MORE, looking), (_MORE, others)):
            for turn, (tool, parameter, values) in itertools.product(turns, among):
                if turn >= len(values):
                    continue
                if time.over and turn < _TELLING:
                    self._case.budget.leave("B tried A's handles and paths with some tools only")
                if time.over or self._running.dead:
                    return
                fixed = {parameter: typed(tool, parameter, values[turn])}
                run.foreign.append(await self._perform(writer, tool, self._worked(tool, fixed)))

    def _reading(self, *files: PurePosixPath) -> list[tuple[Tool, str, list[str]]]:
        """Return the statements with which B reads files where a tool speaks a language."""
        found: list[tuple[Tool, str, list[str]]] = []
        for tool in ordered(self._case):
            parameter = spoken(tool)
            if parameter is None or tool.name in self._case.avoided:
                continue
            name, kind = parameter
            told = [
                dialects.reading(kind, tongue(tool) or about(tool), str(file)) for file in files
            ]
            found.append((tool, name, [text for text in told if text]))
        return found

    async def _after_what_came_late(
        self, run: Run, writer: Writer, tools: Sequence[Tool], early: set[str], time: Slice
    ) -> None:
        """Try again what failed before a tool worked that others need: one that connects or opens."""
        late = [tool for tool in tools if tool.name in self._case.learned.keys() - early]
        if all(tool.rank is Rank.OBSERVE for tool in late):
            return
        for tool in tools:
            if tool in late or (tool.name in early and not language(tool)):
                continue
            if tool.name in self._case.avoided or time.over or self._running.dead:
                continue
            if not await self._try(run, writer, tool, recipes(tool, "A"), time):
                return

    async def _try(
        self, run: Run, writer: Writer, tool: Tool, ways: Sequence[Recipe], time: Slice
    ) -> bool:
        """Try recipes of one tool, the first one always; returns whether to go on with the next."""
        case = self._case
        template = language(tool) is not None
        for number, recipe in enumerate(ways):
            if tool.name in case.avoided:
                return True
            if number and time.over:
                return True
            observation = await self._perform(writer, tool, recipe)
            reshapes = tool.name not in case.reshaped and not observation.timed_out
            if not worked(observation) and observation.egress and reshapes:
                case.reshaped.add(tool.name)
                observation = await self._reshaped(run, writer, tool, recipe, observation)
            run.a.append(observation)
            if observation.died:
                case.avoided.add(tool.name)
                return False
            if observation.timed_out and not template:
                case.avoided.add(tool.name)
            self._keep(tool, recipe, observation)
            if self._too_fast and number:
                break  # it asks its service too often by itself
            known = case.learned.get(tool.name, [])
            if not template and known and (recipe.optional or len(known) >= 3):
                break
            if known and not recipe.fixed and not tool.schema.get("properties"):
                break
        return True

    def _keep(self, tool: Tool, recipe: Recipe, observation: Observation) -> None:
        """Keep a recipe that worked, or else the one that got furthest."""
        if worked(observation):
            self._case.learned.setdefault(tool.name, []).append(recipe)
        elif observation.egress:
            self._case.failing[tool.name] = recipe
        else:
            self._case.failing.setdefault(tool.name, recipe)

    async def _reshaped(
        self, run: Run, writer: Writer, tool: Tool, recipe: Recipe, failed: Observation
    ) -> Observation:
        """Try again with other shapes of the stand-in's answers, which may be what it failed on."""
        for _ in range(2):
            run.a.append(failed)
            self._case.lab.witness.reshape(failed.egress)
            again = await self._perform(writer, tool, recipe)
            if worked(again) or not again.egress or again.timed_out:
                return again
            failed = again
        self._case.lab.witness.reshape(failed.egress)
        return failed

    async def _handles_for_creators(self, run: Run, tools: Sequence[Tool], time: Slice) -> None:
        """Let A's changing tools act on what exists: a choice among things listed is a change too."""
        for tool in tools:
            if tool.rank is Rank.OBSERVE or tool.name in self._case.avoided or language(tool):
                continue
            if tool.name not in self._case.learned or not handle_parameters(tool):
                continue
            base = self._case.learned[tool.name][0]
            if base.handles >= 0:
                continue
            for choice, index in itertools.product(range(choices(tool)), range(2)):
                if time.over or self._running.dead:
                    return
                recipe = replace(base, choice=choice, handles=index, optional=True)
                observation = await self._perform(self._writers["A"], tool, recipe)
                run.a.append(observation)
                if observation.ok:
                    self._case.learned[tool.name].append(recipe)

    async def _other_ways(self, run: Run, writer: Writer, tool: Tool, time: Slice) -> bool:
        """Try a tool that never worked in what earlier answers and its refusals tell; as `_try`."""
        base = Recipe(tool.name)
        ways = [replace(base, handles=index) for index in range(_LATER)]
        ways += [replace(base, handles=0, optional=True), *self._hinted(run, tool)]
        refused = [seen.text[:TOLD] for seen in run.a if seen.call.name == tool.name]
        ways += corrected(tool, refused)
        return await self._try(run, writer, tool, ways, time) and await self._completed(
            run, writer, tool, time
        )

    async def _completed(self, run: Run, writer: Writer, tool: Tool, time: Slice) -> bool:
        """Give what the tool's refusals say is missing, until they name nothing new."""
        given: tuple[str, ...] = ()
        for _ in range(_ROUNDS):
            if tool.name in self._case.learned:
                break
            wanted = missing(seen.text for seen in run.a if seen.call.name == tool.name)
            if wanted == given:
                break
            given = wanted
            base = Recipe(tool.name, members=given)
            ways = [base, replace(base, example=True, handles=0)]
            if not await self._try(run, writer, tool, ways, time):
                return False
        return True

    def _hinted(self, run: Run, tool: Tool) -> list[Recipe]:
        """Return recipes with values that the tool's refusals or description name in quotes."""
        refused = [seen.text for seen in run.a if seen.call.name == tool.name and not seen.ok]
        handles = self._case.writer("A").handles
        handles.learn("\n".join(refused[-2:]))
        quoted = [value for value in handles.quoted() if not looks_destructive(value)]
        parameters = [name for name, _ in handle_parameters(tool)]
        return [
            Recipe(tool.name, fixed={name: value})
            for name in parameters[:2]
            for value in quoted[:2]
            if value != name
        ]

    async def _perform(self, writer: Writer, tool: Tool, recipe: Recipe) -> Observation:
        writer.planted.clear()
        call = Call("tools/call", tool.name, writer.compose(tool, recipe))
        planted = list(writer.planted)
        observation = await self._call(writer.user, call)
        for canary in planted:
            self._case.origin[canary] = observation
        if worked(observation):
            # what worked as a value once may do so again: the file that was just made
            writer.handles.learn(json.dumps(call.arguments))
            writer.handles.learn(observation.text, tool.words[-1] if tool.words else "")
            writer.handles.learn(json.dumps(_renamed(tool, observation)))
        return observation

    async def _call(self, user: str, call: Call) -> Observation:
        """Make a call; a moment later where the one before was refused as one of too many."""
        if self._too_fast and self._pauses:
            self._pauses -= 1
            await asyncio.sleep(PAUSE_S)
        seen = await self._running.call(user, call)
        self._too_fast = not seen.ok and bool(RATE_LIMITED.search(seen.text[:TOLD]))
        return seen

    def _plain_part(self) -> Iterable[tuple[Tool, Recipe]]:
        """Yield B's fixed calls: A's ways with plain words, and B's own questions.

        Observers first: what B changes itself would cover what A left.
        """
        for tool in reversed(ordered(self._case)):
            if tool.name in self._case.avoided:
                continue
            if language(tool) is not None:
                for recipe in recipes(tool, "B"):
                    yield tool, recipe
                continue
            ways = self._case.learned.get(tool.name) or [
                self._case.failing.get(tool.name, Recipe(tool.name))
            ]
            for recipe in ways[:2]:
                yield tool, recipe

    async def _lists_and_resources(self, user: str) -> list[Observation]:
        seen: list[Observation] = []
        offered = self._case.surface.capabilities
        for method, capability in LISTS:
            if capability in offered:
                seen.append(await self._running.call(user, Call(method)))
        uris = list(self._case.surface.resources)
        if "resources" in offered:
            listed = await self._running.raw(user, "resources/list", {})
            uris = list(dict.fromkeys([*uris, *names_of(listed, "resources", "uri")]))
        for uri in uris[:_RESOURCES]:
            if self._running.dead:
                break
            seen.append(await self._running.call(user, Call("resources/read", uri)))
        for name, arguments in list(self._case.surface.prompts.items())[:_PROMPTS]:
            given = dict.fromkeys(arguments, self._case.words.plain)
            seen.append(await self._running.call(user, Call("prompts/get", name, given)))
        return seen

    def _with_handles(self, *, every: bool = False) -> list[Tool]:
        """Return the tools with which B may look at a single thing."""
        return [
            tool
            for tool in ordered(self._case)
            if tool.name not in self._case.avoided
            and handle_parameters(tool)
            and language(tool) is None
            and (tool.rank is not Rank.CREATE or every)
        ]

    def _worked(self, tool: Tool, fixed: dict[str, object]) -> Recipe:
        known = self._case.learned.get(tool.name)
        return replace(known[0] if known else Recipe(tool.name), fixed=fixed)

    def _paths_of(self, run: Run) -> list[str]:
        """Return the paths that A used with success, the last ones first."""
        found: list[str] = []
        for seen in reversed(run.a):
            tool = self._case.surface.tools.get(seen.call.name)
            if tool is not None and worked(seen):
                arguments = {**seen.call.arguments, **_renamed(tool, seen)}
                for name, kind in handle_parameters(tool):
                    value = arguments.get(name)
                    if kind in PATHS and isinstance(value, str) and value not in found:
                        found.append(value)
        return found

    def _names_for(self, parameter: str) -> list[str]:
        """Return names that A gave to things under the same parameter."""
        return [
            value
            for canary, seen in reversed(self._case.origin.items())
            if seen.user == "A"
            and seen.ok
            and isinstance(value := seen.call.arguments.get(parameter), str)
            and canary in value
            and self._case.canaries.about(canary).handle
        ][:2]


async def settle() -> None:
    """Give late notifications and writes a moment."""
    await asyncio.sleep(0.5)


def _renamed(tool: Tool, seen: Observation) -> dict[str, str]:
    """Return the paths of a call as the answer tells them, where that added something: an extension."""
    found: dict[str, str] = {}
    for name, kind in handle_parameters(tool):
        value = seen.call.arguments.get(name)
        if kind in PATHS and isinstance(value, str):
            longer = re.search(rf"{re.escape(value)}[\w.]*\w", seen.text)
            if longer is not None:
                found[name] = longer[0]
    return found
