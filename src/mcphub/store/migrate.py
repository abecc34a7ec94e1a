"""Schema migrations, run by the program itself: no alembic.ini, no command to remember.

Called by `Database.migrate` inside one write transaction: a failed migration leaves nothing behind,
on PostgreSQL and on SQLite (both roll back DDL). The steps are in `store/migrations/versions`.
"""

import secrets

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, insert, select, text

from mcphub.errors import InvalidInput
from mcphub.store.tables import changes, meta

FIRST_USER_NUMBER = 16
"""Smaller numbers are the hub's own: neutral and shared instances."""

_LOCK = 0x6D6370687562  # any constant of ours: one migration at a time on PostgreSQL


def config(connection: Connection | None = None) -> Config:
    """Return Alembic's configuration, made in memory; `connection` is the transaction to work in."""
    made = Config()
    made.set_main_option("script_location", "mcphub.store:migrations")
    made.set_main_option("path_separator", "os")
    made.attributes["connection"] = connection
    return made


def upgrade(connection: Connection) -> None:
    """Bring the schema to the newest version and give a new database its identity.

    Raises:
        InvalidInput: The schema is of a version that this program does not know.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    made = config(connection)
    known = {script.revision for script in ScriptDirectory.from_config(made).walk_revisions()}
    version = MigrationContext.configure(connection).get_current_revision()
    if version is not None and version not in known:
        raise InvalidInput(
            "The database was written by a newer version of MCPHub.",
            hint="Install that version again, or restore the backup made before it.",
        )
    command.upgrade(made, "head")
    if connection.execute(select(meta.c.id)).first() is None:
        connection.execute(
            insert(meta).values(
                id=1,
                install_id=secrets.token_hex(16),
                revision=1,
                mark=(mark := secrets.token_hex(16)),
                next_number=FIRST_USER_NUMBER,
                audit_seq=0,
                audit_hash="",
            )
        )
        connection.execute(insert(changes).values(revision=1, mark=mark))
