"""Whom a change concerns, on SQLite and on PostgreSQL: what a hub that follows knows is what there is."""

import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, update

from mcphub.catalog.states import ServerStates
from mcphub.errors import HubError
from mcphub.identity.directory import Directory
from mcphub.identity.snapshot import PrincipalSnapshot
from mcphub.policy.model import Evidence, Role
from mcphub.secret import Secret
from mcphub.store.changes import since
from mcphub.store.database import Database, Revision
from mcphub.store.tables import changes, meta
from mcphub.testing.clock import MovableClock
from mcphub.vault.keys import FileKeys, KeyRing
from mcphub.vault.vault import CredentialState, Vault

pytestmark = pytest.mark.anyio
NAMES = ("anna", "ben", "cleo")


class Follower:
    """Knows what a running hub knows, by reading again only whom each change concerns."""

    def __init__(self, db: Database, directory: Directory, vault: Vault) -> None:
        self.db, self.directory, self.vault = db, directory, vault
        self.revision: Revision | None = None
        self.another = False
        self.snapshot = PrincipalSnapshot()
        self.credentials: dict[str, dict[str, CredentialState]] = {}

    async def follow(self) -> frozenset[str] | None:
        """Catch up; returns whom it was about."""
        self.revision, users, self.another = await since(self.db, self.revision)
        if users is None:
            self.snapshot = await self.directory.snapshot()
            self.credentials = await self.vault.states()
        else:
            self.snapshot.take(await self.directory.people(users))
            for user in users:
                self.credentials.pop(user, None)
            self.credentials |= await self.vault.states(users)
        return users


@pytest.fixture
def directory(db: Database, clock: MovableClock) -> Directory:
    return Directory(db, clock)


@pytest.fixture
def vault(db: Database, tmp_path: Path, clock: MovableClock) -> Vault:
    return Vault(db, KeyRing.load(FileKeys(tmp_path / "vault.keys")), clock)


@pytest.fixture
def states(db: Database, clock: MovableClock) -> ServerStates:
    return ServerStates(db, clock)


async def test_a_change_of_one_user_concerns_that_user_only(
    db: Database, directory: Directory, vault: Vault
) -> None:
    anna, ben = await directory.add_user("anna"), await directory.add_user("ben")
    await directory.add_user("root", Role.ADMIN)
    await directory.add_group("data")
    annas = await directory.principal_of("anna")
    key = await directory.create_key("ben")
    follower = Follower(db, directory, vault)
    assert await follower.follow() is None, "nothing was known before"
    assert await follower.follow() == frozenset()
    steps: list[tuple[Awaitable[object], str]] = [
        (directory.join("anna", "data"), anna.id),
        (directory.leave("anna", "data"), anna.id),
        (directory.set_role("anna", Role.ADMIN), anna.id),
        (directory.revoke_key(key.info.id), ben.id),
        (directory.create_key("anna"), anna.id),
        (vault.put(annas, "github", "A", Secret("a")), anna.id),
        (vault.delete(annas, "github", "A"), anna.id),
        (directory.disable_user("ben"), ben.id),
        (directory.enable_user("ben"), ben.id),
    ]
    for step, concerned in steps:
        await step
        assert await follower.follow() == {concerned}
    await directory.remove_later("ben", 1e12)
    await directory.join("anna", "data")
    assert await follower.follow() == {anna.id, ben.id}
    await directory.remove_user("ben")
    assert await follower.follow() == {ben.id}
    assert set(follower.snapshot.users) == {annas.user_id, (await directory.user("root")).id}


async def test_what_servers_are_concerns_no_user_and_the_end_of_a_group_anybody(
    db: Database, directory: Directory, states: ServerStates, vault: Vault
) -> None:
    follower = Follower(db, directory, vault)
    await follower.follow()
    await states.set_enabled("github", False)
    await states.record("github", Evidence("check", "1", "root", 1.0, ""))
    await states.withdraw("github", "1")
    await directory.add_group("data")
    assert await follower.follow() == frozenset()
    await directory.remove_group("data")
    assert await follower.follow() is None


async def test_a_change_that_says_nothing_and_too_many_to_keep_concern_anybody(
    db: Database, directory: Directory, vault: Vault
) -> None:
    user = await directory.add_user("anna")
    follower = Follower(db, directory, vault)
    await follower.follow()
    async with db.write(changes=True):
        pass
    await directory.create_key("anna")
    assert await follower.follow() is None
    await directory.create_key("anna")
    assert await follower.follow() == {user.id}, "what said nothing is over"
    for enabled in range(1001):
        await (directory.enable_user if enabled % 2 else directory.disable_user)(user.id)
    assert await follower.follow() is None
    assert not follower.another
    async with db.read() as conn:
        kept = (await conn.exec_driver_sql("SELECT count(*) FROM changes")).scalar_one()
    assert kept == 1000


@pytest.mark.parametrize("ahead", [-2, 0, 1, 3])
async def test_a_database_that_never_had_the_known_revision_concerns_anybody(
    db: Database, directory: Directory, vault: Vault, ahead: int
) -> None:
    """A backup or a replica without the last changes, that went on from there: its numbers mean something else."""
    anna, ben = await directory.add_user("anna"), await directory.add_user("ben")
    await directory.create_key("anna")
    async with db.read() as conn:
        was = (await conn.execute(meta.select())).one()
        kept = (await conn.execute(changes.select())).all()
    follower = Follower(db, directory, vault)
    await follower.follow()
    for _ in range(3):
        await directory.create_key("ben")
    await follower.follow()
    assert not follower.another
    async with db.write() as conn:
        await conn.execute(update(meta).values(revision=was.revision, mark=was.mark))
        await conn.execute(delete(changes))
        await conn.execute(insert(changes), [row._asdict() for row in kept])
    for _ in range(3 + ahead):
        await directory.create_key("anna")
    assert await follower.follow() is None
    assert follower.another
    assert set(follower.snapshot.users) == {anna.id, ben.id}
    await directory.create_key("ben")
    assert await follower.follow() == {ben.id}
    assert not follower.another


@pytest.mark.parametrize("seed", range(3))
async def test_who_follows_knows_what_there_is_after_any_changes(
    db: Database, directory: Directory, vault: Vault, clock: MovableClock, seed: int
) -> None:
    chance = random.Random(seed)
    follower = Follower(db, directory, vault)
    keys: list[str] = []
    await directory.add_user("root", Role.ADMIN)

    async def add_key(name: str) -> None:
        keys.append((await directory.create_key(name)).key.reveal())

    async def put(name: str) -> None:
        principal = await directory.principal_of(name)
        await vault.put(principal, chance.choice(["a", "b"]), chance.choice("XY"), Secret("s"))

    async def delete(name: str) -> None:
        principal = await directory.principal_of(name)
        await vault.delete(principal, chance.choice(["a", "b"]), chance.choice("XY"))

    async def revoke(name: str) -> None:
        user = await directory.user(name)
        theirs = await directory.keys(user.id)
        await directory.revoke_key(chance.choice(theirs).id if theirs else "k_none")

    acts: list[Callable[[str], Awaitable[object]]] = [
        directory.add_user, directory.add_user, add_key, add_key, put, put, delete, revoke,
        directory.disable_user, directory.enable_user, directory.enable_user, directory.remove_user,
        lambda name: directory.join(name, "data", clock.now + chance.randint(1, 40)),
        lambda name: directory.leave(name, "data"),
        lambda _: directory.add_group("data"),
        lambda _: directory.remove_group("data"),
    ]  # fmt: skip
    partly = 0
    for _ in range(120):
        for _ in range(chance.randint(1, 3)):
            try:
                await chance.choice(acts)(chance.choice(NAMES))
            except HubError:
                continue
        clock.now += chance.randint(0, 5)
        partly += await follower.follow() is not None
        whole = await directory.snapshot()
        assert dict(follower.snapshot.users) == dict(whole.users)
        assert follower.credentials == await vault.states()
        for key in keys:
            known = follower.snapshot.authenticate(key, clock.now)
            assert known == whole.authenticate(key, clock.now)
    assert partly > 60
