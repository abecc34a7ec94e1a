"""Who makes the users' calls on one started server, and keeps what each of them learned there."""

import asyncio
import json
import re
from typing import Final

from mcphub.isolation.case import Case
from mcphub.isolation.kinds import PATHS
from mcphub.isolation.lab import Running
from mcphub.isolation.model import Call, Observation
from mcphub.isolation.oracle import PAUSE_S, RATE_LIMITED, TOLD, worked
from mcphub.isolation.recipe import Recipe, handle_parameters
from mcphub.isolation.surface import Tool
from mcphub.isolation.synthesis import Writer

_PAUSES: Final = 12  # after refusals for too many calls


def ordered(case: Case) -> list[Tool]:
    """Return the tools that are called: creators first, observers last, shuffled within."""
    usable = [tool for tool in case.surface.tools.values() if not tool.destructive]
    return sorted(usable, key=lambda tool: (tool.rank, case.dice.random()))


class Actor:
    """Makes calls.

    Args:
        case: The check.
        running: The server, both users joined.

    Attributes:
        writers: User -> who composes its arguments.
        too_fast: The last call was refused as one of too many.
    """

    def __init__(self, case: Case, running: Running) -> None:
        self.case = case
        self.running = running
        self.writers = {user: case.writer(user) for user in ("A", "B")}
        self.too_fast = False
        self._pauses = _PAUSES

    async def perform(self, writer: Writer, tool: Tool, recipe: Recipe) -> Observation:
        """Call a tool as a recipe says, and learn from the answer."""
        writer.planted.clear()
        writer.plain_http = self.case.plain_http
        call = Call("tools/call", tool.name, writer.compose(tool, recipe), tool.sent)
        planted = list(writer.planted)
        observation = await self.call(writer.user, call)
        for canary in planted:
            self.case.origin[canary] = observation
        if worked(observation):
            # what worked as a value once may do so again: the file that was just made
            writer.handles.learn(json.dumps(call.arguments))
            writer.handles.learn(observation.text, tool.words[-1] if tool.words else "")
            writer.handles.learn(json.dumps(renamed(tool, observation)))
        return observation

    async def call(self, user: str, call: Call) -> Observation:
        """Make a call; a moment later where the one before was refused as one of too many."""
        if self.too_fast and self._pauses:
            self._pauses -= 1
            await asyncio.sleep(PAUSE_S)
        seen = await self.running.call(user, call)
        self.too_fast = not seen.ok and bool(RATE_LIMITED.search(seen.text[:TOLD]))
        return seen


def renamed(tool: Tool, seen: Observation) -> dict[str, str]:
    """Return the paths of a call as the answer tells them, where that added something: an extension."""
    found: dict[str, str] = {}
    for name, kind in handle_parameters(tool):
        value = seen.call.arguments.get(name)
        if kind in PATHS and isinstance(value, str):
            longer = re.search(rf"{re.escape(value)}[\w.]*\w", seen.text)
            if longer is not None:
                found[name] = longer[0]
    return found
