"""Which dialect a version of a server speaks."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "server_dialects",
        sa.Column("server", sa.String(length=63), nullable=False),
        sa.Column("version", sa.String(length=255), nullable=False),
        sa.Column("dialect", sa.String(length=16), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("server", "version", name=op.f("pk_server_dialects")),
    )
