"""`adapters list`, `show` and `history`."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict

import click

from adaptery.cli.context import (
    human_size,
    json_option,
    open_registry,
    print_json,
    print_table,
    registry_option,
    stderr,
    version_data,
)
from adaptery.types import AdapterRef, Alias, Version


@click.command("list")
@click.argument("name", required=False)
@registry_option
@json_option
def list_command(name: str | None, registry: str, as_json: bool) -> None:
    """List the adapters, or one adapter's versions."""
    store = open_registry(registry)
    versions, aliases = store.versions(name), by_version(store.aliases(name))
    if name and not versions:
        store.resolve(AdapterRef(name, alias="latest"))  # says what there is instead
    if as_json:
        print_json([version_data(v, aliases[v.name, v.number]) for v in versions])
    elif name:
        print_versions(versions, aliases)
    elif versions:
        print_adapters(versions, aliases)
    else:
        stderr().print(f"There is no adapter in {registry} yet; `adapters train` makes one.")


def by_version(aliases: Iterable[Alias]) -> dict[tuple[str, int], list[str]]:
    """The aliases of each (adapter, number)."""
    found: dict[tuple[str, int], list[str]] = defaultdict(list)
    for alias in aliases:
        found[alias.adapter, alias.number].append(alias.name)
    return found


def print_versions(versions: Iterable[Version], aliases: dict[tuple[str, int], list[str]]) -> None:
    rows = [
        (
            str(v),
            ", ".join(sorted(aliases[v.name, v.number])),
            v.manifest.method,
            v.manifest.base.id,
            main_metric(v),
            human_size(v.manifest.size),
            v.created_at.strftime("%Y-%m-%d %H:%M"),
            v.digest[:12],
        )
        for v in versions
    ]
    print_table(
        ("version", "aliases", "method", "base", "score", "size ", "published", "digest"), rows
    )


def print_adapters(versions: Iterable[Version], aliases: dict[tuple[str, int], list[str]]) -> None:
    lines: dict[str, list[Version]] = defaultdict(list)
    for version in versions:
        lines[version.name].append(version)
    rows = []
    for name, line in lines.items():
        pointers = [
            f"{alias} → {v.number}" for v in line for alias in sorted(aliases[v.name, v.number])
        ]
        newest = line[-1]
        rows.append(
            (
                name,
                len(line),
                ", ".join(pointers),
                newest.manifest.base.id,
                newest.manifest.method,
                main_metric(newest),
                newest.created_at.strftime("%Y-%m-%d %H:%M"),
            )
        )
    print_table(
        ("adapter", "versions ", "aliases", "base", "newest by", "its score", "published"), rows
    )


def main_metric(version: Version) -> str:
    """The one score that a table has room for."""
    for name in ("macro_f1", "accuracy", "loss"):
        if name in version.manifest.metrics:
            return f"{name} {version.manifest.metrics[name]:.3f}"
    return ""


@click.command("show")
@click.argument("ref")
@registry_option
@json_option
def show_command(ref: str, registry: str, as_json: bool) -> None:
    """Show one version: files, base, method, metrics."""
    store = open_registry(registry)
    version = store.resolve(AdapterRef.parse(ref))
    aliases = by_version(store.aliases(version.name))[version.name, version.number]
    data = version_data(version, aliases) | {"manifest": version.manifest.model_dump(mode="json")}
    if as_json:
        print_json(data)
        return
    manifest = version.manifest
    base = manifest.base
    rows: list[tuple[str, object]] = [
        ("version", version),
        ("digest", f"sha256:{version.digest}"),
        ("aliases", ", ".join(sorted(aliases)) or "none"),
        ("base", base.id + (f" at {base.revision}" if base.revision else "")),
        ("base digest", base.digest),
        ("method", manifest.method),
        ("published", f"{version.created_at:%Y-%m-%d %H:%M} by {version.created_by}"),
        *(
            (f"file {f.path}", f"{human_size(f.size)}  sha256:{f.sha256[:12]}")
            for f in manifest.files
        ),
        *((f"metric {name}", f"{value:.4f}") for name, value in manifest.metrics.items()),
        *((f"config {group}", value) for group, value in manifest.config.items()),
        ("packages", ", ".join(f"{n} {v}" for n, v in manifest.packages.items())),
        ("probe", f"{len(manifest.probe)} prompts"),
    ]
    print_table(("", ""), rows)


@click.command("history")
@click.argument("name")
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
            event.at.strftime("%Y-%m-%d %H:%M:%S"),
            event.kind,
            f"{name}@{event.number}",
            f"{event.alias}: {event.previous or '—'} → {event.number}" if event.alias else "",
            event.actor,
            event.reason,
        )
        for event in events
    ]
    print_table(("when", "what", "version", "alias", "who", "why"), rows)
