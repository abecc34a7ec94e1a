"""The API keys in the database: hashes, prefixes, expiry, revocation. Part of `identity.directory`."""

from typing import Any

from sqlalchemy import insert, select, update

from mcphub.errors import Conflict, NotFound
from mcphub.identity.model import (
    KeyInfo,
    NewKey,
    checked_expiry,
    checked_label,
    is_invisible,
    key_digest,
    new_key,
    shown_prefix,
)
from mcphub.ids import Clock, opaque
from mcphub.store.changes import concerns
from mcphub.store.database import Database
from mcphub.store.tables import api_keys, users


class Keys:
    """Creates, lists and revokes keys; never sees a key again that it has handed out."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    @staticmethod
    def info(row: Any) -> KeyInfo:
        """Return a row of `api_keys` without its hash."""
        return KeyInfo(
            id=row.id,
            user_id=row.user_id,
            prefix=row.prefix,
            label=row.label,
            created_at=row.created_at,
            expires_at=row.expires_at,
            revoked_at=row.revoked_at,
            last_used_at=row.last_used_at,
        )

    @staticmethod
    def new(user_id: str, label: str, now: float, expires_at: float | None) -> NewKey:
        """Make up a key; nothing is written yet."""
        key = new_key()
        info = KeyInfo(
            id=opaque("k"),
            user_id=user_id,
            prefix=shown_prefix(key),
            label=label,
            created_at=now,
            expires_at=expires_at,
            revoked_at=None,
            last_used_at=None,
        )
        return NewKey(key, info)

    @staticmethod
    def row(new: NewKey) -> dict[str, object]:
        """Return the row of `api_keys` of a new key: its hash, and what is known of it."""
        return {
            "id": new.info.id,
            "user_id": new.info.user_id,
            "hash": key_digest(new.key.reveal()).hex(),
            "prefix": new.info.prefix,
            "label": new.info.label,
            "created_at": new.info.created_at,
            "expires_at": new.info.expires_at,
        }

    async def create(self, user_id: str, label: str, expires_at: float | None) -> NewKey:
        """Make a key for a user who still exists."""
        now = self._clock()
        new = self.new(user_id, checked_label(label), now, checked_expiry(expires_at, now))
        async with self._db.write(changes=True) as conn:
            if not (await conn.execute(select(users.c.id).where(users.c.id == user_id))).first():
                raise NotFound("The user has been removed.")
            await concerns(conn, user_id)
            await conn.execute(insert(api_keys).values(self.row(new)))
        return new

    async def all(self, user_id: str | None) -> list[KeyInfo]:
        """Return the keys of one user, or of all."""
        wanted = select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)
        if user_id is not None:
            wanted = wanted.where(api_keys.c.user_id == user_id)
        async with self._db.read() as conn:
            return [self.info(row) for row in await conn.execute(wanted)]

    async def revoke(self, id_or_prefix: str, user_id: str | None) -> KeyInfo:
        """Revoke the key with this id, or the only unrevoked one with this prefix."""
        if is_invisible(id_or_prefix):
            raise _no_such_key()
        prefix = id_or_prefix.removesuffix("…")
        wanted = select(api_keys).where(
            (api_keys.c.id == id_or_prefix)
            | ((api_keys.c.prefix == prefix) & api_keys.c.revoked_at.is_(None))
        )
        if user_id is not None:
            wanted = wanted.where(api_keys.c.user_id == user_id)
        async with self._db.write(changes=True) as conn:
            found = [self.info(row) for row in await conn.execute(wanted)]
            if not found:
                raise _no_such_key()
            if len(found) > 1:
                raise Conflict(
                    "Several API keys begin with these characters.",
                    hint="Give the key's id; mcphub key list shows it.",
                )
            await concerns(conn, found[0].user_id)
            await conn.execute(
                update(api_keys)
                .where(api_keys.c.id == found[0].id, api_keys.c.revoked_at.is_(None))
                .values(revoked_at=self._clock())
            )
            row = await conn.execute(select(api_keys).where(api_keys.c.id == found[0].id))
            return self.info(row.one())

    async def note_use(self, last_used_at: dict[str, float]) -> None:
        """Write down last uses, by key id."""
        if not last_used_at:
            return
        async with self._db.write() as conn:
            for key_id, at in last_used_at.items():
                await conn.execute(
                    update(api_keys).where(api_keys.c.id == key_id).values(last_used_at=at)
                )


def _no_such_key() -> NotFound:
    # What was given is not repeated: it may be a whole key.
    return NotFound("There is no such API key.", hint="Run: mcphub key list")
