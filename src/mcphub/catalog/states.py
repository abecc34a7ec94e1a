"""`ServerStates`: what the database knows of servers, beside their settings.

Switch, pin, evidence and neutral catalogs, by the server's name. Whatever changes decisions raises
the database's revision, by which a running hub learns of it; a saved catalog does not. Nothing here
is a user's, so nothing takes a principal; who may change it is its callers' business (`cli`, `api`),
as is the audit log.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.schema import Table

from mcphub.catalog.names import NAME_HINT, is_server_name
from mcphub.catalog.pins import Pin
from mcphub.errors import InvalidInput
from mcphub.ids import Clock
from mcphub.policy.model import Evidence
from mcphub.store.changes import concerns
from mcphub.store.database import Database
from mcphub.store.tables import evidence, server_dialects, server_states, tool_catalogs
from mcphub.wire.codes import Dialect

ACKNOWLEDGEMENT = "acknowledgement"
CHECK = "check"

_KEPT_VERSIONS = 8
_LONGEST_NOTE = 4000
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ServerState:
    """What the database knows of one server.

    Attributes:
        name: The server's name.
        enabled: The administrator's switch; a server is on until it is switched off.
        pin: The exact package that runs, or None.
        evidence: Evidence for the pinned version; without a pin, or without evidence for it, the
            newest there is. Whether it speaks of what would run is for `policy` to say.
    """

    name: str
    enabled: bool = True
    pin: Pin | None = None
    evidence: Evidence | None = None


@dataclass(frozen=True, slots=True)
class StoredCatalog:
    """What one version of a server offered to nobody in particular, as it wrote it.

    Attributes:
        initialize: The InitializeResult, raw JSON.
        tools, prompts, resources, templates: The whole lists, raw JSON arrays.
        per_user: It lists only with a user's own credentials; the lists are then empty.
        at: When it was learned, seconds since the epoch.
    """

    initialize: bytes = b"{}"
    tools: bytes = b"[]"
    prompts: bytes = b"[]"
    resources: bytes = b"[]"
    templates: bytes = b"[]"
    per_user: bool = False
    at: float = 0.0


class ServerStates:
    """States of all servers. Holds no state of its own; any number may work on one database."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def all(self) -> dict[str, ServerState]:
        """Return every server that something is known of, by name.

        Raises:
            InvalidInput: A stored pin cannot be read.
        """
        async with self._db.read() as conn:
            rows = (await conn.execute(select(server_states))).all()
            proofs = (await conn.execute(select(evidence).order_by(evidence.c.id))).all()
        found = {row.server: ServerState(row.server, row.enabled, _pin(row)) for row in rows}
        by_server: dict[str, list[Evidence]] = {}
        for row in proofs:
            proof = Evidence(row.kind, row.version, row.by, row.at, row.note)
            by_server.setdefault(row.server, []).append(proof)
        for name, known in by_server.items():
            state = found.get(name) or ServerState(name)
            found[name] = ServerState(name, state.enabled, state.pin, _best(known, state.pin))
        return found

    async def set_enabled(self, server: str, enabled: bool) -> None:
        """Switch a server on or off.

        Raises:
            InvalidInput: It cannot be a server's name.
        """
        await self._put(server, {"enabled": enabled})

    async def set_pin(self, server: str, pin: Pin | None) -> None:
        """Write down which package a server runs; None forgets it.

        Raises:
            InvalidInput: It cannot be a server's name.
        """
        await self._put(server, {"pin": None if pin is None else _json(pin)})

    async def acknowledge(self, server: str, version: str, by: str, note: str = "") -> Evidence:
        """Record an administrator's word that this version may be shared; return the evidence.

        Raises:
            InvalidInput: Version or administrator is empty, or a text is too long.
        """
        return await self.record(
            server, Evidence(ACKNOWLEDGEMENT, version, by, self._clock(), note)
        )

    async def record(self, server: str, proof: Evidence) -> Evidence:
        """Record evidence, such as a check without a leak. Nothing is ever overwritten.

        Raises:
            InvalidInput: Version or author is empty, or a text is too long.
        """
        _checked(server, proof.version)
        if not proof.by or len(proof.by) > 64 or len(proof.kind) > 32:
            raise InvalidInput("Evidence names who gives it, in at most 64 characters.")
        if len(proof.note) > _LONGEST_NOTE or "\x00" in proof.note + proof.by:
            raise InvalidInput(f"A note is plain text of at most {_LONGEST_NOTE} characters.")
        async with self._db.write(changes=True) as conn:
            await concerns(conn)
            await conn.execute(
                evidence.insert().values(
                    server=server,
                    version=proof.version,
                    kind=proof.kind,
                    by=proof.by,
                    at=proof.at,
                    note=proof.note,
                )
            )
        return proof

    async def withdraw(self, server: str, version: str) -> int:
        """Remove all evidence for a version; return how much there was."""
        async with self._db.write(changes=True) as conn:
            await concerns(conn)
            same = (evidence.c.server == server) & (evidence.c.version == version)
            return (await conn.execute(delete(evidence).where(same))).rowcount

    async def evidence_of(self, server: str) -> list[Evidence]:
        """Return all evidence for a server, oldest first."""
        async with self._db.read() as conn:
            statement = select(evidence).where(evidence.c.server == server).order_by(evidence.c.id)
            rows = (await conn.execute(statement)).all()
        return [Evidence(row.kind, row.version, row.by, row.at, row.note) for row in rows]

    async def save_catalog(self, server: str, version: str, catalog: StoredCatalog) -> None:
        """Keep the neutral catalog of a version; the newest few versions of a server are kept.

        Raises:
            InvalidInput: It cannot be a server's name or a version.
        """
        _checked(server, version)
        key = {"server": server, "version": version}
        values = {"body": msgspec.msgpack.encode(catalog), "at": catalog.at}
        async with self._db.write() as conn:
            await self._upsert(conn, tool_catalogs, key, values)
            await self._keep_newest(conn, tool_catalogs, server, version)

    async def catalog(self, server: str, version: str) -> StoredCatalog | None:
        """Return the kept catalog of a version, or None; one that cannot be read counts as none."""
        async with self._db.read() as conn:
            same = (tool_catalogs.c.server == server) & (tool_catalogs.c.version == version)
            body = (await conn.execute(select(tool_catalogs.c.body).where(same))).scalar()
        if body is None:
            return None
        try:
            return msgspec.msgpack.decode(body, type=StoredCatalog)
        except msgspec.MsgspecError:
            _log.warning("catalog.unreadable", server=server)
            return None

    async def save_dialect(self, server: str, version: str, dialect: Dialect) -> None:
        """Keep which dialect a version of a server speaks; the newest few versions are kept.

        Raises:
            InvalidInput: It cannot be a server's name or a version.
        """
        _checked(server, version)
        values = {"dialect": dialect.value, "at": self._clock()}
        async with self._db.write() as conn:
            key = {"server": server, "version": version}
            await self._upsert(conn, server_dialects, key, values)
            await self._keep_newest(conn, server_dialects, server, version)

    async def dialect(self, server: str, version: str) -> Dialect | None:
        """Return the kept dialect of a version, or None."""
        table = server_dialects
        async with self._db.read() as conn:
            same = (table.c.server == server) & (table.c.version == version)
            found = (await conn.execute(select(table.c.dialect).where(same))).scalar()
        return Dialect(found) if found in set(Dialect) else None

    async def _keep_newest(
        self, conn: AsyncConnection, table: Table, server: str, version: str
    ) -> None:
        """Remove what is known of all but the newest few versions of a server."""
        newest = (
            select(table.c.version)
            .where(table.c.server == server, table.c.version != version)
            .order_by(table.c.at.desc(), table.c.version)
        )
        old = (await conn.execute(newest)).scalars().all()[_KEPT_VERSIONS - 1 :]
        await conn.execute(delete(table).where(table.c.server == server, table.c.version.in_(old)))

    async def _put(self, server: str, values: Mapping[str, Any]) -> None:
        _checked(server)
        written = {**values, "updated_at": self._clock()}
        async with self._db.write(changes=True) as conn:
            await concerns(conn)
            await self._upsert(
                conn, server_states, {"server": server}, written, {"enabled": True, "pin": None}
            )

    async def _upsert(
        self,
        conn: AsyncConnection,
        table: Table,
        key: Mapping[str, Any],
        values: Mapping[str, Any],
        first: Mapping[str, Any] | None = None,
    ) -> None:
        """Write `values` for `key`; a new row takes what is missing from `first`."""
        insert = self._db.insert(table).values({**(first or {}), **key, **values})
        await conn.execute(
            insert.on_conflict_do_update(index_elements=list(key), set_=dict(values))
        )


def _checked(server: str, version: str | None = None) -> None:
    if not is_server_name(server):
        raise InvalidInput("It cannot name a server.", hint=NAME_HINT)
    if version is not None and (not version.isprintable() or not 0 < len(version) <= 255):
        raise InvalidInput("A version is printable text of at most 255 characters.")


def _best(known: list[Evidence], pin: Pin | None) -> Evidence:
    matching = [proof for proof in known if pin is not None and proof.version == pin.version]
    return (matching or known)[-1]


def _json(pin: Pin) -> str:
    return msgspec.json.encode(pin).decode()


def _pin(row: Any) -> Pin | None:
    if row.pin is None:
        return None
    try:
        return msgspec.json.decode(row.pin, type=Pin)
    except msgspec.MsgspecError as error:
        raise InvalidInput(
            f'The stored pin of the server "{row.server}" cannot be read.',
            hint=f"Pin it anew: mcphub server pin {row.server}",
        ) from error
