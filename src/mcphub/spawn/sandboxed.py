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
import shutil
import signal
import socket
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import structlog

from mcphub.errors import HubError, InvalidInput, Unavailable
from mcphub.spawn import bubblewrap, cgroups, program, reaper, seccomp
from mcphub.spawn.egress.client import EgressGateway, Network
from mcphub.spawn.egress.events import EgressEvent
from mcphub.spawn.process import ChildProcess, NamespaceInit, children, signal_pid, spawn
from mcphub.spawn.spawner import Launch
from mcphub.spawn.staging import Staging
from mcphub.spawn.stderr import StderrBuffer, names_of
from mcphub.vault.secret import Secret

_log = structlog.get_logger()

PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_OUTER_ENV: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
_GATEWAY_NUMBER: Final = 2
_MAX_NUMBER: Final = 1_000_000_000
_PROBE_TIMEOUT_S: Final = 10.0
_PROGRAMS: Final = ("bwrap", "setpriv", "unshare", "nsenter", "sh", "mount", "prlimit")
_SHELL: Final = "mcphub-sandbox"  # what the script calls itself: a server may be a script of `sh`
_SPEAKERS: Final = (_SHELL, *(name for name in _PROGRAMS if name != "sh"))
# $1 hub pid, $2 open files, $3 descriptor of the staging table or empty, then cgroup files up to
# `--`, then the rest of the chain. Dying with the hub is armed before; a hub that died even earlier
# shows as another parent.
_SCRIPT: Final = """
read -r _ _ _ parent _ < /proc/self/stat && [ "$parent" = "$1" ] || exit 1
ulimit -c 0 && ulimit -n "$2" || exit 1
table=$3; shift 3
while [ "$1" != -- ]; do echo 0 > "$1" || exit 1; shift; done; shift
[ -z "$table" ] || mount -a -T "/proc/self/fd/$table" || exit 1
exec "$@"
"""


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """What an administrator decides about sandboxes.

    Attributes:
        state: Directory of the hub for files of the spawner (`run/`); made when missing.
        uid_base: Kernel uid of a user = base + number, where the hub is root.
        highest_level: Do not try levels above this one; for tests and for trouble-shooting.
    """

    state: Path
    uid_base: int = 200_000
    highest_level: int = 5


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
        self._settings = settings
        self._root = os.geteuid() == 0
        self._cgroups = cgroups.Cgroups()
        self._etc = settings.state / "etc"
        self._staging: Staging | None = None
        self._running: set[ChildProcess] = set()
        # Dying with the hub is bubblewrap's work; in its first milliseconds it is not armed yet.
        self._watchdog = reaper.Watchdog()
        uid = settings.uid_base + _GATEWAY_NUMBER if self._root else None
        self.on_egress = on_egress
        self._egress = EgressGateway(self._heard, uid=uid)

    async def __aenter__(self) -> Self:
        """Find the level by starting a program at each, best first."""
        self._watchdog.__enter__()
        missing = [
            name for name in _PROGRAMS if shutil.which(name, path=_OUTER_ENV["PATH"]) is None
        ]
        if missing:
            self.problem = f"missing programs: {', '.join(missing)}"
        else:
            bubblewrap.write_etc(self._etc)
            if self._root:
                self._staging = Staging.best(self._settings.state / "slots")
            full = {"memory", "pids"} <= self._cgroups.controllers
            best = (5 if full else 4) if self._root else 3
            if best <= self._settings.highest_level or not self._root:
                self.level = best if await self._works(best) else 0
        self.warning = (
            ""
            if self.level
            else (
                "This machine offers no sandbox: instances cannot be started. "
                "Run `mcphub doctor` to see what is missing."
            )
        )
        _log.info("sandbox.level", level=self.level, problem=self.problem)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Kill every instance that still runs and end the gateway."""
        await asyncio.gather(*(process.stop(0) for process in list(self._running)))
        await self._egress.aclose()
        self._watchdog.__exit__()

    @property
    def controllers(self) -> frozenset[str]:
        """Cgroup controllers that limit instances here."""
        return self._cgroups.controllers

    def home_inside(self, launch_home: Path) -> str:
        """Return the path at which the instance sees its home."""
        del launch_home
        return bubblewrap.HOME

    def _heard(self, event: EgressEvent) -> None:
        if self.on_egress is not None:
            self.on_egress(event)

    async def dial(self, instance_id: str, port: int) -> socket.socket:
        """Return a connection to a port that a running instance with egress listens on inside.

        Raises:
            Unavailable: Nobody listens there.
        """
        return await self._egress.dial(instance_id, port)

    async def start(self, launch: Launch) -> ChildProcess:
        """Start one sandboxed process tree.

        Raises:
            Unavailable: No sandbox here, or the machine is out of something.
            UpstreamFailed: The program does not exist or is not executable.
            InvalidInput: The spec cannot be realised (a bad egress entry, a reserved path).
        """
        if not self.level:
            # why is for the log and `mcphub doctor`: it may hold paths of the host
            raise Unavailable(self.warning, hint="Ask an administrator.")
        return await self._start(launch)

    async def _start(self, launch: Launch) -> ChildProcess:
        if not 0 <= launch.number <= _MAX_NUMBER:
            raise InvalidInput("The owner's number is out of range.")
        places = bubblewrap.readable_places([*launch.readable, *map(Path, launch.sandbox.readable)])
        program.check(launch.argv, places)
        self._prepare_home(launch)
        async with contextlib.AsyncExitStack() as undo:
            network = await self._egress.register(launch.instance_id, launch.sandbox)
            undo.push_async_callback(network.close)
            group = self._make_group(launch)
            undo.push_async_callback(group.remove)
            process = self._popen(launch, places, network, group)
            undo.pop_all()
        return process

    def _make_group(self, launch: Launch) -> cgroups.Group:
        try:
            return self._cgroups.create(launch.instance_id, launch.sandbox)
        except OSError as error:
            _log.error("sandbox.cgroup_failed", instance=launch.instance_id, error=error.strerror)
            raise Unavailable(
                "The limits of the instance cannot be set.",
                hint="Run `mcphub doctor`: the cgroup rows say what the machine refuses.",
            ) from None

    def _popen(
        self, launch: Launch, places: list[Path], network: Network, group: cgroups.Group
    ) -> ChildProcess:
        env = _environment(launch.env)
        tail = self._tail(launch, places)
        own_limit = None if "pids" in self._cgroups.controllers else launch.sandbox.pids
        command, script = bubblewrap.command(launch.argv, most_processes=own_limit)
        if self._staging is not None:
            mounts, table = self._staging.plan(self._etc, launch.home, places)
        else:
            same = tuple((str(place), str(place)) for place in places)
            mounts = bubblewrap.Mounts("/usr", str(self._etc), str(launch.home), same)
            table = ""
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
            seccomp_fd = _owned(fds, seccomp.filter_fd())
            script_fd = None if script is None else _memory_file(fds, script)
            args = bubblewrap.options(
                mounts,
                env=env,
                cwd=launch.cwd,
                tmp_mb=launch.sandbox.tmp_mb,
                own_network=network.own,
                seccomp_fd=seccomp_fd,
                script_fd=script_fd,
            )
            closing: list[str] = []
            table_fd = None if not table else _memory_file(fds, table.encode())
            if table_fd is not None:
                # `mount` opens it anew and reads all; bubblewrap finds the shared offset at the end,
                # so this adds no option: it is how the descriptor gets closed before the server.
                os.lseek(table_fd, 0, os.SEEK_END)
                closing = ["--args", str(table_fd)]
            info_read, info_write = os.pipe2(os.O_CLOEXEC)
            _owned(fds, info_write)
            info = contextlib.ExitStack()
            fds.enter_context(info)
            _owned(info, info_read)
            args += ["--info-fd", str(info_write)]
            args_fd = _memory_file(fds, bubblewrap.pack(args))
            passed = (seccomp_fd, script_fd, table_fd, info_write, args_fd)
            process = spawn(
                [
                    *self._chain(launch, table_fd, group, network),
                    *("bwrap", *closing, "--args", str(args_fd), "--", *command),
                ],
                env=_OUTER_ENV | {reaper.HUB_MARK: self._watchdog.mark},
                cwd="/",
                pass_fds=[fd for fd in passed if fd is not None],
                tail=tail,
                terminate=_terminate,
                kill=lambda pid: signal_pid(pid, signal.SIGKILL),
                cleanup=cleanup,
            )
            info.pop_all()
            init = NamespaceInit(info_read)
        self._running.add(process)
        return process

    def _tail(self, launch: Launch, places: list[Path]) -> StderrBuffer:
        secrets = [
            value.reveal()
            for value in (*launch.argv, *launch.env.values())
            if isinstance(value, Secret)
        ]
        shown = names_of(launch.home, bubblewrap.HOME, [*places, self._settings.state])
        return StderrBuffer(secrets, shown=shown, programs=_SPEAKERS)

    def _chain(
        self, launch: Launch, table_fd: int | None, group: cgroups.Group, network: Network
    ) -> list[str]:
        """Return everything of the chain before bubblewrap."""
        uid = str(self._settings.uid_base + launch.number)
        chain = ["setpriv", "--pdeathsig", "KILL", "--"]
        if self._root:
            chain += ["unshare", "--mount", "--propagation", "private", "--"]
        table = "" if table_fd is None else str(table_fd)
        chain += ["sh", "-c", _SCRIPT, _SHELL, str(os.getpid()), str(launch.sandbox.files), table]
        chain += [*group.join_files, "--"]
        chain += network.enter(with_user=not self._root)
        if self._root:
            chain += ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups"]
            chain += ["--pdeathsig", "KILL", "--"]
        return chain

    def _prepare_home(self, launch: Launch) -> None:
        """Make the home (0700) and give it to the user's kernel uid; never follow a link."""
        uid = self._settings.uid_base + launch.number if self._root else os.geteuid()
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

    async def _works(self, level: int) -> bool:
        """Start `/bin/true` in the full sandbox."""
        launch = Launch(
            instance_id=f"probe-{os.getpid()}",
            owner="neutral",
            number=0,
            argv=("/bin/true",),
            home=self._settings.state / "probe-home",
        )
        try:
            process = await self._start(launch)
            try:
                await asyncio.wait([process.exited], timeout=_PROBE_TIMEOUT_S)
                works = process.exited.done() and process.exited.result() == 0
            finally:
                await process.stop(0)
        except (HubError, OSError) as error:
            self.problem = str(error)
            return False
        if not works:
            said = process.stderr.launcher
            self.problem = f"level {level}: {said[-1] if said else 'bubblewrap did not start'}"
        return works


def _terminate(pid: int) -> None:
    """Send TERM to the server: the child of the sandbox's init, which ignores the signal itself."""
    for init in children(pid):
        for server in children(init):
            signal_pid(server, signal.SIGTERM)


def _environment(given: Mapping[str, str | Secret]) -> dict[str, str]:
    defaults = {
        "HOME": bubblewrap.HOME,
        "PATH": PATH,
        "TMPDIR": "/tmp",  # noqa: S108  inside the sandbox
        "USER": bubblewrap.USER,
        "LOGNAME": bubblewrap.USER,
        "LANG": "C.UTF-8",
    }
    plain = {
        name: value.reveal() if isinstance(value, Secret) else value
        for name, value in given.items()
    }
    return defaults | plain


def _report(launch: Launch, tail: StderrBuffer) -> None:
    """Tell administrators what the programs of the chain said; users are told only that they failed."""
    if tail.launcher:
        said = " / ".join(line.strip() for line in tail.launcher)
        _log.error("sandbox.not_started", instance=launch.instance_id, said=said)


def _owned(fds: contextlib.ExitStack, fd: int) -> int:
    fds.callback(os.close, fd)
    return fd


def _memory_file(fds: contextlib.ExitStack, content: bytes) -> int:
    fd = _owned(fds, os.memfd_create("mcphub", os.MFD_CLOEXEC))
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
