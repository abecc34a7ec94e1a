"""`RequestLog`: reads request records back, for `mcphub requests`, pages and statistics.

Records reach the database about half a second after the request. `user_id=None` means every user and
is for administrators; whoever serves a user gives that user's id (rule R1).
"""

from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import case, func, select

from mcphub.audit.records import FAILURES, Outcome, RequestRecord
from mcphub.store.database import Database
from mcphub.store.tables import request_records

MOST_ROWS: Final = 1_000


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
        self,
        user_id: str | None = None,
        server: str | None = None,
        after_id: str | None = None,
        limit: int = 100,
    ) -> list[RequestRecord]:
        """Return the newest records, or the ones next after `after_id`; always oldest first.

        Args:
            user_id: Only this user's; None for all.
            server: Only this server's; None for all.
            after_id: Id of a record; only later written ones. If retention has deleted it, everything
                that is left is later.
            limit: At most so many, 1 to 1,000.
        """
        c = request_records.c
        columns = [column for column in c if column.name != "seq"]
        query = select(*columns).limit(max(1, min(limit, MOST_ROWS)))
        if user_id is not None:
            query = query.where(c.user_id == user_id)
        if server is not None:
            query = query.where(c.server == server)
        if after_id is None:
            query = query.order_by(c.seq.desc())
        else:
            seen = select(c.seq).where(c.id == after_id).scalar_subquery()
            query = query.where(c.seq > func.coalesce(seen, 0)).order_by(c.seq)
        async with self._db.read() as conn:
            found = [_record(row) for row in await conn.execute(query)]
        return found if after_id is not None else found[::-1]

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
        c = request_records.c
        key = c.user_id if by == "user" else c.server
        ranked = select(
            key.label("key"),
            c.outcome,
            c.duration_ms,
            c.bytes_in,
            c.bytes_out,
            c.at,
            func.row_number().over(partition_by=key, order_by=c.duration_ms).label("rank"),
            func.count().over(partition_by=key).label("total"),
        ).where(c.at >= since)
        if user_id is not None:
            ranked = ranked.where(c.user_id == user_id)
        r = ranked.subquery().c
        query = (
            select(
                r.key,
                func.count().label("requests"),
                func.sum(case((r.outcome.in_([each.value for each in FAILURES]), 1), else_=0)),
                func.sum(case((r.outcome == Outcome.DENIED.value, 1), else_=0)),
                # Nearest rank: the smallest duration that p of 100 do not exceed.
                func.max(case((r.rank == (r.total * 50 + 99) // 100, r.duration_ms))),
                func.max(case((r.rank == (r.total * 95 + 99) // 100, r.duration_ms))),
                func.sum(r.bytes_in),
                func.sum(r.bytes_out),
                func.max(r.at),
            )
            .group_by(r.key)
            .order_by(func.count().desc(), r.key)
        )
        async with self._db.read() as conn:
            return [_statistics(row) for row in await conn.execute(query)]


def _record(row: Any) -> RequestRecord:
    fields: dict[str, Any] = dict(row._mapping)  # noqa: SLF001  its name in SQLAlchemy's public API
    fields["outcome"] = Outcome(row.outcome)
    return RequestRecord(**fields)


def _statistics(row: Any) -> Statistics:
    key, requests, errors, denied, p50, p95, bytes_in, bytes_out, last_at = row
    # PostgreSQL sums to Decimal.
    counts = (int(requests), int(errors), int(denied))
    return Statistics(key, *counts, p50, p95, int(bytes_in), int(bytes_out), last_at)
