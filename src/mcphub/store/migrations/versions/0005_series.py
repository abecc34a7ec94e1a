"""Request records that are alike share a row."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_ALIKE = "user_id, session, server, method, name, instance_id, era, client, decision, trace_id"
_OWN = "id, at, duration_ms, outcome, error_code, bytes_in, bytes_out"


def upgrade() -> None:
    op.create_table(
        "request_series",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
        sa.Column("requests", sa.Integer(), nullable=False),
        sa.Column("calls", sa.Text(), nullable=False),
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("session", sa.String(length=8), nullable=False),
        sa.Column("server", sa.String(length=63), nullable=False),
        sa.Column("method", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("instance_id", sa.String(length=64), nullable=False),
        sa.Column("era", sa.String(length=16), nullable=False),
        sa.Column("client", sa.String(length=128), nullable=False),
        sa.Column("decision", sa.String(length=64), nullable=False),
        sa.Column("trace_id", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_request_series")),
        sa.UniqueConstraint("id", name=op.f("uq_request_series_id")),
    )
    array = "json_array" if op.get_bind().dialect.name == "sqlite" else "json_build_array"
    op.execute(
        f"INSERT INTO request_series (id, until, requests, calls, {_ALIKE}) "  # noqa: S608  constants
        f"SELECT id, at + duration_ms / 1000, 1, CAST({array}({array}({_OWN})) AS TEXT), {_ALIKE} "
        "FROM request_records ORDER BY seq"
    )
    op.create_index(op.f("ix_request_series_until"), "request_series", ["until"], unique=False)
    op.create_index(
        op.f("ix_request_series_user_id_until"),
        "request_series",
        ["user_id", "until"],
        unique=False,
    )
    op.create_index(
        op.f("ix_request_series_server_until"), "request_series", ["server", "until"], unique=False
    )
    op.drop_table("request_records")
