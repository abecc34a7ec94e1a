"""Whom a change concerns, by the revision that it made: a running hub then reads only that again.

A block that changes what the hub keeps in memory makes a revision (`Database.write(changes=True)`) and says
here what it was about. One that says nothing may have changed anything: forgetting it costs time and never
an answer. Only the newest revisions are kept; who is further behind reads everything. So does who knows a
revision that the database never had: it is that of a backup, or of a replica that lacked the last changes.
"""

from typing import Final, NamedTuple

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mcphub.store.database import KEPT, Database, Revision
from mcphub.store.tables import changes, meta

_NOBODY: Final = ""


class Changes(NamedTuple):
    """What has happened after a revision.

    Attributes:
        revision: The revision of the database now.
        users: Ids of the users whom the changes concern; None when it may be anybody.
        another: The database never had the revision that was known: it holds another past now.
    """

    revision: Revision
    users: frozenset[str] | None
    another: bool = False


async def concerns(conn: AsyncConnection, user_id: str = _NOBODY) -> None:
    """Note that a block with changes changes nothing but what is one user's, or no user's at all.

    Args:
        conn: The block's connection.
        user_id: Whose user, groups, keys or credentials it changes; "" for server states alone.
    """
    now = select(meta.c.revision).scalar_subquery()
    await conn.execute(update(changes).where(changes.c.revision == now).values(user_id=user_id))


async def since(db: Database, known: Revision | None) -> Changes:
    """Return what has happened after the revision `known`; None when nothing is known yet."""
    async with db.read() as conn:
        now = Revision(*(await conn.execute(select(meta.c.revision, meta.c.mark))).one())
        if known is None or known == now:
            return Changes(now, None if known is None else frozenset())
        newer = select(changes).where(changes.c.revision >= known.number)
        rows = {row.revision: row for row in await conn.execute(newer)}
    behind = now.number - known.number
    if behind > KEPT:
        return Changes(now, None)
    same = rows.pop(known.number, None)
    if behind <= 0 or same is None or same.mark != known.mark:
        return Changes(now, None, another=True)
    told = {row.user_id for row in rows.values()}
    users = None if None in told else frozenset(told) - {_NOBODY}
    return Changes(now, users)
