"""The catalogue's tables. `migrations/` makes them; a test holds the two together.

Times are ISO 8601 texts in UTC, which sort as times do and read the same in every database.
"""

from sqlalchemy import (
    Column,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

# The newest migration. Opening a catalogue compares this with what it holds, without Alembic.
HEAD = "0001"

metadata = MetaData()

versions = Table(
    "versions",
    metadata,
    Column("adapter", String(64), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("manifest", Text, nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("created_by", String, nullable=False),
    UniqueConstraint("adapter", "digest", name="one_version_per_digest"),
)

# Which blobs a version refers to: what garbage collection must not take.
version_blobs = Table(
    "version_blobs",
    metadata,
    Column("adapter", String(64), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("sha256", String(64), primary_key=True),
    ForeignKeyConstraint(["adapter", "number"], ["versions.adapter", "versions.number"]),
)

aliases = Table(
    "aliases",
    metadata,
    Column("adapter", String(64), primary_key=True),
    Column("name", String(32), primary_key=True),
    Column("number", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    ForeignKeyConstraint(["adapter", "number"], ["versions.adapter", "versions.number"]),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("adapter", String(64), nullable=False, index=True),
    Column("kind", String(32), nullable=False),
    Column("number", Integer, nullable=False),
    Column("alias", String(32)),
    Column("previous", Integer),
    Column("generation", Integer),
    Column("actor", String, nullable=False),
    Column("at", String(32), nullable=False),
    Column("reason", Text, nullable=False),
    ForeignKeyConstraint(["adapter", "number"], ["versions.adapter", "versions.number"]),
    UniqueConstraint("adapter", "alias", "generation", name="one_move_per_generation"),
    sqlite_autoincrement=True,
)
