"""`RequestLog`: reads request records back, for `mcphub requests`, pages and statistics.

Records reach the database about half a second after the request. `user_id=None` means every user and
is for administrators; whoever serves a user gives that user's id (rule R1).
"""

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Final, Literal, NamedTuple

import msgspec
from sqlalchemy import Row, Select, func, select

from mcphub.audit.records import ALIKE, FAILURES, OWN, Outcome, Own, RequestRecord, ended_at
from mcphub.store.database import Database
from mcphub.store.tables import request_series

MOST_ROWS: Final = 10_000
_AT_ONCE: Final = 1_000
"""Series that are read in one step of following."""
_CALLS: Final = msgspec.json.Decoder(list[Own])
_COMMON: Final = [request_series.c[name] for name in ALIKE]


class Seen(NamedTuple):
    """Records, those that ended first before the others, and the number of the series after which to go on."""

    records: list[RequestRecord]
    seq: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """Figures of one user's or one server's requests.

    Attributes:
        key: User id, or server's name.
        requests: How many.
        errors: How many failed; refused and cancelled ones are not among them.
        denied: How many were refused.
        p50_ms: Half of them took no longer.
        p95_ms: 95 of 100 took no longer.
        bytes_in: Bytes of all requests.
        bytes_out: Bytes of all answers.
        last_at: When the newest began (epoch seconds).
    """

    key: str
    requests: int
    errors: int
    denied: int
    p50_ms: float
    p95_ms: float
    bytes_in: int
    bytes_out: int
    last_at: float


class RequestLog:
    """Queries on request records."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def recent(
        self, user_id: str | None = None, server: str | None = None, limit: int = 100
    ) -> Seen:
        """Return the newest records.

        Args:
            user_id: Only this user's; None for all.
            server: Only this server's; None for all.
            limit: At most so many, 1 to 10,000.
        """
        limit = max(1, min(limit, MOST_ROWS))
        # The newest N are in the N series that end last: any other has N before it.
        query = _series(user_id, server).order_by(request_series.c.until.desc()).limit(limit)
        async with self._db.read() as conn:
            # of all: what the same batch holds beside these is older, and not to be followed
            seq = (await conn.execute(select(func.max(request_series.c.seq)))).scalar() or 0
            rows = (await conn.execute(query)).all()
        return Seen(_records(rows, limit), seq)

    async def after(self, seq: int, user_id: str | None = None, server: str | None = None) -> Seen:
        """Return records that were written after the series `seq`; not all, when they are many: go on then.

        Args:
            seq: As an earlier `Seen` says.
            user_id: Only this user's; None for all.
            server: Only this server's; None for all.
        """
        c = request_series.c
        query = _series(user_id, server).where(c.seq > seq).order_by(c.seq).limit(_AT_ONCE)
        async with self._db.read() as conn:
            rows = (await conn.execute(query)).all()
        return Seen(_records(rows), rows[-1].seq if rows else seq)

    async def statistics(
        self,
        by: Literal["user", "server"],
        since: float,
        *,
        user_id: str | None = None,
    ) -> list[Statistics]:
        """Return figures by user or by server of requests that began at `since` or later, busiest first.

        Args:
            by: What to group by.
            since: Epoch seconds, UTC.
            user_id: Only this user's requests; None for all.
        """
        c = request_series.c
        key = c.user_id if by == "user" else c.server
        query = select(key, c.calls).where(c.until >= since)
        if user_id is not None:
            query = query.where(c.user_id == user_id)
        sums: dict[str, _Sum] = {}
        async with self._db.read() as conn:
            async for name, calls in await conn.stream(query):
                began = [call for call in _CALLS.decode(calls) if call[1] >= since]
                if began:
                    sums.setdefault(name, _Sum()).take(began)
        found = [one.statistics(name) for name, one in sums.items()]
        return sorted(found, key=lambda one: (-one.requests, one.key))


@dataclass(slots=True)
class _Sum:
    """Figures that grow."""

    outcomes: Counter[str] = field(default_factory=Counter)
    durations_ms: "array[float]" = field(default_factory=lambda: array("d"))
    bytes_in: int = 0
    bytes_out: int = 0
    last_at: float = 0.0

    def take(self, calls: list[Own]) -> None:
        for _, at, duration_ms, outcome, _, bytes_in, bytes_out in calls:
            self.outcomes[outcome] += 1
            self.durations_ms.append(duration_ms)
            self.bytes_in += bytes_in
            self.bytes_out += bytes_out
            self.last_at = max(self.last_at, at)

    def statistics(self, key: str) -> Statistics:
        total = len(self.durations_ms)
        ranked = sorted(self.durations_ms)
        return Statistics(
            key,
            requests=total,
            errors=sum(self.outcomes[each.value] for each in FAILURES),
            denied=self.outcomes[Outcome.DENIED.value],
            # Nearest rank: the smallest duration that p of 100 do not exceed.
            p50_ms=ranked[ceil(total * 0.50) - 1],
            p95_ms=ranked[ceil(total * 0.95) - 1],
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            last_at=self.last_at,
        )


def _series(user_id: str | None, server: str | None) -> Select[Any]:
    c = request_series.c
    query = select(c.seq, c.calls, *_COMMON)
    if user_id is not None:
        query = query.where(c.user_id == user_id)
    if server is not None:
        query = query.where(c.server == server)
    return query


def _records(rows: Sequence[Row[Any]], most: int = 0) -> list[RequestRecord]:
    """Return the records of some series, of them the newest `most` (0: all)."""
    calls = [(call, row) for row in rows for call in _CALLS.decode(row.calls)]
    calls.sort(key=lambda pair: ended_at(pair[0]))
    return [_record(call, row) for call, row in calls[-most:]]


def _record(call: Own, row: Row[Any]) -> RequestRecord:
    fields: dict[str, Any] = dict(zip(OWN, call, strict=True))
    fields |= {name: getattr(row, name) for name in ALIKE}
    fields["outcome"] = Outcome(fields["outcome"])
    return RequestRecord(**fields)
