"""A running hub: what it holds, how it follows changes, what it tells its administrator.

Made by `app`, which knows the concrete classes. Here is what happens between requests: a revision
of the database or of the settings file that counts from now on, instances that may not run any
more, catalogs learned ahead of the first caller.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import structlog

from mcphub import __version__
from mcphub.audit import log
from mcphub.audit.recorder import Recorder
from mcphub.catalog.settings_file import LoadedSettings
from mcphub.catalog.spec import ServerSpec
from mcphub.errors import Conflict, HubError, NotFound, Unavailable
from mcphub.gateway.access import Access
from mcphub.gateway.catalogs import TOOLS, Catalogs
from mcphub.gateway.listen import LIST_CHANGED, Outlets
from mcphub.gateway.plane import DataPlane
from mcphub.gateway.sessions import Sessions
from mcphub.ground import Ground
from mcphub.ids import Clock, steady_clock
from mcphub.oauth.connections import Connections
from mcphub.offboarding import destroy
from mcphub.policy.model import HostFacts, Transport
from mcphub.spawn.egress.ledger import EgressLedger
from mcphub.spawn.instance import Instance
from mcphub.spawn.launching import Launcher
from mcphub.spawn.pool import InstancePool
from mcphub.spawn.spawner import Spawner
from mcphub.store import changes
from mcphub.store.database import Revision
from mcphub.tasks import Tasks
from mcphub.wire.envelope import Message

_log = structlog.get_logger()
_POLL_S: Final = 1.0
_SILENT_S: Final = 10.0
_SLOW_POLLS: Final = 60
_DUE_POLLS: Final = 5
_EGRESS_POLLS: Final = 300
_WARM_AT_ONCE: Final = 2

Look = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Hub:
    """A running hub. Implements `api.control.Control`.

    Attributes:
        late: Clock for what cannot be undone.
        cannot_go_on: Stops the hub, for a reason that it is given.
        url: Where clients reach it, once it listens.
    """

    ground: Ground
    spawner: Spawner
    host: HostFacts
    launcher: Launcher
    pool: InstancePool
    access: Access
    catalogs: Catalogs
    outlets: Outlets
    sessions: Sessions
    recorder: Recorder
    plane: DataPlane
    tasks: Tasks
    egress: EgressLedger
    late: Clock
    connections: Connections
    cannot_go_on: Callable[[HubError], None]
    url: str = ""
    revision: Revision | None = None
    _heard_at: float = field(default_factory=steady_clock)
    _silent: bool = False
    _reload: asyncio.Lock = field(default_factory=asyncio.Lock)
    _asked: int = 0
    _answered: int = 0

    async def refresh(self) -> int:
        """Read the database anew and stop what may not run any more; returns the revision's number.

        Whoever asks while it is being read waits for one reading more, all of them for the same.
        """
        self._asked = mine = self._asked + 1
        async with self._reload:
            if self._answered >= mine and self.revision is not None:
                return self.revision.number
            asked = self._asked
            found = await changes.since(self.ground.db, self.revision)
            before = (
                {name: state.pin for name, state in self.access.states.items()}
                if self.revision is not None
                else {}
            )
            await self.access.load(found.users)
            self.revision = found.revision
            for name, state in self.access.states.items():
                if name in before and before[name] != state.pin:
                    self._changed(name)
            if found.another:
                self._begin_anew()
            self._end_what_is_over()
            self._answered = asked
            return found.revision.number

    def status(self) -> dict[str, object]:
        """Return figures of the hub as a whole."""
        error = self.ground.live.error
        return {
            "version": __version__,
            "url": self.url,
            "revision": self.revision.number if self.revision is not None else 0,
            "databaseSilentS": round(self.silent_s()) if self._silent else 0,
            "sandboxLevel": self.spawner.level,
            "sandbox": self.spawner.means,
            "minimumLevel": self.host.minimum_level,
            "allowUnsandboxed": self.host.allow_unsandboxed,
            "warning": self.spawner.warning,
            "servers": len(self.access.specs),
            "users": len(self.access.active_users),
            "sessions": len(self.sessions),
            "instances": len(self.pool.instances()),
            "settingsError": str(error) if error else "",
            "unavailable": self.unavailable(),
            "advice": self.pool.advice.all(),
        }

    def figures(self) -> dict[str, float]:
        """Return the hub as it is now in numbers, for `Metrics.text`."""
        return {
            "mcphub_calls_in_flight": sum(self.plane.in_flight.values()),
            "mcphub_sessions": len(self.sessions),
            "mcphub_instances": len(self.pool.instances()),
            "mcphub_parked_calls": len(self.plane.parked),
            "mcphub_servers": len(self.access.specs),
            "mcphub_users": len(self.access.active_users),
            "mcphub_request_records_waiting": self.recorder.waiting,
            "mcphub_request_records_dropped_total": self.recorder.dropped,
            "mcphub_database_silent_seconds": self.silent_s(),
            **self._spans(),
            "process_cpu_seconds_total": time.process_time(),
        }

    def _spans(self) -> dict[str, float]:
        """Return figures of tracing; none where it is off."""
        traces = self.plane.traces
        if traces is None:
            return {}
        return {
            "mcphub_spans_waiting": traces.waiting,
            "mcphub_spans_exported_total": traces.exported,
            "mcphub_spans_dropped_total": traces.dropped,
        }

    def instances(self) -> list[dict[str, object]]:
        """Return the running instances; users by opaque id."""
        now = self.pool.now()
        return [
            {
                "id": instance.id,
                "user": instance.owner,
                "server": instance.server,
                "state": instance.state.value,
                "pid": instance.pid,
                "sandbox_level": None if instance.pid is None else self.spawner.level,
                "age_s": round(now - instance.started_at, 1),
                "idle_s": round(now - instance.last_used, 1) if not instance.in_flight else 0.0,
                "in_flight": instance.in_flight,
                "calls": instance.calls,
                "refused": self.egress.refused(instance.id),
                "egress": self.egress.counts(instance.id),
            }
            for instance in self.pool.instances()
        ]

    def unavailable(self) -> list[dict[str, str]]:
        """Return which servers could not be listed last, for whom (id, "" for all) and why."""
        everybody = {
            server: missing.reason
            for (server, user_id), missing in self.catalogs.failures.items()
            if not user_id
        }
        return [
            {"server": server, "user": user_id, "reason": missing.reason}
            for (server, user_id), missing in sorted(
                self.catalogs.failures.items(), key=lambda found: found[0]
            )
            if not user_id or everybody.get(server) != missing.reason
        ]

    async def stop_instance(self, instance_id: str) -> None:
        """Stop one instance; returns when its processes are gone."""
        await self.pool.stop(self._instance(instance_id))

    def stderr(self, instance_id: str) -> list[str]:
        """Return an instance's last lines on stderr, redacted."""
        return self._instance(instance_id).stderr()

    def tools(self, instance_id: str) -> list[str] | None:
        """Return the names of the tools that an instance itself listed; None when it was not asked."""
        own = self.catalogs.own(self._instance(instance_id), TOOLS)
        return None if own is None else [item.name for item in own]

    def notified(self, instance: Instance, message: Message) -> None:
        """Take what a server sent outside a call."""
        if message.method in LIST_CHANGED:
            instance.lists_changed = True
            self.catalogs.forget_instance(instance)
        self.outlets.publish(instance, message)

    def instance_changed(self, what: str, instance: Instance) -> None:
        """Take the news that an instance started, crashed or stopped."""
        _log.info(
            f"instance.{what}", instance=instance.id, server=instance.server, user=instance.owner
        )
        if what == "started":
            self.tasks.start("watches.restore", self.plane.watches.restore(instance))
        spec = self.access.specs.get(instance.server)
        if what == "started" and spec is not None and self.launcher.programs.is_unproven(spec):
            self.tasks.start("start.prove", self.launcher.prove(spec))
        if what == "stopped":
            self.egress.forget(instance.id)
            self.catalogs.forget_instance(instance)

    def is_over(self, instance: Instance) -> bool:
        """Whether the owner is gone, or the server or the credential is another one by now."""
        return self._is_orphan(instance) or not self.access.is_current(
            instance.owner, instance.server, instance.revision
        )

    async def reload(self) -> None:
        """Look at the settings file and the database now (SIGHUP); mistakes in the file are logged."""
        _log.info("hub.reload")
        await self.ground.live.refresh(self.settings_changed)
        await self.refresh()

    def settings_changed(self, old: LoadedSettings, new: LoadedSettings) -> None:
        """Take a valid edit of the settings file."""
        names = {
            name for name in {*old.specs, *new.specs} if old.specs.get(name) != new.specs.get(name)
        }
        _log.info("settings.reloaded", changed=sorted(names))
        self.access.take_settings()
        for name in names:
            self._changed(name)
        self._end_what_is_over()
        self.tasks.start("settings.warm", self.warm())

    def follow(self) -> None:
        """Begin to write records and to follow the settings file and the database."""
        self.tasks.start("audit.flush", self.recorder.run())
        self.tasks.start("settings.watch", self.ground.live.watch(self.settings_changed))
        self.tasks.start("store.watch", self.watch(self._looks_at_the_database))
        self.tasks.start("hub.watch", self.watch(self._looks_at_the_hub))

    async def watch(self, looks: Callable[[int], Iterator[Look]]) -> None:
        """Look at something every second, as at the database's revision: a change by another process counts then.

        Whatever fails is tried again with the next look, and keeps nothing else from being looked at: a
        revocation has to count also while something else is out of order.

        Args:
            looks: Gives what is looked at in the second of a number.
        """
        polls, told = 0, dict[str, str]()
        while True:
            await asyncio.sleep(_POLL_S)
            polls += 1
            for step in looks(polls):
                name, problem, cause = step.__name__.strip("_"), "", ""
                try:
                    await step()
                except HubError as error:
                    # of the database's error the type alone: its text can hold values
                    problem, cause = error.message, type(error.__cause__ or error).__name__
                except Exception as error:  # noqa: BLE001  the next look must come
                    problem = cause = type(error).__name__
                    if told.get(name) != problem:
                        _log.exception("watch.failed", step=name)
                if problem and told.get(name) != problem:
                    _log.warning("watch.problem", step=name, error=problem, cause=cause)
                elif not problem and told.get(name):
                    _log.info("watch.works_again", step=name)
                told[name] = problem

    def _looks_at_the_database(self, polls: int) -> Iterator[Look]:
        """Yield what asks the database, what others' rights hang on first; it may not answer for a while."""
        yield self._follow_database
        yield self._stay_the_only_hub
        yield self._follow_signing_keys
        if polls % _SLOW_POLLS == 0:
            yield self._note_keys
        if polls % _EGRESS_POLLS == 0:
            yield self.note_egress
        if polls % _DUE_POLLS == 0:
            yield self._remove_who_is_due

    def _looks_at_the_hub(self, polls: int) -> Iterator[Look]:
        """Yield what the hub finds out by itself, whether or not the database answers."""
        yield self._keep_to_the_database
        yield self._tell_of_silence
        yield self._end_what_is_idle
        if polls % _DUE_POLLS == 0:
            yield self._drain_expired

    def silent_s(self) -> float:
        """Return for how long the database has not answered: what was changed there meanwhile does not count yet."""
        return steady_clock() - self._heard_at

    async def _tell_of_silence(self) -> None:
        if not self._silent and self.silent_s() > _SILENT_S:
            self._silent = True
            _log.error("database.silent", for_s=round(self.silent_s()))

    async def _keep_to_the_database(self) -> None:
        if self.ground.db_file.is_another():
            self.cannot_go_on(
                Unavailable(
                    "The database's file is another one than the hub has opened, or gone: what commands change "
                    "there would not count.",
                    hint="Start the hub again. To restore a backup, stop it first.",
                )
            )

    async def _follow_database(self) -> None:
        if await self.ground.db.revision() != self.revision:
            await self.refresh()
        if self._silent:
            self._silent = False
            _log.info("database.answers_again", after_s=round(self.silent_s()))
        self._heard_at = steady_clock()

    async def _stay_the_only_hub(self) -> None:
        try:
            await self.ground.hold.keep()
        except Conflict as error:
            self.cannot_go_on(error)

    async def _follow_signing_keys(self) -> None:
        if self.ground.signer.refresh():
            await self.refresh()

    async def _end_what_is_idle(self) -> None:
        self.outlets.recheck()
        self.sessions.sweep()
        self.plane.parked.sweep(self.pool.now())

    async def _drain_expired(self) -> None:
        self._drain_what_is_over()  # a membership may have expired

    async def warm(self) -> None:
        """Install packages and learn catalogs ahead of the first caller; failures wait for the caller."""
        gate = asyncio.Semaphore(_WARM_AT_ONCE)

        async def one(spec: ServerSpec) -> None:
            async with gate:
                try:
                    await self.catalogs.offer(spec)
                except HubError as error:
                    _log.warning("server.unavailable", server=spec.name, error=str(error))

        state = self.access.states
        wanted = [
            spec
            for spec in self.access.specs.values()
            if spec.transport is not Transport.BUILTIN
            and spec.enabled
            and (spec.name not in state or state[spec.name].enabled)
        ]
        await asyncio.gather(*(one(spec) for spec in wanted))

    def left(self) -> list[str]:
        """Return the instances that are not gone, in words for the log."""
        return [
            f"instance {one.id} of server {one.server} (process {one.pid})"
            for one in self.pool.instances()
        ]

    async def flush(self) -> None:
        """Write what is only in memory, at the end."""
        await self.recorder.aclose()
        await self.note_egress()

    async def save(self) -> None:
        """Write what is only in memory and close the database, whatever else still runs."""
        await self.flush()
        await self.ground.db.close()

    def _changed(self, name: str) -> None:
        self.launcher.programs.forget(name)
        self.catalogs.forget(name)
        self.pool.advice.forget(name)
        self.outlets.changed(name)

    def _begin_anew(self) -> None:
        """Let every user's instance go: numbers of what it was started with may mean something else by now."""
        _log.warning("database.another_past")
        self.pool.drain(lambda found: found.owner.startswith("u_"))

    def _end_what_is_over(self) -> None:
        """Stop instances of users who are gone, drain what may not run so, end streams of dead keys."""
        active = self.access.active_users
        self.pool.drain(self._is_orphan, at_once=True)
        self._drain_what_is_over()
        self.outlets.recheck()
        for user_id in self.sessions.users():
            if user_id not in active:
                self.sessions.end_of_user(user_id)

    def _drain_what_is_over(self) -> None:
        """Drain instances of old revisions, and of users who may not use the server any more."""
        self.pool.drain(
            lambda found: not self.access.is_current(found.owner, found.server, found.revision)
        )

    def _is_orphan(self, instance: Instance) -> bool:
        return instance.owner.startswith("u_") and instance.owner not in self.access.active_users

    async def _remove_who_is_due(self) -> None:
        """Destroy what belongs to users whose period of grace is over; a failure is tried again."""
        for user in await self.ground.directory.due_removals(self.late()):
            theirs = [one for one in self.pool.instances() if one.owner == user.id]
            await asyncio.gather(*(self.pool.stop(one) for one in theirs))
            await destroy(self.ground, user.id, actor="hub", stopped=len(theirs))
            _log.info("user.removed", user=user.id)
            await self.refresh()

    def whose(self, instance_id: str) -> tuple[str, str] | None:
        """Return user and server of an instance that is not gone."""
        instance = self.pool.instance(instance_id)
        return None if instance is None else (instance.owner, instance.server)

    async def note_egress(self) -> None:
        """Write down what users' servers did with the network since the last time."""
        for user, detail in self.egress.due():
            await self.ground.audit.write("egress", log.EGRESS_USED, user, detail)

    async def _note_keys(self) -> None:
        seen, self.plane.seen_keys = self.plane.seen_keys, {}
        if seen:
            await self.ground.directory.note_use(seen)

    def _instance(self, instance_id: str) -> Instance:
        found = next((one for one in self.pool.instances() if one.id == instance_id), None)
        if found is None:
            raise NotFound("There is no such instance.", hint="See `mcphub instances`.")
        return found
