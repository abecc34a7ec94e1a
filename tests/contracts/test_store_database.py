"""What every database under the hub promises, on SQLite and on PostgreSQL."""

import asyncio
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import asyncpg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from mcphub.audit.recorder import Recorder
from mcphub.audit.records import Outcome, RequestRecord
from mcphub.audit.requests import RequestLog
from mcphub.errors import InvalidInput, Unavailable
from mcphub.store.database import HEAD, Database
from mcphub.store.migrate import config
from mcphub.store.tables import api_keys, groups, meta, metadata
from mcphub.testing.clock import MovableClock

pytestmark = pytest.mark.anyio


def modes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()}


async def names(db: Database) -> list[str]:
    async with db.read() as conn:
        return sorted((await conn.execute(select(groups.c.name))).scalars())


async def test_migrations_make_exactly_the_tables_of_the_code(db: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async with db.write() as conn:
        assert await conn.run_sync(differences) == []


def test_the_newest_migration_is_the_one_the_program_looks_for() -> None:
    assert ScriptDirectory.from_config(config()).get_current_head() == HEAD


async def test_many_processes_can_migrate_an_empty_database_at_once(database_url: str) -> None:
    program = (
        "import asyncio, sys\n"
        "from mcphub.store.database import Database\n"
        "async def main():\n"
        "    async with Database.at(sys.argv[1]) as db:\n"
        "        await db.migrate()\n"
        "        print(await db.install_id())\n"
        "asyncio.run(main())\n"
    )
    printed: set[bytes] = set()

    async def run() -> None:
        done = await anyio.run_process([sys.executable, "-c", program, database_url])
        printed.add(done.stdout.strip())

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(run)
    assert len(printed) == 1


async def test_migrating_again_keeps_everything(db: Database) -> None:
    install_id = await db.install_id()
    async with db.write() as conn:
        await conn.execute(insert(groups).values(name="dev"))
    await db.migrate()
    assert await names(db) == ["dev"]
    assert await db.install_id() == install_id
    assert len(install_id) == 32


@pytest.mark.parametrize("state", ["25006", "53100", "53300", "57P01", "40P01", "58030"])
async def test_what_postgresql_cannot_do_just_now_is_unavailable(postgres: str, state: str) -> None:
    """No room, no changes taken, shutting down: nothing is wrong with what was asked."""
    async with Database.at(postgres) as db:
        with pytest.raises(Unavailable, match="just now"):
            async with db.write() as conn:
                await conn.execute(
                    text(f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$")
                )
        with pytest.raises(DBAPIError):
            async with db.write() as conn:
                await conn.execute(text("SELECT of_nothing"))


async def test_a_postgresql_that_takes_no_changes_is_read_and_unavailable_for_writing(
    postgres: str,
) -> None:
    name = "read_only_" + secrets.token_hex(4)
    admin = await asyncpg.connect(postgres)
    await admin.execute(f"CREATE DATABASE {name}")
    async with Database.at(urlsplit(postgres)._replace(path=f"/{name}").geturl()) as db:
        await db.migrate()
        await db.close()
        await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        with pytest.raises(Unavailable):
            await insert_group(db, "dev")
        with pytest.raises(Unavailable):
            await db.try_write()
        assert await names(db) == []
        await db.close()
        await admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await db.try_write()
        await insert_group(db, "dev")
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


async def test_an_answer_that_does_not_come_is_unavailable(db: Database) -> None:
    async def hang() -> None:
        async with db.write() as conn:
            await conn.execute(insert(groups).values(name="dev"))
            raise TimeoutError

    with pytest.raises(Unavailable, match="does not answer"):
        await hang()
    assert await names(db) == []


async def test_records_of_an_older_version_are_kept(database_url: str) -> None:
    def older(connection: Connection) -> None:
        command.upgrade(config(connection), "0004")

    async with Database.at(database_url) as db:
        async with db.write() as conn:
            await conn.run_sync(older)
            for n in range(3):
                await conn.execute(
                    text(
                        "INSERT INTO request_records (id, at, duration_ms, user_id, session, server, method,"
                        " name, instance_id, era, client, decision, outcome, error_code, bytes_in,"
                        " bytes_out, trace_id) VALUES (:id, :at, 2.5, 'u_a', '', 'git', 'tools/call',"
                        " :name, 'i_1', 'modern', 'c/1', 'permit', 'error', -32603, 7, 9, '')"
                    ),
                    {"id": f"r_{n}", "at": 1_790_000_000.25 + n, "name": 'a "quoted" näme'},
                )
        await db.migrate()
        log = RequestLog(db)
        records = (await log.recent()).records
        assert [(one.id, one.at) for one in records] == [
            (f"r_{n}", 1_790_000_000.25 + n) for n in range(3)
        ]
        assert records[0] == RequestRecord(
            "r_0", 1_790_000_000.25, "u_a", "git", "tools/call", 2.5, "", 'a "quoted" näme', "i_1",
            "modern", "c/1", "permit", Outcome.ERROR, -32603, 7, 9, "",
        )  # fmt: skip
        (found,) = await log.statistics("server", since=0)
        assert (found.key, found.requests, found.errors, found.p95_ms) == ("git", 3, 3, 2.5)
        recorder = Recorder(db, MovableClock(1_790_000_100.0))
        recorder.add(RequestRecord("r_9", 1_790_000_099.0, "u_a", "git", "tools/call"))
        await recorder.flush()
        assert [one.id for one in (await log.recent(limit=2)).records] == ["r_2", "r_9"]


async def test_a_database_of_a_newer_version_is_refused(db: Database) -> None:
    async with db.write() as conn:
        await conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(InvalidInput, match="newer version"):
        await db.migrate()


async def test_only_changes_raise_the_revision(db: Database) -> None:
    before = (await db.revision()).number
    async with db.write():
        pass
    assert (await db.revision()).number == before
    async with db.write(changes=True):
        pass
    assert (await db.revision()).number == before + 1


async def test_a_failed_block_changes_nothing_and_keeps_the_revision(db: Database) -> None:
    before = (await db.revision()).number

    async def fail() -> None:
        async with db.write(changes=True) as conn:
            await conn.execute(insert(groups).values(name="dev"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert await names(db) == []
    assert (await db.revision()).number == before


async def insert_group(db: Database, name: str) -> None:
    async with db.write(changes=True) as conn:
        await conn.execute(insert(groups).values(name=name))


async def test_blocks_together_are_done_together_and_see_each_other(db: Database) -> None:
    before = (await db.revision()).number
    async with db.together():
        await insert_group(db, "one")
        async with db.together():
            await insert_group(db, "two")
        assert await names(db) == ["one", "two"]
    assert await names(db) == ["one", "two"]
    assert (await db.revision()).number == before + 2


async def test_of_blocks_together_nothing_stays_when_one_fails(db: Database) -> None:
    async def twice() -> None:
        async with db.together():
            await insert_group(db, "one")
            await insert_group(db, "one")

    before = (await db.revision()).number
    with pytest.raises(IntegrityError):
        await twice()
    assert await names(db) == [] and (await db.revision()).number == before
    await insert_group(db, "three")
    assert await names(db) == ["three"]


async def test_of_blocks_together_none_counts_when_the_error_of_one_is_kept_back(
    db: Database,
) -> None:
    async def half() -> None:
        async with db.together():
            await insert_group(db, "one")
            with suppress(ZeroDivisionError):
                async with db.write() as conn:
                    await conn.execute(insert(groups).values(name="half"))
                    raise ZeroDivisionError

    with pytest.raises(RuntimeError, match="failed"):
        await half()
    assert await names(db) == []


async def test_blocks_of_another_task_are_none_of_them(db: Database) -> None:
    """A second user's change is done although the first one's is undone meanwhile."""
    began = anyio.Event()

    async def other() -> None:
        await began.wait()
        assert await names(db) == []
        await insert_group(db, "other")

    async def undone() -> None:
        async with db.together():
            await insert_group(db, "own")
            began.set()
            await anyio.sleep(0.1)
            await insert_group(db, "own")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        with pytest.raises(IntegrityError):
            await undone()
    assert await names(db) == ["other"]


async def test_blocks_together_that_are_cancelled_leave_the_database_usable(db: Database) -> None:
    with anyio.move_on_after(0.05):
        async with db.together():
            await insert_group(db, "own")
            await anyio.sleep(5)
    await insert_group(db, "other")
    assert await names(db) == ["other"]


async def test_a_read_block_cannot_write(db: Database) -> None:
    with pytest.raises((DBAPIError, Unavailable)):
        async with db.read() as conn:
            await conn.execute(insert(groups).values(name="dev"))
    assert await names(db) == []


async def test_a_read_block_sees_one_snapshot(db: Database) -> None:
    async with db.read() as conn:
        first = (await conn.execute(select(meta.c.revision))).scalar_one()
        async with db.write(changes=True) as writer:
            await writer.execute(insert(groups).values(name="dev"))
        assert (await conn.execute(select(groups.c.name))).all() == []
        assert (await conn.execute(select(meta.c.revision))).scalar_one() == first


async def test_concurrent_writers_lose_no_update(db: Database, database_url: str) -> None:
    async def add(database: Database) -> None:
        async with database.write(changes=True) as conn:
            number = (await conn.execute(select(meta.c.next_number))).scalar_one()
            await asyncio.sleep(0)
            await conn.execute(update(meta).values(next_number=number + 1))

    async with Database.at(database_url) as other:  # as another process would
        before = (await db.revision()).number
        with anyio.fail_after(60):
            async with asyncio.TaskGroup() as tasks:
                for database in [db, other] * 20:
                    tasks.create_task(add(database))
    assert (await db.revision()).number == before + 40
    async with db.read() as conn:
        assert (await conn.execute(select(meta.c.next_number))).scalar_one() == 16 + 40


async def test_foreign_keys_hold(db: Database) -> None:
    key = {"id": "k", "user_id": "u_gone", "hash": "h", "prefix": "p", "label": "", "created_at": 1}
    with pytest.raises(IntegrityError):
        async with db.write() as conn:
            await conn.execute(insert(api_keys).values(key))


async def test_a_cancelled_writer_leaves_the_database_usable(db: Database) -> None:
    with anyio.move_on_after(0.05):
        async with db.write(changes=True) as conn:
            await conn.execute(insert(groups).values(name="half"))
            await anyio.sleep_forever()
    with anyio.fail_after(10):
        async with db.write(changes=True) as conn:
            await conn.execute(insert(groups).values(name="whole"))
    assert await names(db) == ["whole"]


async def test_the_sqlite_file_and_its_companions_are_private(tmp_path: Path) -> None:
    async with Database.at(f"sqlite:///{tmp_path / 'hub.db'}") as db:
        await db.migrate()
        found = modes(tmp_path)
    assert found == {"hub.db": 0o600, "hub.db-wal": 0o600, "hub.db-shm": 0o600}


async def test_a_sqlite_file_that_others_could_read_is_made_private(tmp_path: Path) -> None:
    path = tmp_path / "hub.db"
    path.touch(mode=0o644)
    await Database.at(f"sqlite:///{path}").close()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_an_unreachable_server_is_unavailable_and_names_no_secret() -> None:
    async with Database.at("postgresql://hub:s3cret@127.0.0.1:1/hub") as db:
        with pytest.raises(Unavailable) as caught:
            await db.revision()
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "mysql://a:s3cret@h/d", "sqlite://", "hub.db", "postgresql"])
def test_a_url_that_cannot_be_used_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Database.at(url)
    assert "s3cret" not in str(caught.value)
