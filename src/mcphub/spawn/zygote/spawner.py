"""Starts instances by forking them from a zygote; whatever has none goes to the sandboxed spawner.

A zygote is started when it is first asked for, kept while it is used, and replaced after a day or
many forks: what its children share (addresses, hash seeds) does not stay the same for ever. Every
child has a sandbox of its own, like an instance that is started plainly. A zygote that fails costs
a start nothing but time: it goes the plain way, and the reason is kept.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

import structlog

from mcphub.catalog.spec import SandboxSpec
from mcphub.errors import HubError
from mcphub.ids import instance_id
from mcphub.spawn import bubblewrap, cgroups, laid, program
from mcphub.spawn.building import Order, environment, memory_file
from mcphub.spawn.confined import Confined
from mcphub.spawn.confinement import landlock
from mcphub.spawn.confinement.profile import HOME, Profile
from mcphub.spawn.egress.client import Network
from mcphub.spawn.layered import Layered
from mcphub.spawn.process import ChildProcess
from mcphub.spawn.sandboxed import SandboxedSpawner, limit_reached
from mcphub.spawn.spawner import Launch, Preload, Process
from mcphub.spawn.zygote import zygote as zygotes
from mcphub.spawn.zygote.preparer import Preparer, close_all
from mcphub.spawn.zygote.zygote import Child, Ground, Zygote, ZygoteFailed, hear, talking
from mcphub.tasks import Tasks
from mcphub.vault.secret import Secret

_log = structlog.get_logger()
_MOST_FORKS: Final = 2000
_OLDEST_S: Final = 86_400.0
_UNUSED_S: Final = 900.0
_SWEEP_S: Final = 15.0
_PAUSE_S: Final = 60.0
_MEMORY_MB: Final = 4096
_WORN_BYTES: Final = 3072 * 1024 * 1024
"""What a zygote may be charged for. It stays charged for what each child wrote before it joined its own
groups, and for what the child still has of pages that the zygote wrote since: some 1.6 MiB for each
child that lives. At the limit the kernel would end the zygote, and with it all of them."""
_PIDS: Final = 512
_END_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Key:
    preload: Preload
    places: tuple[Path, ...]


@dataclass(slots=True)
class _Nest:
    """The zygotes of one key: the one that forks now, and why there is none."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    current: Zygote | None = None
    failed_at: float = float("-inf")
    why: str = ""


class ZygoteSpawner(Layered):
    """Implements `spawner.Spawner` on top of a sandboxed one. Enter it after that one.

    Args:
        plain: Starts everything that has no zygote.

    Attributes:
        preparer: Makes homes and networks for instances.
    """

    def __init__(self, plain: SandboxedSpawner) -> None:
        super().__init__(plain)
        self._root = os.geteuid() == 0
        self._confined = Confined(
            plain.etc, namespaces=True, overlay=True, landlock=landlock.abi() > 0
        )
        self.preparer = Preparer()
        self._nests: dict[_Key, _Nest] = {}
        self._retired: set[Zygote] = set()
        self._running: set[ChildProcess] = set()
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Begin to look after zygotes."""
        tasks = await self._stack.enter_async_context(Tasks())
        self._stack.callback(tasks.cancel_all)
        tasks.start("zygotes.sweep", self._sweep())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Kill every instance that was forked and still runs, then the zygotes."""
        await self._stack.aclose()
        await asyncio.gather(*(process.stop(0) for process in list(self._running)))
        for zygote in self.zygotes():
            await zygote.close()
        self.preparer.close()

    def zygotes(self) -> list[Zygote]:
        """Return the zygotes that run."""
        current = [nest.current for nest in self._nests.values() if nest.current is not None]
        return [*self._retired, *current]

    def processes(self) -> set[ChildProcess]:
        """Return the instances that were forked and are not stopped."""
        return set(self._running)

    async def start(self, launch: Launch) -> Process:
        """Start one process tree, from a zygote when the launch names one; raises as any spawner."""
        if not isinstance(launch.preload, Preload) or not self._may_fork(launch):
            return await self._plain.start(launch)
        places = bubblewrap.readable_places([*launch.readable, *map(Path, launch.sandbox.readable)])
        program.check(launch.argv, places, HOME)
        nest = self._nests.setdefault(_Key(launch.preload, tuple(places)), _Nest())
        try:
            zygote = await self._zygote(nest, launch.preload, places)
            return await self._forked(zygote, launch, places)
        except ZygoteFailed as failure:
            nest.failed_at, nest.why = asyncio.get_running_loop().time(), failure.why
            _log.warning("zygote.failed", instance=launch.instance_id, why=failure.why)
            return await self._plain.start(launch)

    def _may_fork(self, launch: Launch) -> bool:
        """Whether this machine has what zygotes need, and the owner a uid in their namespace."""
        known = 0 <= launch.number < zygotes.MOST_USERS and launch.number != zygotes.NUMBER
        return known and not launch.own and self._plain.means == "bubblewrap"

    async def _zygote(self, nest: _Nest, preload: Preload, places: Sequence[Path]) -> Zygote:
        async with nest.lock:
            now = asyncio.get_running_loop().time()
            found = nest.current
            if found is not None and not self._is_worn(found):
                return found
            if found is not None:
                self._retire(nest)
            if now - nest.failed_at < _PAUSE_S:
                raise ZygoteFailed(nest.why)
            nest.current = await self._started(preload, places)
            return nest.current

    async def _started(self, preload: Preload, places: Sequence[Path]) -> Zygote:
        name = "z" + instance_id()[1:]
        limits = SandboxSpec(memory_mb=_MEMORY_MB, pids=_PIDS, cpu=4.0)
        owner = Launch(name, "zygote", zygotes.NUMBER, (), Path("/"), sandbox=limits)
        ground = Ground(
            state=self._plain.settings.state,
            etc=self._plain.etc,
            uid_base=self._plain.settings.uid_base if self._root else None,
            mark=self._plain.mark,
        )
        try:
            group = self._plain.make_group(owner)
            zygote = zygotes.start(ground, preload, places, group)
        except (HubError, OSError) as error:
            raise ZygoteFailed(f"it cannot be started: {error}") from None
        try:
            await zygote.ready()
        except BaseException:
            await zygote.close()
            said = zygote.process.stderr.lines() if zygote.process is not None else []
            _log.warning("zygote.not_ready", said=said[-3:])
            raise
        _log.info("zygote.started", pid=zygote.pid, modules=len(preload.modules))
        return zygote

    def _is_worn(self, zygote: Zygote) -> bool:
        age = asyncio.get_running_loop().time() - zygote.started_at
        charged = zygote.group.memory_bytes
        used_up = zygote.forks >= _MOST_FORKS or charged > _WORN_BYTES
        return bool(zygote.broken) or used_up or age > _OLDEST_S

    def _retire(self, nest: _Nest) -> None:
        """Let a zygote fork no more; it ends with its last child."""
        if nest.current is not None:
            self._retired.add(nest.current)
            nest.current = None

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = asyncio.get_running_loop().time()
            for nest in self._nests.values():
                found = nest.current
                if found is not None and not nest.lock.locked():
                    unused = not found.children and now - found.last_used > _UNUSED_S
                    if unused or self._is_worn(found):
                        self._retire(nest)
            for zygote in [each for each in self._retired if not each.children]:
                if now - zygote.last_used > _SWEEP_S:  # no child is on its way any more
                    await zygote.close()
                    self._retired.discard(zygote)

    async def _forked(self, zygote: Zygote, launch: Launch, places: list[Path]) -> Process:
        self._plain.prepare_home(launch)
        async with contextlib.AsyncExitStack() as undo:
            ports = self._plain.egress.ports(launch.sandbox)
            group = self._plain.make_group(launch)
            undo.push_async_callback(group.remove)
            child = zygote.fork()
            undo.callback(zygote.give_up, child)
            # while the zygote forks, the preparer works
            asked = self.preparer.prepare(launch.instance_id, zygote.namespace, launch.home, ports)
            undo.callback(asked.forget)
            made = await asked.answer()
            undo.callback(close_all, made)
            network = await self._plain.egress.register(
                launch.instance_id, launch.sandbox, made[1:]
            )
            undo.push_async_callback(network.close)
            process = await self._raised(zygote, child, launch, places, made[0], network, group)
            undo.pop_all()
        child.sock.close()
        close_all(made)
        return process

    async def _raised(
        self,
        zygote: Zygote,
        child: Child,
        launch: Launch,
        places: list[Path],
        home: int,
        network: Network,
        group: cgroups.Group,
    ) -> ChildProcess:
        """Tell a child what it is and take it as a process.

        Raises:
            ZygoteFailed: It did not come up.
        """
        with contextlib.ExitStack() as theirs:
            pipes: list[int] = []
            for _ in range(3):
                pipes += os.pipe2(os.O_CLOEXEC)
            in_read, in_write, out_read, out_write, err_read, err_write = pipes
            ours = contextlib.ExitStack()
            theirs.enter_context(ours)
            for stack, fds in (
                (theirs, (in_read, out_write, err_write)),
                (ours, (in_write, out_read, err_read)),
            ):
                for fd in fds:
                    stack.callback(os.close, fd)
            spec = memory_file(theirs, json.dumps(self._what(launch, places)).encode())
            groups = [os.open(path, os.O_WRONLY | os.O_CLOEXEC) for path in group.join_files]
            for fd in groups:
                theirs.callback(os.close, fd)
            given = [in_read, out_write, err_write, spec, home, *groups]
            given += [] if network.own else [network.namespace]
            with talking():
                socket.send_fds(child.sock, [str(len(groups)).encode()], given)
            while not (child.pid and child.inner):
                await hear(child)
            # from here on nothing waits: what ends now is told to the process that is made below
            if zygote.broken:
                raise ZygoteFailed(zygote.broken)
            for fd in (in_write, out_read, err_read):
                os.set_blocking(fd, False)
            with talking():
                pidfd = os.pidfd_open(child.pid)
                theirs.callback(os.close, pidfd)
                if not group.holds(child.pid):
                    raise ZygoteFailed("a child did not join its groups")
                child.sock.send(b"g")
            process = self._process(
                zygote,
                child,
                launch,
                places,
                os.dup(pidfd),
                network,
                group,
                (in_write, out_read, err_read),
            )
            ours.pop_all()
        return process

    def _process(
        self,
        zygote: Zygote,
        child: Child,
        launch: Launch,
        places: list[Path],
        pidfd: int,
        network: Network,
        group: cgroups.Group,
        fds: tuple[int, int, int],
    ) -> ChildProcess:
        async def cleanup() -> None:
            if not await group.remove():
                _log.error("sandbox.survivors", instance=launch.instance_id, pids=len(group.pids()))
            await network.close()
            self._running.discard(process)
            os.close(pidfd)

        def kill(_: int) -> None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)

        process = ChildProcess(
            child.pid,
            stdin=fds[0],
            stdout=fds[1],
            stderr_fd=fds[2],
            tail=self._plain.tail(launch, places, self._confined),
            terminate=lambda pid: _terminate(pid, pidfd),
            kill=kill,
            cleanup=cleanup,
            reached=lambda: limit_reached(group, launch),
            page_out=group.page_out,
            outermost_serves=True,
        )
        zygote.watch(child, process.ended)
        self._running.add(process)
        return process

    def _what(self, launch: Launch, places: list[Path]) -> dict[str, Any]:
        """Return everything that the child is told: the only copy outside of the hub is the child's."""
        assert isinstance(launch.preload, Preload)
        argv = [arg.reveal() if isinstance(arg, Secret) else arg for arg in launch.argv]
        env = environment(launch.env, HOME, "/tmp")  # noqa: S108  inside the sandbox
        bubblewrap.refuse_nul([*argv, *env.values()])
        profile = self._profile(launch, places)
        return {
            "argv": argv,
            "env": env,
            "files": laid.plain(launch),
            "cwd": os.path.normpath(os.path.join(HOME, launch.cwd)),  # noqa: PTH118
            "python": launch.preload.python,
            "name": Path(str(launch.argv[-1 if len(launch.argv) < 2 else 1])).name,
            "profile": profile.values(),
        }

    def _profile(self, launch: Launch, places: list[Path]) -> Profile:
        """Return the sandbox of a child, whose sources are what the zygote sees at the same places."""
        order = Order(
            launch=launch,
            places=places,
            network=Network(),
            join_files=[],
            processes=None if "pids" in self._plain.controllers else launch.sandbox.pids,
            uid=zygotes.uid_inside(launch.number) if self._root else None,
            info_fd=-1,
        )
        profile = self._confined.inside(order)
        binds = tuple(
            replace(bind, source=zygotes.ETC if bind.place == "/etc" else bind.place)
            for bind in profile.binds
        )
        return replace(profile, binds=binds)


def _terminate(pid: int, pidfd: int) -> None:
    """Send TERM. The kernel lets it pass by the first process of a pid namespace that has no handler.

    For such a process TERM means its end, so it gets one that cannot pass by.
    """
    number = signal.SIGTERM
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        masks = dict(line.split(":\t") for line in status.splitlines() if line.startswith("Sig"))
        bit = 1 << (signal.SIGTERM - 1)
        if not (int(masks["SigCgt"], 16) | int(masks["SigIgn"], 16)) & bit:
            number = signal.SIGKILL
        signal.pidfd_send_signal(pidfd, number)
    except (OSError, KeyError, ValueError):
        return  # it is gone
