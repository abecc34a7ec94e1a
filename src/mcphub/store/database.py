"""`Database`: one connection pool, short transactions, one revision of what the hub keeps in memory.

Two engines on one database: readers see one snapshot for the whole block and cannot write; writers
are transactions. SQLite has one writer at a time: an asyncio lock orders the writers of this
process, `busy_timeout` those of others (the CLI beside a running hub). Never hold a block across an
await on anything but the database.
"""

import asyncio
import os
import re
import secrets
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from sqlalchemy import (
    Connection,
    Table,
    delete,
    event,
    insert,
    inspect,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from mcphub.errors import InvalidInput, NotFound, Unavailable
from mcphub.store.patient import transaction
from mcphub.store.tables import changes, meta

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

_SQLITE = re.compile(r"sqlite://(/+)(.+)")
_BUSY_MS = 10_000
_LIMITS = {"timeout": 10, "command_timeout": 60}
"""Of PostgreSQL, in seconds: to connect, and for one statement."""

AT_ONCE = 50
"""Users whose rows are read in one step: what is made of them keeps all else waiting meanwhile."""

HEAD = "0006"
"""Newest migration; a contract test compares it with the files."""


KEPT = 1000
"""Newest revisions of which it is kept what they were about."""

_NOT_NOW = ("08", "25006", "40", "53", "55P03", "57", "58")
"""SQLSTATEs of PostgreSQL, or how they begin, that say nothing against a statement: lost connections, a server
that takes no changes, conflicts of transactions, no room or connection left, locks, interventions, input/output."""


class Revision(NamedTuple):
    """A state of what the hub keeps in memory.

    Attributes:
        number: Goes up with every change.
        mark: Random; of two states with one number, as after a failover, it tells which it is.
    """

    number: int
    mark: str


@dataclass(slots=True)
class _Joint:
    """A transaction that several blocks may share, once one of them has begun it.

    Attributes:
        failed: A block of it did not come to its end, so none of them may count.
    """

    stack: AsyncExitStack
    conn: AsyncConnection | None = None
    failed: bool = False


class Database:
    """The hub's database. Create with `at`, then `migrate`, finally `close`.

    Safe to use from many tasks of one event loop; not from threads.
    """

    def __init__(self, url: URL, readers: AsyncEngine, writers: AsyncEngine) -> None:
        self._url = url
        self._readers = readers
        self._writers = writers
        self._install_id = ""
        self._one_writer: AbstractAsyncContextManager[Any] = (
            asyncio.Lock() if self.is_sqlite else nullcontext()
        )
        self._joint: dict[asyncio.Task[Any] | None, _Joint] = {}

    @classmethod
    def at(cls, url: str, *, make: bool = True) -> Self:
        """Return the database at `sqlite:///absolute/path` or `postgresql://user:password@host/name`.

        Nothing is opened yet, except that a missing SQLite file is created (mode 0600).

        Args:
            url: Of the database.
            make: Whether a missing file is created.

        Raises:
            InvalidInput: The URL cannot be used. Its text is not repeated: it may hold a password.
            NotFound: The file is missing (`make`).
        """
        path = file_of(url)
        if path is not None:
            if not make and not path.exists():
                raise _missing()
            _private_file(path)
            parsed = URL.create("sqlite+aiosqlite", database=str(path))
            return cls(parsed, _sqlite(parsed, writes=False), _sqlite(parsed, writes=True))
        parsed = _parsed(url)
        return cls(parsed, _postgresql(parsed, writes=False), _postgresql(parsed, writes=True))

    @property
    def is_sqlite(self) -> bool:
        """Whether this is SQLite, for the few statements that differ."""
        return self._url.get_backend_name() == "sqlite"

    def insert(self, table: Table) -> "sqlite.Insert | postgresql.Insert":
        """Return an INSERT of this kind of database, which can say what a conflict means."""
        # the other kind's dialect takes 2 MB
        if self.is_sqlite:
            from sqlalchemy.dialects import sqlite  # noqa: PLC0415

            return sqlite.insert(table)
        from sqlalchemy.dialects import postgresql  # noqa: PLC0415

        return postgresql.insert(table)

    async def migrate(
        self, first: Callable[[], Awaitable[None]] | None = None, *, make: bool = True
    ) -> None:
        """Bring the schema to this version's; create it in an empty database. Safe to run at once by many.

        Args:
            first: Awaited before the schema of an older version is changed; when it raises, nothing is done.
            make: Whether an empty database gets the schema.

        Raises:
            InvalidInput: A newer MCPHub has written the database.
            NotFound: It is empty (`make`).
            Unavailable: The database cannot be reached.
        """
        async with self.write() as conn:
            version = await conn.run_sync(_version)
            if version == HEAD:
                return
            if version is None and not make:
                raise _missing()
            if version is not None and first is not None:
                await first()
            # Alembic costs 0.1 s to import; commands on an up-to-date database never need it.
            from mcphub.store.migrate import upgrade  # noqa: PLC0415

            await conn.run_sync(upgrade)

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[AsyncConnection]:
        """Yield a connection that sees one snapshot of the database and refuses to write.

        Raises:
            Unavailable: The database cannot be reached.
        """
        joint = self._joint.get(asyncio.current_task()) if self._joint else None
        if joint is not None and joint.conn is not None:
            yield joint.conn
            return
        async with _connected(self._readers) as conn:
            yield conn

    @asynccontextmanager
    async def together(self) -> AsyncGenerator[None]:
        """Make the blocks that this task writes within into one transaction: all is done, or nothing.

        So a change and the audit event that tells of it are never one without the other. The transaction
        begins with the first block that writes; blocks that read see what was written before them.

        Raises:
            RuntimeError: A block failed and its error was kept back; nothing is done.
        """
        task = asyncio.current_task()
        if task in self._joint:
            yield
            return
        async with AsyncExitStack() as stack:
            joint = self._joint[task] = _Joint(stack)
            try:
                yield
            finally:
                del self._joint[task]
            if joint.failed:
                raise RuntimeError("a block of a transaction failed")

    @asynccontextmanager
    async def write(self, *, changes: bool = False) -> AsyncGenerator[AsyncConnection]:
        """Yield a connection inside one transaction: committed at the end, rolled back by an exception.

        Args:
            changes: The block changes what the hub keeps in memory (users, groups, keys,
                credentials, server states): `revision` goes up in the same transaction. Such
                blocks run one after another on every database, since each holds that row.

        Raises:
            Unavailable: The database cannot be reached or stays locked.
        """
        async with AsyncExitStack() as stack:
            joint = self._joint.get(asyncio.current_task()) if self._joint else None
            if joint is None:
                joint = _Joint(stack)
            if joint.conn is None:
                joint.conn = await joint.stack.enter_async_context(self._transaction())
            try:
                if changes:
                    await _new_revision(joint.conn)
                yield joint.conn
            except BaseException:
                joint.failed = True
                raise

    @asynccontextmanager
    async def _transaction(self) -> AsyncGenerator[AsyncConnection]:
        async with self._one_writer, _connected(self._writers) as conn:
            yield conn

    async def forget(self) -> None:
        """Take what was deleted out of the files too; nothing to do where the database is a service.

        Best effort: while another process reads, the write-ahead log keeps its end until later.
        """
        if self.is_sqlite:
            async with self._one_writer, self._writers.connect() as conn:
                raw = await conn.get_raw_connection()
                driver: Any = raw.driver_connection
                await driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    async def try_write(self) -> None:
        """Write a row as it is, to see whether the database takes changes.

        Raises:
            Unavailable: It takes none.
        """
        async with self.write() as conn:
            await conn.execute(update(meta).values(id=meta.c.id))

    async def revision(self) -> Revision:
        """Return the revision; `store.changes` tells what has happened since an older one."""
        async with self.read() as conn:
            return Revision(*(await conn.execute(select(meta.c.revision, meta.c.mark))).one())

    async def install_id(self) -> str:
        """Return the random id that this database got when it was created."""
        if not self._install_id:
            async with self.read() as conn:
                self._install_id = str((await conn.execute(select(meta.c.install_id))).scalar_one())
        return self._install_id

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        await self._readers.dispose()
        await self._writers.dispose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


def file_of(url: str) -> Path | None:
    """Return the file of a SQLite database; None where it is a service."""
    match = _SQLITE.fullmatch(url)
    return Path("/" + match.group(2)) if match else None


def session_engine(url: str) -> AsyncEngine:
    """Return what makes sessions at a PostgreSQL that keep what is said in them; raises as `Database.at`."""
    return create_async_engine(
        _parsed(url),
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args=_LIMITS,
    )


@asynccontextmanager
async def _connected(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """Yield a connection in a transaction; a lost or refused connection becomes `Unavailable`.

    What a block does beside it fails as it fails: a file that it cannot write is none of the database's.
    """
    with as_errors_of_ours(lost=(ConnectionError, TimeoutError)):
        async with AsyncExitStack() as stack:
            try:
                conn = await stack.enter_async_context(transaction(engine))
            except (SQLAlchemyError, OSError) as error:
                raise _unusable(error) from error
            yield conn


@contextmanager
def as_errors_of_ours(lost: tuple[type[OSError], ...] = (OSError,)) -> Generator[None]:
    """Turn what says that the database cannot be used just now into `Unavailable`.

    Errors of a statement itself (a constraint, a bug) stay what they are.

    Args:
        lost: Errors of the system that say so.
    """
    try:
        yield
    except DBAPIError as error:  # also one of the end: a full disk shows when it is committed
        if (
            error.connection_invalidated
            or isinstance(error, OperationalError)
            or str(getattr(error.orig, "sqlstate", None)).startswith(_NOT_NOW)
        ):
            raise _unusable(error) from error
        raise
    # what PostgreSQL's driver raises past SQLAlchemy, and an answer that did not come
    except (*_drivers_errors(), *lost, PoolTimeoutError) as error:
        raise _unusable(error) from error


async def _new_revision(conn: AsyncConnection) -> None:
    """Make the next revision, of which nothing is said yet; `store.changes` says it."""
    mark, now = secrets.token_hex(16), meta.c.revision
    await conn.execute(update(meta).values(revision=now + 1, mark=mark))
    row = select(now, literal(mark))
    await conn.execute(insert(changes).from_select(["revision", "mark"], row))
    oldest = select(now - KEPT).scalar_subquery()
    await conn.execute(delete(changes).where(changes.c.revision <= oldest))


def _drivers_errors() -> tuple[type[Exception], ...]:
    """Return what PostgreSQL's driver raises past SQLAlchemy; nothing where it is not loaded (2 MB)."""
    driver = sys.modules.get("asyncpg")
    return () if driver is None else (driver.PostgresError,)


def _version(connection: Connection) -> str | None:
    """Return the schema's version, None in an empty database."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _missing() -> NotFound:
    return NotFound(
        "The hub's database is missing, or empty.",
        hint="Restore it from a backup, or see that this command is told of the right one (`database` in mcphub.toml, "
        "MCPHUB_DATABASE). A new, empty one is made by: mcphub init",
    )


def _parsed(url: str) -> URL:
    """Return the URL of a PostgreSQL database for the driver; raises as `Database.at`."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is None or parsed.drivername not in {"postgresql", "postgres"}:
        raise InvalidInput(
            "The database URL cannot be used.",
            hint="Use sqlite:///absolute/path/hub.db or postgresql://user:password@host/name.",
        )
    return parsed.set(drivername="postgresql+asyncpg")


def _unusable(error: Exception) -> Unavailable:
    if isinstance(error, (TimeoutError, PoolTimeoutError)):
        return Unavailable(
            "The hub's database does not answer.",
            hint="Is it overloaded or stopped, or is the way to it broken?",
        )
    return Unavailable(
        "The hub's database cannot be used just now.",
        hint="Look at the hub's log and run: mcphub doctor",
    )


def _private_file(path: Path) -> None:
    """Create the file with mode 0600 before SQLite would make it readable by all; -wal and -shm copy the mode."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except OSError as error:
        raise InvalidInput(
            "The hub's database file cannot be opened for writing.",
            hint="Check the owner and the mode of the hub's directory (MCPHUB_DIR).",
        ) from error


def _sqlite(url: URL, *, writes: bool) -> AsyncEngine:
    engine = create_async_engine(
        url,
        pool_size=1 if writes else 4,
        max_overflow=0,
        # The driver begins no transaction of its own; the event below says which kind.
        connect_args={"isolation_level": None, "timeout": _BUSY_MS / 1000},
    )

    @event.listens_for(engine.sync_engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        for pragma in (
            f"busy_timeout = {_BUSY_MS}",
            "journal_mode = WAL",
            # FULL: what was acknowledged is on the disk, also when the power fails.
            "synchronous = FULL",
            # What is deleted is overwritten: a removed user's sealed credentials are gone.
            "secure_delete = ON",
            "foreign_keys = ON",
            f"query_only = {'OFF' if writes else 'ON'}",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Any) -> None:
        # IMMEDIATE: a writer that read first and was overtaken could otherwise not go on.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql(url: URL, *, writes: bool) -> AsyncEngine:
    options: dict[str, Any] = {"isolation_level": "READ COMMITTED"}
    if not writes:
        # One snapshot for the whole block, as SQLite gives.
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    return create_async_engine(
        url,
        pool_size=4,
        max_overflow=0,
        pool_pre_ping=True,
        pool_timeout=10,
        execution_options=options,
        connect_args=_LIMITS,
    )
