"""What the users do.

A tries everything and plants. B does the same things with plain words, looks at everything, follows
what it is shown, and at last tries what it should not know. A's first run is also where recipes are learned; every later run repeats what worked.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Final

from mcphub.isolation import dialects, samples, templates
from mcphub.isolation.actor import Actor, ordered, renamed
from mcphub.isolation.budget import Slice
from mcphub.isolation.case import Case, Run
from mcphub.isolation.discovery import LISTS
from mcphub.isolation.exploration import Exploration
from mcphub.isolation.kinds import PATHS, Kind, kind_of
from mcphub.isolation.lab import Running
from mcphub.isolation.model import Call, Observation
from mcphub.isolation.oracle import (
    worked,
)
from mcphub.isolation.recipe import (
    Recipe,
    about,
    explained,
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
    names_of,
)

_RESOURCES: Final = 20
_PROMPTS: Final = 6
_FOLLOWED: Final = 3
_FOREIGN: Final = 7
_MORE: Final = range(1, _FOREIGN)
_LOOK_S: Final = 25.0
_FOLLOW_S: Final = 10.0
_TRESPASS_S: Final = 20.0
_TELLING: Final = 2  # turns in which B tries what is not its own
_PLAIN: Final = 3  # ways of a tool that B goes


class Script:
    """Performs the users' parts on a started server.

    Args:
        case: The check.
        running: The server, both users joined.
    """

    def __init__(self, case: Case, running: Running) -> None:
        self._case = case
        self._running = running
        self._actor = Actor(case, running)
        self._writers = self._actor.writers

    async def explore(self, run: Run) -> None:
        """Let A try every tool in several ways, keep what works, and plant."""
        await Exploration(self._actor).explore(run)

    async def plant(self, run: Run, only: Sequence[str] | None = None) -> None:
        """Let A do again what worked, with new canaries."""
        writer = self._writers["A"]
        for tool in ordered(self._case):
            if only is not None and tool.name not in only:
                continue
            for recipe in self._case.learned.get(tool.name, []):
                observation = await self._actor.perform(writer, tool, recipe)
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
                seen.append(await self._actor.call("B", old.call))

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
            seen.append(await self._actor.perform(self._writers["B"], tool, recipe))
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
                    run.follow.append(await self._actor.perform(writer, tool, recipe))
        shown_to_b = writer.handles
        for call in self._asked(lambda name, place: shown_to_b.fitting(name, place)[:_FOLLOWED]):
            if time.over or self._running.dead:
                return
            run.follow.append(await self._actor.call("B", call))

    async def trespass(self, run: Run) -> None:
        """Let B use what only A was shown, and paths that B has no business with."""
        time = self._case.budget.slice(_TRESPASS_S, 1 / 3)
        writer, foreign = self._writers["B"], self._writers["A"].handles
        territory = self._case.lab.territory
        # the roots first: what B has named itself proves nothing when it shows up later
        roots = list(map(str, territory.roots[:2]))
        directories = [*roots, str(territory.a.directory)]
        made = self._paths_of(run)
        wanted: list[tuple[Tool, Sequence[Mapping[str, object]]]] = []
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
                values = [self._written(tool, v) for v in values] if kind in PATHS else values
                values = list(dict.fromkeys(values))[:_FOREIGN]
                wanted.append((tool, [{parameter: typed(tool, parameter, v)} for v in values]))
        wanted += self._reading(territory.a.file(), territory.outside)
        wanted += self._opening(made)
        await self._trespass_on_resources(run, time)
        # every tool once, then every tool again: a short time still says something of each
        looking = [one for one in wanted if one[0].rank is Rank.OBSERVE]
        others = [one for one in wanted if one[0].rank is not Rank.OBSERVE]
        for turns, among in ((range(1), wanted), (_MORE, looking), (_MORE, others)):
            for turn, (tool, ways) in itertools.product(turns, among):
                if turn >= len(ways):
                    continue
                if time.over and turn < _TELLING:
                    self._case.budget.leave("B tried A's handles and paths with some tools only")
                if time.over or self._running.dead:
                    return
                recipe = self._worked(tool, ways[turn])
                run.foreign.append(await self._actor.perform(writer, tool, recipe))

    async def _trespass_on_resources(self, run: Run, time: Slice) -> None:
        """Let B read what templates and prompts make of A's handles, names and files."""
        territory, foreign = self._case.lab.territory, self._writers["A"].handles
        named = [
            canary
            for canary, seen in reversed(self._case.origin.items())
            if seen.user == "A" and seen.ok and self._case.canaries.about(canary).handle
        ][:_FOLLOWED]

        def theirs(name: str, place: str) -> list[str]:
            if kind_of(name, {}, "", place) in PATHS:
                return [str(territory.a.file()), str(territory.outside)]
            return [*foreign.fitting(name, place)[:_FOLLOWED], *named]

        for call in self._asked(theirs):
            if time.over:
                self._case.budget.leave("B tried A's handles with some resources only")
            if time.over or self._running.dead:
                return
            run.foreign.append(await self._actor.call("B", call))

    def _asked(self, values: Callable[[str, str], list[str]]) -> list[Call]:
        """Return reads of all templates and prompts with the values that there are for their variables.

        Args:
            values: Name of a variable, and the template or prompt that it is of -> values.
        """
        surface = self._case.surface
        places = [(template, templates.variables(template)) for template in surface.templates]
        places = places[:_RESOURCES] + list(surface.prompts.items())[:_PROMPTS]
        calls: list[Call] = []
        for place, names in places:
            found = [values(name, place) for name in names]
            for turn in range(max(map(len, found), default=0) if all(found) else 0):
                chosen = {
                    name: one[min(turn, len(one) - 1)]
                    for name, one in zip(names, found, strict=True)
                }
                calls.append(
                    Call("prompts/get", place, chosen)
                    if place in surface.prompts
                    else Call("resources/read", templates.filled(place, chosen))
                )
        return calls

    def _opening(self, made: Sequence[str]) -> list[tuple[Tool, Sequence[Mapping[str, object]]]]:
        """Return the statements with which B looks into files of A's, where a tool opens the one it is told."""
        found: list[tuple[Tool, Sequence[Mapping[str, object]]]] = []
        for tool in ordered(self._case):
            parameter = spoken(tool)
            place = next((name for name, kind in handle_parameters(tool) if kind in PATHS), None)
            if parameter is None or place is None or tool.name in self._case.avoided:
                continue
            theirs = self._case.lab.territory.a.file(samples.extension_of(explained(tool)))
            told = dialects.opening(parameter[1], self._case.words.variable)
            files = dict.fromkeys([str(theirs), *made[:1]])
            found.append(
                (tool, [{place: file, parameter[0]: text} for file in files for text in told])
            )
        return found

    def _reading(self, *files: PurePosixPath) -> list[tuple[Tool, Sequence[Mapping[str, object]]]]:
        """Return the statements with which B reads files where a tool speaks a language."""
        found: list[tuple[Tool, Sequence[Mapping[str, object]]]] = []
        for tool in ordered(self._case):
            parameter = spoken(tool)
            if parameter is None or tool.name in self._case.avoided:
                continue
            name, kind = parameter
            told = [
                dialects.reading(kind, tongue(tool) or about(tool), str(file)) for file in files
            ]
            found.append((tool, [{name: typed(tool, name, text)} for text in told if text]))
        return found

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
            for recipe in ways[:_PLAIN]:
                # a word of A's that a refusal quoted: what B named itself would prove nothing
                theirs = self._case.canaries.seen(str(dict(recipe.fixed)))
                yield tool, replace(recipe, fixed={}) if theirs else recipe

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

    def _written(self, tool: Tool, path: str) -> str:
        """Return a path as the tool takes them: from the first root where only such ones worked."""
        known, root = self._case.learned.get(tool.name), self._case.lab.territory.roots[0]
        place = PurePosixPath(path)
        if known and all(recipe.relative for recipe in known) and place.is_relative_to(root):
            return str(place.relative_to(root))
        return path

    def _worked(self, tool: Tool, fixed: Mapping[str, object]) -> Recipe:
        known = self._case.learned.get(tool.name)
        return replace(known[0] if known else Recipe(tool.name), fixed=fixed)

    def _paths_of(self, run: Run) -> list[str]:
        """Return the paths that A used with success, the last ones first."""
        found: list[str] = []
        for seen in reversed(run.a):
            tool = self._case.surface.tools.get(seen.call.name)
            if tool is not None and worked(seen):
                arguments = {**seen.call.arguments, **renamed(tool, seen)}
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
