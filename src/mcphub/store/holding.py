"""`Hold`: a database is one hub's, also where two of them have different directories or machines.

Two hubs on one database would each run instances, write records and delete homes as if they were alone. A
hub therefore holds its database for as long as it runs: SQLite by a lock on a file beside it, PostgreSQL
by an advisory lock of an own session. Kernel or server let go of it however the hub ends. Commands hold
nothing: they may run beside a hub.
"""

import asyncio
import fcntl
import os
from pathlib import Path
from typing import Final, Self

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcphub.errors import Conflict
from mcphub.store.database import as_errors_of_ours, file_of, session_engine
from mcphub.store.patient import finished

_KEY: Final = 0x6D636875
_OBJECT: Final = 0x62
"""With `_KEY`, any constant of ours that `migrate` does not use."""
_TRIES: Final = 10
_BETWEEN_S: Final = 0.5
# A hub whose machine is gone keeps nobody out for longer than half a minute.
_KEEPALIVE: Final = (
    ("tcp_keepalives_idle", 10), ("tcp_keepalives_interval", 5), ("tcp_keepalives_count", 3),
)  # fmt: skip


class Hold:
    """One hub's hold of the database at a URL. `take`, then `keep` once in a while, finally `close`.

    Args:
        url: Of the database, as `Database.at` takes it.
    """

    def __init__(self, url: str) -> None:
        path = file_of(url)
        self._file = path.with_name(f"{path.name}.lock") if path is not None else None
        self._held: int | None = None
        self._engine: AsyncEngine | None = None if path is not None else session_engine(url)
        self._session: AsyncConnection | None = None

    async def take(self) -> Self:
        """Take the database; another hub that ends just now has some seconds for it.

        Raises:
            Conflict: Another hub has it.
            Unavailable: It cannot be reached.
        """
        for _ in range(_TRIES):
            if await self._taken():
                return self
            await asyncio.sleep(_BETWEEN_S)
        raise Conflict(
            "Another hub uses this database, with another directory or on another machine.",
            hint="Stop it first, or give this one a database of its own: one hub per database.",
        )

    async def keep(self) -> None:
        """Take the database again where the session that held it was lost.

        Raises:
            Conflict: Another hub has it now.
            Unavailable: It cannot be reached.
        """
        if self._session is not None and await _is_lost(self._session):
            await self._drop()
        if self._engine is not None and self._session is None and not await self._taken():
            raise Conflict(
                "Another hub has taken this hub's database while it was out of reach.",
                hint="One hub per database: stop one of them.",
            )

    async def is_taken(self) -> bool:
        """Whether a hub has it now, for those who hold nothing themselves. Raises as `keep`."""
        if not await self._taken():
            return True
        await self.close()
        return False

    async def close(self) -> None:
        """Let go of it. Idempotent."""
        if self._held is not None:
            os.close(self._held)
            self._held = None
        await self._drop()
        if self._engine is not None:
            await self._engine.dispose()

    async def __aenter__(self) -> Self:
        return await self.take()

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def _taken(self) -> bool:
        if self._file is not None:
            self._held = _locked(self._file)
            return self._held is not None
        assert self._engine is not None
        with as_errors_of_ours():
            session = await finished(self._engine.connect().start())
            try:
                for name, value in _KEEPALIVE:
                    await finished(session.execute(text(f"SET {name} = {value}")))
                asked = text("SELECT pg_try_advisory_lock(:key, :object)")
                got = await finished(session.execute(asked, {"key": _KEY, "object": _OBJECT}))
                if got.scalar_one():
                    self._session, session = session, None
            finally:
                if session is not None:
                    await finished(session.close())
        return self._session is not None

    async def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.invalidate()
            await session.close()


async def _is_lost(session: AsyncConnection) -> bool:
    """Whether the driver has seen the end of the connection; asks nobody."""
    raw = await session.get_raw_connection()
    driver = raw.driver_connection
    return driver is None or driver.is_closed()


def _locked(path: Path) -> int | None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(held)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return held
