"""Is the catalogue what it must be? Everything in it is checked against the history it tells.

Versions and events are the truth: digests and the chain prove them. Aliases, yanks, counts,
references to blobs and metrics repeat it in a form that is quick to ask; where they differ they
are written anew.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Connection, Table, delete, insert, select

from adaptery.errors import CorruptFile
from adaptery.registry.line import Line, chained
from adaptery.registry.reports import Finding
from adaptery.registry.sql.rows import columns_of, to_event, to_version
from adaptery.registry.sql.schema import (
    adapters,
    aliases,
    events,
    metrics,
    version_blobs,
    versions,
    yanks,
)
from adaptery.types import Event, EventKind, Version

_REBUILT = "It was rebuilt from the history."
Rows = set[tuple[Any, ...]]


def check_database(connection: Connection) -> Iterator[Finding]:
    """What the database says of its own file. PostgreSQL answers for itself."""
    if connection.dialect.name != "sqlite":
        return
    for (said,) in connection.exec_driver_sql("PRAGMA integrity_check"):
        if said != "ok":
            yield Finding("the catalogue", f"SQLite finds it damaged: {said}.")


def names(connection: Connection) -> list[str]:
    """Every adapter that any table mentions."""
    columns = (adapters.c.name, versions.c.adapter, events.c.adapter, aliases.c.adapter)
    found = {name for column in columns for name in connection.scalars(select(column))}
    return sorted(found, key=str)  # in a damaged catalogue a name may be of any type


def check_adapter(connection: Connection, name: str, *, repair: bool) -> Iterator[Finding]:
    """What is wrong with one adapter's rows. Rebuilds what only repeats the history."""
    found = list(_check_truth(connection, name))
    yield from found
    if not found:
        yield from _check_repeated(connection, name, repair)


def _check_truth(connection: Connection, name: str) -> Iterator[Finding]:
    """Versions prove themselves by their digests, events by the chain; and they agree."""
    kept: dict[int, Any] = {}
    for row in connection.execute(_of(versions, name)):
        yield from _check_version(f"{name}@{row.number}", row)
        if isinstance(row.number, int):
            kept[row.number] = row
    history: list[Event] = []
    chain = ""
    for place, row in enumerate(connection.execute(_of(events, name, events.c.sequence)), 1):
        try:
            event = to_event(row)
            chain = chained(chain, event)
        except (CorruptFile, ValueError) as error:
            yield Finding(f"the history of {name}", str(error))
            return
        if event.id != place or chain != row.chain:
            problem = f"Event {place} is missing, or it or one before it was changed."
            yield Finding(f"the history of {name}", problem)
            return
        history.append(event)
    yield from _check_agreement(name, kept, history)


def _check_version(subject: str, row: Any) -> Iterator[Finding]:
    try:
        version = to_version(row)
    except (CorruptFile, ValueError) as error:
        yield Finding(subject, str(error))
        return
    written = {key: row._mapping[key] for key in columns_of(version.manifest)}
    if written != columns_of(version.manifest):
        yield Finding(subject, "The catalogue's columns do not say what the manifest says.")


def _check_agreement(name: str, kept: dict[int, Any], history: list[Event]) -> Iterator[Finding]:
    """Every version has one publication, of the same manifest, and there is nothing more."""
    published = {e.number: e for e in history if e.kind is EventKind.PUBLISHED}
    for number in sorted(published.keys() - kept.keys()):
        yield Finding(f"{name}@{number}", "It was published, but the catalogue has lost it.")
    for number in sorted(kept.keys() - published.keys()):
        yield Finding(f"{name}@{number}", "It is there, but the history does not know of it.")
    for number in sorted(kept.keys() & published.keys()):
        event, row = published[number], kept[number]
        said = event.data.get("digest"), event.at.isoformat(), event.actor
        if said != (row.digest, row.created_at, row.created_by):
            problem = "Its row and its publication differ in what, when or who."
            yield Finding(f"{name}@{number}", problem)


def _check_repeated(connection: Connection, name: str, repair: bool) -> Iterator[Finding]:
    rows = connection.execute(_of(versions, name))
    kept: list[Version] = [to_version(row) for row in rows]
    history = [to_event(row) for row in connection.execute(_of(events, name, events.c.sequence))]
    line = Line(name, {version.number: version.digest for version in kept}, history)
    for table, subject, rows_wanted in (
        (adapters, "count of events", [(name, len(history))]),
        (
            aliases,
            "aliases",
            [(name, a.name, a.number, a.generation) for a in line.aliases.values()],
        ),
        (yanks, "yanks", [(name, number) for number in line.yanked]),
        (version_blobs, "references to blobs", list(_blob_rows(kept))),
        (metrics, "metrics", list(_metric_rows(kept))),
    ):
        yield from _compare(connection, table, name, subject, set(rows_wanted), repair)


def _compare(
    connection: Connection, table: Table, name: str, subject: str, wanted: Rows, repair: bool
) -> Iterator[Finding]:
    own = table.c.name if table is adapters else table.c.adapter
    if {tuple(row) for row in connection.execute(select(table).where(own == name))} == wanted:
        return
    if repair:
        connection.execute(delete(table).where(own == name))
        columns = [column.name for column in table.columns]
        rows = [dict(zip(columns, row, strict=True)) for row in sorted(wanted)]
        if rows:
            connection.execute(insert(table), rows)
    yield Finding(
        f"the {subject} of {name}",
        "The catalogue does not say what the history says.",
        _REBUILT if repair else None,
    )


def _of(table: Table, name: str, *order: Any) -> Any:
    chosen = select(table).where(table.c.adapter == name)
    return chosen.order_by(*(order or (table.c.number,)))


def _blob_rows(kept: Iterable[Version]) -> Iterator[tuple[str, int, str]]:
    for version in kept:
        for sha256 in {file.sha256 for file in version.manifest.files}:
            yield version.name, version.number, sha256


def _metric_rows(kept: Iterable[Version]) -> Iterator[tuple[str, int, str, float]]:
    for version in kept:
        for metric, value in version.manifest.metrics.items():
            yield version.name, version.number, metric, value
