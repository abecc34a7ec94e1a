"""`Recorder`: takes request records off the hot path and writes them in batches.

Adding is an append to a bounded buffer in memory. The flusher writes what is there every half
second, so a crash of the hub loses the records of about the last half second and never more than one
second's (as long as the database answers); a clean stop loses none.

Records of a batch that have caller, server, tool and the like in common share a row, a series: with a row for
each, records were a quarter of what the hub does under load (ADR 0019).
"""

from collections.abc import Callable
from typing import Any, Final

import anyio
import anyio.lowlevel
import msgspec
import structlog
from sqlalchemy import delete, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from mcphub.audit.records import ALIKE, Alike, Own, RequestRecord, alike, ended_at, own
from mcphub.errors import HubError
from mcphub.ids import Clock, steady_clock
from mcphub.store.database import Database
from mcphub.store.tables import request_series

_log = structlog.get_logger()

FLUSH_S: Final = 0.5
KEPT: Final = 100_000
_STEP: Final = 1000
"""Records of one row, and those that are made rows in one turn of the loop: half a millisecond."""
_COLUMNS: Final = ("id", "until", "requests", "calls", *ALIKE)
_DELETED_AT_ONCE: Final = 2_000
_LONGEST_PAUSE_S: Final = 30.0
_STOP_S: Final = 10.0
_EARLY_S: Final = 1.0
_RETENTION_S: Final = 3600.0


class Series:
    """Records that have `common` alike and wait to be written; of one recorder. Who adds many keeps it."""

    __slots__ = ("calls", "common")

    def __init__(self, common: Alike) -> None:
        self.common = common
        self.calls: list[Own] = []


class Recorder:
    """Buffer and flusher. `run` in a task group for as long as the hub lives, then `aclose`.

    When the database fails, records are kept (`KEPT` at most, then new ones are dropped and counted)
    and tried again with growing pauses; the log says so once, and once when it works again. A record
    is written once, also if the database took a batch and the answer was lost.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        *,
        retention_days: float = 30.0,
        flush_s: float = FLUSH_S,
    ) -> None:
        """Make a recorder that deletes records older than `retention_days` (0 keeps all)."""
        self._db = db
        self._clock = clock
        self._retention_s = retention_days * 86_400
        self._flush_s = flush_s
        self._buffer: list[Series] = []
        self._known: dict[Alike, Series] = {}
        self._waiting = 0
        self._batch: list[tuple[Alike, list[Own]]] = []
        self._dropped = 0
        self._statement = ""
        self._failing = False
        self._next_retention = 0.0
        self._flushing = anyio.Lock()
        self._stopping = anyio.Event()

    @property
    def waiting(self) -> int:
        """How many records are not written yet."""
        return self._waiting

    @property
    def dropped(self) -> int:
        """How many records were lost because the buffer was full."""
        return self._dropped

    def add(self, record: RequestRecord) -> None:
        """Take a finished record. Never blocks, never raises."""
        common = alike(record)
        series = self._known.get(common)
        if series is None:
            series = self._known[common] = Series(common)
        self.add_to(series, own(record))

    def add_to(self, series: Series, call: Own) -> None:
        """Take a finished record as `own` gives it. Never blocks, never raises."""
        if self._waiting >= KEPT:
            self._dropped += 1
            return
        self._waiting += 1
        if not series.calls:
            self._buffer.append(series)
        series.calls.append(call)

    async def run(self) -> None:
        """Write until `aclose` or until cancelled; returns after `aclose` was called."""
        pause = self._flush_s
        while not self._stopping.is_set():
            with anyio.move_on_after(pause):
                await self._stopping.wait()
                return
            worked = await self._try(self.flush) and await self._try(self._retain_hourly)
            pause = self._flush_s if worked else min(pause * 2, _LONGEST_PAUSE_S)

    async def flush_early(self) -> None:
        """Write what is there before a stop takes its time; what fails or lasts is left to `aclose`."""
        with anyio.move_on_after(_EARLY_S):
            await self._try(self.flush)

    async def aclose(self) -> None:
        """Write what is left; idempotent. Gives up on a dead database after ten seconds and says so."""
        self._stopping.set()
        pause = self._flush_s / 4
        with anyio.move_on_after(_STOP_S, shield=True):
            while not await self._try(self.flush):
                await anyio.sleep(pause)
                pause *= 2
        if self.waiting:
            _log.error("request_records_lost", count=self.waiting)

    async def flush(self) -> None:
        """Write everything that is there now.

        Raises:
            Unavailable: The database cannot be used; nothing is lost.
        """
        async with self._flushing:
            if self._batch:
                # It was broken off, and is tried again as it was, with nothing in it that came since:
                # a database that took it without saying so then finds the very same series.
                await self._write()
            self._take()
            if self._batch:
                await self._write()

    def _take(self) -> None:
        """Make what is there the batch."""
        self._batch = [(series.common, series.calls) for series in self._buffer]
        for series in self._buffer:
            series.calls = []
        self._buffer, self._known = [], {}

    async def _write(self) -> None:
        """Write the batch in one transaction, which costs as much as a thousand records."""
        rows = await self._rows()
        async with self._db.write() as conn:
            await self._insert(conn, rows)
        self._waiting -= sum(len(calls) for _, calls in self._batch)
        self._batch = []

    async def _rows(self) -> list[tuple[Any, ...]]:
        """Return the rows of the batch, as the values of `_COLUMNS`; the same ones whenever it is asked."""
        rows: list[tuple[Any, ...]] = []
        made = 0
        for common, calls in self._batch:
            for start in range(0, len(calls), _STEP):
                part = calls[start : start + _STEP]
                until = max(map(ended_at, part))
                array = msgspec.json.encode(part).decode()
                rows.append((part[0][0], until, len(part), array, *common))
                made += len(part)
                if made >= _STEP:
                    made = 0
                    await anyio.lowlevel.checkpoint()
        return rows

    async def retain(self) -> None:
        """Delete records that are older than the retention; a series goes with its youngest."""
        if not self._retention_s:
            return
        c = request_series.c
        oldest = self._clock() - self._retention_s
        some = select(c.seq).where(c.until < oldest).limit(_DELETED_AT_ONCE)
        while True:  # in steps: other writers come in between
            async with self._db.write() as conn:
                done = await conn.execute(delete(request_series).where(c.seq.in_(some)))
            if done.rowcount < _DELETED_AT_ONCE:
                return

    async def _retain_hourly(self) -> None:
        if steady_clock() >= self._next_retention:
            await self.retain()
            self._next_retention = steady_clock() + _RETENTION_S

    async def _try(self, work: Callable[[], Any]) -> bool:
        try:
            await work()
        except (HubError, SQLAlchemyError, OSError) as error:
            if not self._failing:
                # The type alone: a database's text can hold values.
                reason = type(error).__name__
                _log.error("request_records_delayed", reason=reason, waiting=self.waiting)
            self._failing = True
            return False
        if self._failing:
            _log.info("request_records_written_again", dropped=self._dropped)
        self._failing = False
        return True

    async def _insert(self, conn: AsyncConnection, series: list[tuple[Any, ...]]) -> None:
        """Insert rows as the driver takes them: compiling per row would be most of a row's price."""
        if not self._statement:
            values = self._db.insert(request_series).values(dict.fromkeys(_COLUMNS))
            statement = values.on_conflict_do_nothing(index_elements=["id"])
            compiled = statement.compile(dialect=conn.dialect)
            assert tuple(compiled.positiontup or ()) == _COLUMNS
            self._statement = str(compiled)
        await conn.exec_driver_sql(self._statement, series)
