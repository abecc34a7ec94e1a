"""Published database servers through the hub, against private PostgreSQL and MariaDB servers.

Each user has an account of the database as credential; what one leaves in a connection (prepared
statements, settings, variables, locks, the current database) is nowhere in the other's.
"""

import contextlib
import re

import pytest
from tests.e2e.servers_under_test import (
    LEGACY,
    MODERN,
    USERS,
    answer,
    canary,
    must,
    npx,
    published_hub,
    tools_of,
    uvx,
)
from tests.interaction.clients import raw_client

from mcphub.testing.demo.databases import DATABASE, HERS, mariadb_environment, mysql_environment
from mcphub.testing.demo.observation import CouldNotRun
from mcphub.testing.demo.provision import mariadb, postgres

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.e2e,
    pytest.mark.timeout(600),
]
ERAS = pytest.mark.parametrize("mode", [LEGACY, MODERN])
ACCOUNT, PASSWORD = "${USER_DATABASE_ACCOUNT}", "${USER_DATABASE_PASSWORD}"
ELSEWHERE = {"egress": ["127.0.0.1:9"]}
POSTGRES = "@modelcontextprotocol/server-postgres@0.6.2"
MYSQL = "@benborla29/mcp-server-mysql@2.0.9"


def postgres_servers(database):
    """Entries for PostgreSQL: one that reaches it, and one whose egress list names another port."""
    url = f"postgresql://{ACCOUNT}:{PASSWORD}@{database.address}/{DATABASE}"
    return {
        "postgres": npx(POSTGRES, url, sandbox={"egress": [database.address]}),
        "postgres-elsewhere": npx(POSTGRES, url, sandbox=ELSEWHERE),
    }


def mariadb_servers(database):
    """Entries for MariaDB; `mysql-py` knows it by a name that leads to it."""
    listed = {"egress": [database.address]}
    by_name = mysql_environment(database, ACCOUNT, PASSWORD) | {
        "MYSQL_HOST": "db.test",
        "MYSQL_PORT": "3306",
        "MYSQL_PASSWORD": PASSWORD,
        "MYSQL_DATABASE": DATABASE,
    }
    return {
        "mysql": npx(MYSQL, env=mysql_environment(database, ACCOUNT, PASSWORD), sandbox=listed),
        "mysql-elsewhere": npx(
            MYSQL, env=mysql_environment(database, ACCOUNT, PASSWORD), sandbox=ELSEWHERE
        ),
        "mariadb": uvx(
            "database-mcp-mariadb==0.2.1",
            env=mariadb_environment(database, ACCOUNT, PASSWORD),
            sandbox=listed,
        ),
        "mysql-py": uvx(
            "--from",
            "mysql-mcp-server==0.4.4",
            "mysql_mcp_server",
            env=by_name,
            sandbox={"redirect": {"db.test:3306": database.address}},
        ),
    }


@pytest.fixture(scope="module")
async def postgres_database(tmp_path_factory):
    """A private PostgreSQL with an account per user."""
    try:
        async with postgres(tmp_path_factory.mktemp("postgres")) as database:
            yield database
    except CouldNotRun as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
async def mariadb_database(tmp_path_factory):
    """A private MariaDB with an account per user, and a database that only alice may use."""
    try:
        async with mariadb(tmp_path_factory.mktemp("mariadb")) as database:
            yield database
    except CouldNotRun as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
async def team(tmp_path_factory, postgres_database, mariadb_database):
    """A hub with every database server; each user has the account of that name."""
    place = tmp_path_factory.mktemp("databases")
    ours = {
        postgres_database: postgres_servers(postgres_database),
        mariadb_database: mariadb_servers(mariadb_database),
    }
    servers = {name: entry for entries in ours.values() for name, entry in entries.items()}
    async with published_hub(place / "hub", servers) as team:
        for database, entries in ours.items():
            for user in USERS:
                account = getattr(database, user)
                for name in entries:
                    await team.credential(user, name, "DATABASE_ACCOUNT", account.user)
                    await team.credential(user, name, "DATABASE_PASSWORD", account.password)
        yield team


@ERAS
async def test_a_postgresql_session_is_its_users(team, postgres_database, mode):
    word, lock = canary(), int(canary()[1:14], 16)
    async with team.both("postgres", mode) as (alice, bob):
        assert await tools_of(bob) == {"query"}
        await must(alice, "query", {"sql": f"PREPARE {word} AS SELECT '{word}' AS v"})
        assert word in await must(alice, "query", {"sql": f"EXECUTE {word}"})
        assert word not in await must(bob, "query", {"sql": "SELECT * FROM pg_prepared_statements"})
        assert "does not exist" in await answer(bob, "query", {"sql": f"EXECUTE {word}"})
        # The server has no answer for two statements at once that a client accepts, but it runs them.
        with contextlib.suppress(ValueError):
            await answer(alice, "query", {"sql": f"COMMIT; SET search_path = {word}"})
        assert word in await must(alice, "query", {"sql": "SHOW search_path"})
        assert word not in await must(bob, "query", {"sql": "SHOW search_path"})
        held = {"sql": f"SELECT pg_try_advisory_lock({lock}) AS got"}
        assert "true" in await must(alice, "query", held)
        assert "false" in await must(bob, "query", held)


@ERAS
async def test_every_postgresql_call_runs_with_the_callers_account(team, postgres_database, mode):
    async with team.both("postgres", mode) as clients:
        for user, client in zip(USERS, clients, strict=True):
            who = await must(client, "query", {"sql": "SELECT session_user, current_user"})
            assert getattr(postgres_database, user).user in who
            assert len(set(re.findall(r"(?:alice|bob)_\w+", who))) == 1


@ERAS
async def test_a_mysql_session_is_its_users(team, mariadb_database, mode):
    word = canary()
    async with team.both("mysql", mode) as (alice, bob):
        assert "mysql_query" in await tools_of(bob)
        await must(alice, "mysql_query", {"sql": f"USE {HERS}"})
        await must(alice, "mysql_query", {"sql": f"SET @v = '{word}'"})
        assert word in await must(alice, "mysql_query", {"sql": "SELECT @v AS v"})
        assert word not in await must(bob, "mysql_query", {"sql": "SELECT @v AS v"})
        assert HERS not in await must(bob, "mysql_query", {"sql": "SELECT DATABASE() AS d"})
        who = await must(bob, "mysql_query", {"sql": "SELECT CURRENT_USER() AS u"})
        assert mariadb_database.bob.user in who
        denied = await answer(bob, "mysql_query", {"sql": f"USE {HERS}"})
        assert "denied" in denied.lower()


@ERAS
async def test_a_mariadb_session_is_its_users(team, mariadb_database, mode):
    word, lock = canary(), canary()
    async with team.both("mariadb", mode) as (alice, bob):
        assert "execute_sql" in await tools_of(bob)
        assert word in await must(alice, "execute_sql", {"sql": f"SELECT @v := '{word}' AS v"})
        assert word not in await must(bob, "execute_sql", {"sql": "SELECT @v AS v"})
        held = {"sql": f"SELECT CONCAT('got-', GET_LOCK('{lock}', 0)) AS got"}
        assert "got-1" in await must(alice, "execute_sql", held)
        assert "got-0" in await must(bob, "execute_sql", held)
        who = await must(bob, "execute_sql", {"sql": "SELECT CURRENT_USER() AS u"})
        assert mariadb_database.bob.user in who


@ERAS
async def test_a_database_known_by_name_is_reached_with_the_callers_account(
    team, mariadb_database, mode
):
    async with team.both("mysql-py", mode) as clients:
        for user, client in zip(USERS, clients, strict=True):
            assert "execute_sql" in await tools_of(client)
            who = await must(client, "execute_sql", {"query": "SELECT CURRENT_USER()"})
            assert getattr(mariadb_database, user).user in who


@pytest.mark.parametrize(
    ("listed", "elsewhere", "tool"),
    [
        ("postgres", "postgres-elsewhere", "query"),
        # It connects when it starts, and ends when it cannot: then or while it is called.
        ("mysql", "mysql-elsewhere", "mysql_query"),
    ],
)
async def test_a_database_that_is_not_listed_is_refused(team, listed, elsewhere, tool):
    call = {"name": tool, "arguments": {"sql": "SELECT CONCAT('rea', 'ched') AS v"}}
    for user in USERS:
        async with raw_client(team, user, listed) as client:
            assert "reached" in (await client.modern("tools/call", call)).text
        async with raw_client(team, user, elsewhere) as client:
            refused = (await client.modern("tools/call", call)).text
            assert "reached" not in refused and "error" in refused.lower(), refused
