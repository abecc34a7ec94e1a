"""Many users at once: all of them arrive, with memberships and keys, or nobody does.

For administrators, as `identity.directory` is, and with its rules; one transaction on the database.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from shlex import quote
from typing import Any, Final

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mcphub.errors import Conflict, NotFound
from mcphub.identity.keys import Keys
from mcphub.identity.model import (
    Arrival,
    Person,
    checked_expiry,
    checked_group_name,
    checked_user_name,
)
from mcphub.ids import Clock, user_id
from mcphub.policy.model import Role
from mcphub.store.database import Database
from mcphub.store.tables import api_keys, groups, memberships, meta, users

_MOST_NAMED: Final = 5


async def arrive(
    db: Database,
    clock: Clock,
    people: Sequence[Person],
    *,
    add_groups: bool = False,
    hand_out: Callable[[list[Arrival]], None] | None = None,
    expires_at: float | None = None,
) -> tuple[list[Arrival], list[str]]:
    """Add users who are not there, and let all of them join their groups; nobody leaves one.

    Args:
        db: The hub's database.
        clock: Wall clock.
        people: Each name once.
        add_groups: Add the groups that there are not.
        hand_out: Takes those who got a key, before anything counts: when it raises, nothing is done.
            Without it no keys are made; with it each gets one who has none.
        expires_at: When the keys expire, epoch seconds.

    Returns:
        What became of each, in their order, and the groups that were added.

    Raises:
        InvalidInput: A name cannot be used, or the time of expiry is not in the future.
        NotFound: There is no such group, and none is to be added.
        Conflict: A user is there with another role.
    """
    now = clock()
    expires_at = checked_expiry(expires_at, now)
    people = [replace(person, name=checked_user_name(person.name)) for person in people]
    async with db.write(changes=True) as conn:
        there = {row.name: row for row in await conn.execute(select(users))}
        _check_roles(people, there)
        new = [person for person in people if person.name not in there]
        number = (await conn.execute(select(meta.c.next_number))).scalar_one()
        await conn.execute(update(meta).values(next_number=number + len(new)))
        ids = {name: str(row.id) for name, row in there.items()} | {
            person.name: user_id() for person in new
        }
        await _insert(
            conn,
            users,
            [
                {
                    "id": ids[person.name],
                    "name": person.name,
                    "number": number + position,
                    "role": (person.role or Role.USER).value,
                    "created_at": now,
                }
                for position, person in enumerate(new)
            ],
        )
        added = await _missing_groups(conn, people)
        if added and not add_groups:
            raise NotFound(
                f"There is no group {', '.join(map(repr, added[:_MOST_NAMED]))}"
                + (f" and {len(added) - _MOST_NAMED} more." if len(added) > _MOST_NAMED else "."),
                hint="Add them with `mcphub group add`, or give --add-groups.",
            )
        await _insert(conn, groups, [{"name": name} for name in added])
        found = await conn.execute(select(memberships.c.user_id, memberships.c.group))
        members = {(user, group) for user, group in found}
        arrivals = [
            Arrival(
                ids[person.name],
                person.name,
                person.name not in there,
                tuple(g for g in person.groups if (ids[person.name], g) not in members),
            )
            for person in people
        ]
        joins = [{"user_id": one.id, "group": group} for one in arrivals for group in one.joined]
        await _insert(conn, memberships, joins)
        if hand_out is not None:
            await _give_keys(conn, arrivals, now, expires_at)
            hand_out([one for one in arrivals if one.key is not None])
    return arrivals, added


def _check_roles(people: Sequence[Person], there: dict[str, Any]) -> None:
    for person in people:
        row = there.get(person.name)
        if row is not None and person.role not in {None, Role(row.role)}:
            raise Conflict(
                f"There is already a user '{person.name}', with the role {row.role}.",
                hint=f"Run: mcphub user role {quote(person.name)} {person.role}",
            )


async def _missing_groups(conn: AsyncConnection, people: Sequence[Person]) -> list[str]:
    wanted = {checked_group_name(group) for person in people for group in person.groups}
    return sorted(wanted - set((await conn.execute(select(groups.c.name))).scalars()))


async def _give_keys(
    conn: AsyncConnection, arrivals: list[Arrival], now: float, expires_at: float | None
) -> None:
    usable = select(api_keys.c.user_id).where(api_keys.c.revoked_at.is_(None))
    keyed = set((await conn.execute(usable)).scalars())
    made: list[dict[str, object]] = []
    for one in arrivals:
        if one.id not in keyed:
            one.key = Keys.new(one.id, "", now, expires_at)
            made.append(Keys.row(one.key))
    await _insert(conn, api_keys, made)


async def _insert(conn: AsyncConnection, table: Any, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        await conn.execute(insert(table), rows)
