"""How A finds out what works: every tool in several ways, then as its refusals and other answers tell.

What works is kept in the case as recipes, which every later run repeats; what A gave stays behind.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from mcphub.isolation.actor import Actor, ordered
from mcphub.isolation.budget import Slice
from mcphub.isolation.case import Run
from mcphub.isolation.deeds import apart
from mcphub.isolation.model import Call, Observation
from mcphub.isolation.offers import heeded
from mcphub.isolation.oracle import NO_TRUST, TOLD, missing, worked
from mcphub.isolation.recipe import (
    Recipe,
    choices,
    corrected,
    handle_parameters,
    language,
    recipes,
)
from mcphub.isolation.surface import Rank, Tool, looks_destructive
from mcphub.isolation.synthesis import Writer

_RESOURCES: Final = 20
_PROMPTS: Final = 6
_EXPLORE_S: Final = 30.0
_TOOL_S: Final = 3.0  # for the further ways of one tool, however many tools there are
_KEPT: Final = 3  # ways of a tool that are learned
_LATER: Final = 3  # handles that are tried where a tool failed without
_ROUNDS: Final = 8  # in which a tool's refusals name what is missing, one thing at a time


class Exploration:
    """A's first part.

    Args:
        actor: Who acts.
    """

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    async def explore(self, run: Run) -> None:
        """Let A try every tool in several ways, keep what works, and plant."""
        time = self._actor.case.budget.slice(_EXPLORE_S, 1 / 3)
        writer = self._actor.writers["A"]
        tools = ordered(self._actor.case)
        offered = self._actor.case.surface.capabilities.get("resources")
        if isinstance(offered, dict) and offered.get("subscribe"):
            for uri in self._actor.case.surface.resources[:_RESOURCES]:
                await self._actor.running.raw("A", "resources/subscribe", {"uri": uri})
        await self._reads(run, writer)
        for number, tool in enumerate(tools):
            ways = recipes(tool, "A")
            if not await self._try(
                run, writer, tool, ways, time.part(len(tools) - number, _TOOL_S)
            ):
                break
            if time.over:
                uncalled = ", ".join(tool.name for tool in tools[number + 1 :])
                if uncalled:
                    self._actor.case.budget.leave(f"A did not call: {uncalled}")
                break
        early = set(self._actor.case.learned)
        for tool in tools:
            if tool.name in self._actor.case.learned or tool.name in self._actor.case.avoided:
                continue
            if time.over or not await self._other_ways(run, writer, tool, time):
                break
        tools = ordered(self._actor.case)  # some turned out to be several
        await self._after_what_came_late(run, writer, tools, early, time)
        await self._handles_for_creators(run, tools, time)

    async def _reads(self, run: Run, writer: Writer) -> None:
        """Let A read what is listed: a server may remember who read what, and some have no tools at all."""
        case = self._actor.case
        calls = [Call("resources/read", uri) for uri in case.surface.resources[:_RESOURCES]]
        for name, arguments in list(case.surface.prompts.items())[:_PROMPTS]:
            calls.append(
                Call("prompts/get", name, {one: writer.asked(name, one) for one in arguments})
            )
        for call in calls:
            planted = [s.canary for s in case.canaries.seen(str(dict(call.arguments)))]
            observation = await self._actor.call("A", call)
            case.origin.update(dict.fromkeys(planted, observation))
            run.a.append(observation)
            if observation.died:
                return

    async def _after_what_came_late(
        self, run: Run, writer: Writer, tools: Sequence[Tool], early: set[str], time: Slice
    ) -> None:
        """Try again what failed before a tool worked that others need: one that connects or opens."""
        late = [tool for tool in tools if tool.name in self._actor.case.learned.keys() - early]
        if all(tool.rank is Rank.OBSERVE for tool in late):
            return
        for tool in tools:
            if tool in late or (tool.name in early and not language(tool)):
                continue
            if tool.name in self._actor.case.avoided or time.over or self._actor.running.dead:
                continue
            if not await self._try(run, writer, tool, recipes(tool, "A"), time):
                return

    async def _try(
        self, run: Run, writer: Writer, tool: Tool, ways: Sequence[Recipe], time: Slice
    ) -> bool:
        """Try recipes of one tool, the first one always; returns whether to go on with the next."""
        case = self._actor.case
        template = language(tool) is not None
        for number, recipe in enumerate(ways):
            if tool.name in case.avoided:
                return True
            if number and time.over:
                return True
            observation = await self._performed(run, writer, tool, recipe)
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
            if self._actor.too_fast and number:
                break  # it asks its service too often by itself
            known = case.learned.get(tool.name, [])
            if not template and known and (recipe.optional or len(known) >= _KEPT):
                break
            if known and not recipe.fixed and not tool.schema.get("properties"):
                break
        return True

    async def _performed(self, run: Run, writer: Writer, tool: Tool, recipe: Recipe) -> Observation:
        """Call; once more without TLS when it is seen that the server does not trust the stand-ins."""
        case = self._actor.case
        observation = await self._actor.perform(writer, tool, recipe)
        if case.plain_http or not NO_TRUST.search(observation.text[:TOLD]):
            return observation
        case.plain_http = True
        run.a.append(observation)
        return await self._actor.perform(writer, tool, recipe)

    def _keep(self, tool: Tool, recipe: Recipe, observation: Observation) -> None:
        """Keep a recipe that worked, or else the one that got furthest."""
        if worked(observation):
            self._actor.case.learned.setdefault(tool.name, []).append(recipe)
        elif observation.egress:
            self._actor.case.failing[tool.name] = recipe
        else:
            self._actor.case.failing.setdefault(tool.name, recipe)

    async def _reshaped(
        self, run: Run, writer: Writer, tool: Tool, recipe: Recipe, failed: Observation
    ) -> Observation:
        """Try again with other shapes of the stand-in's answers, which may be what it failed on."""
        for _ in range(2):
            run.a.append(failed)
            self._actor.case.lab.witness.reshape(failed.egress)
            again = await self._actor.perform(writer, tool, recipe)
            if worked(again) or not again.egress or again.timed_out:
                return again
            failed = again
        self._actor.case.lab.witness.reshape(failed.egress)
        return failed

    async def _handles_for_creators(self, run: Run, tools: Sequence[Tool], time: Slice) -> None:
        """Let A's changing tools act on what exists: a choice among things listed is a change too."""
        for tool in tools:
            if tool.rank is Rank.OBSERVE or tool.name in self._actor.case.avoided or language(tool):
                continue
            if tool.name not in self._actor.case.learned or not handle_parameters(tool):
                continue
            base = self._actor.case.learned[tool.name][0]
            if base.handles >= 0:
                continue
            for choice, index in itertools.product(range(choices(tool)), range(2)):
                if time.over or self._actor.running.dead:
                    return
                recipe = replace(base, choice=choice, handles=index, optional=True)
                observation = await self._actor.perform(self._actor.writers["A"], tool, recipe)
                run.a.append(observation)
                if observation.ok:
                    self._actor.case.learned[tool.name].append(recipe)

    async def _other_ways(self, run: Run, writer: Writer, tool: Tool, time: Slice) -> bool:
        """Try a tool that never worked in what earlier answers and its refusals tell; as `_try`."""
        base = Recipe(tool.name)
        ways = [replace(base, handles=index) for index in range(_LATER)]
        ways += [replace(base, handles=0, optional=True), *self._hinted(run, tool)]
        refused = [seen.text[:TOLD] for seen in run.a if seen.call.name == tool.name]
        ways += corrected(tool, refused)
        return (
            await self._try(run, writer, tool, ways, time)
            and await self._completed(run, writer, tool, time)
            and await self._as_offered(run, writer, tool, time)
        )

    async def _as_offered(self, run: Run, writer: Writer, tool: Tool, time: Slice) -> bool:
        """Give the values that the tool's refusals list, each as a tool of its own where they are deeds."""
        case = self._actor.case
        for _ in range(_ROUNDS):
            if tool.name in case.learned or time.over:
                return True
            refused = [
                (seen.call.arguments, seen.text[:TOLD])
                for seen in run.a
                if seen.call.name == tool.name and not worked(seen)
            ]
            better = heeded(tool, refused)
            if better is None:
                return True
            parts = apart([better])
            case.surface = case.surface.with_better(tool.name, parts)
            for part in parts.values():
                if part.destructive:
                    continue
                if not await self._try(run, writer, part, recipes(part, "A"), time):
                    return False
                if part.name == tool.name:
                    tool = part
                    if not await self._completed(run, writer, tool, time):
                        return False
                elif part.name not in case.learned and not await self._other_ways(
                    run, writer, part, time
                ):
                    return False
        return True

    async def _completed(self, run: Run, writer: Writer, tool: Tool, time: Slice) -> bool:
        """Give what the tool's refusals say is missing, until they name nothing new."""
        given: tuple[str, ...] = ()
        for _ in range(_ROUNDS):
            if tool.name in self._actor.case.learned:
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
        handles = self._actor.case.writer("A").handles
        handles.learn("\n".join(refused[-2:]))
        quoted = [value for value in handles.quoted() if not looks_destructive(value)]
        parameters = [name for name, _ in handle_parameters(tool)]
        return [
            Recipe(tool.name, fixed={name: value})
            for name in parameters[:2]
            for value in quoted[:2]
            if value != name
        ]
