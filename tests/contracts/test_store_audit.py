"""Request records and the audit log in a database, on SQLite and on PostgreSQL."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.testing import capture_logs

from mcphub.audit import recorder as recorder_module
from mcphub.audit.log import KEY_REVOKED, USER_CREATED, AuditLog
from mcphub.audit.recorder import Recorder
from mcphub.audit.records import Outcome, RequestRecord
from mcphub.audit.requests import RequestLog, Seen
from mcphub.errors import HubError, InvalidInput
from mcphub.secret import Secret
from mcphub.store.database import Database
from mcphub.store.tables import audit_events, meta, request_series
from mcphub.testing.clock import MovableClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> MovableClock:
    """A time at which the records below are young."""
    return MovableClock(2000.0)


@pytest.fixture
def recorder(db: Database, clock: MovableClock) -> Recorder:
    return Recorder(db, clock, flush_s=0.02)


@pytest.fixture
def requests(db: Database) -> RequestLog:
    return RequestLog(db)


@pytest.fixture
def log(db: Database, clock: MovableClock) -> AuditLog:
    return AuditLog(db, clock)


def record(n: int, user: str = "u_a", server: str = "git", **more: object) -> RequestRecord:
    return RequestRecord(f"r_{n}", 1000.0 + n, user, server, "tools/call", **more)  # type: ignore[arg-type]


def ids(seen: Seen) -> list[str]:
    return [each.id for each in seen.records]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(20):
        while not await condition():  # noqa: ASYNC110  a database tells nobody
            await anyio.sleep(0.01)


async def stored(db: Database) -> int:
    async with db.read() as conn:
        return (await conn.execute(select(func.sum(request_series.c.requests)))).scalar_one() or 0


async def hide_table(db: Database, *, hidden: bool) -> None:
    """Make the database refuse records, or take them again."""
    names = ("request_series", "hidden") if hidden else ("hidden", "request_series")
    async with db.write() as conn:
        await conn.execute(text(f"ALTER TABLE {names[0]} RENAME TO {names[1]}"))


async def test_a_record_comes_back_as_it_was(recorder: Recorder, requests: RequestLog) -> None:
    full = RequestRecord(
        "r_1", 12.5, "u_a", "git", "tools/call", 3.25, "0123abcd", "status", "i_1", "legacy",
        "inspector/1.0", "permit", Outcome.TOOL_ERROR, -32603, 10, 2**40, "f" * 32,
    )  # fmt: skip
    recorder.add(full)
    await recorder.flush()
    assert (await requests.recent()).records == [full]


async def test_records_are_written_while_the_hub_runs(recorder: Recorder, db: Database) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(recorder.run())
        for n in range(10):
            recorder.add(record(n))

        async def all_there() -> bool:
            return await stored(db) == 10

        await until(all_there)
        assert recorder.waiting == 0
        await recorder.aclose()


async def test_a_clean_stop_loses_nothing(recorder: Recorder, db: Database) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(recorder.run())
        for n in range(5000):
            recorder.add(record(n))
        await recorder.aclose()
    assert await stored(db) == 5000
    await recorder.aclose()


async def test_a_cancelled_flusher_loses_and_doubles_nothing(
    recorder: Recorder, db: Database
) -> None:
    for n in range(3000):
        recorder.add(record(n))
    for delay in (0.0, 0.01, 0.03, 0.05):
        with anyio.move_on_after(delay):
            await recorder.run()
    await recorder.aclose()
    assert await stored(db) == 3000


async def test_a_batch_that_was_written_already_is_not_written_twice(
    recorder: Recorder, db: Database, requests: RequestLog
) -> None:
    for _ in range(2):
        recorder.add(record(1))
        recorder.add(record(2, "u_b"))
        await recorder.flush()
    assert ids(await requests.recent()) == ["r_1", "r_2"]


async def test_records_survive_a_failing_database_and_the_log_says_so_once(
    recorder: Recorder, db: Database
) -> None:
    await hide_table(db, hidden=True)
    with capture_logs() as logs:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(recorder.run())
            for n in range(20):
                recorder.add(record(n))

            async def tried() -> bool:
                return bool(logs)

            await until(tried)
            await anyio.sleep(0.1)
            assert recorder.waiting == 20
            await hide_table(db, hidden=False)

            async def all_there() -> bool:
                return await stored(db) == 20

            await until(all_there)
            await recorder.aclose()
    assert [each["event"] for each in logs] == [
        "request_records_delayed",
        "request_records_written_again",
    ]


async def test_the_buffer_is_bounded(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, db: Database
) -> None:
    monkeypatch.setattr(recorder_module, "KEPT", 5)
    for n in range(8):
        recorder.add(record(n))
    assert (recorder.waiting, recorder.dropped) == (5, 3)
    await recorder.aclose()
    assert await stored(db) == 5


async def test_what_was_tried_counts_to_the_bound_of_the_buffer(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, db: Database
) -> None:
    monkeypatch.setattr(recorder_module, "KEPT", 5)
    await hide_table(db, hidden=True)
    for n in range(4):
        recorder.add(record(n))
    with pytest.raises((HubError, SQLAlchemyError)):
        await recorder.flush()
    for n in range(4, 8):
        recorder.add(record(n))
    assert (recorder.waiting, recorder.dropped) == (5, 3)
    await hide_table(db, hidden=False)
    await recorder.flush()
    assert (await stored(db), recorder.waiting) == (5, 0)


async def test_what_clients_send_never_stops_the_writing(
    recorder: Recorder, requests: RequestLog
) -> None:
    recorder.add(record(1, name="\x00\ud800" * 500, client="\x1b[31m", error_code=10**40))
    recorder.add(record(2))
    await recorder.flush()
    assert ids(await requests.recent()) == ["r_1", "r_2"]


async def test_old_records_go_and_young_ones_stay(
    recorder: Recorder, requests: RequestLog, clock: MovableClock
) -> None:
    clock.now = 1000.0 + 30 * 86_400 + 5
    for n in range(10):
        recorder.add(record(n))
        if n % 2:
            await recorder.flush()
    await recorder.retain()
    # 4 is too old: it goes with 5, beside which it was written
    assert ids(await requests.recent()) == ["r_4", "r_5", "r_6", "r_7", "r_8", "r_9"]


async def test_a_user_sees_only_the_own_records(recorder: Recorder, requests: RequestLog) -> None:
    for n in range(6):
        recorder.add(record(n, "u_a" if n % 2 else "u_b", "git" if n < 4 else "files"))
    await recorder.flush()
    assert ids(await requests.recent("u_a")) == ["r_1", "r_3", "r_5"]
    assert ids(await requests.recent("u_b", "git")) == ["r_0", "r_2"]
    assert ids(await requests.recent(server="files")) == ["r_4", "r_5"]
    assert ids(await requests.recent("u_c")) == []


async def test_records_that_are_alike_share_a_row(
    recorder: Recorder, db: Database, requests: RequestLog
) -> None:
    for n in range(60):
        recorder.add(record(n, f"u_{n % 3}"))
    await recorder.flush()
    async with db.read() as conn:
        rows = await conn.execute(select(request_series.c.user_id, request_series.c.requests))
        assert sorted(map(tuple, rows)) == [("u_0", 20), ("u_1", 20), ("u_2", 20)]
    assert ids(await requests.recent()) == [f"r_{n}" for n in range(60)]
    assert ids(await requests.recent(limit=4)) == ["r_56", "r_57", "r_58", "r_59"]
    assert ids(await requests.recent("u_1", limit=2)) == ["r_55", "r_58"]


async def test_what_came_since_the_last_flush_is_one_transaction_of_few_rows(
    recorder: Recorder, db: Database, requests: RequestLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are answered while it is prepared; a series never holds more than a thousand."""
    for n in range(4500):
        recorder.add(record(n, "u_b" if n % 3 else "u_a"))
    write, writes, turns = db.write, 0, 0

    @asynccontextmanager
    async def counted() -> AsyncIterator[AsyncConnection]:
        nonlocal writes
        writes += 1
        assert turns >= 4
        async with write() as conn:
            yield conn

    async def others() -> None:
        nonlocal turns
        while recorder.waiting:
            turns += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(db, "write", counted)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(others())
        await recorder.flush()
    assert writes == 1
    async with db.read() as conn:
        rows = await conn.execute(select(request_series.c.user_id, request_series.c.requests))
        assert sorted(map(tuple, rows)) == [("u_a", 500), ("u_a", 1000)] + [("u_b", 1000)] * 3
    assert ids(await requests.recent(limit=4500)) == [f"r_{n}" for n in range(4500)]


async def test_a_batch_that_grew_while_the_database_was_away_loses_nothing(
    recorder: Recorder, db: Database, requests: RequestLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database takes the first batch, and the answer is lost; the next try has more records."""
    recorder.add(record(1))
    write = db.write

    @asynccontextmanager
    async def answer_lost() -> AsyncIterator[AsyncConnection]:
        async with write() as conn:
            yield conn
        raise OSError

    monkeypatch.setattr(db, "write", answer_lost)
    with pytest.raises(OSError):
        await recorder.flush()
    monkeypatch.undo()
    assert (await stored(db), recorder.waiting) == (1, 1)
    recorder.add(record(2))
    await recorder.flush()
    assert ids(await requests.recent()) == ["r_1", "r_2"]
    assert recorder.waiting == 0


async def test_the_newest_records_are_those_that_ended_last(
    recorder: Recorder, requests: RequestLog
) -> None:
    """Of any series, flush by flush; checked against all of them sorted."""
    chance = random.Random(7)
    everything: list[RequestRecord] = []
    for n in range(300):
        one = record(n, f"u_{chance.randrange(5)}", chance.choice(["git", "files"]))
        one.duration_ms = chance.random() * 20_000
        everything.append(one)
    everything.sort(key=lambda one: one.at + one.duration_ms / 1000)
    for at, one in enumerate(everything):
        recorder.add(one)
        if at % 23 == 0:
            await recorder.flush()
    await recorder.flush()
    for limit in (1, 3, 10, 50, 299, 1000):
        assert (await requests.recent(limit=limit)).records == everything[-limit:]
    own = [one for one in everything if one.user_id == "u_2" and one.server == "git"]
    assert (await requests.recent("u_2", "git", 5)).records == own[-5:]


async def test_records_can_be_followed(recorder: Recorder, requests: RequestLog) -> None:
    nothing = await requests.recent()
    assert (nothing.records, nothing.seq) == ([], 0)
    for n in range(6):
        recorder.add(record(n, f"u_{n % 2}"))
    await recorder.flush()
    seen = await requests.after(nothing.seq)
    assert ids(seen) == [f"r_{n}" for n in range(6)]
    assert (await requests.recent(limit=2)).seq == seen.seq
    assert await requests.after(seen.seq) == Seen([], seen.seq)
    recorder.add(record(6, "u_0"))
    recorder.add(record(7, "u_1"))
    await recorder.flush()
    assert ids(await requests.after(seen.seq)) == ["r_6", "r_7"]
    assert ids(await requests.after(seen.seq, "u_1")) == ["r_7"]


async def test_who_follows_is_shown_nothing_older_than_what_was_shown(
    recorder: Recorder, requests: RequestLog
) -> None:
    for n, user in enumerate(["u_0", "u_1", "u_0"]):  # the newest is of the series that comes first
        recorder.add(record(n, user))
    await recorder.flush()
    newest = await requests.recent(limit=1)
    assert ids(newest) == ["r_2"]
    assert ids(await requests.after(newest.seq)) == []
    assert ids(await requests.after((await requests.recent("u_0", limit=1)).seq)) == []


async def test_statistics_by_user_and_by_server(recorder: Recorder, requests: RequestLog) -> None:
    for n in range(1, 101):
        recorder.add(record(n, "u_a", duration_ms=float(n), bytes_in=1, bytes_out=2))
    for n, outcome in enumerate(Outcome, 200):
        recorder.add(record(n, "u_b", "files", outcome=outcome, duration_ms=7.0))
    await recorder.flush()
    anna, ben = await requests.statistics("user", since=0)
    assert (anna.key, anna.requests, anna.errors, anna.denied) == ("u_a", 100, 0, 0)
    assert (anna.p50_ms, anna.p95_ms) == (50.0, 95.0)
    assert (anna.bytes_in, anna.bytes_out, anna.last_at) == (100, 200, 1100.0)
    assert (ben.key, ben.requests, ben.errors, ben.denied) == ("u_b", 7, 4, 1)
    by_server = await requests.statistics("server", since=0)
    assert [each.key for each in by_server] == ["git", "files"]
    assert [each.key for each in await requests.statistics("user", since=1150)] == ["u_b"]
    own = await requests.statistics("server", since=0, user_id="u_b")
    assert [(each.key, each.requests) for each in own] == [("files", 7)]
    assert await requests.statistics("user", since=9999) == []


async def test_audit_events_come_back_newest_first(log: AuditLog, clock: MovableClock) -> None:
    first = await log.write("cli", USER_CREATED, "u_a", {"role": "admin", "n": 1})
    second = await log.write("u_a", KEY_REVOKED, "k_1\n")
    assert await log.recent() == [second, first]
    assert await log.recent(before=2) == [first]
    assert (first.seq, first.at, first.detail) == (1, clock.now, {"role": "admin", "n": 1})
    assert second.subject == "k_1\ufffd"


async def test_an_untouched_chain_is_intact_also_when_many_write_at_once(
    log: AuditLog, database_url: str, clock: MovableClock
) -> None:
    empty = await log.verify()
    assert (empty.intact, empty.events, empty.head) == (True, 0, "")
    async with Database.at(database_url) as other:
        logs = [log, AuditLog(other, clock)] * 10
        written = await asyncio.gather(
            *(each.write("cli", USER_CREATED, f"u_{n}", {"é": n}) for n, each in enumerate(logs))
        )
    found = await log.verify()
    assert (found.intact, found.events, found.problem) == (True, 20, "")
    assert found.head == max(written, key=lambda event: event.seq).hash


SEQ = audit_events.c.seq
TAMPERINGS = {
    "an actor": [update(audit_events).where(SEQ == 3).values(actor="u_b")],
    "a time": [update(audit_events).where(SEQ == 3).values(at=audit_events.c.at + 1)],
    "a detail": [update(audit_events).where(SEQ == 3).values(detail='{"n":9}')],
    "a hash": [update(audit_events).where(SEQ == 3).values(hash="0" * 64)],
    "a removed event": [delete(audit_events).where(SEQ == 3)],
    "a removed first event": [delete(audit_events).where(SEQ == 1)],
    "a removed last event": [delete(audit_events).where(SEQ == 6)],
    "everything removed": [delete(audit_events)],
    "a removed event with the gap closed": [
        delete(audit_events).where(SEQ == 3),
        update(audit_events).where(SEQ == 4).values(seq=3),
        update(audit_events).where(SEQ == 5).values(seq=4),
        update(audit_events).where(SEQ == 6).values(seq=5),
        update(meta).values(audit_seq=5),
    ],
    "two events in another order": [
        update(audit_events).where(SEQ == 3).values(seq=99),
        update(audit_events).where(SEQ == 4).values(seq=3),
        update(audit_events).where(SEQ == 99).values(seq=4),
    ],
    "a forgotten head": [update(meta).values(audit_seq=4)],
}


@pytest.mark.parametrize("what", TAMPERINGS)
async def test_tampering_with_the_chain_shows(log: AuditLog, db: Database, what: str) -> None:
    for n in range(6):
        await log.write("u_a", USER_CREATED, f"u_{n}", {"n": n})
    async with db.write() as conn:
        for statement in TAMPERINGS[what]:
            await conn.execute(statement)
    found = await log.verify()
    assert not found.intact
    assert found.problem


async def test_a_secret_cannot_get_into_the_audit_log(log: AuditLog) -> None:
    with pytest.raises(TypeError):
        await log.write("cli", USER_CREATED, "u_a", {"value": Secret("canary")})
    with pytest.raises(InvalidInput):
        await log.write("cli", USER_CREATED, "u_a", {"value": "x" * 20_000})
    assert (await log.verify()).events == 0
