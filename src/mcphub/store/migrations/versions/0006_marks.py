"""Each revision has a random mark, so that a revision of another past of the database is told from it."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "meta", sa.Column("mark", sa.String(length=32), nullable=False, server_default="")
    )
    op.execute(sa.text("UPDATE meta SET mark = :mark").bindparams(mark=secrets.token_hex(16)))
    op.drop_table("changes")  # no hub runs now: the next one reads everything
    op.create_table(
        "changes",
        sa.Column("revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("mark", sa.String(length=32), nullable=False),
        sa.Column("user_id", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("revision", name=op.f("pk_changes")),
    )
    op.execute("INSERT INTO changes (revision, mark) SELECT revision, mark FROM meta")
