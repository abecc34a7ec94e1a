"""Private database servers of the demo, with an account per user of the hub."""

import secrets
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import asyncpg
from anyio import to_thread

from mcphub.isolation.backends.guarded import DidNotStart, NotInstalled
from mcphub.isolation.backends.mariadb import private_mariadb
from mcphub.isolation.backends.postgres import private_postgres
from mcphub.testing.demo.databases import DATABASE, HERS, Account, DatabaseServer
from mcphub.testing.demo.observation import CouldNotRun
from mcphub.testing.demo.programs import run


@asynccontextmanager
async def postgres(tmp: Path) -> AsyncIterator[DatabaseServer]:
    """Run a private PostgreSQL with two accounts that may only connect.

    Raises:
        CouldNotRun: It is not installed or does not start.
    """
    async with _threaded(private_postgres(tmp, database=DATABASE)) as url:
        server = _server(url)
        connection = await asyncpg.connect(url, timeout=30)
        try:
            for account in (server.alice, server.bob):
                # Names and passwords are made here of letters and digits: nothing to quote.
                await connection.execute(
                    f"CREATE ROLE {account.user} LOGIN PASSWORD '{account.password}'"
                )
        finally:
            await connection.close()
        yield server


@asynccontextmanager
async def mariadb(tmp: Path) -> AsyncIterator[DatabaseServer]:
    """Run a private MariaDB with two accounts for one database, and one for alice alone.

    Raises:
        CouldNotRun: It is not installed or does not start.
    """
    async with _threaded(private_mariadb(tmp, database=DATABASE)) as url:
        server, admin = _server(url), urlsplit(url)
        options = tmp / f"client-{secrets.token_hex(8)}.cnf"
        options.touch(mode=0o600)
        try:
            options.write_text(f"[client]\nuser={admin.username}\npassword={admin.password}\n")
            statements = [f"CREATE DATABASE {HERS};"]
            for account in (server.alice, server.bob):
                statements += [
                    f"CREATE USER {account.user}@'%' IDENTIFIED BY '{account.password}';",
                    f"GRANT ALL ON {DATABASE}.* TO {account.user}@'%';",
                ]
            statements.append(f"GRANT ALL ON {HERS}.* TO {server.alice.user}@'%';")
            await run(
                [
                    "mariadb",
                    f"--defaults-file={options}",
                    "--protocol=tcp",
                    f"--host={server.host}",
                    f"--port={server.port}",
                ],
                stdin="\n".join(statements),
                timeout_s=30,
            )
        finally:
            options.unlink()
        yield server


def _server(url: str) -> DatabaseServer:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    alice, bob = (
        Account(f"{name}_{secrets.token_hex(4)}", secrets.token_hex(16))
        for name in ("alice", "bob")
    )
    return DatabaseServer(parts.hostname, parts.port, alice, bob)


@asynccontextmanager
async def _threaded(manager: AbstractContextManager[str]) -> AsyncIterator[str]:
    """Enter and leave a blocking context manager without blocking the event loop."""
    try:
        url = await to_thread.run_sync(manager.__enter__)
    except (NotInstalled, DidNotStart) as error:
        raise CouldNotRun(str(error)) from error
    try:
        yield url
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(manager.__exit__, None, None, None)
