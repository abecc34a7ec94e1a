"""The instance pool over any sequence of leases, crashes, changes and time, with servers that misbehave."""

import asyncio
import contextlib
import tempfile
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.nobody import nobodys_signer

from mcphub.catalog.packages import PackageStore
from mcphub.catalog.spec import SandboxSpec, ServerSpec
from mcphub.catalog.states import ServerStates
from mcphub.catalog.toolchain import find_toolchain
from mcphub.errors import HubError, LimitExceeded, Unavailable, UpstreamFailed
from mcphub.ids import system_clock
from mcphub.policy.decide import decide
from mcphub.policy.model import HostFacts, Permit, Principal, Role, Transport
from mcphub.spawn.dialects import Dialects
from mcphub.spawn.launching import Launcher
from mcphub.spawn.opening import Opener
from mcphub.spawn.pool import Instance, InstancePool, PoolLimits, State
from mcphub.spawn.programs import Programs
from mcphub.store.database import Database
from mcphub.testing.spawners import (
    CrashingSpawner,
    NeverReadySpawner,
    SpawnerByServer,
    ThreadSpawner,
)
from mcphub.vault.keys import FileKeys, KeyRing
from mcphub.vault.vault import Vault
from mcphub.wire.codes import Dialect

EVERYONE = frozenset({"everyone"})
USERS = [Principal(f"u_{n}", f"user {n}", 16 + n, Role.USER, EVERYONE, "k_1") for n in range(3)]
HANGER = Principal("u_hanger", "hanger", 30, Role.USER, EVERYONE, "k_1")
PAUSES = "two"
GOOD, BAD, HANGING = ("one", "two"), "bad", [f"hanging{n}" for n in range(6)]
IDLE_S = 100.0
LIMITS = PoolLimits(instances=12, instances_per_user=3, starts_at_once=2)
TOOLCHAIN = find_toolchain("/usr/bin:/bin")
REAL_S = 20
"""Real seconds that anything may take; the pool's own clock is moved by hand."""


class MovedLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock also goes when a test says so."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


def spec_of(name: str) -> ServerSpec:
    return ServerSpec(
        name, name, Transport.STDIO, "/bin/cat", groups=EVERYONE, dialect=Dialect.LEGACY,
        sandbox=SandboxSpec(idle_s=IDLE_S, pause=name == PAUSES),
    )  # fmt: skip


def permit_of(user: Principal, spec: ServerSpec) -> Permit:
    found = decide(user, spec.facts(version="1"), HostFacts(5))
    assert isinstance(found, Permit)
    return found


class Pool(RuleBasedStateMachine):
    """A real pool and launcher on threads; the model is who holds which lease for which revision."""

    users = st.sampled_from(USERS)
    servers = st.sampled_from(GOOD)

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.runner = self.stack.enter_context(asyncio.Runner(loop_factory=MovedLoop))
        self.revisions: Counter[tuple[str, str]] = Counter()
        self.held: list[tuple[Instance, Principal, str, int]] = []
        self.forced: set[str] = set()
        self.owners: dict[str, str] = {}
        self.waiting: list[asyncio.Task[Instance]] = []

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        async def limited() -> Any:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, MovedLoop)
            async with asyncio.timeout_at(loop.time() + REAL_S):
                return await work

        return self.runner.run(limited())

    @initialize()
    def open(self) -> None:
        db = Database.at(f"sqlite:///{self.folder / 'hub.db'}")
        programs = Programs(
            homes=self.folder / "homes",
            packages=PackageStore(self.folder / "packages", TOOLCHAIN, {}),
            states=ServerStates(db, system_clock),
            search_path="/usr/bin:/bin",
        )
        launcher = Launcher(
            homes=self.folder / "homes",
            programs=programs,
            vault=Vault(db, KeyRing.load(FileKeys(self.folder / "keys")), system_clock),
            signer=nobodys_signer(),
            home_inside=str,
        )

        async def start() -> None:
            never = NeverReadySpawner()
            others = {BAD: CrashingSpawner(), **dict.fromkeys(HANGING, never)}
            self.spawner = SpawnerByServer(ThreadSpawner(), others)
            dialects = Dialects(ServerStates(db, system_clock), programs)
            opener = Opener(self.spawner, dialects, line_bytes=100_000, timeout_s=40)
            self.pool = InstancePool(opener, launcher, LIMITS)
            self.over = asyncio.Event()
            ready = asyncio.Event()

            async def life() -> None:
                async with self.pool.running():
                    ready.set()
                    await self.over.wait()
                await db.close()

            self.life = asyncio.get_running_loop().create_task(life())
            await ready.wait()

        self.run(start())

    def lease(self, user: Principal, server: str, *, times: int = 1) -> Any:
        spec = spec_of(server)
        revision = self.revisions[(user.user_id, server)]

        async def ask() -> list[Instance | BaseException]:
            one = (
                self.pool.lease(permit_of(user, spec), spec, ("s", revision)) for _ in range(times)
            )
            return await asyncio.gather(*one, return_exceptions=True)

        return self.run(ask()), revision

    @rule(user=users, server=servers, times=st.integers(1, 4), renewed=st.booleans())
    def call(self, user: Principal, server: str, times: int, renewed: bool) -> None:
        if renewed:  # and the call comes before the hub has drained what is old
            self.revisions[(user.user_id, server)] += 1
        before = len(self.spawner.default.processes)
        found, revision = self.lease(user, server, times=times)
        leased = [one for one in found if isinstance(one, Instance)]
        assert len(self.spawner.default.processes) - before <= 1  # once, however many ask
        if len(leased) < times:
            assert not leased and all(isinstance(one, LimitExceeded | Unavailable) for one in found)
        for instance in leased:
            assert instance is leased[0]
            self.held.append((instance, user, server, revision))

    @rule(which=st.integers(0, 30))
    def end_a_call(self, which: int) -> None:
        if self.held:
            instance, *_ = self.held.pop(which % len(self.held))

            async def release() -> None:
                self.pool.release(instance)

            self.run(release())

    @rule(user=users, server=servers)
    def set_a_credential(self, user: Principal, server: str) -> None:
        self.revisions[(user.user_id, server)] += 1

        async def drain() -> None:
            self.pool.drain(
                lambda found: (
                    (found.owner, found.server) == (user.user_id, server)
                    and found.revision[1] != self.revisions[(user.user_id, server)]
                )
            )

        self.run(drain())

    @rule(user=users)
    def disable(self, user: Principal) -> None:
        self.forced |= {one.id for one in self.pool.instances() if one.owner == user.user_id}

        async def drain() -> None:
            self.pool.drain(lambda found: found.owner == user.user_id, at_once=True)

        self.run(drain())

    @rule(which=st.integers(0, 30))
    def crash(self, which: int) -> None:
        processes = self.spawner.default.running
        if processes:
            process = processes[which % len(processes)]
            self.forced.add(process.launch.instance_id)
            self.run(self._crash(process))

    async def _crash(self, process: Any) -> None:
        process.crash()
        await asyncio.shield(process.exited)

    @rule(user=users)
    def start_what_crashes(self, user: Principal) -> None:
        (error,), _ = self.lease(user, BAD)
        if isinstance(error, Unavailable):
            assert "failed" in str(error) and 0 < error.retry_after_s <= 60
        else:
            assert isinstance(error, UpstreamFailed | LimitExceeded)
        if not isinstance(error, LimitExceeded):
            assert "cannot find my configuration" in str(error)

    @rule(server=st.sampled_from(HANGING))
    def start_what_hangs(self, server: str) -> None:
        spec = spec_of(server)

        async def begin() -> None:
            ask = self.pool.lease(permit_of(HANGER, spec), spec, ("s", 0))
            self.waiting.append(asyncio.get_running_loop().create_task(ask))
            await asyncio.sleep(0)

        self.run(begin())

    @rule(seconds=st.sampled_from([0.3, 5.0, 35.0, IDLE_S + 1]))
    def wait(self, seconds: float) -> None:
        async def later() -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, MovedLoop)
            loop.ahead += seconds
            await asyncio.sleep(0.3)  # one round of the sweeper, and of what it began

        self.runner.run(later())

    @invariant()
    def a_lease_is_for_its_owner_and_revision(self) -> None:
        for instance, user, server, revision in self.held:
            assert (instance.owner, instance.server) == (user.user_id, server)
            assert instance.revision == ("s", revision)

    @invariant()
    def a_process_never_changes_its_owner(self) -> None:
        for instance in self.pool.instances() if hasattr(self, "pool") else ():
            if instance._process is not None:
                launch = instance.process.launch  # pyright: ignore[reportAttributeAccessIssue]
                assert (launch.owner, launch.instance_id) == (instance.owner, instance.id)
            assert self.owners.setdefault(instance.id, instance.owner) == instance.owner

    @invariant()
    def at_most_one_is_current_for_each_owner_and_server(self) -> None:
        if hasattr(self, "pool"):
            live = {State.READY, State.PAUSED}
            ready = Counter(
                (one.owner, one.server) for one in self.pool.instances() if one.state in live
            )
            assert all(count == 1 for count in ready.values())

    @invariant()
    def what_can_be_called_runs_and_what_rests_is_not_in_use(self) -> None:
        for instance in self.pool.instances() if hasattr(self, "pool") else ():
            if instance.state is State.READY:
                paused = instance.process.paused  # pyright: ignore[reportAttributeAccessIssue]
                assert not paused
            elif instance.state is State.PAUSED:
                assert instance.server == PAUSES and not instance.in_flight

    @rule(user=users)
    def wake(self, user: Principal) -> None:
        """An idle stateful instance is paused, and the next call has the very same one again."""
        resting = [
            one
            for one in self.pool.instances()
            if (one.owner, one.server) == (user.user_id, PAUSES) and one.state is State.PAUSED
        ]
        (found,), revision = self.lease(user, PAUSES)
        if resting and resting[0].revision == ("s", revision):
            assert found is resting[0]
        if isinstance(found, Instance):
            self.held.append((found, user, PAUSES, revision))

    @invariant()
    def limits_hold(self) -> None:
        if hasattr(self, "pool"):
            found = self.pool.instances()
            assert len(found) <= LIMITS.instances
            counts = Counter(one.owner for one in found)
            assert all(count <= LIMITS.instances_per_user for count in counts.values())
            starting = [one for one in found if one.state is State.STARTING]
            assert len(starting) <= LIMITS.starts_at_once

    @invariant()
    def nothing_in_use_was_stopped_without_force(self) -> None:
        for instance, *_ in self.held:
            if instance.id not in self.forced and instance.state is not State.DRAINING:
                assert instance.state in {State.READY, State.STOPPED}
                if instance.state is State.STOPPED:
                    # only a drain that waited its time for calls to end may do that
                    assert self.revisions[(instance.owner, instance.server)] != instance.revision[1]

    def teardown(self) -> None:
        with self.stack:
            if hasattr(self, "pool"):
                self.run(self._close())
                assert self.pool.instances() == [] and self.spawner.running == []

    async def _close(self) -> None:
        self.over.set()
        await self.life
        for task in self.waiting:
            with contextlib.suppress(HubError):
                await task
        while self.spawner.running:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=20, stateful_step_count=25)
