"""`adapters eval`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from adaptery.cli.assessment import Assessment, print_report, report_data, write_rows
from adaptery.cli.context import json_option, open_registry, print_json, registry_option
from adaptery.cli.measuring import (
    data_option,
    find_candidate,
    in_order,
    load_metrics,
    measure,
    metrics_option,
    model_options,
    read_data,
    warn_of_known_rows,
)
from adaptery.cli.params import ref_argument
from adaptery.errors import UsageError

if TYPE_CHECKING:
    from adaptery.registry.base import Registry
    from adaptery.trainers.data.rows import Dataset
    from adaptery.trainers.evaluation.candidates import Candidate

NONE = "none"


@click.command("eval")
@ref_argument
@data_option
@metrics_option
@click.option(
    "--baseline",
    metavar="base|REF|none",
    help="What to compare with; by default the base alone, where it can be asked.",
)
@model_options
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write every row's answer there, as JSON Lines.",
)
@registry_option
@json_option
def eval_command(
    ref: str,
    data: str,
    metrics: str,
    baseline: str | None,
    form: str,
    base: str | None,
    batch_size: int | None,
    precision: str | None,
    output: Path | None,
    registry: str,
    as_json: bool,
) -> None:
    """Measure a version on rows, beside the untuned base.

    The version is asked as it was in training: with its chat template, instruction and label words,
    and with its calibrated thresholds, if it has them. Where answers are classes, the confusion
    matrix says which are taken for which, and the overlap of their scores whether a threshold can
    part them.
    """
    load_metrics(metrics)  # what cannot be had is better known before anything is computed
    if output and not output.absolute().parent.is_dir():
        raise UsageError(f"There is no folder {output.parent} for --output; make it first.")
    store = open_registry(registry)
    version = find_candidate(store, ref, base)
    other = find_baseline(store, version, baseline, base)
    rows = read_data(data, form, version.manifest)
    candidates = [version, *([other] if other else [])]
    warn_of_known_rows(candidates, rows)
    result = assess(candidates, rows, metrics, batch_size, precision)
    if output:
        write_rows(output, rows, result)
    if as_json:
        print_json(report_data(result, rows))
    else:
        print_report(result, in_order(result.evaluation.metrics, metrics))


def find_baseline(
    store: "Registry", version: "Candidate", wanted: str | None, base: str | None
) -> "Candidate | None":
    """What to compare with.

    Raises:
        UsageError: the base is asked for and cannot be asked.
    """
    if wanted == NONE or (wanted is None and version.task.head_labels):
        return None
    if wanted in (None, "base"):
        return version.untuned()
    found = find_candidate(store, str(wanted), base)
    if found.name == version.name:
        raise UsageError(f"{version.name} cannot be its own baseline.")
    return found


def assess(
    candidates: "list[Candidate]",
    rows: "Dataset",
    metrics: str,
    batch_size: int | None,
    precision: str | None,
) -> Assessment:
    """Measure the first, and beside the second if there is one."""
    from adaptery.trainers.evaluation.bootstrap import difference, measures
    from adaptery.trainers.evaluation.class_report import class_report
    from adaptery.trainers.evaluation.scoring import are_labels
    from adaptery.trainers.evaluation.verdict import headline, judge

    found, taken = measure(candidates, rows, metrics, batch_size, precision)
    version, *others = candidates
    evaluation = found[version.name]
    labels = version.task.labels
    classes = None
    if labels or ("macro_f1" in taken and are_labels(evaluation.references)):
        classes = class_report(evaluation, labels)
    held_out = version.manifest.config.get("held_out_digest")
    reported = version.manifest.metrics if held_out == rows.digest else {}
    if not others:
        return Assessment(version, evaluation, classes=classes, reported=reported)
    beside = found[others[0].name]
    mine, theirs = measures(evaluation, taken), measures(beside, taken)
    differences = {name: difference(mine[name], theirs[name]) for name in mine}
    name = headline(list(evaluation.metrics))
    verdict = judge(name, evaluation.metrics[name], beside.metrics[name], differences[name])
    return Assessment(
        version, evaluation, others[0], beside, differences, verdict, classes, reported
    )
