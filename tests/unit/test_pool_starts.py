"""The pool with servers that hang, crash and crowd: what one user does never stops another."""

import contextlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from tests.nobody import nobodys_signer
from tests.polling import until

from mcphub.catalog.packages import PackageStore
from mcphub.catalog.spec import SandboxSpec, ServerSpec
from mcphub.catalog.states import ServerStates
from mcphub.catalog.toolchain import find_toolchain
from mcphub.errors import HubError, LimitExceeded, Unavailable, UpstreamFailed
from mcphub.ids import system_clock
from mcphub.policy.decide import decide
from mcphub.policy.model import HostFacts, Isolation, Permit, Principal, Role, Transport
from mcphub.spawn import copies
from mcphub.spawn.dialects import Dialects
from mcphub.spawn.launching import Launcher
from mcphub.spawn.opening import Opener
from mcphub.spawn.pool import Instance, InstancePool, PoolLimits, State
from mcphub.spawn.programs import Programs
from mcphub.spawn.starts import starts_at_once
from mcphub.store.database import Database
from mcphub.testing.spawners import (
    CrashingSpawner,
    NeverReadySpawner,
    SlowSpawner,
    SpawnerByServer,
    ThreadSpawner,
)
from mcphub.vault.keys import FileKeys, KeyRing
from mcphub.vault.vault import Vault
from mcphub.wire.codes import Dialect
from mcphub.wire.envelope import Message

pytestmark = pytest.mark.anyio
USERS = {
    name: Principal(f"u_{name}", name, 16 + n, Role.USER, frozenset({"everyone"}), "k_1")
    for n, name in enumerate(("alice", "bob", "carol"))
}
FIRST = ("settings", 1)


def spec(
    name: str = "tools", *, isolation: Isolation | None = None, pause: bool = False
) -> ServerSpec:
    return ServerSpec(
        name, name, Transport.STDIO, "/bin/cat", groups=frozenset({"everyone"}), isolation=isolation,
        dialect=Dialect.LEGACY, sandbox=SandboxSpec(pause=pause),
    )  # fmt: skip


def permit(user: str, server: ServerSpec) -> Permit:
    found = decide(USERS[user], server.facts(version="1"), HostFacts(5))
    assert isinstance(found, Permit)
    return found


@dataclass
class Listening:
    """Implements `pool.Listener`: keeps the news, and says which instances may not run any more."""

    news: list[tuple[str, str]] = field(default_factory=list)
    heard: list[tuple[str, str]] = field(default_factory=list)
    over: Callable[[Instance], bool] = lambda _: False

    def notified(self, instance: Instance, message: Message) -> None:
        self.heard.append((instance.owner, message.method))

    def instance_changed(self, what: str, instance: Instance) -> None:
        self.news.append((what, instance.id))

    def is_over(self, instance: Instance) -> bool:
        return self.over(instance)


@asynccontextmanager
async def pool_of(
    tmp_path: Path, spawner: Any, listening: Listening | None = None, **limits: float
) -> AsyncIterator[InstancePool]:
    """The real pool and launcher on a fake spawner; at the end nothing may run any more."""
    db = Database.at(f"sqlite:///{tmp_path / 'hub.db'}")
    programs = Programs(
        homes=tmp_path / "homes",
        packages=PackageStore(tmp_path / "packages", find_toolchain("/usr/bin:/bin"), {}),
        states=ServerStates(db, system_clock),
        search_path="/usr/bin:/bin",
    )
    launcher = Launcher(
        homes=tmp_path / "homes",
        programs=programs,
        vault=Vault(db, KeyRing.load(FileKeys(tmp_path / "keys")), system_clock),
        signer=nobodys_signer(),
        home_inside=str,
    )
    timeout_s = limits.pop("start_timeout_s", 30)
    opener = Opener(
        spawner,
        Dialects(ServerStates(db, system_clock), programs),
        line_bytes=10**6,
        timeout_s=timeout_s,
    )
    wanted = {"instances": 50, "instances_per_user": 10, "starts_at_once": 4}
    pool = InstancePool(opener, launcher, PoolLimits(**wanted | limits))
    pool.follow(listening or Listening())
    with anyio.fail_after(60):
        async with pool.running():
            yield pool
        await until(lambda: not spawner.running)
    assert pool.instances() == []
    await db.close()


async def lease(pool: InstancePool, user: str, server: ServerSpec, session: str = "") -> Instance:
    return await pool.lease(permit(user, server), server, FIRST, session)


async def test_one_user_who_starts_what_never_gets_ready_delays_nobody(tmp_path):
    hanging = [spec(f"hanging{n}") for n in range(50)]
    never = NeverReadySpawner()
    spawner = SpawnerByServer(ThreadSpawner(), {server.name: never for server in hanging})
    limits = {"instances": 100, "instances_per_user": 60}
    async with pool_of(tmp_path, spawner, **limits) as pool, anyio.create_task_group() as group:

        async def hang(server):
            with contextlib.suppress(HubError):
                await lease(pool, "alice", server)

        for server in hanging:
            group.start_soon(hang, server)
        await until(lambda: never.processes and pool.starts == 50)
        with anyio.fail_after(10):
            found = await lease(pool, "bob", spec())
        assert found.owner == "u_bob" and len(never.processes) == 2
        group.cancel_scope.cancel()


async def test_a_neutral_instance_that_never_gets_ready_delays_nobody(tmp_path):
    hanging = [spec(f"hanging{n}") for n in range(6)]
    never = NeverReadySpawner()
    spawner = _neutral_aside(never)
    async with pool_of(tmp_path, spawner) as pool, anyio.create_task_group() as group:

        async def discover(server):
            with contextlib.suppress(HubError):
                async with pool.neutral(server):
                    pass

        for server in hanging:
            group.start_soon(discover, server)
        await until(lambda: never.processes)
        with anyio.fail_after(10):
            assert (await lease(pool, "bob", spec())).owner == "u_bob"
        group.cancel_scope.cancel()


async def test_nothing_is_left_of_a_neutral_instance(tmp_path):
    class Copying(ThreadSpawner):
        async def start(self, launch):
            launch.home.mkdir(parents=True)
            (copies.beside(launch.home) / "copy").mkdir(parents=True)
            return await super().start(launch)

    async with pool_of(tmp_path, Copying()) as pool:
        async with pool.neutral(spec()):
            assert len(list((tmp_path / "homes" / "neutral").iterdir())) == 2
        assert list((tmp_path / "homes" / "neutral").iterdir()) == []


def _neutral_aside(other: ThreadSpawner) -> SpawnerByServer:
    class Aside(SpawnerByServer):
        async def start(self, launch):
            return await (other if launch.owner == "neutral" else self.default).start(launch)

    return Aside(ThreadSpawner(), {"other": other})


async def test_one_user_gets_no_more_instances_by_asking_for_all_at_once(tmp_path):
    spawner = SlowSpawner()
    refused = []
    async with pool_of(tmp_path, spawner, instances_per_user=3) as pool:

        async def ask(server):
            try:
                await lease(pool, "alice", server)
            except LimitExceeded as error:
                refused.append(str(error))

        async with anyio.create_task_group() as group:
            for n in range(9):
                group.start_soon(ask, spec(f"s{n}"))
            await until(lambda: spawner.waiting)
            spawner.go.set()
        assert len(pool.instances()) == 3 and len(refused) == 6
        assert (await lease(pool, "bob", spec())).owner == "u_bob"


async def test_the_hub_runs_no_more_instances_than_it_may_when_all_ask_at_once(tmp_path):
    spawner = SlowSpawner()
    refused = []
    async with pool_of(tmp_path, spawner, instances=2) as pool:

        async def ask(user):
            try:
                await lease(pool, user, spec())
            except Unavailable as error:
                refused.append(str(error))

        async with anyio.create_task_group() as group:
            for user in USERS:
                group.start_soon(ask, user)
            await until(lambda: spawner.waiting)
            spawner.go.set()
        assert len(pool.instances()) == 2 and len(refused) == 1


def test_as_many_instances_start_at_once_as_keep_the_cores_busy_unless_settings_say_otherwise():
    before = os.sched_getaffinity(0)
    assert starts_at_once(0) == max(4, 2 * len(before))
    assert (starts_at_once(1), starts_at_once(50)) == (1, 50)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert starts_at_once(0) == 4
    finally:
        os.sched_setaffinity(0, before)


async def test_ten_calls_at_once_start_one_instance_for_each_user(tmp_path):
    spawner = SlowSpawner()
    found: dict[str, set[str]] = {"alice": set(), "bob": set()}
    async with pool_of(tmp_path, spawner) as pool:

        async def ask(user):
            found[user].add((await lease(pool, user, spec())).id)

        async with anyio.create_task_group() as group:
            for user in [*found] * 10:
                group.start_soon(ask, user)
            await until(lambda: spawner.waiting == 2)
            spawner.go.set()
        assert len(found["alice"]) == len(found["bob"]) == 1 and len(spawner.processes) == 2
        assert not found["alice"] & found["bob"]
        # who put something off for the sake of these starts is told that they are over
        assert all(process.proven.done() for process in spawner.processes)


async def test_another_revision_is_another_instance_and_the_old_one_ends_after_its_calls(tmp_path):
    async with pool_of(tmp_path, ThreadSpawner()) as pool:
        old = await lease(pool, "alice", spec())
        new = await pool.lease(permit("alice", spec()), spec(), ("settings", 2))
        assert new is not old and not old.process.exited.done()
        assert pool.ready(permit("alice", spec()), FIRST) is None
        pool.release(old)
        await until(lambda: pool.instances() == [new])


async def test_a_start_that_was_given_up_by_its_caller_serves_the_next_one(tmp_path):
    spawner = SlowSpawner()
    async with pool_of(tmp_path, spawner) as pool:
        with anyio.move_on_after(0.1):
            await lease(pool, "alice", spec())
        spawner.go.set()
        await lease(pool, "alice", spec())
        assert len(spawner.processes) == 1


async def test_a_crashing_server_tells_why_then_waits_longer_and_longer(tmp_path):
    async with pool_of(tmp_path, CrashingSpawner()) as pool:
        for _ in range(3):
            with pytest.raises(UpstreamFailed, match="cannot find my configuration"):
                await lease(pool, "alice", spec())
        with pytest.raises(Unavailable, match="failed 3 times") as told:
            await lease(pool, "alice", spec())
        assert 0 < told.value.retry_after_s <= 1
        with pytest.raises(UpstreamFailed):
            await lease(pool, "bob", spec())  # not made to wait for what alice did


async def test_an_instance_that_became_unwanted_while_it_started_serves_nobody(tmp_path):
    spawner, listening = SlowSpawner(), Listening()
    async with pool_of(tmp_path, spawner, listening) as pool:
        failed = []

        async def ask():
            try:
                await lease(pool, "alice", spec())
            except Unavailable as error:
                failed.append(str(error))

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await until(lambda: spawner.waiting)
            listening.over = lambda instance: instance.owner == "u_alice"
            spawner.go.set()
        assert failed and pool.instances() == []
        assert (await lease(pool, "bob", spec())).owner == "u_bob"


async def test_an_installation_holds_no_start_slot(tmp_path):
    """A package that takes minutes to install must not stop everybody else's start."""
    installing = anyio.Event()
    async with pool_of(tmp_path, ThreadSpawner(), starts_at_once=1) as pool:
        programs = pool._launcher.programs
        resolve = programs._resolve

        async def slowly(server):
            if server.name == "big":
                installing.set()
                await anyio.sleep(60)
            return await resolve(server)

        programs._resolve = slowly
        async with anyio.create_task_group() as group:
            group.start_soon(lease, pool, "alice", spec("big"))
            await installing.wait()
            with anyio.fail_after(10):
                assert (await lease(pool, "bob", spec())).owner == "u_bob"
            group.cancel_scope.cancel()


async def test_starts_that_wait_are_bounded_and_whoever_comes_then_is_told_to_come_again(tmp_path):
    spawner = SlowSpawner()
    refused = []
    limits = {"starts_at_once": 1, "starts_waiting": 1}
    async with pool_of(tmp_path, spawner, **limits) as pool:

        async def ask(user):
            try:
                await lease(pool, user, spec())
            except Unavailable as error:
                refused.append(error)

        async with anyio.create_task_group() as group:
            for user in USERS:
                group.start_soon(ask, user)
            await until(lambda: spawner.waiting and refused)
            spawner.go.set()
        assert len(refused) == 1 and refused[0].retry_after_s > 0 and refused[0].hint
        assert len(pool.instances()) == 2 and pool.starts == 0


async def test_an_instance_whose_output_ended_gets_no_call_although_its_process_lives_on(tmp_path):
    spawner, listening = ThreadSpawner(), Listening()
    async with pool_of(tmp_path, spawner, listening) as pool:
        first = await lease(pool, "alice", spec())
        (process,) = spawner.processes
        exit_status, process._ended = process._ended, lambda: None  # it takes its time to end
        process.crash()
        await until(lambda: first.state is State.DRAINING)
        assert pool.ready(permit("alice", spec()), FIRST) is None
        second = await lease(pool, "alice", spec())
        assert second is not first and second.process.pid != process.pid
        exit_status()
        await until(lambda: first.state is State.STOPPED)
        assert listening.news == [
            ("started", first.id), ("started", second.id), ("crashed", first.id), ("stopped", first.id)
        ]  # fmt: skip


async def test_a_call_that_comes_in_the_moment_of_a_pause_finds_its_instance_running(tmp_path):
    spawner, server = ThreadSpawner(), spec(pause=True)
    async with pool_of(tmp_path, spawner) as pool:
        instance = await lease(pool, "alice", server)
        pool.release(instance)
        pool._rest(instance)  # as the sweeper does; the pause itself is on its way
        assert pool.ready(permit("alice", server), FIRST) is instance
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        assert instance.state is State.READY and not instance.process.paused
        pool._rest(instance)
        await until(lambda: instance.process.paused)
        assert pool.ready(permit("alice", server), FIRST) is instance
        assert not instance.process.paused
