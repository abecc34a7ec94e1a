"""Users, groups and keys in a database, on SQLite and on PostgreSQL."""

import asyncio

import pytest
from sqlalchemy import insert, select

from mcphub.errors import Conflict, Denied, InvalidInput, NotFound
from mcphub.identity.arrivals import arrive
from mcphub.identity.directory import Directory
from mcphub.identity.model import Arrival, Person
from mcphub.policy.model import Role
from mcphub.store.database import Database
from mcphub.store.tables import api_keys, credentials, memberships, request_series
from mcphub.testing.clock import MovableClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def directory(db: Database, clock: MovableClock) -> Directory:
    return Directory(db, clock)


async def test_users_get_ids_and_numbers_that_nobody_had(directory: Directory) -> None:
    anna = await directory.add_user("anna", Role.ADMIN)
    ben = await directory.add_user("ben")
    assert (anna.number, ben.number) == (16, 17)
    await directory.remove_user("ben")
    carl = await directory.add_user("ben")
    assert carl.number == 18
    assert carl.id != ben.id
    assert [user.name for user in await directory.users()] == ["anna", "ben"]


async def test_users_added_at_once_differ(directory: Directory) -> None:
    added = await asyncio.gather(*(directory.add_user(f"user {n}") for n in range(20)))
    assert sorted(user.number for user in added) == list(range(16, 36))


async def test_a_name_is_taken_once_also_by_two_at_once(directory: Directory) -> None:
    done = await asyncio.gather(
        directory.add_user("anna"), directory.add_user("anna"), return_exceptions=True
    )
    assert sorted(type(each).__name__ for each in done) == ["Conflict", "User"]


async def test_a_user_is_found_by_name_and_by_id(directory: Directory) -> None:
    anna = await directory.add_user("anna")
    await directory.add_user("ben")
    assert await directory.user("anna") == anna == await directory.user(anna.id)


@pytest.mark.parametrize("name", ["ana", "an\x00na", "\ud800"])
async def test_a_missing_user_is_not_found(directory: Directory, name: str) -> None:
    await directory.add_user("anna")
    with pytest.raises(NotFound):
        await directory.user(name)


async def test_a_missing_user_is_not_found_with_the_nearest_name(directory: Directory) -> None:
    await directory.add_user("anna")
    with pytest.raises(NotFound) as caught:
        await directory.user("ana")
    assert caught.value.hint == "Did you mean 'anna'?"


async def test_the_last_administrator_stays(directory: Directory) -> None:
    await directory.add_user("anna", Role.ADMIN)
    await directory.add_user("ben")
    with pytest.raises(Conflict):
        await directory.set_role("anna", Role.USER)
    with pytest.raises(Conflict):
        await directory.disable_user("anna")
    with pytest.raises(Conflict):
        await directory.remove_user("anna")
    await directory.set_role("ben", Role.ADMIN)
    assert (await directory.set_role("anna", Role.USER)).role is Role.USER


async def test_two_administrators_cannot_remove_each_other_at_once(directory: Directory) -> None:
    await directory.add_user("anna", Role.ADMIN)
    await directory.add_user("ben", Role.ADMIN)
    await asyncio.gather(
        directory.remove_user("anna"), directory.disable_user("ben"), return_exceptions=True
    )
    left = [user for user in await directory.users() if not user.disabled]
    assert len(left) == 1


async def test_a_disabled_administrator_does_not_count(directory: Directory) -> None:
    await directory.add_user("anna", Role.ADMIN)
    await directory.add_user("ben", Role.ADMIN)
    await directory.disable_user("ben")
    with pytest.raises(Conflict):
        await directory.remove_user("anna")
    await directory.remove_user("ben")  # removing one who does not count is fine


async def test_groups_and_memberships(directory: Directory, clock: MovableClock) -> None:
    anna, ben = await directory.add_user("anna"), await directory.add_user("ben")
    await directory.add_group("data")
    await directory.add_group("ops")
    await directory.join(anna.id, "data")
    await directory.join("ben", "data", clock.now + 60)
    await directory.join("ben", "ops")
    assert await directory.groups() == ["data", "everyone", "ops"]
    assert (await directory.principal_of(ben.id)).groups == {"everyone", "data", "ops"}
    clock.now += 60
    assert (await directory.principal_of(ben.id)).groups == {"everyone", "ops"}
    assert (await directory.principal_of(anna.id)).groups == {"everyone", "data"}
    await directory.join("ben", "data")
    assert (await directory.principal_of(ben.id)).valid_until is None
    await directory.remove_group("data")
    await directory.leave("ben", "ops")
    assert (await directory.principal_of(ben.id)).groups == {"everyone"}
    assert await directory.memberships() == []


async def test_group_mistakes_are_named(directory: Directory, clock: MovableClock) -> None:
    await directory.add_user("anna")
    await directory.add_group("data")
    with pytest.raises(Conflict):
        await directory.add_group("data")
    with pytest.raises(NotFound, match="Did you mean 'data'"):
        await directory.join("anna", "dat")
    with pytest.raises(NotFound):
        await directory.leave("anna", "data")
    with pytest.raises(InvalidInput):
        await directory.join("anna", "everyone")
    with pytest.raises(InvalidInput):
        await directory.remove_group("everyone")
    with pytest.raises(InvalidInput, match="future"):
        await directory.join("anna", "data", clock.now)


async def test_a_key_proves_its_owner_and_only_its_hash_is_kept(
    directory: Directory, db: Database, clock: MovableClock
) -> None:
    anna, ben = await directory.add_user("anna"), await directory.add_user("ben")
    annas = await directory.create_key(anna.id, "laptop", clock.now + 60)
    bens = await directory.create_key("ben")
    snapshot = await directory.snapshot()
    for made, owner in ((annas, anna), (bens, ben)):
        principal = snapshot.authenticate(made.key.reveal(), clock.now)
        assert principal is not None
        assert (principal.user_id, principal.key_id) == (owner.id, made.info.id)
        assert made.key.reveal().startswith(made.info.prefix)
    assert await directory.keys() == sorted([annas.info, bens.info], key=lambda info: info.id)
    assert await directory.keys(ben.id) == [bens.info]
    async with db.read() as conn:
        stored = str((await conn.execute(select(api_keys))).all())
    assert annas.key.reveal()[12:] not in stored
    assert "Secret(…)" in repr(annas)


async def test_revocation_counts_from_the_next_snapshot_and_moves_the_revision(
    directory: Directory, db: Database, clock: MovableClock
) -> None:
    await directory.add_user("anna")
    await directory.add_user("ben")
    annas, bens = await directory.create_key("anna"), await directory.create_key("ben")
    before = (await db.revision()).number
    revoked = await directory.revoke_key(annas.info.prefix + "…")
    assert revoked.revoked_at == clock.now
    assert (await db.revision()).number > before
    snapshot = await directory.snapshot()
    assert snapshot.authenticate(annas.key.reveal(), clock.now) is None
    assert snapshot.authenticate(bens.key.reveal(), clock.now) is not None
    clock.now += 5
    assert await directory.revoke_key(annas.info.id) == revoked


async def test_a_user_cannot_revoke_the_key_of_another(directory: Directory) -> None:
    anna = await directory.add_user("anna")
    ben = await directory.add_user("ben")
    annas = await directory.create_key(anna.id)
    with pytest.raises(NotFound):
        await directory.revoke_key(annas.info.id, user_id=ben.id)
    with pytest.raises(NotFound):
        await directory.revoke_key(annas.info.prefix, user_id=ben.id)
    await directory.revoke_key(annas.info.prefix, user_id=anna.id)


async def test_a_prefix_of_two_keys_revokes_neither(directory: Directory, db: Database) -> None:
    anna = await directory.add_user("anna")
    async with db.write() as conn:
        for n in "12":
            await conn.execute(
                insert(api_keys).values(
                    id=f"k_{n}", user_id=anna.id, hash=n * 64, prefix="mcphub_abcde", label="",
                    created_at=1.0,
                )
            )  # fmt: skip
    with pytest.raises(Conflict):
        await directory.revoke_key("mcphub_abcde")
    assert [key.revoked_at for key in await directory.keys()] == [None, None]


async def test_a_key_that_was_mistyped_is_not_repeated(directory: Directory) -> None:
    with pytest.raises(NotFound) as caught:
        await directory.revoke_key("mcphub_very-secret-key")
    assert "very-secret" not in str(caught.value)


async def test_last_use_is_kept_without_a_new_revision(directory: Directory, db: Database) -> None:
    await directory.add_user("anna")
    made = await directory.create_key("anna")
    before = (await db.revision()).number
    await directory.note_use({made.info.id: 12.5, "k_gone": 1.0})
    assert [key.last_used_at for key in await directory.keys()] == [12.5]
    assert (await db.revision()).number == before


async def test_disabling_a_user_stops_the_keys_and_enabling_brings_them_back(
    directory: Directory, clock: MovableClock
) -> None:
    await directory.add_user("anna")
    ben = await directory.add_user("ben")
    bens = (await directory.create_key("ben")).key.reveal()
    assert (await directory.disable_user("ben")).disabled
    assert (await directory.snapshot()).authenticate(bens, clock.now) is None
    with pytest.raises(Denied):
        await directory.principal_of("ben")
    assert not (await directory.enable_user(ben.id)).disabled
    assert (await directory.snapshot()).authenticate(bens, clock.now) is not None
    assert (await directory.principal_of("anna")).key_id == "local"


async def test_many_arrive_together_each_with_an_own_key(
    directory: Directory, db: Database, clock: MovableClock
) -> None:
    anna = await directory.add_user("anna")
    await directory.add_group("data")
    await directory.join("anna", "data")
    await directory.create_key("anna")
    people = [
        Person("anna", ("data", "ops")),
        Person("ben", ("data",), Role.ADMIN),
        Person("Zoe\u0308"),
    ]
    handed: list[Arrival] = []
    arrivals, added = await arrive(
        db, clock, people, add_groups=True, hand_out=handed.extend, expires_at=clock.now + 60
    )
    assert added == ["ops"]
    assert [(one.name, one.is_new, one.joined) for one in arrivals] == [
        ("anna", False, ("ops",)), ("ben", True, ("data",)), ("Zo\xeb", True, ())
    ]  # fmt: skip
    assert [one.name for one in handed] == ["ben", "Zo\xeb"], "anna has a key"
    snapshot = await directory.snapshot()
    for one in handed:
        assert one.key is not None
        principal = snapshot.authenticate(one.key.key.reveal(), clock.now)
        assert principal is not None
        assert (principal.user_id, principal.valid_until) == (one.id, clock.now + 60)
        assert snapshot.authenticate(one.key.key.reveal(), clock.now + 60) is None
    numbers = {user.name: (user.number, user.role) for user in await directory.users()}
    assert numbers["ben"] == (anna.number + 1, Role.ADMIN)
    assert numbers["Zo\xeb"] == (anna.number + 2, Role.USER)
    assert (await directory.add_user("next")).number == anna.number + 3
    again, _ = await arrive(db, clock, people, hand_out=handed.extend)
    assert not any(one.is_new or one.joined or one.key for one in again)


async def test_nobody_arrives_when_one_cannot_or_the_keys_cannot_be_handed_out(
    directory: Directory, db: Database, clock: MovableClock
) -> None:
    await directory.add_user("anna")
    before = (await db.revision()).number

    def full(_: list[Arrival]) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        await arrive(db, clock, [Person("ben", ("data",))], add_groups=True, hand_out=full)
    with pytest.raises(NotFound, match="data"):
        await arrive(db, clock, [Person("ben", ("data",))])
    with pytest.raises(Conflict, match="anna"):
        await arrive(db, clock, [Person("ben"), Person("anna", (), Role.ADMIN)])
    with pytest.raises(InvalidInput):
        await arrive(db, clock, [Person("ben"), Person("cleo", ("Not!",))])
    with pytest.raises(InvalidInput, match="future"):
        await arrive(db, clock, [Person("ben")], expires_at=clock.now)
    assert [user.name for user in await directory.users()] == ["anna"]
    assert await directory.groups() == ["everyone"]
    assert await directory.keys() == []
    assert (await db.revision()).number == before


async def test_removing_a_user_takes_all_that_was_the_users_and_keeps_the_records(
    directory: Directory, db: Database
) -> None:
    people = [await directory.add_user("anna"), await directory.add_user("ben")]
    await directory.add_group("data")
    for user in people:
        await directory.join(user.id, "data")
        await directory.create_key(user.id)
        async with db.write() as conn:
            await conn.execute(
                insert(credentials).values(
                    user_id=user.id, server="s", slot="S", key_id="k", nonce=b"n", sealed=b"s",
                    revision=1, updated_at=1.0,
                )
            )  # fmt: skip
            await conn.execute(
                insert(request_series).values(
                    id=f"r_{user.id}", until=1, requests=1, calls="[]", user_id=user.id, session="",
                    server="s", method="m", name="", instance_id="", era="", client="", decision="",
                    trace_id="",
                )
            )  # fmt: skip
    anna, ben = people
    await directory.remove_user("anna")
    async with db.read() as conn:
        for table in (memberships, api_keys, credentials):
            assert list((await conn.execute(select(table.c.user_id))).scalars()) == [ben.id]
        kept = set((await conn.execute(select(request_series.c.user_id))).scalars())
    assert kept == {anna.id, ben.id}
