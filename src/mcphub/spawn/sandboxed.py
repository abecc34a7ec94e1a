"""The default spawner: every instance in a sandbox, built by the best means of this machine.

Two implementations make the namespaces of a sandbox: bubblewrap (`bubblewrapped`) and the hub's own code
(`confined`), which also makes what is left where there are no namespaces. Which one works, and what
it gives, is found at start by trying (`levels`). Here is what both have in common: home, control
groups, network, pipes, the end of everything.

Not here: what the profile contains (`bubblewrap`, `confinement`, `seccomp`), who may start what
(`policy`), when (`pool`).
"""

import asyncio
import contextlib
import os
import signal
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import structlog

from mcphub import ids
from mcphub.errors import HubError, InvalidInput, Unavailable
from mcphub.spawn import bubblewrap, bubblewrapped, cgroups, copies, laid, program, reaper
from mcphub.spawn.building import OUTER_ENV, Builder, Layer, Order, owned
from mcphub.spawn.confined import Confined
from mcphub.spawn.confinement import kernel, landlock
from mcphub.spawn.egress.client import EgressGateway, Network
from mcphub.spawn.egress.events import EgressEvent
from mcphub.spawn.process import ChildProcess, NamespaceInit, signal_pid, spawn
from mcphub.spawn.spawner import Launch
from mcphub.spawn.staging import Staging
from mcphub.spawn.stderr import StderrBuffer, names_of

_log = structlog.get_logger()

_GATEWAY_NUMBER: Final = 2
_MAX_NUMBER: Final = 1_000_000_000
_PROBE_TIMEOUT_S: Final = 10.0
# Runs inside at start-up, for each way until one passes. What it looks at must hold on every level.
_PROBE: Final = """
while read -r name value; do
  case $name in
    Seccomp:) filter=$value ;; NoNewPrivs:) nnp=$value ;; CapEff:) caps=$value ;;
  esac
done < /proc/self/status
[ "$filter" = 2 ] && [ "$nnp" = 1 ] && [ "$caps" = 0000000000000000 ] || { echo "rights were not dropped" >&2; exit 1; }
[ ! -r "$1" ] || { read -r found < "$1" && [ "$found" = secret ] && echo "the hub's files can be read" >&2 && exit 1; }
echo x > "$HOME/probe" || exit 1
"""


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """What an administrator decides about sandboxes.

    Attributes:
        state: Directory of the hub for files of the spawner (`run/`); made when missing.
        uid_base: Kernel uid of a user = base + number, where the hub is root.
        without: Layers not to use although the machine has them; for tests and trouble-shooting.
    """

    state: Path
    uid_base: int = 200_000
    without: frozenset[Layer] = frozenset()


class SandboxedSpawner:
    """Implements `spawner.Spawner`. Enter it on the event loop's main thread.

    Args:
        settings: See `SandboxSettings`.
        on_egress: Called on the event loop for each decision of the egress gateway.
    """

    def __init__(
        self,
        settings: SandboxSettings,
        on_egress: Callable[[EgressEvent], None] | None = None,
    ) -> None:
        self.level = 0
        self.warning = ""
        self.problem = ""
        self.settings = settings
        self._root = os.geteuid() == 0
        limited = Layer.CGROUPS not in settings.without
        self._cgroups = cgroups.Cgroups() if limited else cgroups.Cgroups.none()
        self.etc = settings.state / "etc"
        self._builder: Builder | None = None
        self._running: set[ChildProcess] = set()
        # Dying with the hub is the sandbox's own work; in its first milliseconds it is not armed yet.
        self._watchdog = reaper.Watchdog()
        uid = settings.uid_base + _GATEWAY_NUMBER if self._root else None
        self.on_egress = on_egress
        self.egress = EgressGateway(self._heard, uid=uid)

    async def __aenter__(self) -> Self:
        """Find the level: try each way of building a sandbox, best first, until one holds."""
        self._watchdog.__enter__()
        bubblewrap.write_etc(self.etc)
        problems: list[str] = []
        for level, name, make in self._ways(problems):
            self._builder = make()
            self.problem = ""
            if await self._works():
                self.level = level
                break
            problems.append(f"{name}: {self.problem}")
        else:
            self._builder = None
        self.problem = "" if self.level >= self._best_level() else "; ".join(problems)
        if not self.level:
            self.warning = (
                "This machine offers no sandbox: instances cannot be started. "
                "Run `mcphub doctor` to see what is missing."
            )
        _log.info("sandbox.level", level=self.level, by=self.means, problem=self.problem)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Kill every instance that still runs and end the gateway."""
        await asyncio.gather(*(process.stop(0) for process in list(self._running)))
        await self.egress.aclose()
        self._watchdog.__exit__()

    @property
    def mark(self) -> dict[str, str]:
        """Environment by which the watchdog finds processes that the hub left behind."""
        return {reaper.HUB_MARK: self._watchdog.mark}

    @property
    def controllers(self) -> frozenset[str]:
        """Cgroup controllers that limit instances here."""
        return self._cgroups.controllers

    @property
    def means(self) -> str:
        """What builds the sandboxes here: `bubblewrap`, `own code`, or empty."""
        if self._builder is None:
            return ""
        return "own code" if isinstance(self._builder, Confined) else "bubblewrap"

    def home_inside(self, launch_home: Path) -> str:
        """Return the path at which the instance sees its home."""
        return bubblewrap.HOME if self._builder is None else self._builder.home_inside(launch_home)

    def _heard(self, event: EgressEvent) -> None:
        if self.on_egress is not None:
            self.on_egress(event)

    async def dial(self, instance_id: str, port: int) -> socket.socket:
        """Return a connection to a port that a running instance with egress listens on inside.

        Raises:
            Unavailable: Nobody listens there.
        """
        return await self.egress.dial(instance_id, port)

    async def start(self, launch: Launch) -> ChildProcess:
        """Start one sandboxed process tree.

        Raises:
            Unavailable: No sandbox here, or the machine is out of something.
            UpstreamFailed: The program does not exist or is not executable.
            InvalidInput: The spec cannot be realised (a bad egress entry, a reserved path).
        """
        if not self.level or self._builder is None:
            # why is for the log and `mcphub doctor`: it may hold paths of the host
            raise Unavailable(self.warning, hint="Ask an administrator.")
        return await self._start(launch, self._builder)

    def _best_level(self) -> int:
        """The level that this account could have at best."""
        if not self._root:
            return 3
        return 5 if {"memory", "pids"} <= self._cgroups.controllers else 4

    def _ways(self, problems: list[str]) -> list[tuple[int, str, Callable[[], Builder]]]:
        """Return (level, name, how to make it), best first, of what this machine is not known to lack."""
        without = self.settings.without
        found: list[tuple[int, str, Callable[[], Builder]]] = []
        missing = bubblewrapped.missing()
        if Layer.BUBBLEWRAP in without or Layer.NAMESPACES in without:
            missing = ["bubblewrap (not allowed)"]
        if missing:
            problems.append(f"missing programs: {', '.join(missing)}")
        else:
            found.append((self._best_level(), "bubblewrap", self._with_bubblewrap))
        if not kernel.supported():
            problems.append(f"own code: not made for {kernel.MACHINE}")
            return found
        version = 0 if Layer.LANDLOCK in without else landlock.abi()
        if Layer.NAMESPACES not in without:
            for overlay in (True, False):
                if not overlay or Layer.OVERLAY not in without:
                    name = "own code" if overlay else "own code without overlay"
                    make = self._with_own_code(
                        namespaces=True, overlay=overlay, landlock=version > 0
                    )
                    found.append((self._best_level(), name, make))
        if version >= landlock.SCOPES_ABI:
            make = self._with_own_code(namespaces=False, overlay=False, landlock=True)
            found.append((2 if self._root else 1, "own code without namespaces", make))
        else:
            problems.append(f"Landlock has ABI {version}, {landlock.SCOPES_ABI} is needed")
        return found

    def _with_bubblewrap(self) -> Builder:
        slots = self.settings.state / "slots"
        overlay = Layer.OVERLAY not in self.settings.without
        staging = Staging.best(slots, overlay=overlay) if self._root else None
        return bubblewrapped.Bubblewrapped(self.etc, staging)

    def _with_own_code(
        self, *, namespaces: bool, overlay: bool, landlock: bool
    ) -> Callable[[], Builder]:
        return lambda: Confined(self.etc, namespaces=namespaces, overlay=overlay, landlock=landlock)

    async def _start(self, launch: Launch, builder: Builder) -> ChildProcess:
        if not 0 <= launch.number <= _MAX_NUMBER:
            raise InvalidInput("The owner's number is out of range.")
        places = bubblewrap.readable_places([*launch.readable, *map(Path, launch.sandbox.readable)])
        program.check(launch.argv, places, builder.home_inside(launch.home))
        self.prepare_home(launch)
        if launch.own:
            await asyncio.to_thread(copies.make, launch, self._uid_of(launch))
        async with contextlib.AsyncExitStack() as undo:
            network = await self.egress.register(launch.instance_id, launch.sandbox)
            undo.push_async_callback(network.close)
            group = self.make_group(launch)
            undo.push_async_callback(group.remove)
            process = self._popen(launch, builder, places, network, group)
            undo.pop_all()
        return process

    def make_group(self, launch: Launch) -> cgroups.Group:
        """Make the control groups of an instance.

        Raises:
            Unavailable: The machine refuses.
        """
        try:
            return self._cgroups.create(launch.instance_id, launch.sandbox)
        except OSError as error:
            _log.error("sandbox.cgroup_failed", instance=launch.instance_id, error=error.strerror)
            raise Unavailable(
                "The limits of the instance cannot be set.",
                hint="Run `mcphub doctor`: the cgroup rows say what the machine refuses.",
            ) from None

    def _popen(
        self,
        launch: Launch,
        builder: Builder,
        places: list[Path],
        network: Network,
        group: cgroups.Group,
    ) -> ChildProcess:
        tail = self.tail(launch, places, builder)
        init: NamespaceInit | None = None

        async def cleanup() -> None:
            # The namespace first: its end is the end of every process in it.
            ended = init is None or await init.end()
            if not (await group.remove() and ended):
                _log.error("sandbox.survivors", instance=launch.instance_id, pids=len(group.pids()))
            await network.close()
            self._running.discard(process)
            _report(launch, tail)

        with contextlib.ExitStack() as fds:
            info_read, info_write = os.pipe2(os.O_CLOEXEC)
            owned(fds, info_write)
            info = contextlib.ExitStack()
            fds.enter_context(info)
            owned(info, info_read)
            order = Order(
                launch=launch,
                places=places,
                network=network,
                join_files=group.join_files,
                processes=None if "pids" in self._cgroups.controllers else launch.sandbox.pids,
                uid=self.settings.uid_base + launch.number if self._root else None,
                info_fd=info_write,
            )
            start = builder.build(order, fds)
            process = spawn(
                start.argv,
                env=OUTER_ENV | (self.mark if builder.namespaces else {}),
                cwd="/",
                pass_fds=start.passed,
                tail=tail,
                terminate=lambda pid: _terminate(builder, pid),
                # a guard without namespaces ends everything below itself first; KILL would orphan it
                kill=lambda pid: signal_pid(
                    pid, signal.SIGKILL if builder.namespaces else signal.SIGTERM
                ),
                cleanup=cleanup,
                reached=lambda: limit_reached(group, launch),
                page_out=group.page_out,
            )
            info.pop_all()
            init = NamespaceInit(info_read)
        self._running.add(process)
        return process

    def tail(self, launch: Launch, places: list[Path], builder: Builder) -> StderrBuffer:
        """Return where the stderr of an instance goes."""
        inside = builder.home_inside(launch.home)
        shown = names_of(launch.home, inside, [*places, self.settings.state])
        return StderrBuffer(laid.secrets_of(launch), shown=shown, programs=builder.speakers)

    def prepare_home(self, launch: Launch) -> None:
        """Make the home (0700) and give it to the user's kernel uid; never follow a link."""
        uid = self._uid_of(launch)
        try:
            launch.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = launch.home.lstat()
            if not stat.S_ISDIR(found.st_mode):
                raise NotADirectoryError
            if found.st_uid != uid:
                os.chown(launch.home, uid, uid, follow_symlinks=False)
        except OSError:
            raise Unavailable(
                "The home directory of the instance cannot be made.",
                hint="Check the free space and the owner of the hub's `homes` directory.",
            ) from None

    def _uid_of(self, launch: Launch) -> int:
        return self.settings.uid_base + launch.number if self._root else os.geteuid()

    async def _works(self) -> bool:
        """Start a probe in the full sandbox; it looks at its own rights and for a file of the hub."""
        if self._builder is None:
            return False
        secret = self.settings.state / "probe-secret"
        secret.write_text("secret\n")
        launch = Launch(
            instance_id=ids.opaque("probe"),
            owner="neutral",
            number=0,
            argv=("/bin/sh", "-c", _PROBE, "sh", str(secret)),
            home=self.settings.state / "probe-home",
        )
        try:
            process = await self._start(launch, self._builder)
            try:
                await asyncio.wait([process.exited], timeout=_PROBE_TIMEOUT_S)
                works = process.exited.done() and process.exited.result() == 0
            finally:
                await process.stop(0)
        except (HubError, OSError) as error:
            self.problem = str(error)
            return False
        finally:
            secret.unlink(missing_ok=True)
        if not works:
            said = process.stderr.launcher or process.stderr.lines()
            self.problem = said[-1].strip() if said else "the sandbox did not start"
        return works


def limit_reached(group: cgroups.Group, launch: Launch) -> str:
    """Tell the user which limit ended an instance or hindered it."""
    reached = group.reached()
    if "memory" in reached:
        return (
            f"It needed more than the {launch.sandbox.memory_mb} MiB of memory that it may use "
            "(`sandbox.memoryMb`)."
        )
    if "pids" in reached:
        return (
            f"It tried to run more than the {launch.sandbox.pids} processes and threads that it may "
            "(`sandbox.pids`)."
        )
    return ""


def _terminate(builder: Builder, pid: int) -> None:
    for server in builder.server_of(pid):
        signal_pid(server, signal.SIGTERM)


def _report(launch: Launch, tail: StderrBuffer) -> None:
    """Tell administrators what the programs of the chain said; users are told only that they failed."""
    if tail.launcher:
        said = " / ".join(line.strip() for line in tail.launcher)
        _log.error("sandbox.not_started", instance=launch.instance_id, said=said)
