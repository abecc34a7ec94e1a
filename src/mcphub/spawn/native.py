"""Builds the native part of an npm package inside the sandbox: `catalog.native.RunBuild`.

The build is hostile until the contrary is known: it gets a sandbox like an instance's, with an own
kernel uid where the hub is root, no network, nobody's environment, an empty home, the installation
read-only, and an own copy of the one package. What of that copy is kept is decided by `catalog.native`.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mcphub.catalog.native import CODE, NativeBuild
from mcphub.catalog.spec import SandboxSpec
from mcphub.errors import InvalidInput, UpstreamFailed
from mcphub.ids import instance_id
from mcphub.spawn import copies
from mcphub.spawn.homes import used_bytes
from mcphub.spawn.process import ChildProcess
from mcphub.spawn.sandboxed import SandboxedSpawner, SandboxSettings
from mcphub.spawn.spawner import Launch

_NUMBER: Final = 4  # of builds, see `spawner.Launch.number`
_LEAST_LEVEL: Final = 3  # below it there is no own view of the files
_TIMEOUT_S: Final = 3600.0  # a minute of work may take long on a machine that serves many instances
_LOOK_S: Final = 1.0
_TELL_EVERY_S: Final = 30
_MEMORY_MB: Final = 2048
_DISK_MB: Final = 2048
_PROCESSES: Final = 256
_LAST_LINES: Final = 8
_LINE: Final = 240
_NOISE: Final = ("npm notice", "npm warn", "gyp info", "gyp verb", "gyp ERR! node", "gyp ERR! cwd")
_ALL_TO_STDERR: Final = ("/bin/sh", "-c", 'exec "$@" >&2 </dev/null', "sh")


class SandboxedBuilds:
    """Runs builds one at a time, each in a sandbox that is made for it.

    Args:
        uid_base: See `SandboxSettings`.
    """

    def __init__(self, uid_base: int) -> None:
        self._uid_base = uid_base
        self._turn = asyncio.Lock()

    async def __call__(self, build: NativeBuild, progress: Callable[[str], None]) -> Path:
        """Run a build to its end; returns the copy of the package that it worked on.

        Raises:
            InvalidInput: There is no sandbox with a view of files of its own, or the package is too large.
            UpstreamFailed: The build failed or reached a limit.
        """
        settings = SandboxSettings(build.scratch / "state", self._uid_base)
        launch = _launch(build)
        async with self._turn, SandboxedSpawner(settings) as spawner:
            if spawner.level < _LEAST_LEVEL:
                raise InvalidInput(
                    f"{build.label} has to be compiled, and this machine has no sandbox to do that in.",
                    hint="An administrator finds the cause with: mcphub doctor",
                    code=CODE,
                )
            try:
                process = await spawner.start(launch)
            except InvalidInput as error:
                raise InvalidInput(
                    f"{build.label} is too large to be built.",
                    hint="Use another server.",
                    code=CODE,
                ) from error
            try:
                why = await _ended(process, build, progress)
            finally:
                await process.stop(0)
        if not why and process.exited.result():
            why = _limit(process) or f"it failed (status {process.exited.result()})"
        if why:
            raise _failure(build, why, process.stderr.lines())
        return copies.of(launch)[0][0]


def _launch(build: NativeBuild) -> Launch:
    return Launch(
        instance_id=instance_id(),
        owner="build",
        number=_NUMBER,
        argv=(*_ALL_TO_STDERR, *build.argv),
        env=build.env,
        home=build.scratch / "home",
        cwd=str(build.tree),
        readable=(build.tree, *build.readable),
        own=(build.package,),
        sandbox=SandboxSpec(
            memory_mb=_MEMORY_MB,
            pids=_PROCESSES,
            cpu=max(1.0, (os.cpu_count() or 1) / 2),
            files=4096,
            tmp_mb=512,
            home_mb=_DISK_MB,
        ),
    )


async def _ended(process: ChildProcess, build: NativeBuild, progress: Callable[[str], None]) -> str:
    """Wait for the end of a build; returns why it must be ended instead, or nothing."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    told = _TELL_EVERY_S
    while True:
        await asyncio.wait([process.exited], timeout=_LOOK_S)
        if process.exited.done():
            return ""
        seconds = loop.time() - started
        if seconds > _TIMEOUT_S:
            return f"it took longer than {_TIMEOUT_S / 60:.0f} minutes"
        if seconds > told:
            progress(f"Still building {build.label} ({told} s)")
            told += _TELL_EVERY_S
        used = await asyncio.to_thread(used_bytes, build.scratch)
        if used > _DISK_MB * 1024 * 1024:
            return f"it wrote more than {_DISK_MB} MiB"


def _limit(process: ChildProcess) -> str:
    if not process.why():
        return ""
    return f"it reached a limit of its sandbox ({_MEMORY_MB} MiB of memory, {_PROCESSES} processes)"


def _failure(build: NativeBuild, why: str, lines: list[str]) -> UpstreamFailed:
    told = [line for line in lines if not line.startswith(_NOISE) and line.strip()]
    last = "".join(f"\n  {line[:_LINE]}" for line in told[-_LAST_LINES:])
    return UpstreamFailed(
        f"Building {build.label} was not possible: {why}.{last}",
        hint="It is compiled without network, with the compiler of this machine. Try another version "
        "of the server, or install it yourself and give the program's absolute path.",
        code=CODE,
    )
