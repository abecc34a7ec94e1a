"""What the database knows of servers, on SQLite and on PostgreSQL."""

import asyncio

import pytest
from sqlalchemy import update

from mcphub.catalog.pins import Pin
from mcphub.catalog.states import CHECK, ServerState, ServerStates, StoredCatalog
from mcphub.errors import InvalidInput
from mcphub.policy.model import Evidence
from mcphub.store.database import Database
from mcphub.store.tables import server_states, tool_catalogs
from mcphub.testing.clock import MovableClock

pytestmark = pytest.mark.anyio

PIN = Pin("npm", "@scope/server", "1.2.3", "sha512-x", ("extra==1",), 1.5)


@pytest.fixture
def states(db: Database, clock: MovableClock) -> ServerStates:
    return ServerStates(db, clock)


async def test_a_server_that_nothing_is_known_of_is_not_listed(states: ServerStates) -> None:
    assert await states.all() == {}


async def test_pin_and_switch_are_kept_apart(states: ServerStates) -> None:
    await states.set_pin("a", PIN)
    await states.set_enabled("b", False)
    assert await states.all() == {"a": ServerState("a", pin=PIN), "b": ServerState("b", False)}
    await states.set_enabled("a", False)
    await states.set_pin("b", PIN)
    both = await states.all()
    assert both == {name: ServerState(name, False, PIN) for name in ("a", "b")}
    await states.set_pin("a", None)
    await states.set_enabled("a", True)
    assert (await states.all())["a"] == ServerState("a")


async def test_an_acknowledgement_names_who_when_and_why(
    states: ServerStates, clock: MovableClock
) -> None:
    given = await states.acknowledge("a", "1.2.3", "root", "read the source")
    assert given == Evidence("acknowledgement", "1.2.3", "root", clock.now, "read the source")
    assert (await states.all())["a"] == ServerState("a", evidence=given)


async def test_the_evidence_for_the_pinned_version_counts_before_newer_ones(
    states: ServerStates,
) -> None:
    first = await states.acknowledge("a", "1.2.3", "root")
    newer = await states.record("a", Evidence(CHECK, "2.0.0", "c_1", 9.0))
    assert (await states.all())["a"].evidence == newer
    await states.set_pin("a", PIN)
    assert (await states.all())["a"].evidence == first
    assert await states.evidence_of("a") == [first, newer]


async def test_withdrawn_evidence_is_gone_for_this_version_only(states: ServerStates) -> None:
    await states.acknowledge("a", "1", "root")
    kept = await states.acknowledge("a", "2", "root")
    other = await states.acknowledge("b", "1", "root")
    assert await states.withdraw("a", "1") == 1
    assert await states.evidence_of("a") == [kept]
    assert await states.evidence_of("b") == [other]


@pytest.mark.parametrize(
    ("version", "by", "note"), [("", "root", ""), ("1", "", ""), ("1", "r", "x" * 5000), ("a\0", "r", "")]
)  # fmt: skip
async def test_evidence_without_version_or_author_is_refused(
    states: ServerStates, version: str, by: str, note: str
) -> None:
    with pytest.raises(InvalidInput):
        await states.acknowledge("a", version, by, note)
    assert await states.all() == {}


async def test_what_changes_decisions_raises_the_revision_and_a_catalog_does_not(
    states: ServerStates, db: Database
) -> None:
    seen = [(await db.revision()).number]
    for change in (
        states.set_enabled("a", False),
        states.set_pin("a", PIN),
        states.acknowledge("a", "1", "root"),
        states.withdraw("a", "1"),
    ):
        await change
        seen.append((await db.revision()).number)
    assert sorted(set(seen)) == seen
    await states.save_catalog("a", "1", StoredCatalog())
    assert (await db.revision()).number == seen[-1]


async def test_a_catalog_comes_back_as_the_bytes_that_were_saved(states: ServerStates) -> None:
    catalog = StoredCatalog(
        initialize=b'{"x": 1}',
        tools=b'[{"name":"\xc3\xa9"}]',
        prompts=b"[ ]",
        resources=b"[1]",
        templates=b"[2]",
        per_user=True,
        at=3.5,
    )
    await states.save_catalog("a", "1", catalog)
    assert await states.catalog("a", "1") == catalog
    assert await states.catalog("a", "2") is None
    assert await states.catalog("b", "1") is None
    await states.save_catalog("a", "1", StoredCatalog(at=4.0))
    assert await states.catalog("a", "1") == StoredCatalog(at=4.0)


async def test_old_catalogs_make_room(states: ServerStates) -> None:
    await states.save_catalog("b", "v", StoredCatalog(at=0.0))
    for number in range(12):
        await states.save_catalog("a", f"v{number}", StoredCatalog(at=float(number)))
    kept = [n for n in range(12) if await states.catalog("a", f"v{n}") is not None]
    assert kept == list(range(4, 12))
    assert await states.catalog("b", "v") is not None


async def test_writers_at_once_lose_nothing(states: ServerStates) -> None:
    await asyncio.gather(
        *(states.set_enabled(f"s{n}", False) for n in range(5)),
        *(states.set_pin(f"s{n}", PIN) for n in range(5)),
        *(states.save_catalog("s0", "v", StoredCatalog(at=float(n))) for n in range(5)),
    )
    assert await states.all() == {f"s{n}": ServerState(f"s{n}", False, PIN) for n in range(5)}


async def test_what_cannot_be_read_is_no_catalog_but_an_error_as_a_pin(
    states: ServerStates, db: Database
) -> None:
    await states.save_catalog("a", "1", StoredCatalog())
    await states.set_pin("a", PIN)
    async with db.write() as conn:
        await conn.execute(update(tool_catalogs).values(body=b"\xc1"))
        await conn.execute(update(server_states).values(pin='{"name": 5}'))
    assert await states.catalog("a", "1") is None
    with pytest.raises(InvalidInput, match="mcphub server pin a"):
        await states.all()


@pytest.mark.parametrize("name", ["", "A", "a/b", "x" * 64, "a\0"])
async def test_what_is_no_server_name_is_refused(states: ServerStates, name: str) -> None:
    with pytest.raises(InvalidInput):
        await states.set_enabled(name, True)
    with pytest.raises(InvalidInput):
        await states.save_catalog(name, "1", StoredCatalog())
