"""What a local registry's database says: which versions, aliases and events there are."""

import hashlib
import json
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from adaptery.errors import Conflict, CorruptFile
from adaptery.registry.files.digests import mismatch
from adaptery.registry.line import Line, chained
from adaptery.registry.sql.database import Database
from adaptery.registry.sql.schema import (
    adapters,
    aliases,
    events,
    metrics,
    version_blobs,
    versions,
    yanks,
)
from adaptery.registry.steps import Decide
from adaptery.types import (
    LATEST,
    LIVE,
    AdapterRef,
    Alias,
    Event,
    EventKind,
    Manifest,
    Version,
    canonical_json,
)

_VERSIONS = select(versions).order_by(versions.c.adapter, versions.c.number)
_ALIASES = select(aliases).order_by(aliases.c.adapter, aliases.c.name)
_EVENTS = select(events).where(events.c.adapter == bindparam("adapter")).order_by(events.c.sequence)
_VERSION = select(versions).where(
    versions.c.adapter == bindparam("adapter"), versions.c.number == bindparam("number")
)
# What a reference means: at most two rows, because two are already too many.
_IDENTITY = select(versions.c.number, versions.c.digest).where(
    versions.c.adapter == bindparam("adapter")
)
_BY_NUMBER = _IDENTITY.where(versions.c.number == bindparam("number"))
_BY_DIGEST = _IDENTITY.where(
    versions.c.digest.between(bindparam("first"), bindparam("last"))
).limit(2)
_YANKED = select(yanks.c.number).where(yanks.c.adapter == bindparam("adapter"))
_LATEST = (
    _IDENTITY.where(versions.c.number.not_in(_YANKED)).order_by(versions.c.number.desc()).limit(1)
)
_BY_ALIAS = _IDENTITY.join(
    aliases, (aliases.c.adapter == versions.c.adapter) & (aliases.c.number == versions.c.number)
).where(aliases.c.name == bindparam("alias"))
_STORAGE = {"sequence", "chain"}  # columns that are not fields of an Event


class Catalogue:
    """Typed reads and writes of the tables in `schema`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Versions never change, so what was read and verified once need not be read again.
        self._version = lru_cache(maxsize=1024)(self._load)

    def resolve(self, ref: AdapterRef) -> Version | None:
        """The version that `ref` means, or None if it means none or several."""
        statement, keys = _meaning(ref)
        with self._database.read() as connection:
            found = connection.execute(statement, {"adapter": ref.name, **keys}).all()
        return self.version(ref.name, found[0].number) if len(found) == 1 else None

    def version(self, name: str, number: int) -> Version:
        """The version, which must be there.

        Raises:
            CorruptFile: the manifest no longer has its digest.
        """
        return self._version(name, number)

    def _load(self, name: str, number: int) -> Version:
        with self._database.read() as connection:
            return _to_version(
                connection.execute(_VERSION, {"adapter": name, "number": number}).one()
            )

    def versions(self, name: str | None) -> list[Version]:
        """All versions, of one adapter or of all, in order of name and number."""
        chosen = _VERSIONS if name is None else _VERSIONS.where(versions.c.adapter == name)
        with self._database.read() as connection:
            return [_to_version(row) for row in connection.execute(chosen)]

    def aliases(self, name: str | None) -> list[Alias]:
        """All aliases, of one adapter or of all, in order of adapter and name."""
        chosen = _ALIASES if name is None else _ALIASES.where(aliases.c.adapter == name)
        with self._database.read() as connection:
            return [Alias(*row) for row in connection.execute(chosen)]

    def names(self) -> list[str]:
        """All adapters."""
        with self._database.read() as connection:
            return list(connection.scalars(select(versions.c.adapter).distinct()))

    def line(self, name: str) -> Line:
        """The adapter's line of versions, as of one moment; empty if there is none."""
        with self._database.snapshot() as connection:
            return _line(connection, name)

    def commit(self, name: str, decide: Decide, manifest: Manifest | None) -> Event | None:
        """Write down the event that `decide` wants next, if any, with the version of `manifest`.

        One transaction: nobody else writes about the adapter between the line that `decide` sees
        and its event.

        Raises:
            Conflict: somebody did although nobody could.
        """
        with self._database.write() as connection:
            _lock(connection, name)
            event = decide(_line(connection, name))
            if event is None:
                return None
            if manifest is not None:
                _insert_version(connection, event, manifest)
            if event.alias is not None:
                _move_alias(connection, event)
            _mark_yanked(connection, event)
            _insert_event(connection, event)
        return event


def _meaning(ref: AdapterRef) -> tuple[Select[tuple[int, str]], dict[str, str | int]]:
    """The query for what `ref` means, and its parameters beside the adapter's name."""
    if ref.number is not None:
        return _BY_NUMBER, {"number": ref.number}
    if ref.digest is not None:
        return _BY_DIGEST, {"first": ref.digest, "last": ref.digest + "g"}
    if ref.alias == LATEST:
        return _LATEST, {}
    return _BY_ALIAS, {"alias": ref.alias or LIVE}


def _line(connection: Connection, name: str) -> Line:
    keys = {"adapter": name}
    digests = {row.number: row.digest for row in connection.execute(_IDENTITY, keys)}
    return Line(name, digests, [_to_event(row) for row in connection.execute(_EVENTS, keys)])


def _to_version(row: Row[Any]) -> Version:
    found = hashlib.sha256(row.manifest.encode()).hexdigest()
    if found != row.digest:
        raise CorruptFile(
            mismatch(f"The manifest of {row.adapter}@{row.number}", row.digest, found)
        )
    return Version(
        name=row.adapter,
        number=row.number,
        manifest=Manifest.model_validate_json(row.manifest),
        digest=row.digest,
        created_at=datetime.fromisoformat(row.created_at),
        created_by=row.created_by,
    )


def _to_event(row: Row[Any]) -> Event:
    fields = {key: value for key, value in row._mapping.items() if key not in _STORAGE}
    try:
        written = {
            "id": row.sequence,
            "kind": EventKind(row.kind),
            "at": datetime.fromisoformat(row.at),
            "data": json.loads(row.data),
        }
    except (TypeError, ValueError) as error:
        raise CorruptFile(
            f"Event {row.sequence} of {row.adapter} in the catalogue is damaged: {error}."
        ) from error
    return Event(**{**fields, **written})


def _lock(connection: Connection, name: str) -> None:
    """Let nobody else write about the adapter until this transaction ends."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    row = dialect.insert(adapters).values(name=name, events=0).on_conflict_do_nothing()
    connection.execute(row)
    connection.execute(select(adapters).where(adapters.c.name == name).with_for_update())


def _insert_version(connection: Connection, event: Event, manifest: Manifest) -> None:
    key = {"adapter": event.adapter, "number": event.number}
    row = {
        **key,
        "digest": manifest.digest,
        "manifest": manifest.canonical().decode(),
        "created_at": event.at.isoformat(),
        "created_by": event.actor,
        "method": manifest.method,
        "base_id": manifest.base.id,
        "base_digest": manifest.base.digest,
        "size": manifest.size,
    }
    connection.execute(insert(versions), row)
    if manifest.metrics:
        scores = [{**key, "name": n, "value": value} for n, value in manifest.metrics.items()]
        connection.execute(insert(metrics), scores)
    blobs = sorted({file.sha256 for file in manifest.files})
    connection.execute(insert(version_blobs), [{**key, "sha256": blob} for blob in blobs])


def _move_alias(connection: Connection, event: Event) -> None:
    """Compare-and-swap on the alias' generation."""
    target = {"number": event.number, "generation": event.generation}
    key = {"adapter": event.adapter, "name": event.alias}
    if event.generation == 1:
        connection.execute(insert(aliases), {**key, **target})
        return
    previous = (event.generation or 0) - 1
    moved = connection.execute(
        update(aliases).filter_by(**key, generation=previous).values(**target)
    )
    if moved.rowcount != 1:
        raise Conflict(f"The alias {event.alias!r} of {event.adapter} moved meanwhile. Try again.")


def _mark_yanked(connection: Connection, event: Event) -> None:
    key = {"adapter": event.adapter, "number": event.number}
    if event.kind is EventKind.YANKED:
        connection.execute(insert(yanks), key)
    elif event.kind is EventKind.UNYANKED:
        connection.execute(delete(yanks).filter_by(**key))


def _insert_event(connection: Connection, event: Event) -> None:
    """Write the event down, and count it: two with one number cannot both be written."""
    before = select(events.c.chain).filter_by(adapter=event.adapter, sequence=event.id - 1)
    chain = connection.execute(before).scalar() or ""
    row = {
        "adapter": event.adapter,
        "sequence": event.id,
        "kind": event.kind.value,
        "number": event.number,
        "alias": event.alias,
        "previous": event.previous,
        "generation": event.generation,
        "actor": event.actor,
        "at": event.at.isoformat(),
        "reason": event.reason,
        "data": canonical_json(dict(event.data)).decode(),
        "chain": chained(chain, event),
    }
    connection.execute(insert(events), row)
    counted = connection.execute(
        update(adapters).filter_by(name=event.adapter, events=event.id - 1).values(events=event.id)
    )
    if counted.rowcount != 1:
        raise Conflict(f"Somebody else changed {event.adapter} meanwhile. Try again.")
