"""What a spec runs: its package pinned and installed, or a program of this machine, and how it is started.

Nothing here is a user's. Not here: what is in a launch (`launching`), what a program needs to read (`program`).
"""

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import structlog

from mcphub.catalog.launchers import PYPI, packages_of, satisfies
from mcphub.catalog.older_sdk import OLDER_SDK, holds_back_sdk, needs_older_sdk
from mcphub.catalog.packages import PackageStore
from mcphub.catalog.pins import Pin
from mcphub.catalog.spec import ServerSpec
from mcphub.catalog.states import ServerStates
from mcphub.catalog.versions import exact_version
from mcphub.errors import HubError, InvalidInput
from mcphub.policy.model import Transport
from mcphub.spawn.modes import Prover, StartMode, mode_of, plain
from mcphub.spawn.program import readable_of
from mcphub.spawn.spawner import Launch

_UNPROVEN: Final = plain("It is not known yet whether it may be started otherwise.")
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Program:
    """What is executed for a spec, before templates are filled.

    Attributes:
        argv: Program (absolute path) and templates of its arguments.
        readable: Host paths that it needs to read.
        version: Exact package version, or a digest of the command for anything else.
        source: Directory of the package's own files, where it is known.
        mode: How it is started.
    """

    argv: tuple[str, ...]
    readable: tuple[Path, ...]
    version: str
    source: Path | None = None
    mode: StartMode = _UNPROVEN


class Programs:
    """The programs of all servers. Safe for concurrent use; a package is resolved and installed once.

    Args:
        homes: Directory of all homes on the host; no program may need to read it.
        packages: The pinned package store.
        states: Pins of the servers.
        search_path: `PATH` in which command names are looked up.
        prover: Knows, or finds out, how programs may be started; without one all are started plainly.
        progress: Told what an installation is doing.
    """

    def __init__(
        self,
        *,
        homes: Path,
        packages: PackageStore,
        states: ServerStates,
        search_path: str,
        prover: Prover | None = None,
        progress: Callable[[str], None] = lambda text: _log.info("install", step=text),
    ) -> None:
        self._homes = homes
        self._packages = packages
        self._states = states
        self._search_path = search_path
        self._prover = prover
        self._progress = progress
        self._known: dict[tuple[str, str], Program] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def known(self, spec: ServerSpec) -> Program | None:
        """Return the program when it is already resolved; no I/O."""
        return self._known.get((spec.name, spec.revision))

    def fixed_code(self, spec: ServerSpec) -> Path | None:
        """Return the package's directory that instances cannot write to; None when they can, or it is not known."""
        program = self.known(spec)
        return program.source if program is not None and not spec.sandbox.own_package else None

    def forget(self, name: str) -> None:
        """Resolve a server's program anew at the next start: its pin or its spec changed."""
        for key in [key for key in self._known if key[0] == name]:
            del self._known[key]

    async def of(self, spec: ServerSpec) -> Program:
        """Return what to execute, installing the pinned package when it is not there yet.

        Raises:
            InvalidInput: The command does not exist or the arguments of its launcher are not understood.
            UpstreamFailed, Unavailable: The package could not be installed.
        """
        known = self.known(spec)
        if known is not None:
            return known
        async with self._locks.setdefault(spec.name, asyncio.Lock()):
            known = self.known(spec)
            if known is None:
                known = self._with_mode(spec, await self._resolve(spec))
                self._known[(spec.name, spec.revision)] = known
            return known

    async def prepare(self, spec: ServerSpec) -> None:
        """Do what may take minutes before a start: install the package. Raises as `of`."""
        if spec.transport is Transport.STDIO:
            await self.of(spec)

    async def version(self, spec: ServerSpec) -> str:
        """Return the exact version of what a spec runs or reaches. Raises as `of`."""
        if spec.transport is Transport.STDIO:
            return (await self.of(spec)).version
        return exact_version(spec, None)

    async def _resolve(self, spec: ServerSpec) -> Program:
        requirement = self._packages.requirement(spec.command, spec.args)
        if requirement is None:
            return self._plain(spec)
        state = (await self._states.all()).get(spec.name)
        pin: Pin | None = state.pin if state is not None else None
        if pin is not None and not satisfies(pin, requirement):
            if (pin.ecosystem, pin.name) == (requirement.ecosystem, requirement.name):
                # a version change needs an administrator's word (rule R22): the pin still counts
                _log.warning(
                    "server.pin_differs",
                    server=spec.name,
                    pinned=pin.version,
                    settings=requirement.version or "latest",
                    next_step=f"mcphub server pin {spec.name}",
                )
            else:
                pin = None
        if pin is None:
            self._progress(f"{spec.name}: looking up {requirement.name}")
            pin = await self._packages.resolve(requirement)
            await self._states.set_pin(spec.name, pin)
        installed = self._packages.installed(pin, requirement)
        if installed is None:
            installed = await self._packages.install(pin, requirement, self._progress)
        argv = (*installed.argv, *requirement.args)
        return Program(argv, installed.readable, installed.version, installed.source)

    async def pin_older_sdk(self, spec: ServerSpec, error: HubError) -> bool:
        """Pin a server's package with the older SDK, when a start failed because it needs that.

        The package itself keeps its version and its hash.

        Args:
            spec: The server.
            error: Why nobody's instance did not start, with its last words.

        Returns:
            Whether another start is worth a try.
        """
        if spec.transport is not Transport.STDIO or not needs_older_sdk(error.message):
            return False
        requirement = self._packages.requirement(spec.command, spec.args)
        state = (await self._states.all()).get(spec.name)
        pin = state.pin if state is not None else None
        if (
            requirement is None
            or pin is None
            or pin.ecosystem != PYPI
            or packages_of(pin.constraints)
            or holds_back_sdk(requirement.extras)
        ):
            return False
        try:
            exact = replace(requirement, version=f"=={pin.version}")
            older = await self._packages.resolve(exact, OLDER_SDK)
        except HubError as failure:
            _log.warning("server.older_sdk_failed", server=spec.name, error=str(failure))
            return False
        if older.integrity != pin.integrity:
            return False
        _log.warning(
            "server.older_sdk",
            server=spec.name,
            package=f"{pin.name} {pin.version}",
            constraints=list(OLDER_SDK),
            why="It was written for mcp 1 and ends with mcp 2; it is installed with the older one.",
        )
        await self._states.set_pin(spec.name, older)
        self.forget(spec.name)
        return True

    def _plain(self, spec: ServerSpec) -> Program:
        found = shutil.which(spec.command, path=self._search_path)
        if found is None:
            raise InvalidInput(
                f"Server '{spec.name}': the program '{Path(spec.command).name}' is not on this machine.",
                hint="Install it, or correct `command` in mcp_settings.json.",
            )
        program = Path(found).absolute()
        readable = readable_of(program)
        if any(self._homes.is_relative_to(place) for place in readable):
            raise InvalidInput(
                f"Server '{spec.name}': its program lies in a directory that holds the hub's own.",
                hint="Install it somewhere else.",
            )
        return Program((str(program), *spec.args), readable, exact_version(spec, None))

    def is_unproven(self, spec: ServerSpec) -> bool:
        """Tell whether `prove` has something to find out about a server that was started."""
        known = self.known(spec)
        return self._prover is not None and known is not None and known.mode is _UNPROVEN

    async def prove(self, spec: ServerSpec, launch: Launch) -> None:
        """Find out how a server may be started, for all starts from then on. Takes seconds.

        Args:
            spec: The server.
            launch: Of it, and nobody's.
        """
        known = self.known(spec)
        if self._prover is None or known is None or known.mode is not _UNPROVEN:
            return
        await self._prover.prove(launch)
        if self.known(spec) is known:  # neither its pin nor its settings changed meanwhile
            self._known[(spec.name, spec.revision)] = self._with_mode(spec, known)

    def _with_mode(self, spec: ServerSpec, program: Program) -> Program:
        if self._prover is None:
            return program
        mode = mode_of(spec, program.argv, self._prover.findings)
        return program if mode is None else replace(program, mode=mode)
