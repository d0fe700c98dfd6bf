"""The catalogue's tables. `migrations/` makes them; a test holds the two together.

Versions and events are only ever added: triggers refuse everything else. Aliases and yanks are
what the events add up to, kept beside them so that a reference is resolved by one lookup.
Times are ISO 8601 texts in UTC, which sort as times do and read the same in every database.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from adaptery.registry.sql.columns import plain

# The newest migration. Opening a catalogue compares this with what it holds, without Alembic.
HEAD = "0002"

metadata = MetaData()


def _version_key() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["adapter", "number"], ["versions.adapter", "versions.number"])


# Who writes about an adapter locks its row first, and counts the event in it.
adapters = Table(
    "adapters",
    metadata,
    Column("name", plain(64), primary_key=True),
    Column("events", Integer, nullable=False),
)

# The columns after `created_by` repeat what the manifest says, for lists to filter by.
versions = Table(
    "versions",
    metadata,
    Column("adapter", plain(64), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("digest", plain(64), nullable=False),
    Column("manifest", Text, nullable=False),
    Column("created_at", plain(32), nullable=False),
    Column("created_by", String, nullable=False),
    Column("method", String, nullable=False),
    Column("base_id", String, nullable=False),
    Column("base_digest", plain(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    UniqueConstraint("adapter", "digest", name="one_version_per_digest"),
    # All that `listing.py` needs to find a page, so that no manifest is read for it.
    Index(
        "versions_to_list",
        *("adapter", "number", "method", "base_id", "base_digest", "created_at"),
    ),
)

# The manifest's metrics, for lists to sort by.
metrics = Table(
    "metrics",
    metadata,
    Column("adapter", plain(64), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("name", String, primary_key=True),
    Column("value", Float(53), nullable=False),
    _version_key(),
)

# Which blobs a version refers to: what garbage collection must not take.
version_blobs = Table(
    "version_blobs",
    metadata,
    Column("adapter", plain(64), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("sha256", plain(64), primary_key=True),
    _version_key(),
    Index("version_blobs_by_digest", "sha256"),
)

aliases = Table(
    "aliases",
    metadata,
    Column("adapter", plain(64), primary_key=True),
    Column("name", plain(32), primary_key=True),
    Column("number", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    _version_key(),
)

# The versions that are yanked now.
yanks = Table(
    "yanks",
    metadata,
    Column("adapter", plain(64), primary_key=True),
    Column("number", Integer, primary_key=True),
    _version_key(),
)

# `sequence` counts an adapter's events from 1; `chain` is the digest of its history up to here.
events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("adapter", plain(64), nullable=False, index=True),
    Column("kind", plain(32), nullable=False),
    Column("number", Integer, nullable=False),
    Column("alias", plain(32)),
    Column("previous", Integer),
    Column("generation", Integer),
    Column("actor", String, nullable=False),
    Column("at", plain(32), nullable=False),
    Column("reason", Text, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("data", Text, nullable=False),
    Column("chain", plain(64), nullable=False),
    _version_key(),
    UniqueConstraint("adapter", "alias", "generation", name="one_move_per_generation"),
    Index("one_event_per_sequence", "adapter", "sequence", unique=True),
    sqlite_autoincrement=True,
)
