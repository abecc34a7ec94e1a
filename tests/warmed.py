"""A Node.js server made of two small packages, and a spawner whose starts all come from warm workers."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Self

from mcphub.ids import instance_id
from mcphub.spawn.process import ChildProcess
from mcphub.spawn.sandboxed import SandboxedSpawner, SandboxSettings
from mcphub.spawn.spawner import Launch, Warm
from mcphub.spawn.warm.spawner import WarmSpawner
from mcphub.spawn.zygote.spawner import ZygoteSpawner
from tests.polling import until

NODE = "/usr/bin/node"
DEPENDENCY = "exports.loaded = Date.now(); exports.home = require('fs').readdirSync('/home/u');"
# Runs what it is asked to, one expression per line, and answers with its value.
SERVER = """
const dep = require("dep");
require("readline").createInterface({ input: process.stdin }).on("line", (line) => {
  let value;
  try { value = eval(line); } catch (error) { value = String(error); }
  process.stdout.write(JSON.stringify(value ?? null) + "\\n");
});
"""


def package(place: Path, server: str = SERVER, dependency: str = DEPENDENCY) -> tuple[str, Warm]:
    """Write the packages; returns the server's script and what a worker loads."""
    for name, text in (("dep", dependency), ("server", server)):
        (place / "node_modules" / name).mkdir(parents=True)
        (place / "node_modules" / name / "index.js").write_text(text)
    script = str(place / "node_modules" / "server" / "index.js")
    return script, Warm(NODE, (f"require {place / 'node_modules' / 'dep' / 'index.js'}",))


class WarmingSpawner:
    """Starts a server in workers only; fails where a start did not come from one."""

    def __init__(self, settings: SandboxSettings) -> None:
        self.plain = SandboxedSpawner(settings)
        self.forking = ZygoteSpawner(self.plain)
        self.warm = WarmSpawner(self.plain, self.forking)
        self.taken: list[str] = []
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        for each in (self.plain, self.forking, self.warm):
            await self._stack.enter_async_context(each)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def start(self, launch: Launch) -> ChildProcess:
        await until(lambda: self.warm.is_stocked(launch))
        before = {worker.process: worker.name for worker in self.warm.workers()}
        process = await self.warm.start(launch)
        assert process in before, "it was started plainly"
        assert isinstance(process, ChildProcess)
        self.taken.append(before[process])
        return process


def launch_of(script: str, warm: Warm, home: Path, number: int, **rest) -> Launch:
    root = Path(script).parents[2]
    argv = (NODE, script, *rest.pop("args", ()))
    launch = Launch(
        instance_id(), f"u_{number}", number, argv, home, readable=(root,), preload=warm
    )
    return replace(launch, **rest)
