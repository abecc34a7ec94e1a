"""Starts Node.js servers in warm workers; whatever has none goes to the next spawner.

A warm worker is a plainly sandboxed start of nobody's: same profile, limits and network as its
server's instances have, an own kernel uid, an empty home, no value of a user. It has loaded the
server's packages and waits (`stock`). Taken for a start, it gets that user's home, attached in the place of the
empty one, then arguments and environment through its stdin, and belongs to this user until its end: a worker
serves one user ever, and is never put back.

A start that finds none, or whose worker fails, goes the plain way.
"""

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

import structlog

from mcphub.errors import HubError
from mcphub.spawn import bubblewrap, laid
from mcphub.spawn.building import environment
from mcphub.spawn.confinement.laying import PLACE
from mcphub.spawn.egress.events import EgressEvent
from mcphub.spawn.layered import Layered
from mcphub.spawn.process import ChildProcess, children
from mcphub.spawn.sandboxed import SandboxedSpawner
from mcphub.spawn.spawner import Launch, Process, Warm
from mcphub.spawn.stderr import names_of
from mcphub.spawn.warm.stock import Shelf, Stock, Worker, WorkerFailed, message
from mcphub.spawn.zygote.spawner import ZygoteSpawner
from mcphub.vault.secret import Secret

_log = structlog.get_logger()
_REFUSED_S: Final = 600.0


class WarmSpawner(Layered):
    """Implements `spawner.Spawner` on top of two others. Enter it after them.

    Args:
        plain: Starts the workers.
        following: Starts everything that has no worker.

    Attributes:
        stock: The workers that wait.
    """

    def __init__(self, plain: SandboxedSpawner, following: ZygoteSpawner) -> None:
        super().__init__(plain)
        self._following = following
        self._root = os.geteuid() == 0
        self.stock = Stock(plain)
        self._instances: dict[str, str] = {}
        self._told, plain.on_egress = plain.on_egress, self._heard

    async def __aenter__(self) -> Self:
        """Begin to look after workers."""
        await self.stock.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the workers that wait; those that became instances end with the plain spawner's."""
        await self.stock.__aexit__(*_)

    def workers(self) -> list[Worker]:
        """Return the workers that wait for a user."""
        return self.stock.workers()

    async def start(self, launch: Launch) -> Process:
        """Start one process tree, in a worker when the launch names one; raises as any spawner."""
        warm = launch.preload
        if not isinstance(warm, Warm):
            return await self._following.start(launch)
        if warm.trial:
            return await self._tried(launch, warm)
        # nobody's instances are seldom started, and have no network: not worth a worker
        usable = launch.number and not launch.own and self._plain.means == "bubblewrap"
        if not usable or self.stock.rests():
            return await self._following.start(launch)
        process = await self._in_worker(launch, warm) or await self._following.start(launch)
        process.proven.add_done_callback(
            lambda _: self.stock.order()
        )  # the processor is free again
        return process

    def is_stocked(self, launch: Launch) -> bool:
        """Tell whether as many workers wait for starts like this one as should; orders what lacks."""
        warm = launch.preload
        if not isinstance(warm, Warm):
            return True
        self.stock.order()
        return not self.stock.shelf(launch, warm).lacks(asyncio.get_running_loop().time())

    async def _in_worker(self, launch: Launch, warm: Warm) -> Process | None:
        worker = self.stock.take(launch, warm)
        if worker is None:
            return None
        try:
            return await self._given(worker, launch)
        except (HubError, WorkerFailed, OSError) as error:
            _log.warning("warm.failed", instance=launch.instance_id, why=str(error))
            await worker.process.stop(0)
            return None

    async def _tried(self, launch: Launch, warm: Warm) -> Process:
        try:
            worker = await self.stock.raised(Shelf.of(launch, warm))
            try:
                return await self._given(worker, launch)
            except BaseException:
                await worker.process.stop(0)
                raise
        except WorkerFailed as failure:
            raise OSError(str(failure)) from None

    async def _given(self, worker: Worker, launch: Launch) -> Process:
        """Give a worker to the user of a launch.

        Raises:
            WorkerFailed, HubError, OSError: It cannot be used, and must be ended.
        """
        process = worker.process
        said = message(self._what(launch))
        self._plain.prepare_home(launch)
        mounts = self._mounts_of(process)
        try:
            base = self._plain.settings.uid_base
            owners = (base + launch.number, base + worker.number) if self._root else None
            await self._following.preparer.attach(worker.name, mounts, launch.home, owners)
        except HubError:
            # the file system cannot show files as another uid's, or the kernel refuses: it will again
            self.stock.rest(_REFUSED_S)
            raise
        finally:
            os.close(mounts)
        self.stock.leave(worker)
        inside = self.home_inside(launch.home)
        process.stderr.know(laid.secrets_of(launch), names_of(launch.home, inside, launch.readable))
        self._instances[worker.name] = launch.instance_id
        process.exited.add_done_callback(lambda _: self._instances.pop(worker.name, None))
        if os.write(process.stdin, said) < len(said):
            raise WorkerFailed("it does not listen")
        return process

    def _mounts_of(self, process: ChildProcess) -> int:
        """Return a descriptor of the mount namespace of a worker's sandbox."""
        found = children(process.pid)
        if len(found) != 1:
            raise WorkerFailed("it ended")
        fd = os.open(f"/proc/{found[0]}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        if children(process.pid) != found:  # else the pid may have been somebody else's by then
            os.close(fd)
            raise WorkerFailed("it ended")
        return fd

    def _what(self, launch: Launch) -> dict[str, Any]:
        """Return everything that a worker is told of its user."""
        argv = [word.reveal() if isinstance(word, Secret) else word for word in launch.argv]
        home = bubblewrap.HOME
        env = environment(launch.env, home, "/tmp")  # noqa: S108  inside the sandbox
        bubblewrap.refuse_nul([*argv, *env.values()])
        cwd = os.path.normpath(os.path.join(home, launch.cwd))  # noqa: PTH118
        files = laid.plain(launch)
        env["PWD"] = cwd  # as bubblewrap sets it
        made = cwd != home and Path(cwd).is_relative_to(home)
        return {
            "argv": argv[1:],
            "env": env,
            "cwd": cwd,
            "made": made,
            "files": {f"{PLACE}/{below}": text for below, text in files.items()},
            "links": {f"{PLACE}/{below}": f"{home}/{below}" for below in files},
        }

    def _heard(self, event: EgressEvent) -> None:
        """Pass on what a worker did with its network, in the name of the instance that it is."""
        if self._told is not None:
            name = self._instances.get(event.instance_id, event.instance_id)
            self._told(replace(event, instance_id=name))
