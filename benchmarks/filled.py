"""A registry filled with many versions at once, for looking things up in.

Publishing 100,000 versions one by one takes longer than a benchmark should. So the catalogue's own
functions make the rows, and they are written many to a transaction. What is in the catalogue is
exactly what publishing would have left there, which `fsck`'s checks of a sample confirm; there are
no blobs, which looking things up does not need.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Table, insert

from adaptery.registry import steps
from adaptery.registry.line import Line, chained
from adaptery.registry.local import LocalRegistry
from adaptery.registry.sql import schema
from adaptery.registry.sql.checks import check_adapter
from adaptery.registry.sql.database import Database
from adaptery.registry.sql.rows import from_event, from_version
from adaptery.registry.sql.sqlite import SqliteDatabase
from adaptery.types import BaseIdentity, Event, FileEntry, Manifest, ProbePrompt, TokenScore

Row = tuple[Table, dict[str, Any]]
METHODS = ("lora", "qlora", "loraplus", "adalora")
BASES = tuple(
    BaseIdentity(id=f"org/base-{number}", digest=hashlib.sha256(bytes([number])).hexdigest())
    for number in range(8)
)
_AT_ONCE = 200  # adapters in a transaction
# As long as those that training records.
_PROBE = tuple(
    ProbePrompt(
        token_ids=tuple(range(1000 * prompt, 1000 * prompt + 40)),
        top=tuple(
            TokenScore(token=t, trained=-0.1234567 - t, base=-1.234567 - t) for t in range(5)
        ),
    )
    for prompt in range(4)
)


def fill(root: Path, adapters: int, versions: int) -> LocalRegistry:
    """A registry in `root` with so many adapters (`adapter-00000` …) of so many versions each."""
    registry = LocalRegistry.open(str(root))
    registry.init()
    database = SqliteDatabase(root / "catalogue.sqlite3")
    for start in range(0, adapters, _AT_ONCE):
        numbers = range(start, min(start + _AT_ONCE, adapters))
        _write(database, [row for number in numbers for row in _adapter(number, versions)])
    with database.snapshot() as connection:
        sample = (name_of(number) for number in range(0, adapters, max(1, adapters // 20)))
        findings = [f for name in sample for f in check_adapter(connection, name, repair=False)]
    if findings:
        raise SystemExit(f"The catalogue was not filled as publishing would: {findings[0]}")
    return LocalRegistry.open(str(root))


def name_of(number: int) -> str:
    return f"adapter-{number:05d}"


def _adapter(number: int, versions: int) -> Iterator[Row]:
    """The rows of one adapter's whole history."""
    line, chain, digests = Line(name_of(number)), "", dict[int, str]()
    events: list[Event] = []
    for turn in range(versions):
        manifest = _manifest(number, turn)
        event = steps.publication(line, manifest.digest, None, "filled in", ())
        chain = chained(chain, event)
        digests[event.number] = manifest.digest
        events.append(event)
        line = Line(line.name, digests, events)
        yield from _version(event, manifest, chain)
    yield schema.adapters, {"name": line.name, "events": len(events)}


def _version(event: Event, manifest: Manifest, chain: str) -> Iterator[Row]:
    key = {"adapter": event.adapter, "number": event.number}
    yield schema.versions, from_version(event, manifest)
    yield schema.events, from_event(event, chain)
    for name, value in manifest.metrics.items():
        yield schema.metrics, {**key, "name": name, "value": value}
    for file in manifest.files:
        yield schema.version_blobs, {**key, "sha256": file.sha256}
    if event.alias is not None:
        target = {"number": event.number, "generation": event.generation}
        yield schema.aliases, {"adapter": event.adapter, "name": event.alias, **target}


def _manifest(number: int, turn: int) -> Manifest:
    seed = 1000 * number + turn
    digest = hashlib.sha256(str(seed).encode()).hexdigest()
    score = int(digest[:8], 16) / 2**32
    return Manifest(
        files=(
            FileEntry(path="adapter_config.json", size=700, sha256=digest[::-1]),
            FileEntry(path="adapter_model.safetensors", size=17_600_000, sha256=digest),
        ),
        base=BASES[number % len(BASES)],
        method=METHODS[(number + turn) % len(METHODS)],
        config={"lora": {"r": 16, "alpha": 32.0}, "training": {"epochs": 1.0, "seed": seed}},
        seed=seed,
        metrics={"f1": score, "loss": 1 - score},
        probe=_PROBE,
    )


def _write(database: Database, rows: list[Row]) -> None:
    with database.write() as connection:
        for table in schema.metadata.sorted_tables:
            if own := [row for target, row in rows if target is table]:
                connection.execute(insert(table), own)
