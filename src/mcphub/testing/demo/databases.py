"""Database scenarios: what a pooled connection carries from one user to the next.

The shared server has alice's database account, as a team's one deployment would. Through the hub
each user has an own account, given as credentials, and an own process with an own pool.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from mcphub.testing.demo import packages
from mcphub.testing.demo.clients import Connection
from mcphub.testing.demo.observation import CouldNotRun, Observation
from mcphub.testing.demo.scenarios import Bench, Scenario, canary

DATABASE = "team"


@dataclass(frozen=True, slots=True)
class Account:
    """A database account of one user; the password is random and valid for this run."""

    user: str
    password: str


@dataclass(frozen=True, slots=True)
class DatabaseServer:
    """A private database server of this run, with an account per user.

    Attributes:
        host, port: Where it listens on loopback.
        alice, bob: The users' accounts.
    """

    host: str
    port: int
    alice: Account
    bob: Account

    @property
    def address(self) -> str:
        """`host:port`, as an egress entry names it."""
        return f"{self.host}:{self.port}"


class _DatabaseScenario(Scenario):
    tool: ClassVar[str]

    def __init__(self, database: DatabaseServer) -> None:
        self._database = database

    async def _sql(self, user: Connection, sql: str) -> str:
        return (await user.call(self.tool, {"sql": sql})).text

    async def _must(self, user: Connection, sql: str) -> str:
        return (await user.must(self.tool, {"sql": sql})).text

    @staticmethod
    def _sum(leaks: list[str], tried: str) -> Observation:
        if leaks:
            return Observation(True, "bob got " + "; ".join(leaks))
        return Observation(False, f"bob saw nothing of {tried}")


class Postgres(_DatabaseScenario):
    """Read-only transactions do not end a session: statements, settings and locks stay in the pool."""

    key, title = "postgres", "PostgreSQL session"
    package, server, tool = packages.POSTGRES, "postgres", "query"

    @override
    def launch(self, bench: Bench, work: Path) -> tuple[list[str], dict[str, str]]:
        account = self._database.alice
        url = f"postgresql://{account.user}:{account.password}@{self._database.address}/{DATABASE}"
        return [*bench.packages.node_argv(self.package), url], {}

    @override
    async def play(self, alice: Connection, bob: Connection) -> Observation:
        word, path, leaks = canary(), canary(), []
        lock = int(canary()[1:14], 16)
        await self._must(alice, f"PREPARE {word} AS SELECT '{word}' AS v")
        if word not in await self._must(alice, f"EXECUTE {word}"):
            raise CouldNotRun("alice cannot execute her own prepared statement")
        if word in await self._sql(bob, "SELECT statement FROM pg_prepared_statements"):
            leaks.append("her PREPAREd statement")
        # The server has no valid answer for two statements at once, but it runs them.
        await self._sql(alice, f"COMMIT; SET search_path = {path}")
        if path not in await self._must(alice, "SHOW search_path"):
            raise CouldNotRun("alice could not set her search_path")
        if path in await self._must(bob, "SHOW search_path"):
            leaks.append("her search_path")
        if "true" not in await self._must(alice, f"SELECT pg_try_advisory_lock({lock})"):
            raise CouldNotRun("alice did not get her advisory lock")
        if "true" in await self._must(bob, f"SELECT pg_try_advisory_lock({lock})"):
            leaks.append("her advisory lock as well")
        if self._database.alice.user in await self._must(bob, "SELECT session_user"):
            leaks.append("her account")
        return self._sum(leaks, "PREPARE, SET, lock or account; the lock held him out")


class MySQL(_DatabaseScenario):
    """`USE` and `SET @v` through a pool."""

    key, title = "mysql", "MySQL session"
    package, server, tool = packages.MYSQL, "mysql", "mysql_query"

    @override
    def launch(self, bench: Bench, work: Path) -> tuple[list[str], dict[str, str]]:
        account = self._database.alice
        env = mysql_environment(self._database, account.user, account.password)
        return bench.packages.node_argv(self.package), env

    @override
    async def play(self, alice: Connection, bob: Connection) -> Observation:
        word, leaks = canary(), []
        await self._must(alice, f"USE {HERS}")
        await self._must(alice, f"SET @v = '{word}'")
        if word not in await self._must(alice, "SELECT @v AS v"):
            raise CouldNotRun("alice does not see her own session variable")
        if HERS in await self._must(bob, "SELECT DATABASE() AS d"):
            leaks.append("her USE")
        if word in await self._must(bob, "SELECT @v AS v"):
            leaks.append("her SET @v")
        if self._database.alice.user in await self._must(bob, "SELECT CURRENT_USER() AS u"):
            leaks.append("her account")
        return self._sum(leaks, "USE, SET @v or account")


class MariaDB(_DatabaseScenario):
    """A read-only mode that refuses `USE`, yet variables and locks pass."""

    key, title = "mariadb", "MariaDB session"
    package, server, tool = packages.MARIADB, "mariadb", "execute_sql"

    @override
    def launch(self, bench: Bench, work: Path) -> tuple[list[str], dict[str, str]]:
        account = self._database.alice
        env = mariadb_environment(self._database, account.user, account.password)
        return bench.packages.python_argv(self.package), env

    @override
    async def play(self, alice: Connection, bob: Connection) -> Observation:
        word, lock, leaks = canary(), canary(), []
        await self._must(alice, f"SELECT @v := '{word}'")
        if word in await self._must(bob, "SELECT @v"):
            leaks.append("her @v")
        if "1" not in _rows(await self._must(alice, f"SELECT GET_LOCK('{lock}', 0) AS got")):
            raise CouldNotRun("alice did not get her lock")
        if "1" in _rows(await self._must(bob, f"SELECT GET_LOCK('{lock}', 0) AS got")):
            leaks.append("her GET_LOCK as well")
        if self._database.alice.user in await self._must(bob, "SELECT CURRENT_USER() AS u"):
            leaks.append("her account")
        return self._sum(leaks, "@v, lock or account; the lock held him out")


HERS = "team_alice"
"""A database that only alice's account may use (`USE`)."""


def mysql_environment(database: DatabaseServer, user: str, password: str) -> dict[str, str]:
    """Return the environment of `@benborla29/mcp-server-mysql`; user and password may be templates."""
    return {
        "MYSQL_HOST": database.host,
        "MYSQL_PORT": str(database.port),
        "MYSQL_USER": user,
        "MYSQL_PASS": password,
        "MYSQL_DB": DATABASE,
        "MYSQL_DISABLE_READ_ONLY_TRANSACTIONS": "true",
    }


def mariadb_environment(database: DatabaseServer, user: str, password: str) -> dict[str, str]:
    """Return the environment of `database-mcp-mariadb`; user and password may be templates."""
    return {
        "MARIADB_HOST": database.host,
        "MARIADB_PORT": str(database.port),
        "MARIADB_USER": user,
        "MARIADB_PASSWORD": password,
        "MARIADB_DATABASE": DATABASE,
    }


def _rows(text: str) -> str:
    return text.partition('"rows"')[2]
