"""Instances: started once, leased per call, culled when idle, drained on change.

The key is (owner, server, session) with the settings and credential revisions: a lease for a newer
revision starts a new instance and drains the old one. **An instance never changes user** (rule R9):
it is found only by the permit's principal. Everything that belongs to a running server hangs on its
`Instance`; dropping it drops all (rule R8).

Not here: how a process starts (`spawner`), what is in it (`launching`), what is said (`upstream`).
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Final, Protocol

import structlog

from mcphub.catalog.spec import ServerSpec
from mcphub.errors import HubError, MissingCredential, Unavailable
from mcphub.ids import instance_id
from mcphub.policy.model import Permit, Transport
from mcphub.spawn import failing, laid
from mcphub.spawn.admission import admit
from mcphub.spawn.advice import Advice
from mcphub.spawn.homes import HomeWatch
from mcphub.spawn.instance import Instance, State
from mcphub.spawn.launching import NEUTRAL, SHARED, Dial, Launcher
from mcphub.spawn.opening import Opener, Opening
from mcphub.spawn.spawner import Launch
from mcphub.spawn.starts import BackOff, Key, PoolLimits, StartSlots, key_of
from mcphub.tasks import Tasks
from mcphub.wire.envelope import Message

_log = structlog.get_logger()
_SWEEP_S: Final = 0.25
_STABLE_S: Final = 30.0
_STATUS_S: Final = 0.1
_DRAIN_S: Final = 30.0
_GRACE_S: Final = 5.0
_HOMES_S: Final = 1.0


class Listener(Protocol):
    """Who is told what instances do."""

    def notified(self, instance: Instance, message: Message) -> None:
        """Take what a server sent that belongs to no single call."""
        ...

    def instance_changed(self, what: str, instance: Instance) -> None:
        """Take the news that an instance `started`, `crashed` or `stopped`."""
        ...

    def is_over(self, instance: Instance) -> bool:
        """Whether an instance that has just started may not be used: user, server or credential changed."""
        ...


class InstancePool:
    """All instances of one hub.

    Life cycle: `async with pool.running():` around everything else; leaving it stops all instances.

    Args:
        opener: Starts and opens them.
        launcher: Builds launches.
        limits: Bounds.
        hurry: Set when servers shall get no time any more to end by themselves.

    Attributes:
        advice: What an administrator should change, told by what servers say.
    """

    def __init__(
        self,
        opener: Opener,
        launcher: Launcher,
        limits: PoolLimits,
        hurry: asyncio.Event | None = None,
    ) -> None:
        self._opener = opener
        self._launcher = launcher
        self._limits = limits
        self._listener: Listener | None = None
        self._current: dict[Key, Instance] = {}
        self._all: dict[str, Instance] = {}
        self._starting: dict[tuple[Key, tuple[str, int]], asyncio.Future[Instance]] = {}
        self._groups_starting: dict[tuple[Key, tuple[str, int]], frozenset[str]] = {}
        self._back_off = BackOff()
        self._slots = StartSlots(limits.starts_at_once)
        self._tasks: Tasks | None = None
        self._stopping: set[str] = set()
        self._ending: dict[str, State] = {}
        self._hurry = hurry or asyncio.Event()
        self._homes = HomeWatch(self._home_is_full)
        self.advice = Advice()

    def follow(self, listener: Listener) -> None:
        """Tell `listener` what happens from now on; there is one."""
        self._listener = listener

    def instances(self) -> list[Instance]:
        """Return all instances that are not gone, oldest first."""
        return list(self._all.values())

    @property
    def starts(self) -> int:
        """How many callers' instances are being started or wait for their turn."""
        return len(self._starting)

    def instance(self, instance_id: str) -> Instance | None:
        """Return one that is not gone, by its id."""
        return self._all.get(instance_id)

    def ready(
        self, permit: Permit, revision: tuple[str, int], session: str = ""
    ) -> Instance | None:
        """Return the caller's ready instance of this very revision, or None; never waits."""
        instance = self._current.get(key_of(permit, session))
        if instance is None or instance.revision != revision:
            return None
        if instance.state is State.PAUSED:
            instance.process.resume()
            instance.state = State.READY
            instance.last_used = self.now()
        return instance if instance.state is State.READY else None

    async def lease(
        self, permit: Permit, spec: ServerSpec, revision: tuple[str, int], session: str = ""
    ) -> Instance:
        """Return an instance for one call, starting it when needed; end with `release`.

        Raises:
            MissingCredential, InvalidInput, UpstreamFailed, Unavailable, LimitExceeded.
        """
        instance = self.ready(permit, revision, session)
        if instance is None:
            instance = await self._started(permit, spec, revision, session)
        self.take(instance)
        return instance

    def take(self, instance: Instance) -> None:
        """Lease an instance that is `ready`; end with `release`."""
        instance.in_flight += 1
        instance.calls += 1

    def release(self, instance: Instance) -> None:
        """End a lease."""
        instance.in_flight -= 1
        instance.last_used = self.now()

    def drain(self, which: Callable[[Instance], bool], *, at_once: bool = False) -> int:
        """Take instances out of use; they stop when their calls ended, or now when `at_once`."""
        found = [instance for instance in self._all.values() if which(instance)]
        for instance in found:
            self._retire(instance)
            if at_once or not instance.in_flight:
                self._stop_soon(instance)
        return len(found)

    def end_calls(self) -> None:
        """Fail every call in flight and every later one, because the hub is stopping."""
        self._tasks = None
        for pending in self._starting.values():
            if not pending.done():
                pending.set_exception(failing.hub_stops())
                pending.exception()
        for instance in self._all.values():
            if instance._upstream is not None:  # noqa: SLF001
                instance.upstream.fail_all(failing.hub_stops())

    async def stop(self, instance: Instance) -> None:
        """Stop one instance now; returns when its processes are gone."""
        await self._stop(instance)

    @contextlib.asynccontextmanager
    async def neutral(self, spec: ServerSpec) -> AsyncIterator[Instance]:
        """Run an instance that belongs to nobody for the time of the block (catalog discovery)."""
        await self._launcher.programs.prepare(spec)
        async with self._slots.held_by(NEUTRAL):
            launch = await self._launcher.neutral(spec, instance_id())
            instance = self._new(launch.instance_id, NEUTRAL, spec, ("", 0), "")
            try:
                await self._bring_up(instance, spec, launch)
                yield instance
            except HubError as error:
                await self._stop(instance, grace_s=0)  # first: then its last words are read
                raise self._with_last_words(error, instance) from None
            finally:
                await self._stop(instance, grace_s=0)  # nobody's: it has nothing to save
                await self._launcher.discard(launch)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the sweeper; stop every instance at the end."""
        async with Tasks() as tasks:
            self._tasks = tasks
            tasks.start("pool.sweep", self._sweep())
            tasks.start("pool.hurry", self._kill_when_hurried())
            tasks.start("pool.homes", self._watch_homes())
            try:
                yield
            finally:
                self._tasks = None
                tasks.cancel_all()
                # here, not as tasks: a group that ends by an exception cancels its tasks
                stops = (self._stop(instance) for instance in self.instances())
                async with Tasks() as last:
                    last.start("pool.hurry", self._kill_when_hurried())
                    await asyncio.gather(*stops, return_exceptions=True)
                    last.cancel_all()

    async def _started(
        self, permit: Permit, spec: ServerSpec, revision: tuple[str, int], session: str
    ) -> Instance:
        key = key_of(permit, session)
        pending = self._starting.get((key, revision))
        if pending is None:
            self._admit(key, spec, permit)
            if self._tasks is None:
                raise Unavailable("The hub is stopping.")
            pending = asyncio.get_running_loop().create_future()
            self._starting[(key, revision)] = pending
            self._groups_starting[(key, revision)] = permit.principal.groups
            self._tasks.start(
                "instance.start", self._start(pending, key, permit, spec, revision, session)
            )
        return await asyncio.shield(pending)

    def _admit(self, key: Key, spec: ServerSpec, permit: Permit) -> None:
        self._back_off.check(key, spec.name, self.now())
        running = [
            (each.owner, each.groups)
            for each in self._all.values()
            if each.state is not State.STARTING
        ]
        starting = [(each[0], groups) for (each, _), groups in self._groups_starting.items()]
        admit(self._limits, key[0], permit.principal.groups, running, starting)

    async def _start(
        self,
        pending: "asyncio.Future[Instance]",
        key: Key,
        permit: Permit,
        spec: ServerSpec,
        revision: tuple[str, int],
        session: str,
    ) -> None:
        instance: Instance | None = None
        try:
            await self._launcher.programs.prepare(spec)  # may install for minutes: before the slot
            async with self._slots.held_by(key[0]):
                launch = await self._launcher.launch(permit, spec, instance_id())
                instance = self._new(launch.instance_id, launch.owner, spec, revision, session)
                if launch.owner != SHARED:
                    instance.groups = permit.principal.groups
                if isinstance(launch, Launch):
                    instance.home, instance.files = launch.home, tuple(launch.files or ())
                    await self._homes.admit(launch.home, instance.home_bytes, spec.name)
                instance.told = launch.told
                await self._bring_up(instance, spec, launch)
            if self._listener is not None and self._listener.is_over(instance):
                unwanted, instance = instance, None
                await self._stop(unwanted)
                raise Unavailable(
                    f"Server '{spec.name}' changed while it started.", hint="Call again."
                )
            old = self._current.get(key)
            self._current[key] = instance
            if old is not None:
                self._retire(old)
            if not pending.done():
                pending.set_result(instance)
        except (HubError, OSError) as error:
            await self._failed(pending, key, spec, instance, error)
        finally:
            if not pending.done():
                pending.set_exception(
                    Unavailable(f"Server '{spec.name}' could not be started.", retry_after_s=5)
                )
                pending.exception()
            self._starting.pop((key, revision), None)
            self._groups_starting.pop((key, revision), None)

    async def _failed(
        self,
        pending: "asyncio.Future[Instance]",
        key: Key,
        spec: ServerSpec,
        instance: Instance | None,
        error: HubError | OSError,
    ) -> None:
        if not isinstance(error, HubError):
            _log.warning(
                "instance.start_failed",
                server=spec.name,
                error=type(error).__name__,
                errno=error.errno,
            )
            error = Unavailable(
                f"Server '{spec.name}' cannot be started on this machine now.", retry_after_s=5
            )
        if instance is not None:
            await self._stop(instance)  # first, so that its last words have been read
            error = self._with_last_words(error, instance)
            if not isinstance(error, MissingCredential):  # its user mends that, not time
                self._back_off.failed(key, str(error.message), self.now())
        if not pending.done():
            pending.set_exception(error)
            pending.exception()  # callers that went away must not make it "never retrieved"

    def _new(
        self, new_id: str, owner: str, spec: ServerSpec, revision: tuple[str, int], session: str
    ) -> Instance:
        now = self.now()
        instance = Instance(
            id=new_id, owner=owner, server=spec.name, session=session, revision=revision,
            idle_s=spec.sandbox.idle_s, started_at=now, last_used=now,
            pauses=spec.sandbox.pause and spec.transport is Transport.STDIO,
            home_bytes=spec.sandbox.home_mb * 2**20, code=self._launcher.programs.fixed_code(spec),
        )  # fmt: skip
        self._all[instance.id] = instance
        return instance

    async def _bring_up(self, instance: Instance, spec: ServerSpec, launch: Launch | Dial) -> None:
        if self._tasks is None:
            raise Unavailable("The hub is stopping.")
        await self._opener.open(
            Opening(
                instance, spec, launch, self._tasks,
                on_notification=lambda message: self._notified(instance, message),
                on_end=lambda: self._output_ended(instance),
            )
        )  # fmt: skip
        if instance.state is not State.STARTING:  # it ended or was stopped since it answered
            raise failing.ended(instance.server, instance.exited, instance.why())
        instance.state = State.READY
        self._changed("started", instance)

    def _output_ended(self, instance: Instance) -> None:
        """Its output ended: no call gets it any more.

        How its process ended, which its callers are told, is known in a moment.
        """
        if instance.state is State.STOPPED or instance.id in self._stopping:
            return
        self._ending.setdefault(instance.id, instance.state)
        self._retire(instance)
        if instance.exited is None or instance.exited.done():
            self._ended(instance)
        else:
            asyncio.get_running_loop().call_later(_STATUS_S, self._ended, instance)

    def _ended(self, instance: Instance) -> None:
        """Its output and most likely its process ended: fail what is in flight, then clean up."""
        was = self._ending.pop(instance.id, None)
        if was is None or instance.state is State.STOPPED or instance.id in self._stopping:
            return
        ended = failing.ended(instance.server, instance.exited, instance.why())
        instance.upstream.fail_all(self._with_last_words(ended, instance))
        if was in {State.READY, State.PAUSED}:
            self._changed("crashed", instance)
            if self.now() - instance.started_at < _STABLE_S:
                key = (instance.owner, instance.server, instance.session)
                self._back_off.failed(key, "it ended unexpectedly.", self.now())
        self._stop_soon(instance)

    def _with_last_words(self, error: HubError, instance: Instance) -> HubError:
        """Add to an error what its server said last, and what an administrator should change."""
        lines = instance.stderr()
        if advice := self.advice.look(instance, "\n".join(lines).encode()):
            error.hint = f"For an administrator: {advice}"
        return failing.with_last_words(error, [] if instance.owner == SHARED else lines)

    def _notified(self, instance: Instance, message: Message) -> None:
        if self._listener is not None:
            self._listener.notified(instance, message)

    def _changed(self, what: str, instance: Instance) -> None:
        if self._listener is not None:
            self._listener.instance_changed(what, instance)

    def _retire(self, instance: Instance) -> None:
        key = (instance.owner, instance.server, instance.session)
        if self._current.get(key) is instance:
            del self._current[key]
        if instance.state in {State.READY, State.PAUSED, State.STARTING}:
            instance.state = State.DRAINING
            instance.last_used = self.now()

    def _stop_soon(self, instance: Instance) -> None:
        if self._tasks is not None and instance.id not in self._stopping:
            self._stopping.add(instance.id)
            self._tasks.start("instance.stop", self._stop(instance))

    async def _kill_when_hurried(self) -> None:
        await self._hurry.wait()
        kills = (one.process.stop(0) for one in self.instances() if one.pid is not None)
        await asyncio.gather(*kills, return_exceptions=True)

    async def _stop(self, instance: Instance, grace_s: float = _GRACE_S) -> None:
        self._stopping.add(instance.id)
        if instance.state is State.STOPPED:
            return
        self._retire(instance)
        if instance._upstream is not None:  # noqa: SLF001
            instance.upstream.fail_all(failing.stopped(instance.server))
            instance.upstream.close()
        if instance._process is not None:  # noqa: SLF001
            await instance.process.stop(grace_s)
        self._clear_files(instance)
        instance.state = State.STOPPED
        self._all.pop(instance.id, None)
        self._stopping.discard(instance.id)
        self._changed("stopped", instance)

    def _clear_files(self, instance: Instance) -> None:
        """Remove from a home what stands for files in memory, with the last instance that has it.

        At once, so that no start comes in between.
        """
        home = instance.home
        if home is None or not instance.files:
            return
        others = (each for each in self._all.values() if each is not instance)
        if not any(each.home == home for each in others):
            laid.clear(home, instance.files)

    async def _sweep(self) -> None:
        ready, draining = State.READY, State.DRAINING
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = self.now()
            for instance in list(self._all.values()):  # a thousand, four times a second
                upstream, state = instance._upstream, instance.state  # noqa: SLF001
                if upstream is not None and upstream.pending:
                    upstream.sweep(now)
                quiet = now - instance.last_used
                if state is ready:
                    if quiet > instance.idle_s and not instance.in_flight:
                        self._rest(instance)
                    elif self._back_off and now - instance.started_at > _STABLE_S:
                        self._back_off.worked((instance.owner, instance.server, instance.session))
                over = not instance.in_flight or quiet > _DRAIN_S
                if state is draining and over and instance.id not in self._ending:
                    self._stop_soon(instance)

    def _rest(self, instance: Instance) -> None:
        """Pause an idle instance where its settings say so, else take it out of use."""
        if not instance.pauses or self._tasks is None:
            self._retire(instance)
            return
        instance.state = State.PAUSED
        self._tasks.start("instance.pause", self._pause(instance))

    async def _pause(self, instance: Instance) -> None:
        if instance.state is not State.PAUSED:
            return  # a call came first
        _log.info("instance.paused", instance=instance.id, server=instance.server)
        await instance.process.pause()

    async def _watch_homes(self) -> None:
        while True:
            await asyncio.sleep(_HOMES_S)
            await self._homes.look(self.instances(), self.now())

    def _home_is_full(self, instance: Instance) -> None:
        _log.warning("instance.home_full", instance=instance.id, server=instance.server)
        self._retire(instance)
        if instance._upstream is not None:  # noqa: SLF001
            instance.upstream.fail_all(failing.home_full(instance.server, instance.home_bytes))
        self._stop_soon(instance)

    now = staticmethod(time.monotonic)
    """The time in seconds on the clock of all durations, which the loop has too (to ask for the loop costs
    a call to the system)."""
