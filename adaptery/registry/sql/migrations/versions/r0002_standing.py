"""Yanks, tags and notes; a digest over every history; columns to filter and sort lists by."""

import json
from datetime import datetime

import sqlalchemy as sa
from alembic import op

from adaptery.registry.line import chained
from adaptery.registry.sql.columns import plain
from adaptery.registry.sql.migrations.triggers import forbid, permit
from adaptery.types import Event, EventKind, canonical_json

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "adapters",
        sa.Column("name", plain(64), primary_key=True),
        sa.Column("events", sa.Integer, nullable=False),
    )
    op.create_table(
        "metrics",
        sa.Column("adapter", plain(64), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("value", sa.Float(53), nullable=False),
        _version_key(),
    )
    op.create_table(
        "yanks",
        sa.Column("adapter", plain(64), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        _version_key(),
    )
    op.create_index("version_blobs_by_digest", "version_blobs", ["sha256"])
    for table in ("versions", "events"):
        permit(table, "UPDATE")
    _extend_versions()
    _extend_events()
    op.create_index(
        "versions_to_list",
        "versions",
        ["adapter", "number", "method", "base_id", "base_digest", "created_at"],
    )
    for table in ("versions", "events"):
        forbid(table, "UPDATE")


def _extend_versions() -> None:
    for column in ("method", "base_id"):
        op.add_column("versions", sa.Column(column, sa.String, nullable=False, server_default=""))
    op.add_column(
        "versions", sa.Column("base_digest", plain(64), nullable=False, server_default="")
    )
    op.add_column("versions", sa.Column("size", sa.BigInteger, nullable=False, server_default="0"))
    connection = op.get_bind()
    fill = sa.text(
        "UPDATE versions SET method = :method, base_id = :base_id, base_digest = :base_digest, "
        "size = :size WHERE adapter = :adapter AND number = :number"
    )
    score = sa.text("INSERT INTO metrics VALUES (:adapter, :number, :name, :value)")
    rows = connection.execute(sa.text("SELECT adapter, number, manifest FROM versions")).all()
    for adapter, number, text in rows:
        manifest = json.loads(text)
        key = {"adapter": adapter, "number": number}
        repeated = {
            "method": manifest["method"],
            "base_id": manifest["base"]["id"],
            "base_digest": manifest["base"]["digest"],
            "size": sum(file["size"] for file in manifest["files"]),
        }
        connection.execute(fill, {**key, **repeated})
        for name, value in manifest["metrics"].items():
            connection.execute(score, {**key, "name": name, "value": value})


def _extend_events() -> None:
    op.add_column("events", sa.Column("sequence", sa.Integer, nullable=False, server_default="0"))
    op.add_column("events", sa.Column("data", sa.Text, nullable=False, server_default="{}"))
    op.add_column("events", sa.Column("chain", plain(64), nullable=False, server_default=""))
    connection = op.get_bind()
    rows = connection.execute(
        sa.text(
            "SELECT e.id, e.adapter, kind, e.number, alias, previous, generation, actor, at, "
            "reason, digest FROM events e JOIN versions v "
            "ON v.adapter = e.adapter AND v.number = e.number ORDER BY e.id"
        )
    ).all()
    fill = sa.text(
        "UPDATE events SET sequence = :sequence, data = :data, chain = :chain WHERE id = :id"
    )
    ends: dict[str, tuple[int, str]] = {}
    for key, adapter, kind, number, alias, previous, generation, actor, at, reason, digest in rows:
        count, chain = ends.get(adapter, (0, ""))
        event = Event(
            count + 1,
            adapter,
            EventKind(kind),
            number,
            alias,
            previous,
            generation,
            actor,
            datetime.fromisoformat(at),
            reason,
            {"digest": digest} if kind == EventKind.PUBLISHED else {},
        )
        ends[adapter] = event.id, chained(chain, event)
        written = {
            "sequence": event.id,
            "data": canonical_json(event.data).decode(),
            "chain": ends[adapter][1],
        }
        connection.execute(fill, {"id": key, **written})
    op.create_index("one_event_per_sequence", "events", ["adapter", "sequence"], unique=True)
    for adapter, (count, _) in ends.items():
        insert = sa.text("INSERT INTO adapters VALUES (:name, :events)")
        connection.execute(insert, {"name": adapter, "events": count})


def _version_key() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["adapter", "number"], ["versions.adapter", "versions.number"])
