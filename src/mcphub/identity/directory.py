"""`Directory`: the users, groups and API keys of the hub, in the database.

For administrators: nothing here asks who is calling, so its callers (`cli`, `api`) must. Every change
raises the database's revision, by which a running hub learns of it. What happened is for the caller
to write down (`audit.AuditLog`), who knows the actor.
"""

import unicodedata
from collections.abc import Collection
from shlex import quote
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mcphub.errors import Conflict, Denied, NotFound
from mcphub.identity.keys import Keys
from mcphub.identity.model import (
    Holdings,
    KeyInfo,
    Membership,
    NewKey,
    User,
    checked_expiry,
    checked_group_name,
    checked_user_name,
    did_you_mean,
    is_invisible,
)
from mcphub.identity.snapshot import People, PrincipalSnapshot
from mcphub.ids import Clock, user_id
from mcphub.policy.model import EVERYONE, Principal, Role
from mcphub.store.changes import concerns
from mcphub.store.database import AT_ONCE, Database
from mcphub.store.tables import api_keys, credentials, groups, memberships, meta, users


class Directory:
    """Users, groups and keys. Holds no state of its own; any number may work on one database."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._keys = Keys(db, clock)

    # Users

    async def add_user(self, name: str, role: Role = Role.USER) -> User:
        """Add a user with a new id and a number that nobody had before.

        Raises:
            InvalidInput: The name is not allowed.
            Conflict: There is a user of this name.
        """
        name = checked_user_name(name)
        async with self._db.write(changes=True) as conn:
            if (await conn.execute(select(users.c.id).where(users.c.name == name))).first():
                raise Conflict(f"There is already a user '{name}'.", hint="Choose another name.")
            number = (await conn.execute(select(meta.c.next_number))).scalar_one()
            await conn.execute(update(meta).values(next_number=number + 1))
            user = User(user_id(), name, number, role, disabled=False, created_at=self._clock())
            await concerns(conn, user.id)
            await conn.execute(
                insert(users).values(
                    id=user.id,
                    name=user.name,
                    number=user.number,
                    role=user.role.value,
                    created_at=user.created_at,
                )
            )
        return user

    async def users(self) -> list[User]:
        """Return every user, oldest first."""
        async with self._db.read() as conn:
            return await _users(conn)

    async def user(self, name_or_id: str) -> User:
        """Return one user by name or id.

        Raises:
            NotFound: There is none; the hint names the nearest name.
        """
        async with self._db.read() as conn:
            return await _user(conn, name_or_id)

    async def set_role(self, name_or_id: str, role: Role) -> User:
        """Make a user an administrator or an ordinary user.

        Raises:
            NotFound: There is no such user.
            Conflict: It would leave the hub without an administrator.
        """
        async with self._db.write(changes=True) as conn:
            user = await _user(conn, name_or_id)
            await concerns(conn, user.id)
            if role is not Role.ADMIN:
                await _another_administrator(conn, user)
            await conn.execute(update(users).where(users.c.id == user.id).values(role=role.value))
            return await _user(conn, user.id)

    async def disable_user(self, name_or_id: str) -> User:
        """Stop a user from being authenticated; keys, groups and credentials stay for `enable_user`.

        Raises:
            NotFound: There is no such user.
            Conflict: It is the last administrator.
        """
        async with self._db.write(changes=True) as conn:
            user = await _user(conn, name_or_id)
            await concerns(conn, user.id)
            if not user.disabled:
                await _another_administrator(conn, user)
                await conn.execute(
                    update(users).where(users.c.id == user.id).values(disabled_at=self._clock())
                )
            return await _user(conn, user.id)

    async def enable_user(self, name_or_id: str) -> User:
        """Undo `disable_user`.

        Raises:
            NotFound: There is no such user.
        """
        async with self._db.write(changes=True) as conn:
            user = await _user(conn, name_or_id)
            await concerns(conn, user.id)
            await conn.execute(
                update(users).where(users.c.id == user.id).values(disabled_at=None, remove_at=None)
            )
            return await _user(conn, user.id)

    async def remove_later(self, name_or_id: str, at: float) -> User:
        """Disable a user and note when to remove the user for good. Raises as `disable_user`."""
        user = await self.disable_user(name_or_id)
        async with self._db.write(changes=True) as conn:
            await concerns(conn, user.id)
            await conn.execute(update(users).where(users.c.id == user.id).values(remove_at=at))
            return await _user(conn, user.id)

    async def due_removals(self, now: float) -> list[User]:
        """Return the disabled users whose period of grace is over at `now` (epoch seconds)."""
        async with self._db.read() as conn:
            rows = await conn.execute(
                select(users)
                .where(users.c.remove_at <= now, users.c.disabled_at.is_not(None))
                .order_by(users.c.remove_at)
            )
            return [_from_row(row) for row in rows]

    async def holdings(self, user_id: str) -> Holdings:
        """Return how many keys, memberships and credentials a user has."""
        async with self._db.read() as conn:
            counts = [
                (
                    await conn.execute(
                        select(func.count()).select_from(table).where(table.c.user_id == user_id)
                    )
                ).scalar_one()
                for table in (api_keys, memberships, credentials)
            ]
        return Holdings(*counts)

    async def remove_user(self, name_or_id: str) -> User:
        """Remove a user for good, with memberships, keys and credentials; return who it was.

        Request records and audit events stay: they name the user by opaque id only.

        Raises:
            NotFound: There is no such user.
            Conflict: It is the last administrator.
        """
        async with self._db.write(changes=True) as conn:
            user = await _user(conn, name_or_id)
            await concerns(conn, user.id)
            await _another_administrator(conn, user)
            # Everything that is the user's goes with the row (ON DELETE CASCADE).
            await conn.execute(delete(users).where(users.c.id == user.id))
        return user

    # Groups

    async def add_group(self, name: str) -> str:
        """Add a group.

        Raises:
            InvalidInput: The name is not allowed.
            Conflict: There is a group of this name.
        """
        name = checked_group_name(name)
        async with self._db.write(changes=True) as conn:
            if (await conn.execute(select(groups.c.name).where(groups.c.name == name))).first():
                raise Conflict(f"There is already a group '{name}'.", hint="Choose another name.")
            await concerns(conn)
            await conn.execute(insert(groups).values(name=name))
        return name

    async def remove_group(self, name: str) -> None:
        """Remove a group and every membership of it.

        Raises:
            InvalidInput: The group is built in.
            NotFound: There is no such group.
        """
        async with self._db.write(changes=True) as conn:
            await _group(conn, name)
            await conn.execute(delete(groups).where(groups.c.name == name))

    async def groups(self) -> list[str]:
        """Return the names of all groups, with `everyone`, sorted."""
        async with self._db.read() as conn:
            return sorted([EVERYONE, *(await conn.execute(select(groups.c.name))).scalars()])

    async def join(
        self, name_or_id: str, group: str, expires_at: float | None = None
    ) -> Membership:
        """Make a user a member until `expires_at` (epoch seconds) or for good; again sets a new end.

        Raises:
            InvalidInput: The group is built in, or the end is not in the future.
            NotFound: There is no such user or group.
        """
        expires_at = checked_expiry(expires_at, self._clock())
        async with self._db.write(changes=True) as conn:
            user = await _user(conn, name_or_id)
            await concerns(conn, user.id)
            await _group(conn, group)
            membership = Membership(user.id, group, expires_at)
            await conn.execute(delete(memberships).where(_is(user.id, group)))
            await conn.execute(
                insert(memberships).values(
                    {"user_id": user.id, "group": group, "expires_at": expires_at}
                )
            )
        return membership

    async def leave(self, name_or_id: str, group: str) -> None:
        """End a membership.

        Raises:
            InvalidInput: The group is built in.
            NotFound: There is no such user or group, or the user is not a member.
        """
        async with self._db.write(changes=True) as conn:
            user = await _user(conn, name_or_id)
            await concerns(conn, user.id)
            await _group(conn, group)
            done = await conn.execute(delete(memberships).where(_is(user.id, group)))
            if not done.rowcount:
                raise NotFound(
                    f"The user '{user.name}' is not in the group '{group}'.",
                    hint=f"Run: mcphub user show {quote(user.name)}",
                )

    async def memberships(self) -> list[Membership]:
        """Return every membership of the ordinary groups, expired ones too."""
        async with self._db.read() as conn:
            return await _memberships(conn)

    # Keys

    async def create_key(
        self, name_or_id: str, label: str = "", expires_at: float | None = None
    ) -> NewKey:
        """Make an API key. Its value is in the answer and nowhere else; only its hash is kept.

        Raises:
            InvalidInput: The label or the time of expiry cannot be used.
            NotFound: There is no such user.
        """
        user = await self.user(name_or_id)
        return await self._keys.create(user.id, label, expires_at)

    async def keys(self, user_id: str | None = None) -> list[KeyInfo]:
        """Return the keys of one user, or of all, oldest first, revoked ones too."""
        return await self._keys.all(user_id)

    async def revoke_key(self, id_or_prefix: str, *, user_id: str | None = None) -> KeyInfo:
        """Revoke a key for good; a key that is revoked already stays so.

        Args:
            id_or_prefix: The key's id, or the first 12 characters that lists show.
            user_id: Only a key of this user; anybody else's is "not found".

        Raises:
            NotFound: There is no such key.
            Conflict: Several keys have this prefix.
        """
        return await self._keys.revoke(id_or_prefix, user_id)

    async def note_use(self, last_used_at: dict[str, float]) -> None:
        """Write down when keys (by id) were last used, in one batch; raises no revision."""
        await self._keys.note_use(last_used_at)

    # Principals

    async def principal_of(self, name_or_id: str) -> Principal:
        """Return the user's principal, for acts of the administrator's command line (key id `local`).

        Raises:
            NotFound: There is no such user.
            Denied: The user is disabled.
        """
        user = await self.user(name_or_id)
        snapshot = PrincipalSnapshot()
        snapshot.take(await self.people([user.id]))
        principal = snapshot.principal_of(user.id, self._clock())
        if principal is None:
            raise Denied(
                f"The user '{user.name}' is disabled.",
                hint=f"Run: mcphub user enable {quote(user.name)}",
            )
        return principal

    async def people(self, user_ids: Collection[str]) -> People:
        """Return what authentication needs to know of these users, all of one revision."""
        ids = list(user_ids)
        async with self._db.read() as conn:
            found = await conn.execute(select(users).where(users.c.id.in_(ids)))
            members = await conn.execute(select(memberships).where(memberships.c.user_id.in_(ids)))
            usable = api_keys.c.user_id.in_(ids) & api_keys.c.revoked_at.is_(None)
            keys = await conn.execute(select(api_keys).where(usable))
            return People(
                ids,
                [_from_row(row) for row in found],
                [Membership(*row) for row in members],
                [(bytes.fromhex(row.hash), Keys.info(row)) for row in keys],
            )

    async def snapshot(self) -> PrincipalSnapshot:
        """Return what authentication needs of all users.

        Some at a time: thousands at once take longer than a request should have to wait.
        """
        async with self._db.read() as conn:
            ids = list((await conn.execute(select(users.c.id))).scalars())
        snapshot = PrincipalSnapshot()
        for start in range(0, len(ids), AT_ONCE):
            snapshot.take(await self.people(ids[start : start + AT_ONCE]))
        return snapshot


def _is(user: str, group: str) -> Any:
    return (memberships.c.user_id == user) & (memberships.c.group == group)


def _from_row(row: Any) -> User:
    return User(
        id=row.id,
        name=row.name,
        number=row.number,
        role=Role(row.role),
        disabled=row.disabled_at is not None,
        created_at=row.created_at,
        remove_at=row.remove_at,
    )


async def _users(conn: AsyncConnection) -> list[User]:
    return [_from_row(row) for row in await conn.execute(select(users).order_by(users.c.number))]


async def _memberships(conn: AsyncConnection) -> list[Membership]:
    found = await conn.execute(
        select(memberships).order_by(memberships.c.group, memberships.c.user_id)
    )
    return [Membership(*row) for row in found]


async def _user(conn: AsyncConnection, name_or_id: str) -> User:
    name = unicodedata.normalize("NFC", name_or_id)
    row = None
    if not is_invisible(name):
        wanted = select(users).where((users.c.id == name) | (users.c.name == name))
        row = (await conn.execute(wanted)).first()
    if row is None:
        names = (await conn.execute(select(users.c.name))).scalars()
        raise NotFound(
            f"There is no user {name[:64]!r}.",
            hint=did_you_mean(name, names) or "Run: mcphub user list",
        )
    return _from_row(row)


async def _group(conn: AsyncConnection, name: str) -> None:
    known = list((await conn.execute(select(groups.c.name))).scalars())
    if checked_group_name(name) not in known:
        raise NotFound(
            f"There is no group '{name}'.",
            hint=did_you_mean(name, known)
            or f"`mcphub group list` shows those that there are; `mcphub group add {name}` makes it.",
        )


async def _another_administrator(conn: AsyncConnection, user: User) -> None:
    """Raise `Conflict` if the user is the only administrator who can still sign in.

    Two such changes cannot overtake each other: blocks with changes run one after another.
    """
    others = await conn.execute(
        select(func.count())
        .select_from(users)
        .where(users.c.role == Role.ADMIN.value)
        .where(users.c.disabled_at.is_(None))
        .where(users.c.id != user.id)
    )
    if user.role is Role.ADMIN and not user.disabled and not others.scalar_one():
        raise Conflict(
            f"'{user.name}' is the last administrator.",
            hint="Make another user an administrator first.",
        )
