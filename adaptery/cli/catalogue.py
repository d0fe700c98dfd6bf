"""`adapters list`."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from adaptery.cli.context import (
    human_size,
    json_option,
    moment,
    open_registry,
    print_json,
    print_table,
    registry_option,
    stderr,
    version_data,
)
from adaptery.cli.params import complete_names
from adaptery.types import Standing, Version

if TYPE_CHECKING:
    from adaptery.registry.base import Registry
    from adaptery.registry.listing import Listed, Query

_SCORES = ("macro_f1", "f1", "accuracy", "loss")


@click.command("list")
@click.argument("name", required=False, shell_complete=complete_names)
@click.option("--base", help="Only with this base: its id, or 8 or more digits of its digest.")
@click.option("--method", help="Only by this training method.")
@click.option(
    "--sort",
    default="name",
    show_default=True,
    metavar="name|published|metric.NAME",
    help="Order: by name, the last published first, or the highest score first.",
)
@click.option("--limit", type=int, metavar="N", help="At most N rows.")
@click.option("--offset", type=int, default=0, metavar="N", help="Leave out the first N rows.")
@registry_option
@json_option
def list_command(name: str | None, registry: str, as_json: bool, **query: Any) -> None:
    """List the adapters, or one adapter's versions.

    Of each adapter the newest version is shown that fits --base and --method and is not yanked.
    """
    from adaptery.registry.listing import Query

    chosen, store = Query(**query), open_registry(registry)
    if name is not None:
        list_versions(store, name, chosen, as_json)
    else:
        list_adapters(store, chosen, as_json)


def list_versions(store: "Registry", name: str, query: "Query", as_json: bool) -> None:
    from adaptery.registry.listing import select_versions

    standing = store.standing(name)
    versions = select_versions(store.versions(name), query)
    if as_json:
        print_json([listed_version(version, standing[version.number]) for version in versions])
    elif versions:
        print_versions(versions, standing, query.metric)
    else:
        stderr().print(f"No version of {name} fits.")


def listed_version(version: Version, standing: Standing) -> dict[str, Any]:
    said = {"yanked": standing.yanked, "tags": dict(standing.tags)}
    return version_data(version, standing.aliases) | said


def print_versions(
    versions: Iterable[Version], standing: Mapping[int, Standing], metric: str | None
) -> None:
    rows = [
        (
            str(v),
            ", ".join(standing[v.number].aliases),
            v.manifest.method,
            v.manifest.base.id,
            score(v, metric),
            human_size(v.manifest.size),
            moment(v.created_at),
            v.digest[:12],
            "" if standing[v.number].yanked is None else f"yanked: {standing[v.number].yanked}",
        )
        for v in versions
    ]
    columns = ("version", "aliases", "method", "base", "score", "size ", "published", "digest", "")
    print_table(columns, rows)


def list_adapters(store: "Registry", query: "Query", as_json: bool) -> None:
    rows = store.newest(query)
    if as_json:
        print_json([listed_adapter(row) for row in rows])
    elif rows:
        print_adapters(rows, query.metric)
    elif store.names():
        stderr().print("No adapter fits.")
    else:
        stderr().print(f"There is no adapter in {store.url} yet; `adapters train` makes one.")


def listed_adapter(row: "Listed") -> dict[str, Any]:
    own = [alias for alias, number in row.aliases.items() if number == row.newest.number]
    return {
        "name": row.newest.name,
        "versions": row.versions,
        "aliases": dict(row.aliases),
        "newest": version_data(row.newest, own) | {"yanked": row.yanked},
    }


def print_adapters(rows: Iterable["Listed"], metric: str | None) -> None:
    cells = [
        (
            row.newest.name,
            row.versions,
            ", ".join(f"{alias} → {number}" for alias, number in row.aliases.items()),
            f"{row.newest.number} (yanked)" if row.yanked else row.newest.number,
            row.newest.manifest.method,
            row.newest.manifest.base.id,
            score(row.newest, metric),
            moment(row.newest.created_at),
        )
        for row in rows
    ]
    print_table(
        (
            *("adapter", "versions ", "aliases", "newest ", "its method", "its base"),
            *("its score", "published"),
        ),
        cells,
    )


def score(version: Version, metric: str | None) -> str:
    """The one score that a table has room for: the one sorted by, or else the most telling."""
    names = _SCORES if metric is None else (metric,)
    for name in names:
        if name in version.manifest.metrics:
            return f"{name} {version.manifest.metrics[name]:.3f}"
    return ""
