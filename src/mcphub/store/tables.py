"""Every table of the hub's database, as SQLAlchemy Core objects.

Times are seconds since the epoch, UTC, as floats; durations are milliseconds where the name ends in
`_ms`. Users appear by opaque id only. Who uses it: the packages that own a topic (`identity`,
`vault`, `audit`, `catalog`) with explicit statements. The schema that a running database has is
made by `store.migrations`; a contract test holds both together.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite counts by itself only in a column whose type is exactly INTEGER.
_Sequence = BigInteger().with_variant(Integer, "sqlite")

meta = Table(
    "meta",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    # Random at creation; part of what seals a credential, so a row of another hub never opens here.
    Column("install_id", String(64), nullable=False),
    # Goes up with every change of what the hub keeps in memory (`Database.write(changes=True)`).
    Column("revision", BigInteger, nullable=False),
    # Random with each revision: an equal number of another past, as a backup's, is not the same revision.
    Column("mark", String(32), nullable=False, server_default=""),
    # Next user number: counted here, because a removed user's number must never come back.
    Column("next_number", Integer, nullable=False),
    # Newest audit event: makes a removed last row visible, and orders writers.
    Column("audit_seq", BigInteger, nullable=False),
    Column("audit_hash", String(64), nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)

# The user whom a revision concerns, "" for nobody, NULL for anybody. No foreign key: the user may be gone by it.
changes = Table(
    "changes",
    metadata,
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("mark", String(32), nullable=False),
    Column("user_id", String(64)),
)

users = Table(
    "users",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("number", Integer, nullable=False, unique=True),
    Column("role", String(16), nullable=False),
    Column("disabled_at", Double),
    Column("created_at", Double, nullable=False),
    # Set only while disabled: when the user is removed for good.
    Column("remove_at", Double),
    CheckConstraint("number >= 16", name="number_range"),
)

groups = Table("groups", metadata, Column("name", String(63), primary_key=True))

memberships = Table(
    "memberships",
    metadata,
    Column("user_id", String(64), ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("group", String(63), ForeignKey("groups.name", ondelete="CASCADE"), primary_key=True),
    Column("expires_at", Double),
    Index(None, "group"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("user_id", String(64), ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("prefix", String(16), nullable=False),
    Column("label", String(128), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
    Column("last_used_at", Double),
    Index(None, "user_id"),
)

credentials = Table(
    "credentials",
    metadata,
    Column("user_id", String(64), ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("server", String(63), primary_key=True),
    Column("slot", String(64), primary_key=True),
    Column("key_id", String(32), nullable=False),
    Column("nonce", LargeBinary, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("updated_at", Double, nullable=False),
)

# Outlives the credentials themselves: deleting one is a change too, and must not repeat a revision.
credential_revisions = Table(
    "credential_revisions",
    metadata,
    Column("user_id", String(64), ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("server", String(63), primary_key=True),
    Column("revision", BigInteger, nullable=False),
)

server_states = Table(
    "server_states",
    metadata,
    Column("server", String(63), primary_key=True),
    Column("enabled", Boolean, nullable=False),
    Column("pin", Text),  # JSON, or NULL for a server that is not pinned
    Column("updated_at", Double, nullable=False),
)

evidence = Table(
    "evidence",
    metadata,
    Column("id", _Sequence, primary_key=True),
    Column("server", String(63), nullable=False),
    Column("version", String(255), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("by", String(64), nullable=False),
    Column("at", Double, nullable=False),
    Column("note", Text, nullable=False),
    Index(None, "server", "version"),
)

tool_catalogs = Table(
    "tool_catalogs",
    metadata,
    Column("server", String(63), primary_key=True),
    Column("version", String(255), primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("at", Double, nullable=False),
)

# Which era, and which HTTP transport, a version of a server speaks.
server_dialects = Table(
    "server_dialects",
    metadata,
    Column("server", String(63), primary_key=True),
    Column("version", String(255), primary_key=True),
    Column("dialect", String(16), nullable=False),
    Column("at", Double, nullable=False),
)

# No foreign key: records outlive the user, by opaque id.
# Requests that are alike but for what `calls` has of each; written at once (ADR 0019).
request_series = Table(
    "request_series",
    metadata,
    Column("seq", _Sequence, primary_key=True),
    Column("id", String(64), nullable=False, unique=True),  # of the first of them
    Column("until", Double, nullable=False),  # when the last of them ended
    Column("requests", Integer, nullable=False),
    Column("calls", Text, nullable=False),  # JSON: an array of `OWN` for each
    Column("user_id", String(64), nullable=False),
    Column("session", String(8), nullable=False),
    Column("server", String(63), nullable=False),
    Column("method", String(64), nullable=False),
    Column("name", String(128), nullable=False),
    Column("instance_id", String(64), nullable=False),
    Column("era", String(16), nullable=False),
    Column("client", String(128), nullable=False),
    Column("decision", String(64), nullable=False),
    Column("trace_id", String(64), nullable=False),
    Index(None, "until"),
    Index(None, "user_id", "until"),
    Index(None, "server", "until"),
)

audit_events = Table(
    "audit_events",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
    Column("actor", String(128), nullable=False),
    Column("action", String(64), nullable=False),
    Column("subject", String(255), nullable=False),
    Column("detail", Text, nullable=False),  # canonical JSON, hashed as it stands
    Column("prev_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
)
