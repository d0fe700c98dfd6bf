"""Versions, the blobs that they refer to, aliases and events."""

import sqlalchemy as sa
from alembic import op

from adaptery.registry.sql.columns import plain
from adaptery.registry.sql.migrations.triggers import forbid

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "versions",
        sa.Column("adapter", plain(64), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("digest", plain(64), nullable=False),
        sa.Column("manifest", sa.Text, nullable=False),
        sa.Column("created_at", plain(32), nullable=False),
        sa.Column("created_by", sa.String, nullable=False),
        sa.UniqueConstraint("adapter", "digest", name="one_version_per_digest"),
    )
    op.create_table(
        "version_blobs",
        sa.Column("adapter", plain(64), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("sha256", plain(64), primary_key=True),
        _version_key(),
    )
    op.create_table(
        "aliases",
        sa.Column("adapter", plain(64), primary_key=True),
        sa.Column("name", plain(32), primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        _version_key(),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("adapter", plain(64), nullable=False, index=True),
        sa.Column("kind", plain(32), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("alias", plain(32)),
        sa.Column("previous", sa.Integer),
        sa.Column("generation", sa.Integer),
        sa.Column("actor", sa.String, nullable=False),
        sa.Column("at", plain(32), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        _version_key(),
        sa.UniqueConstraint("adapter", "alias", "generation", name="one_move_per_generation"),
        sqlite_autoincrement=True,
    )
    for table in ("versions", "events"):
        forbid(table, "UPDATE", "DELETE")


def _version_key() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["adapter", "number"], ["versions.adapter", "versions.number"])
