"""`AuditLog`: who changed what at the hub, in a chain of hashes.

Each event's hash covers its content and the hash before it, so a changed, removed or reordered row
shows. It cannot show that somebody who may write to the whole database made the entire chain anew:
keep the head that `verify` returns in another place to see that too.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import insert, select, update

from mcphub.audit.records import neutral
from mcphub.errors import InvalidInput
from mcphub.ids import Clock
from mcphub.store.database import Database
from mcphub.store.tables import audit_events, meta

USER_CREATED: Final = "user:created"
USER_ROLE_SET: Final = "user:role_set"
USER_DISABLED: Final = "user:disabled"
USER_ENABLED: Final = "user:enabled"
USER_REMOVED: Final = "user:removed"
USER_REMOVAL_SET: Final = "user:removal_set"
GROUP_CREATED: Final = "group:created"
GROUP_REMOVED: Final = "group:removed"
GROUP_JOINED: Final = "group:joined"
GROUP_LEFT: Final = "group:left"
KEY_CREATED: Final = "key:created"
KEY_REVOKED: Final = "key:revoked"
CREDENTIAL_SET: Final = "credential:set"
CREDENTIAL_DELETED: Final = "credential:deleted"
CREDENTIAL_REVOKED: Final = "credential:revoked"
VAULT_ROTATED: Final = "vault:rotated"
CONTEXT_KEYS_CHANGED: Final = "context:keys_changed"
SERVER_ADDED: Final = "server:added"
SERVER_ENABLED: Final = "server:enabled"
SERVER_DISABLED: Final = "server:disabled"
SERVER_PINNED: Final = "server:pinned"
SERVER_ACKNOWLEDGED: Final = "server:acknowledged"
SERVER_CHECKED: Final = "server:checked"
EGRESS_USED: Final = "egress:used"

_DETAIL_BYTES: Final = 16 * 1024
_BATCH: Final = 1_000


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One act.

    Attributes:
        seq: Number from 1, without gaps.
        at: Epoch seconds, UTC.
        actor: Opaque id of the user, or `cli`, `hub`.
        action: One of the constants here, `subject:verb`.
        subject: Opaque id or name of what was acted on.
        detail: More about it; no secret.
        hash: Hash of this event and all before it.
    """

    seq: int
    at: float
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]
    hash: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What `AuditLog.verify` found.

    Attributes:
        intact: Whether every event is as it was written, in order, and none is missing.
        events: How many were looked at.
        head: Hash of the last good event; keep it elsewhere to compare later.
        problem: One sentence on the first event that is not as written, or empty.
    """

    intact: bool
    events: int
    head: str
    problem: str = ""


class AuditLog:
    """Appends and checks audit events; never changes or deletes one."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def write(
        self, actor: str, action: str, subject: str, detail: Mapping[str, Any] | None = None
    ) -> AuditEvent:
        """Append an event; it is in the database when this returns.

        Raises:
            InvalidInput: The detail is too large.
            TypeError: The detail holds what is not JSON, a `Secret` for example.
        """
        (event,) = await self.write_all(actor, [(action, subject, detail or {})])
        return event

    async def write_all(
        self, actor: str, events: Iterable[tuple[str, str, Mapping[str, Any]]]
    ) -> list[AuditEvent]:
        """Append events (action, subject, detail) of one actor, all or none. Raises as `write`."""
        said: list[tuple[str, str, str]] = []
        for action, subject, detail in events:
            text = _canonical(dict(detail))
            if len(text) > _DETAIL_BYTES:
                raise InvalidInput("The detail of an audit event is too large.", hint="Say less.")
            said.append((neutral(action, 64), neutral(subject, 255), text))
        if not said:
            return []
        at, actor = float(self._clock()), neutral(actor, 128)
        rows: list[dict[str, Any]] = []
        async with self._db.write() as conn:
            # The row of `meta` orders writers: nobody reads the head before the other is done.
            await conn.execute(update(meta).values(audit_seq=meta.c.audit_seq + len(said)))
            last, head = (await conn.execute(select(meta.c.audit_seq, meta.c.audit_hash))).one()
            for seq, (action, subject, text) in enumerate(said, last - len(said) + 1):
                made = _hash(head, seq, at, actor, action, subject, text)
                row = {"seq": seq, "at": at, "actor": actor, "action": action, "subject": subject}
                rows.append(row | {"detail": text, "prev_hash": head, "hash": made})
                head = made
            await conn.execute(update(meta).values(audit_hash=head))
            await conn.execute(insert(audit_events), rows)
        return [
            AuditEvent(
                row["seq"], at, actor, row["action"], row["subject"], json.loads(row["detail"]),
                row["hash"],
            )
            for row in rows
        ]  # fmt: skip

    async def recent(self, limit: int = 100, before: int | None = None) -> list[AuditEvent]:
        """Return the newest events (of those before a number), newest first; at most 1,000."""
        query = select(audit_events).order_by(audit_events.c.seq.desc())
        query = query.limit(max(1, min(limit, _BATCH)))
        if before is not None:
            query = query.where(audit_events.c.seq < before)
        async with self._db.read() as conn:
            return [
                AuditEvent(
                    row.seq, row.at, row.actor, row.action, row.subject,
                    json.loads(row.detail), row.hash,
                )
                for row in await conn.execute(query)
            ]  # fmt: skip

    async def verify(self) -> Verification:
        """Go through the whole chain and return the first thing that is wrong with it."""
        head, seq = "", 0
        async with self._db.read() as conn:
            expected = (await conn.execute(select(meta.c.audit_seq, meta.c.audit_hash))).one()
            while True:
                after = select(audit_events).where(audit_events.c.seq > seq)
                batch = (await conn.execute(after.order_by(audit_events.c.seq).limit(_BATCH))).all()
                for row in batch:
                    if row.seq != seq + 1:
                        return Verification(False, seq, head, f"Event {seq + 1} is missing.")
                    if row.prev_hash != head or row.hash != _row_hash(row):
                        return Verification(False, seq, head, f"Event {row.seq} was changed.")
                    head, seq = row.hash, row.seq
                if not batch:
                    break
        if seq > expected.audit_seq:
            return Verification(False, seq, head, f"Event {expected.audit_seq + 1} was added.")
        if (seq, head) != (expected.audit_seq, expected.audit_hash):
            return Verification(False, seq, head, f"The events after {seq} are missing.")
        return Verification(True, seq, head)


def _row_hash(row: Any) -> str:
    return _hash(row.prev_hash, row.seq, row.at, row.actor, row.action, row.subject, row.detail)


def _hash(*fields: str | float) -> str:
    return hashlib.sha256(_canonical(list(fields)).encode()).hexdigest()


def _canonical(value: object) -> str:
    """Return the one JSON text for a value: sorted, without spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
