"""`adapters compare`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from adaptery.cli.context import (
    json_option,
    open_registry,
    print_json,
    print_table,
    registry_option,
    stdout,
)
from adaptery.cli.measuring import (
    data_option,
    find_candidate,
    in_order,
    interval,
    load_metrics,
    measure,
    metrics_option,
    model_options,
    read_data,
    warn_of_known_rows,
    warn_of_tokenizers,
)
from adaptery.cli.params import complete_references
from adaptery.errors import UsageError

if TYPE_CHECKING:
    from adaptery.registry.base import Registry
    from adaptery.trainers.data.rows import Dataset
    from adaptery.trainers.evaluation.bootstrap import Difference
    from adaptery.trainers.evaluation.candidates import Candidate
    from adaptery.trainers.evaluation.scoring import Evaluation

Differences = dict[str, dict[str, "Difference"]]


@click.command("compare")
@click.argument("refs", nargs=-1, required=True, metavar="REF…", shell_complete=complete_references)
@data_option
@metrics_option
@model_options
@click.option("--no-base", is_flag=True, help="Leave the untuned base out.")
@click.option(
    "--resamples",
    type=click.IntRange(min=100),
    default=2000,
    show_default=True,
    help="Samples of the paired bootstrap.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the samples.")
@click.option("--markdown", is_flag=True, help="Print Markdown tables.")
@registry_option
@json_option
def compare_command(
    refs: tuple[str, ...],
    data: str,
    metrics: str,
    form: str,
    base: str | None,
    batch_size: int | None,
    precision: str | None,
    no_base: bool,
    resamples: int,
    seed: int,
    markdown: bool,
    registry: str,
    as_json: bool,
) -> None:
    """Measure versions on the same rows, and say which differences could be chance.

    One of REF… may be `base`; it is measured anyway where it can be asked. Differences are against
    the first REF and against the base, with 95 % intervals of the paired bootstrap. Versions may be
    of different bases and tell classes in different ways.
    """
    load_metrics(metrics)
    candidates = find_candidates(open_registry(registry), refs, base, no_base)
    rows = read_data(data, form, candidates[0].manifest)
    warn_of_known_rows(candidates, rows)
    warn_of_tokenizers(candidates)
    found, taken = measure(candidates, rows, metrics, batch_size, precision)
    differences = pair_up(found, taken, resamples, seed)
    names = in_order(found[candidates[0].name].metrics, metrics)
    if as_json:
        print_json(comparison_data(rows, found, differences, resamples))
    else:
        print_comparison(found, differences, names, markdown)


def find_candidates(
    store: "Registry", refs: tuple[str, ...], base: str | None, no_base: bool
) -> "list[Candidate]":
    """What is compared, in order; the base last unless it is named.

    Raises:
        UsageError: there is nothing to compare with, or a version comes twice.
    """
    from adaptery.trainers.evaluation.candidates import BASE

    versions = {ref: find_candidate(store, ref, base) for ref in refs if ref != BASE}
    if not versions:
        raise UsageError("Name at least one version; the base is asked as that was trained.")
    plain = next((one for one in versions.values() if not one.task.head_labels), None)
    if BASE in refs and plain is None:
        next(iter(versions.values())).untuned()  # which says why not
    wanted = list(dict.fromkeys([*refs, *([BASE] if plain and not no_base else [])]))
    candidates = [plain.untuned() if ref == BASE and plain else versions[ref] for ref in wanted]
    names = [one.name for one in candidates]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UsageError(f"{twice} is named twice; it cannot be compared with itself.")
    if len(names) < 2:
        raise UsageError(f"There is only {names[0]}; name a second version to compare it with.")
    return candidates


def pair_up(
    found: "dict[str, Evaluation]", metrics: dict[str, Any], resamples: int, seed: int
) -> dict[str, Differences]:
    """Against whom, of whom, by which metric: the differences from the first and from the base."""
    from adaptery.trainers.evaluation.bootstrap import difference, measures
    from adaptery.trainers.evaluation.candidates import BASE

    measured = {name: measures(one, metrics, resamples, seed) for name, one in found.items()}
    first = next(iter(found))
    against = [first, *([BASE] if BASE in found and first != BASE else [])]
    return {
        other: {
            name: {metric: difference(one, measured[other][metric]) for metric, one in mine.items()}
            for name, mine in measured.items()
            if name != other
        }
        for other in against
    }


def comparison_data(
    rows: "Dataset",
    found: "dict[str, Evaluation]",
    differences: dict[str, Differences],
    resamples: int,
) -> dict[str, Any]:
    """Everything, for scripts."""
    from adaptery.trainers.evaluation.verdict import compared

    return {
        "data": {"source": rows.source, "rows": len(rows.rows), "digest": rows.digest},
        "resamples": resamples,
        "metrics": {name: evaluation.metrics for name, evaluation in found.items()},
        "differences": {
            other: {
                name: {
                    metric: {**asdict(one), "verdict": compared(metric, one)}
                    for metric, one in by_metric.items()
                }
                for name, by_metric in mine.items()
            }
            for other, mine in differences.items()
        },
    }


def print_comparison(
    found: "dict[str, Evaluation]",
    differences: dict[str, Differences],
    names: list[str],
    markdown: bool,
) -> None:
    """The figures side by side, then who is better than whom."""
    from adaptery.trainers.evaluation.verdict import compared

    show = print_markdown if markdown else print_table
    columns = ["model", *(f"{name} " for name in names)]
    show(
        columns,
        [[name, *(f"{one.metrics[m]:.4f}" for m in names)] for name, one in found.items()],
    )
    for other, mine in differences.items():
        rows = [
            [name, metric, interval(by_metric[metric]), compared(metric, by_metric[metric])]
            for name, by_metric in mine.items()
            for metric in names
        ]
        stdout().print()
        show([f"against {other}", "metric", "difference ", "verdict"], rows)


def print_markdown(columns: list[str], rows: list[list[str]]) -> None:
    """A table for a report; figures stand at the right."""
    lines = [
        "| " + " | ".join(column.strip() for column in columns) + " |",
        "|" + "|".join("---:" if column.endswith(" ") else "---" for column in columns) + "|",
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows),
    ]
    stdout().print("\n".join(lines), soft_wrap=True)
