"""Credentials in a database, on SQLite and on PostgreSQL; always with two users."""

from pathlib import Path

import pytest
from sqlalchemy import select, update

from mcphub.errors import InvalidInput, MissingCredential, NotFound
from mcphub.identity.directory import Directory
from mcphub.policy.decide import decide
from mcphub.policy.model import HostFacts, Permit, Principal, ServerFacts, Transport
from mcphub.secret import Secret
from mcphub.store.database import Database
from mcphub.store.tables import credentials, meta
from mcphub.testing.clock import MovableClock
from mcphub.vault.keys import FileKeys, KeyRing
from mcphub.vault.seal import CredentialUnreadable
from mcphub.vault.vault import CredentialState, MissingSlots, Vault

pytestmark = pytest.mark.anyio


@pytest.fixture
def keys(tmp_path: Path) -> FileKeys:
    return FileKeys(tmp_path / "keys" / "vault.keys")


@pytest.fixture
def vault(db: Database, keys: FileKeys, clock: MovableClock) -> Vault:
    return Vault(db, KeyRing.load(keys), clock)


@pytest.fixture
def directory(db: Database, clock: MovableClock) -> Directory:
    return Directory(db, clock)


@pytest.fixture
async def anna(directory: Directory) -> Principal:
    return await directory.principal_of((await directory.add_user("anna")).id)


@pytest.fixture
async def ben(directory: Directory) -> Principal:
    return await directory.principal_of((await directory.add_user("ben")).id)


def permit(principal: Principal, server: str = "github") -> Permit:
    facts = ServerFacts(server, Transport.STDIO, groups=frozenset({"everyone"}))
    decided = decide(principal, facts, HostFacts(sandbox_level=5))
    assert isinstance(decided, Permit)
    return decided


async def test_each_user_gets_the_own_value(vault: Vault, anna: Principal, ben: Principal) -> None:
    await vault.put(anna, "github", "TOKEN", Secret("annas"))
    await vault.put(ben, "github", "TOKEN", Secret("bens"))
    await vault.put(ben, "gitlab", "TOKEN", Secret("bens other"))
    assert await vault.open_for(permit(anna), ["TOKEN"]) == {"TOKEN": Secret("annas")}
    assert await vault.open_for(permit(ben), ["TOKEN"]) == {"TOKEN": Secret("bens")}
    assert await vault.open_for(permit(anna), []) == {}


async def test_a_missing_credential_is_never_anybody_elses(
    vault: Vault, anna: Principal, ben: Principal
) -> None:
    for slot in ("A", "B", "C"):
        await vault.put(ben, "github", slot, Secret("bens"))
        await vault.put(anna, "gitlab", slot, Secret("for another server"))
    await vault.put(anna, "github", "B", Secret("annas"))
    with pytest.raises(MissingSlots) as caught:
        await vault.open_for(permit(anna), ["C", "A", "B"])
    assert caught.value.slots == ("A", "C")
    assert "A and C for 'github'" in caught.value.message
    assert isinstance(caught.value, MissingCredential)


async def test_a_value_is_nowhere_in_the_database_and_in_no_listing(
    vault: Vault, db: Database, anna: Principal, ben: Principal, clock: MovableClock
) -> None:
    put = await vault.put(anna, "github", "TOKEN", Secret("canary-anna"))
    await vault.put(ben, "github", "TOKEN", Secret("canary-ben"))
    assert await vault.listing(anna) == [put]
    assert put.updated_at == clock.now
    async with db.read() as conn:
        stored = str((await conn.execute(select(credentials))).all())
    assert "canary" not in stored + str(await vault.listing(ben)) + str(await vault.states())


@pytest.mark.parametrize("column", ["user_id", "server", "slot"])
async def test_rows_that_were_swapped_in_the_database_do_not_open(
    vault: Vault, db: Database, anna: Principal, ben: Principal, column: str
) -> None:
    other = {"user_id": (ben, "github", "A"), "server": (anna, "gitlab", "A")}
    second = other.get(column, (anna, "github", "B"))
    await vault.put(anna, "github", "A", Secret("first"))
    await vault.put(*second, Secret("second"))
    async with db.write() as conn:
        rows = [row._mapping for row in await conn.execute(select(credentials))]
        sealed = ("key_id", "nonce", "sealed", "revision", "updated_at")
        for row, source in zip(rows, reversed(rows), strict=True):
            mine = [credentials.c[name] == row[name] for name in ("user_id", "server", "slot")]
            moved = {name: source[name] for name in sealed}
            await conn.execute(update(credentials).where(*mine).values(moved))
    for principal, server, slot in ((anna, "github", "A"), second):
        with pytest.raises(CredentialUnreadable):
            await vault.open_for(permit(principal, server), [slot])


async def test_an_older_value_that_was_put_back_under_the_new_revision_does_not_open(
    vault: Vault, db: Database, anna: Principal, ben: Principal
) -> None:
    await vault.put(anna, "github", "A", Secret("old"))
    await vault.put(ben, "github", "A", Secret("bens"))
    async with db.read() as conn:
        mine = select(credentials.c.nonce, credentials.c.sealed)
        old = (await conn.execute(mine.where(credentials.c.user_id == anna.user_id))).one()
    await vault.put(anna, "github", "A", Secret("new"))
    async with db.write() as conn:
        await conn.execute(
            update(credentials)
            .where(credentials.c.user_id == anna.user_id)
            .values(nonce=old.nonce, sealed=old.sealed)
        )
    with pytest.raises(CredentialUnreadable):
        await vault.open_for(permit(anna), ["A"])
    assert await vault.open_for(permit(ben), ["A"]) == {"A": Secret("bens")}


async def test_a_row_of_another_install_does_not_open(
    db: Database, keys: FileKeys, clock: MovableClock, anna: Principal, ben: Principal
) -> None:
    ring = KeyRing.load(keys)
    await Vault(db, ring, clock).put(anna, "github", "A", Secret("a"))
    async with db.write() as conn:
        await conn.execute(update(meta).values(install_id="0" * 32))
    db._install_id = ""
    with pytest.raises(CredentialUnreadable):
        await Vault(db, ring, clock).open_for(permit(anna), ["A"])


async def test_every_change_of_a_users_credentials_has_a_revision_of_its_own(
    vault: Vault, anna: Principal, ben: Principal
) -> None:
    mine, others = anna.user_id, ben.user_id
    seen: list[int] = []

    async def look() -> frozenset[str]:
        state = (await vault.states())[mine]["github"]
        seen.append(state.revision)
        return state.slots

    await vault.put(ben, "github", "A", Secret("b"))
    bens = (await vault.states([others]))[others]["github"]
    await vault.put(anna, "github", "A", Secret("1"))
    assert await look() == {"A"}
    await vault.put(anna, "github", "A", Secret("1"))
    assert await look() == {"A"}
    await vault.put(anna, "github", "B", Secret("1"))
    assert await look() == {"A", "B"}
    await vault.delete(anna, "github", "B")
    assert await look() == {"A"}
    await vault.delete(anna, "github", "A")
    assert await look() == frozenset()
    await vault.put(anna, "github", "A", Secret("1"))
    assert await look() == {"A"}
    assert seen == sorted(set(seen))
    assert (
        (await vault.states([others]))[others]["github"]
        == bens
        == CredentialState(bens.revision, frozenset("A"))
    )


async def test_a_change_raises_the_databases_revision(
    vault: Vault, db: Database, anna: Principal, ben: Principal
) -> None:
    revisions = [(await db.revision()).number]
    for change in (
        vault.put(anna, "github", "A", Secret("1")),
        vault.put(ben, "github", "A", Secret("1")),
        vault.delete(anna, "github", "A"),
    ):
        await change
        revisions.append((await db.revision()).number)
    assert revisions == list(range(revisions[0], revisions[0] + 4))


async def test_a_user_can_only_delete_the_own(
    vault: Vault, anna: Principal, ben: Principal
) -> None:
    await vault.put(anna, "github", "A", Secret("annas"))
    with pytest.raises(NotFound):
        await vault.delete(ben, "github", "A")
    assert await vault.open_for(permit(anna), ["A"]) == {"A": Secret("annas")}
    assert await vault.listing(ben) == []


async def test_removing_a_user_removes_the_credentials_and_nothing_can_be_put_after(
    vault: Vault, directory: Directory, anna: Principal, ben: Principal
) -> None:
    for user in (anna, ben):
        await vault.put(user, "github", "A", Secret("a"))
    await directory.remove_user(anna.user_id)
    assert await vault.listing(anna) == []
    assert list(await vault.states()) == [ben.user_id]
    with pytest.raises(NotFound):
        await vault.put(anna, "github", "A", Secret("a"))


@pytest.mark.parametrize(
    ("server", "slot", "value"),
    [
        ("Git Hub", "A", "v"),
        ("", "A", "v"),
        ("../x", "A", "v"),
        ("github", "a", "v"),
        ("github", "A B", "v"),
        ("github", "", "v"),
        ("github", "A", ""),
        ("github", "A", "a\0b"),
        ("github", "A", "\ud800"),
        ("github", "A", "é" * 32769),
    ],
)
async def test_what_cannot_be_a_credential_is_refused(
    vault: Vault, anna: Principal, server: str, slot: str, value: str
) -> None:
    with pytest.raises(InvalidInput):
        await vault.put(anna, server, slot, Secret(value))
    assert await vault.listing(anna) == []


async def test_rotation_reseals_everything_and_changes_no_value_and_no_revision(
    vault: Vault, keys: FileKeys, db: Database, clock: MovableClock,
    anna: Principal, ben: Principal,
) -> None:  # fmt: skip
    old = keys.keys()[0].id
    for user in (anna, ben):
        for slot in ("A", "B"):
            await vault.put(user, "github", slot, Secret(f"{user.user_name} {slot}"))
    states, revision = await vault.states(), (await db.revision()).number
    administrators = Vault(db, KeyRing.load(keys), clock)  # another process
    new = keys.rotate()
    assert await administrators.reseal() == 4
    assert await administrators.reseal() == 0
    assert await administrators.key_ids() == {new: 4}
    keys.retire(old)
    for user in (anna, ben):  # through the vault that started with the old key alone
        opened = await vault.open_for(permit(user), ["A", "B"])
        assert opened["B"] == Secret(f"{user.user_name} B")
    assert (await vault.put(anna, "github", "A", Secret("x"))).key_id == new
    assert states[ben.user_id] == (await vault.states())[ben.user_id]
    assert (await db.revision()).number == revision + 1


async def test_resealing_passes_by_what_does_not_open_and_says_so(
    vault: Vault, keys: FileKeys, db: Database, anna: Principal, ben: Principal
) -> None:
    for user in (anna, ben):
        await vault.put(user, "github", "A", Secret(user.user_name))
    async with db.write() as conn:
        broken = credentials.c.user_id == anna.user_id
        await conn.execute(update(credentials).where(broken).values(sealed=b"x" * 32))
    keys.rotate()
    with pytest.raises(CredentialUnreadable):
        await vault.reseal()
    assert sorted((await vault.key_ids()).values()) == [1, 1]
    assert await vault.open_for(permit(ben), ["A"]) == {"A": Secret("ben")}


async def test_a_lost_key_is_an_error_that_says_so(
    db: Database, keys: FileKeys, clock: MovableClock, tmp_path: Path,
    anna: Principal, ben: Principal,
) -> None:  # fmt: skip
    await Vault(db, KeyRing.load(keys), clock).put(anna, "github", "A", Secret("a"))
    other = Vault(db, KeyRing.load(FileKeys(tmp_path / "other.keys")), clock)
    with pytest.raises(CredentialUnreadable, match="is not there"):
        await other.open_for(permit(anna), ["A"])
    await other.put(ben, "github", "A", Secret("b"))
    assert await other.open_for(permit(ben), ["A"]) == {"A": Secret("b")}
