"""`PatientConnection`: a connection whose statements a cancellation cannot tear apart.

A cancelled caller waits for the statement that is running, rolls back, closes and only then goes.
Without that, a SQLite statement goes on in the driver's thread after its caller has left, and its
connection keeps the write lock for nobody: one cancelled request would lock the database for good.
Statements are short; `busy_timeout` and `command_timeout` bound the longest wait.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_T = TypeVar("_T")


class PatientConnection(AsyncConnection):
    """An `AsyncConnection` for whole results: `execute`, `exec_driver_sql`, `scalar`, `scalars`, `run_sync`."""

    __slots__ = ()

    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Execute a statement to its end and return its buffered result."""
        return await finished(super().execute(*args, **kwargs))

    async def exec_driver_sql(self, *args: Any, **kwargs: Any) -> Any:
        """Execute a statement as the driver takes it, to its end."""
        return await finished(super().exec_driver_sql(*args, **kwargs))

    async def run_sync(self, *args: Any, **kwargs: Any) -> Any:
        """Run a function with the synchronous connection, to its end."""
        return await finished(super().run_sync(*args, **kwargs))


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """Yield a connection inside a transaction; commit at the end, roll back on any exception."""
    opening = asyncio.ensure_future(_begun(engine))
    try:
        conn = await finished(opening)
    except asyncio.CancelledError:
        if not opening.cancelled() and opening.exception() is None:
            await finished(_ended(opening.result(), commit=False))
        raise
    try:
        yield conn
    except BaseException:
        await finished(_ended(conn, commit=False))
        raise
    await finished(_ended(conn, commit=True))


async def finished(work: Coroutine[Any, Any, _T] | asyncio.Future[_T]) -> _T:
    """Await the end of `work` even if the caller is cancelled meanwhile; then pass that on."""
    task: asyncio.Future[_T] = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # The scope keeps anyio from cancelling anew each turn of the loop; a second cancellation of
        # the task itself is the same wish as the first.
        with anyio.CancelScope(shield=True):
            while not task.done():
                await _settled(task)
        if not task.cancelled():
            task.exception()  # looked at: nobody else will
        raise


async def _settled(task: Awaitable[Any]) -> None:
    try:
        await asyncio.wait([asyncio.ensure_future(task)])
    except asyncio.CancelledError:
        return


async def _begun(engine: AsyncEngine) -> AsyncConnection:
    conn = PatientConnection(engine)
    await conn.start()
    try:
        await conn.begin()
    except BaseException:
        await conn.close()
        raise
    return conn


async def _ended(conn: AsyncConnection, *, commit: bool) -> None:
    try:
        if commit:
            await conn.commit()
        else:
            await conn.rollback()
    finally:
        await conn.close()
