"""What a local registry's database says: which versions, aliases and events there are."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Select, bindparam, delete, insert, select, true, update
from sqlalchemy.dialects import postgresql, sqlite

from adaptery.errors import Conflict, CorruptFile
from adaptery.registry.line import Line, chained, published_digests
from adaptery.registry.listing import Listed, Query
from adaptery.registry.reports import Finding
from adaptery.registry.sql import listing
from adaptery.registry.sql.checks import check_adapter, check_database
from adaptery.registry.sql.checks import names as checked_names
from adaptery.registry.sql.database import Database
from adaptery.registry.sql.rows import (
    from_event,
    from_version,
    publication_data,
    to_event,
    to_version,
)
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
)

_VERSIONS = select(versions).order_by(versions.c.adapter, versions.c.number)
_KEYS = select(versions.c.adapter, versions.c.number, versions.c.digest).order_by(
    versions.c.adapter, versions.c.number
)
_ALIASES = select(aliases).order_by(aliases.c.adapter, aliases.c.name)
_EVENTS = (
    select(events)
    .where(events.c.adapter == bindparam("adapter"), events.c.sequence >= bindparam("first"))
    .order_by(events.c.sequence)
)
# A version, and what its publication said that it is.
_VERSION = (
    select(versions, events.c.data.label("published"))
    .outerjoin(
        events,
        (events.c.adapter == versions.c.adapter)
        & (events.c.number == versions.c.number)
        & (events.c.kind == EventKind.PUBLISHED.value),
    )
    .where(versions.c.adapter == bindparam("adapter"), versions.c.number == bindparam("number"))
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

_HISTORIES = 256  # adapters whose events are kept in memory
_LISTED = 8192  # versions, if there are no more, that a list of all keeps in memory


class Catalogue:
    """Typed reads and writes of the tables in `schema`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Versions never change, so what was read and verified once need not be read again.
        self._version = lru_cache(maxsize=4096)(self._load)
        self._listed: Mapping[Any, Version] = {}  # adapter, number and digest -> version
        # Nor do the events that a history begins with: adapter -> events, and their digest.
        self._histories: dict[str, tuple[tuple[Event, ...], str]] = {}

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
            row = connection.execute(_VERSION, {"adapter": name, "number": number}).first()
        if row is None:
            raise CorruptFile(f"The catalogue has lost {name}@{number}.")
        version = to_version(row)
        if row.published != publication_data(version.digest):
            raise CorruptFile(
                f"The manifest of {version} is not the one that its publication names: "
                f"{row.published}, found sha256:{version.digest}."
            )
        return version

    def versions(self, name: str | None) -> list[Version]:
        """All versions, of one adapter or of all, in order of name and number."""
        mine = true() if name is None else versions.c.adapter == name
        with self._database.read() as connection:
            keys = connection.execute(_KEYS.where(mine)).all()
            if all(key in self._listed for key in keys):
                return [self._listed[key] for key in keys]
            found = [to_version(row) for row in connection.execute(_VERSIONS.where(mine))]
        if name is None and len(found) <= _LISTED:
            self._listed = {(v.name, v.number, v.digest): v for v in found}
        return found

    def newest(self, query: Query) -> list[Listed]:
        """A row per adapter on the query's page. Raises `UnknownName` for an unknown metric."""
        with self._database.snapshot() as connection:
            return listing.newest(connection, query)

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
            return self._line(connection, name)

    def _line(self, connection: Connection, name: str) -> Line:
        """The line, of which only what is new since the last time is read."""
        known, chain = self._histories.get(name, ((), ""))
        rows = connection.execute(_EVENTS, {"adapter": name, "first": max(len(known), 1)}).all()
        if known and rows and rows[0].chain == chain:
            rows = rows[1:]
        elif known:  # Another history has taken its place, which is not for us to explain.
            del self._histories[name]
            return self._line(connection, name)
        history = (*known, *(to_event(row) for row in rows))
        if rows:
            self._histories[name] = history, rows[-1].chain
            if len(self._histories) > _HISTORIES:
                del self._histories[next(iter(self._histories))]
        return Line(name, published_digests(history), history)

    def check(self, *, repair: bool) -> list[Finding]:
        """What is not as it must be, of every adapter; `repair` rebuilds what can be derived."""
        self.forget()
        transaction = self._database.write if repair else self._database.snapshot
        with transaction() as connection:
            found = list(check_database(connection))
            for name in checked_names(connection):
                if repair:  # Nobody moves an alias between our look and what we rebuild.
                    connection.execute(_row(name).with_for_update())
                found += check_adapter(connection, name, repair=repair)
        return found

    @contextmanager
    def collecting(self, digests: Iterable[str]) -> Iterator[list[str]]:
        """Those of the blobs that no version refers to; none can come to while this is open."""
        with self._database.exclusive() as connection:
            used = select(version_blobs.c.sha256).where(version_blobs.c.sha256.in_(list(digests)))
            yield sorted(set(digests) - set(connection.scalars(used)))

    def forget(self) -> None:
        """Read everything afresh from now on."""
        self._version.cache_clear()
        self._listed = {}
        self._histories.clear()

    def commit(
        self,
        name: str,
        decide: Decide,
        manifest: Manifest | None,
        check: Callable[[], None] = lambda: None,
    ) -> Event | None:
        """Write down the event that `decide` wants next, if any, with the version of `manifest`.

        One transaction: nobody else writes about the adapter between the line that `decide` sees
        and its event. `check` is called when no collector can come between any more; what it
        raises undoes the transaction.

        Raises:
            Conflict: somebody did although nobody could.
        """
        with self._database.write() as connection:
            _lock(connection, name)
            event = decide(self._line(connection, name))
            if event is None:
                return None
            if manifest is not None:
                _insert_version(connection, event, manifest)
                check()
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


def _lock(connection: Connection, name: str) -> None:
    """Let nobody else write about the adapter until this transaction ends."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    row = dialect.insert(adapters).values(name=name, events=0).on_conflict_do_nothing()
    connection.execute(row)
    connection.execute(_row(name).with_for_update())


def _row(name: str) -> Select[tuple[str, int]]:
    return select(adapters).where(adapters.c.name == name)


def _insert_version(connection: Connection, event: Event, manifest: Manifest) -> None:
    key = {"adapter": event.adapter, "number": event.number}
    connection.execute(insert(versions), from_version(event, manifest))
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
    connection.execute(insert(events), from_event(event, chained(chain, event)))
    counted = connection.execute(
        update(adapters).filter_by(name=event.adapter, events=event.id - 1).values(events=event.id)
    )
    if counted.rowcount != 1:
        raise Conflict(f"Somebody else changed {event.adapter} meanwhile. Try again.")
