"""`Vault`: the users' credentials, sealed in the database.

Write-only for people: they put, delete and list. Only `open_for` gives values back, only for a
`Permit`, and only what belongs to exactly that permit's user and server: there is no other identity
to fall back to (rule R5).
"""

import asyncio
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mcphub.errors import InvalidInput, MissingCredential, NotFound
from mcphub.ids import Clock
from mcphub.policy.model import Permit, Principal
from mcphub.secret import OAUTH_SLOT, Secret
from mcphub.store.changes import concerns
from mcphub.store.database import AT_ONCE, Database
from mcphub.store.tables import credential_revisions, credentials, meta, users
from mcphub.vault.keys import Key, KeyRing
from mcphub.vault.seal import CredentialUnreadable, Place, seal, unseal

MAX_VALUE_BYTES: Final = 64 * 1024
_SERVER = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_SLOT = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_BATCH = 200


@dataclass(frozen=True, slots=True)
class CredentialInfo:
    """What is shown of a credential: everything but its value."""

    server: str
    slot: str
    revision: int
    updated_at: float
    key_id: str


@dataclass(frozen=True, slots=True)
class CredentialState:
    """What the hub keeps in memory of one user's credentials for one server.

    Attributes:
        revision: Higher after every change, deletion too; part of the instance's key.
        slots: Which slots have a value.
    """

    revision: int
    slots: frozenset[str]


class MissingSlots(MissingCredential):
    """Slots that the server needs and the caller has not set.

    Attributes:
        server: Name of the server.
        slots: Exactly the missing ones, sorted.
    """

    def __init__(self, server: str, slots: Iterable[str]) -> None:
        self.server = server
        self.slots = tuple(slots)
        if self.slots == (OAUTH_SLOT,):
            super().__init__(
                f"You have not connected your account to '{server}'.",
                hint=f"Run: mcphub credential connect {server}",
            )
            return
        names = " and ".join(self.slots)
        super().__init__(
            f"You have not set {names} for '{server}'.",
            hint=f"Run: mcphub credential set {server} {self.slots[0]}",
        )


class Vault:
    """Seals and opens credentials. Holds no value longer than a call; any number may work at once."""

    def __init__(self, db: Database, ring: KeyRing, clock: Clock) -> None:
        self._db = db
        self._ring = ring
        self._clock = clock

    async def put(
        self, principal: Principal, server: str, slot: str, value: Secret
    ) -> CredentialInfo:
        """Set a credential of the principal; replaces the one before.

        Raises:
            InvalidInput: Server, slot or value cannot be used.
            NotFound: The user has been removed meanwhile.
        """
        _check_names(server, slot)
        _check_value(value)
        # The sealing key may have changed since: what an old key seals is lost when that key goes.
        await asyncio.to_thread(self._ring.refresh)
        key = self._ring.sealing
        install_id = await self._db.install_id()
        now = self._clock()
        async with self._db.write(changes=True) as conn:
            owner = select(users.c.id).where(users.c.id == principal.user_id)
            if (await conn.execute(owner)).first() is None:
                raise NotFound("The user has been removed.")
            revision = await _advance(conn, principal.user_id, server)
            place = Place(install_id, principal.user_id, server, slot, revision)
            nonce, sealed = seal(key, place, value)
            await conn.execute(delete(credentials).where(_is(principal.user_id, server, slot)))
            await conn.execute(
                insert(credentials).values(
                    user_id=principal.user_id,
                    server=server,
                    slot=slot,
                    key_id=key.id,
                    nonce=nonce,
                    sealed=sealed,
                    revision=revision,
                    updated_at=now,
                )
            )
        return CredentialInfo(server, slot, revision, now, key.id)

    async def delete(self, principal: Principal, server: str, slot: str) -> None:
        """Delete a credential of the principal.

        Raises:
            NotFound: The principal has not set it.
        """
        _check_names(server, slot)
        async with self._db.write(changes=True) as conn:
            mine = _is(principal.user_id, server, slot)
            if not (await conn.execute(delete(credentials).where(mine))).rowcount:
                raise NotFound(
                    f"The credential {slot} for '{server}' is not set.",
                    hint="Run: mcphub credential list",
                )
            await _advance(conn, principal.user_id, server)

    async def listing(self, principal: Principal) -> list[CredentialInfo]:
        """Return what the principal has set, without values, by server and slot."""
        c = credentials.c
        wanted = (
            select(c.server, c.slot, c.revision, c.updated_at, c.key_id)
            .where(c.user_id == principal.user_id)
            .order_by(c.server, c.slot)
        )
        async with self._db.read() as conn:
            return [CredentialInfo(*row) for row in await conn.execute(wanted)]

    async def open_for(self, permit: Permit, slots: Iterable[str]) -> dict[str, Secret]:
        """Return the values of exactly these slots, of the permit's user for the permit's server.

        Raises:
            MissingSlots: Some are not set; it names exactly those.
            CredentialUnreadable: One is stored but does not open.
        """
        wanted = sorted(set(slots))
        if not wanted:
            return {}
        owner, server = permit.principal.user_id, permit.server
        c = credentials.c
        query = select(credentials).where(
            c.user_id == owner, c.server == server, c.slot.in_(wanted)
        )
        async with self._db.read() as conn:
            found = {row.slot: row for row in await conn.execute(query)}
        if missing := [slot for slot in wanted if slot not in found]:
            raise MissingSlots(server, missing)
        return {slot: await self._open(found[slot]) for slot in wanted}

    async def renew(self, permit: Permit, slot: str, was: Secret, value: Secret) -> bool:
        """Put a value in the place of the one that it follows from; no instance restarts for it.

        Returns:
            False, and nothing is changed, when `was` is not what is stored any more.
        """
        owner, server = permit.principal.user_id, permit.server
        mine = _is(owner, server, slot)
        async with self._db.read() as conn:
            row = (await conn.execute(select(credentials).where(mine))).first()
        if row is None or await self._open(row) != was:
            return False
        await asyncio.to_thread(self._ring.refresh)
        key, now = self._ring.sealing, self._clock()
        nonce, sealed = seal(key, await self._place(row), value)
        same = mine & (credentials.c.nonce == row.nonce)
        new = {"key_id": key.id, "nonce": nonce, "sealed": sealed, "updated_at": now}
        async with self._db.write() as conn:
            changed = await conn.execute(update(credentials).where(same).values(**new))
        return changed.rowcount == 1

    async def withdraw(self, owner: str, server: str, slot: str) -> Secret | None:
        """Delete a user's credential and return it a last time, so that its issuer can be told.

        Args:
            owner: Opaque id of the user.
            server: Name of the server.
            slot: Name of the slot.

        Returns:
            None when there was none; an empty text when it does not open.
        """
        mine = _is(owner, server, slot)
        async with self._db.write(changes=True) as conn:
            row = (await conn.execute(select(credentials).where(mine))).first()
            if row is None:
                await concerns(conn)
                return None
            await conn.execute(delete(credentials).where(mine))
            await _advance(conn, owner, server)
        try:
            return await self._open(row)
        except CredentialUnreadable:
            return Secret("")

    async def servers_of(self, owner: str, slot: str) -> list[str]:
        """Return the servers for which a user (by opaque id) has filled a slot."""
        c = credentials.c
        wanted = select(c.server).where(c.user_id == owner, c.slot == slot).order_by(c.server)
        async with self._db.read() as conn:
            return list((await conn.execute(wanted)).scalars())

    async def states(
        self, user_ids: Collection[str] | None = None
    ) -> dict[str, dict[str, CredentialState]]:
        """Return the state of users' credentials by user id and server, without values.

        Args:
            user_ids: Of these users; None for all who ever had a credential, some at a time.
        """
        if user_ids is None:
            async with self._db.read() as conn:
                every = select(credential_revisions.c.user_id).distinct()
                user_ids = list((await conn.execute(every)).scalars())
        some, found = list(user_ids), dict[str, dict[str, CredentialState]]()
        for start in range(0, len(some), AT_ONCE):
            found |= await self._states(some[start : start + AT_ONCE])
        return found

    async def _states(self, user_ids: list[str]) -> dict[str, dict[str, CredentialState]]:
        known, filled = credential_revisions.c, credentials.c
        wanted = select(filled.user_id, filled.server, filled.slot)
        revisions = select(known.user_id, known.server, known.revision)
        slots: dict[tuple[str, str], set[str]] = {}
        found: dict[str, dict[str, CredentialState]] = {}
        async with self._db.read() as conn:
            for user, server, slot in await conn.execute(
                wanted.where(filled.user_id.in_(user_ids))
            ):
                slots.setdefault((user, server), set()).add(slot)
            for row in await conn.execute(revisions.where(known.user_id.in_(user_ids))):
                user, server, revision = row
                state = CredentialState(revision, frozenset(slots.get((user, server), ())))
                found.setdefault(user, {})[server] = state
        return found

    async def key_ids(self) -> dict[str, int]:
        """Return how many credentials each key has sealed; a key without any may be retired."""
        counts: dict[str, int] = {}
        async with self._db.read() as conn:
            for key_id in (await conn.execute(select(credentials.c.key_id))).scalars():
                counts[key_id] = counts.get(key_id, 0) + 1
        return counts

    async def reseal(self) -> int:
        """Seal with the first key whatever another one had sealed; return how many.

        Values and revisions stay, so no instance restarts. May be broken off and run again. One
        that does not open stays as it is: the others go on, then the error is raised.

        Raises:
            CredentialUnreadable: At least one did not open.
        """
        await asyncio.to_thread(self._ring.refresh)
        done, failed = 0, None
        after = ("", "", "")
        while batch := await self._sealed_by_others(after):
            for row in batch:
                try:
                    done += await self._reseal_one(row)
                except CredentialUnreadable as error:
                    failed = error
            last = batch[-1]
            after = (last.user_id, last.server, last.slot)
        if failed is not None:
            raise failed
        return done

    async def _sealed_by_others(self, after: tuple[str, str, str]) -> list[Any]:
        c = credentials.c
        user, server, slot = after
        beyond = (
            (c.user_id > user)
            | ((c.user_id == user) & (c.server > server))
            | ((c.user_id == user) & (c.server == server) & (c.slot > slot))
        )
        query = (
            select(credentials)
            .where(beyond, c.key_id != self._ring.sealing.id)
            .order_by(c.user_id, c.server, c.slot)
            .limit(_BATCH)
        )
        async with self._db.read() as conn:
            return list((await conn.execute(query)).all())

    async def _reseal_one(self, row: Any) -> int:
        value = await self._open(row)
        key = self._ring.sealing
        nonce, sealed = seal(key, await self._place(row), value)
        # Only if it is still what was opened: its user may have set another value meanwhile.
        same = _is(row.user_id, row.server, row.slot) & (credentials.c.nonce == row.nonce)
        async with self._db.write() as conn:
            changed = await conn.execute(
                update(credentials).where(same).values(key_id=key.id, nonce=nonce, sealed=sealed)
            )
        return changed.rowcount

    async def _open(self, row: Any) -> Secret:
        return unseal(await self._key(row), await self._place(row), row.nonce, row.sealed)

    async def _place(self, row: Any) -> Place:
        install_id = await self._db.install_id()
        return Place(install_id, row.user_id, row.server, row.slot, row.revision)

    async def _key(self, row: Any) -> Key:
        if (key := self._ring.opening(row.key_id)) is not None:
            return key
        await asyncio.to_thread(self._ring.refresh)
        if (key := self._ring.opening(row.key_id)) is not None:
            return key
        raise CredentialUnreadable(
            f"The key that sealed the credential {row.slot} for '{row.server}' is not there.",
            hint="Set the credential again, or ask an administrator to restore the vault's keys.",
            retry_after_s=60,
        )


async def is_empty(db: Database) -> bool:
    """Whether nobody's credential is sealed in a database."""
    async with db.read() as conn:
        return (await conn.execute(select(credentials.c.user_id).limit(1))).first() is None


async def _advance(conn: AsyncConnection, user_id: str, server: str) -> int:
    """Give the user's credentials for the server a revision that they never had, and return it.

    It is the database's own revision, which this transaction has just raised: it never repeats, not
    even after everything of the user has been deleted.
    """
    await concerns(conn, user_id)
    revision = int((await conn.execute(select(meta.c.revision))).scalar_one())
    c = credential_revisions.c
    mine = (c.user_id == user_id) & (c.server == server)
    changed = await conn.execute(update(credential_revisions).where(mine).values(revision=revision))
    if not changed.rowcount:
        await conn.execute(
            insert(credential_revisions).values(user_id=user_id, server=server, revision=revision)
        )
    return revision


def _is(user_id: str, server: str, slot: str) -> Any:
    c = credentials.c
    return (c.user_id == user_id) & (c.server == server) & (c.slot == slot)


def _check_names(server: str, slot: str) -> None:
    if not _SERVER.fullmatch(server):
        raise InvalidInput("This is not a server's name.", hint="Run: mcphub server list")
    if not _SLOT.fullmatch(slot):
        raise InvalidInput(
            "This is not a credential slot's name.",
            hint="A slot is called as in the template without USER_, e.g. GITHUB_TOKEN.",
        )


def _check_value(value: Secret) -> None:
    text = value.reveal()
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        size = 0
    if not 1 <= size <= MAX_VALUE_BYTES or "\0" in text:
        raise InvalidInput(
            f"A credential is text of 1 to {MAX_VALUE_BYTES} bytes without a NUL character.",
            hint="Give the token itself.",
        )
