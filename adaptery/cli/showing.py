"""`adapters show` and `history`: all that is known of a version, and all that ever happened."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from adaptery.cli.context import (
    human_size,
    json_option,
    moment,
    open_registry,
    print_json,
    print_table,
    registry_option,
    version_data,
)
from adaptery.cli.params import name_argument, ref_argument
from adaptery.cli.standing import tag_list
from adaptery.types import AdapterRef, Event, EventKind, Standing, Version

if TYPE_CHECKING:
    from adaptery.registry.base import Registry

Row = tuple[str, object]


@click.command("show")
@ref_argument
@click.option("--files", is_flag=True, help="Only the files: sizes, digests, where the bytes are.")
@registry_option
@json_option
def show_command(ref: str, files: bool, registry: str, as_json: bool) -> None:
    """Show one version: files, base, method, metrics, standing.

    With --files every byte is checked, and fetched if it is not on this machine yet.
    """
    store = open_registry(registry)
    version = store.resolve(AdapterRef.parse(ref))
    if files:
        show_files(store, version, as_json)
        return
    standing = store.standing(version.name)[version.number]
    if as_json:
        manifest = version.manifest.model_dump(mode="json")
        print_json(
            version_data(version, standing.aliases)
            | {"manifest": manifest, "standing": asdict(standing)}
        )
    else:
        print_table(("", ""), [*about(version), *said(standing), *contents(version)])


def show_files(store: "Registry", version: Version, as_json: bool) -> None:
    directory: Path = store.materialize(version)
    files = [(file, directory / file.path) for file in version.manifest.files]
    if as_json:
        print_json([{**file.model_dump(), "location": str(path)} for file, path in files])
        return
    rows = [(file.path, f"{file.size:,}", f"sha256:{file.sha256}", path) for file, path in files]
    print_table(("file", "bytes ", "digest", "where"), rows)


def about(version: Version) -> Iterator[Row]:
    """Which version it is, and of what."""
    base = version.manifest.base
    yield "version", version
    yield "digest", f"sha256:{version.digest}"
    yield "published", f"{moment(version.created_at)} by {version.created_by}"
    yield "base", base.id + (f" at {base.revision}" if base.revision else "")
    yield "base digest", base.digest
    yield "method", version.manifest.method


def said(standing: Standing) -> Iterator[Row]:
    """What was said of it since."""
    yield "aliases", ", ".join(standing.aliases) or "none"
    if standing.yanked is not None:
        yield "yanked", standing.yanked
    yield from ((f"tag {key}", value) for key, value in standing.tags.items())
    yield from (("note", note) for note in standing.notes)
    count = len(standing.signatures)
    yield "signed", "no" if count == 0 else "once" if count == 1 else f"{count} times"


def contents(version: Version) -> Iterator[Row]:
    """What its manifest says."""
    from adaptery.registry.compare.difference import flat

    manifest = version.manifest
    for file in manifest.files:
        yield f"file {file.path}", f"{human_size(file.size)}  sha256:{file.sha256[:12]}"
    yield from ((f"metric {name}", f"{value:.4f}") for name, value in manifest.metrics.items())
    yield from ((f"config {key}", value) for key, value in flat(manifest.config))
    yield "packages", ", ".join(f"{name} {number}" for name, number in manifest.packages.items())
    yield "probe", f"{len(manifest.probe)} prompts"


@click.command("history")
@name_argument
@registry_option
@json_option
def history_command(name: str, registry: str, as_json: bool) -> None:
    """Show every event of an adapter, oldest first."""
    events = open_registry(registry).history(name)
    if as_json:
        print_json([asdict(event) for event in events])
        return
    rows = [
        (
            moment(event.at, seconds=True),
            event.kind,
            f"{name}@{event.number}",
            f"{event.alias}: {event.previous or '—'} → {event.number}" if event.alias else "",
            event.actor,
            what_for(event),
        )
        for event in events
    ]
    print_table(("when", "what", "version", "alias", "who", "why"), rows)


def what_for(event: Event) -> str:
    """An event's reason, note or tags in a line; a signature is too long for one."""
    return tag_list(event) if event.kind is EventKind.TAGGED else event.reason
