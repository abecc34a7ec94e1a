"""A database is one hub's, on SQLite and on PostgreSQL."""

import re
from typing import Any

import asyncpg
import pytest
from tests.polling import until

from mcphub.errors import Conflict, NotFound, Unavailable
from mcphub.store.database import Database
from mcphub.store.holding import Hold

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcphub.store.holding._BETWEEN_S", 0.02)


async def end_sessions(url: str) -> None:
    """Have PostgreSQL end every session at this database, as a restart does."""
    admin = await asyncpg.connect(url)
    await admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await admin.close()


def lost(hold: Hold) -> bool:
    """Whether the driver has heard of the end."""
    session = hold._session
    assert session is not None and session.sync_connection is not None
    driver: Any = session.sync_connection.connection.driver_connection
    return bool(driver.is_closed())


async def test_a_second_hub_is_refused_until_the_first_one_has_gone(database_url: str) -> None:
    async with Hold(database_url) as first:
        await first.keep()
        second = Hold(database_url)
        with pytest.raises(Conflict, match="Another hub"):
            await second.take()
        assert await second.is_taken()
        await second.close()
        await first.keep()
    other = Hold(database_url)
    assert not await other.is_taken()
    async with Hold(database_url):
        assert await other.is_taken()
    await other.close()


async def test_hubs_of_two_databases_are_none_of_each_others_business(
    database_url: str, postgres: str
) -> None:
    async with Hold(database_url), Hold(postgres):
        pass


async def test_a_hub_takes_its_database_again_after_it_was_away(postgres: str) -> None:
    async with Hold(postgres) as hold:
        await end_sessions(postgres)
        await until(lambda: lost(hold))
        await hold.keep()
        assert await Hold(postgres).is_taken()


async def test_a_hub_whose_database_another_one_took_meanwhile_is_told_so(postgres: str) -> None:
    async with Hold(postgres) as hold:
        await end_sessions(postgres)
        await until(lambda: lost(hold))
        async with Hold(postgres):
            with pytest.raises(Conflict, match="while it was out of reach"):
                await hold.keep()


async def test_a_server_that_is_away_is_unavailable_and_names_no_secret() -> None:
    with pytest.raises(Unavailable) as caught:
        await Hold("postgresql://hub:s3cret@127.0.0.1:1/hub").take()
    assert not re.search("s3cret", str(caught.value))


async def test_a_database_that_is_missing_is_made_for_those_only_who_may(
    database_url: str,
) -> None:
    with pytest.raises(NotFound, match="missing, or empty"):
        async with Database.at(database_url, make=False) as db:
            await db.migrate(make=False)
    async with Database.at(database_url) as db:
        await db.migrate()
        install_id = await db.install_id()
    async with Database.at(database_url, make=False) as db:
        await db.migrate(make=False)
        assert await db.install_id() == install_id
