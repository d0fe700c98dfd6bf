"""`adapters diff`."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from adaptery.cli.context import (
    human_size,
    json_option,
    open_registry,
    print_json,
    print_table,
    registry_option,
    stdout,
)
from adaptery.cli.params import complete_references
from adaptery.types import AdapterRef, FileEntry

if TYPE_CHECKING:
    from adaptery.registry.compare.difference import Difference, WeightChange


@click.command("diff")
@click.argument("before", metavar="REF", shell_complete=complete_references)
@click.argument("after", metavar="REF", shell_complete=complete_references)
@registry_option
@json_option
def diff_command(before: str, after: str, registry: str, as_json: bool) -> None:
    """Show how two versions differ, down to each module's weight.

    Configuration, data, base, packages, metrics and files; and for every module what the two add
    to its weight: the norms, that of the difference as a share of the first, and the cosine.
    """
    store = open_registry(registry)
    found = store.diff(AdapterRef.parse(before), AdapterRef.parse(after))
    if as_json:
        print_json(difference_data(found))
    elif found.before.digest == found.after.digest:
        stdout().print(f"{found.before} and {found.after} are the same: {found.before.digest}.")
    else:
        print_difference(found)


def difference_data(found: "Difference") -> dict[str, Any]:
    return {
        **{
            side: {
                "version": str(version),
                "digest": f"sha256:{version.digest}",
                "size": version.manifest.size,
            }
            for side, version in (("before", found.before), ("after", found.after))
        },
        "changes": [asdict(change) for change in found.changes],
        "metrics": [{**asdict(score), "delta": score.delta} for score in found.scores],
        "files": [
            {
                "path": file.path,
                "before": file.before and file.before.model_dump(),
                "after": file.after and file.after.model_dump(),
            }
            for file in found.files
        ],
        "weights": asdict(found.weights),
    }


def print_difference(found: "Difference") -> None:
    before, after = str(found.before), str(found.after)
    print_table(("", before, after), facts(found))
    if found.scores:
        rows = [
            (s.metric, decimals(s.before), decimals(s.after), change(s.delta)) for s in found.scores
        ]
        stdout().print()
        print_table(("metric", f"{before} ", f"{after} ", "change "), rows)
    stdout().print()
    print_weights(found.weights, before, after)


def facts(found: "Difference") -> Iterator[tuple[str, object, object]]:
    """Everything that differs and is no score or weight."""
    old, new = found.before, found.after
    yield "digest", old.digest[:12], new.digest[:12]
    yield "size", human_size(old.manifest.size), human_size(new.manifest.size)
    for change in found.changes:
        yield change.field, shown(change.before), shown(change.after)
    for file in found.files:
        yield f"file {file.path}", file_facts(file.before), file_facts(file.after)


def print_weights(weights: "WeightChange", before: str, after: str) -> None:
    if weights.modules:
        rows = [
            (
                change.module,
                f"{change.before:.4g}",
                f"{change.after:.4g}",
                "" if change.relative is None else f"{change.relative:.3f}",
                "" if change.cosine is None else f"{change.cosine:.4f}",
            )
            for change in weights.modules
        ]
        columns = (f"‖ΔW‖ {before} ", f"‖ΔW‖ {after} ", "difference ", "cosine ")
        print_table(("module", *columns), rows)
    for version, modules in ((before, weights.only_before), (after, weights.only_after)):
        if modules:
            stdout().print(f"Only {version} adapts {', '.join(modules)}.", soft_wrap=True)
    if weights.others:
        stdout().print(f"These differ too: {', '.join(weights.others)}.", soft_wrap=True)
    stdout().print(weights.sentence, soft_wrap=True)


def shown(value: object) -> str:
    return "—" if value is None else str(value)


def file_facts(file: FileEntry | None) -> str:
    return "—" if file is None else f"{human_size(file.size)}  sha256:{file.sha256[:12]}"


def decimals(value: float | None) -> str:
    return "—" if value is None else f"{value:.4f}"


def change(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}"
