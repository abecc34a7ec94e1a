"""Whom a change concerns, by the revision that it made: a running hub then reads only that again.

A block that changes what the hub keeps in memory raises the revision (`Database.write(changes=True)`)
and says here what it was about. One that says nothing may have changed anything: forgetting it costs
time and never an answer. Only the newest revisions are kept; who is further behind reads everything.
"""

from typing import Final, NamedTuple

from sqlalchemy import delete, insert, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mcphub.store.database import Database
from mcphub.store.tables import changes, meta

_KEPT: Final = 1000
_NOBODY: Final = ""


class Changes(NamedTuple):
    """What has happened after a revision.

    Attributes:
        revision: The revision of the database now.
        users: Ids of the users whom the changes concern; None when it may be anybody.
    """

    revision: int
    users: frozenset[str] | None


async def concerns(conn: AsyncConnection, user_id: str = _NOBODY) -> None:
    """Note that a block with changes changes nothing but what is one user's, or no user's at all.

    Args:
        conn: The block's connection.
        user_id: Whose user, groups, keys or credentials it changes; "" for server states alone.
    """
    now = select(meta.c.revision).scalar_subquery()
    row = select(meta.c.revision, literal(user_id))
    await conn.execute(insert(changes).from_select(["revision", "user_id"], row))
    await conn.execute(delete(changes).where(changes.c.revision <= now - _KEPT))


async def since(db: Database, revision: int) -> Changes:
    """Return what has happened after `revision`; -1 when nothing is known yet."""
    async with db.read() as conn:
        now = int((await conn.execute(select(meta.c.revision))).scalar_one())
        if revision < 0 or not 0 <= now - revision <= _KEPT:
            return Changes(now, None)
        newer = select(changes.c.user_id).where(changes.c.revision > revision)
        told = list((await conn.execute(newer)).scalars())
    users = frozenset(told) - {_NOBODY} if len(told) == now - revision else None
    return Changes(now, users)
