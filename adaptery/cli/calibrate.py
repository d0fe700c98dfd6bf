"""`adapters calibrate`."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from adaptery.classification import (
    CALIBRATION,
    CALIBRATION_DATA,
    CALIBRATION_METRIC,
    Classification,
)
from adaptery.cli.context import (
    json_option,
    open_registry,
    print_json,
    print_table,
    registry_option,
    stderr,
    stdout,
)
from adaptery.cli.measuring import data_option, find_candidate, measure, model_options, read_data
from adaptery.cli.params import ref_argument
from adaptery.errors import DataError
from adaptery.types import AdapterRef

if TYPE_CHECKING:
    from adaptery.trainers.evaluation.calibration import Calibration


@click.command("calibrate")
@ref_argument
@data_option
@click.option(
    "--grid",
    default="-3,3,0.05",
    show_default=True,
    metavar="START,STOP,STEP",
    help="The offsets to try, in nats.",
)
@click.option(
    "--metric", default="macro_f1", show_default=True, help="What to make best: or accuracy."
)
@model_options
@click.option("--dry-run", is_flag=True, help="Only look; store nothing.")
@registry_option
@json_option
def calibrate_command(
    ref: str,
    data: str,
    grid: str,
    metric: str,
    form: str,
    base: str | None,
    batch_size: int | None,
    precision: str | None,
    dry_run: bool,
    registry: str,
    as_json: bool,
) -> None:
    """Find the thresholds by which a version decides best between its classes.

    They are stored with the version as tags, and `eval`, `compare` and the server decide by them
    from then on. `adapters tag REF calibration.offsets=` takes them away. Use rows that were
    neither trained on nor are to be measured on.
    """
    from adaptery.trainers.evaluation.calibration import Grid, calibrate, check_metric

    steps = Grid.parse(grid)
    check_metric(metric)
    store = open_registry(registry)
    version = store.resolve(AdapterRef.parse(ref))
    classes = Classification.of(version.manifest)
    rows = read_data(data, form, version.manifest)
    if rows.digest == version.manifest.data_digest:
        raise DataError(
            f"{data} holds the rows that {version} was trained on, on which it is surer than it "
            "should be. Calibrate on rows that were held out."
        )
    candidate = find_candidate(store, str(version), base, calibrated=False)
    found, _ = measure([candidate], rows, metric, batch_size, precision)
    result = calibrate(found[candidate.name], classes.labels, steps, metric)
    tags = {
        CALIBRATION: json.dumps(result.offsets),
        CALIBRATION_DATA: rows.digest,
        CALIBRATION_METRIC: metric,
    }
    if not dry_run:
        store.tag(AdapterRef(version.name, number=version.number), tags)
    if as_json:
        print_json({**calibration_data(str(version), result), "stored": not dry_run})
    else:
        print_calibration(str(version), result, stored=not dry_run)


def calibration_data(version: str, result: "Calibration") -> dict[str, Any]:
    """What was found, for scripts."""
    return {
        "version": version,
        "offsets": dict(zip(result.labels, result.offsets, strict=True)),
        "delta": result.delta,
        "metric": result.metric,
        "before": result.before,
        "after": result.after,
        "gain": {**asdict(result.gain), "could_be_chance": result.gain.could_be_chance},
    }


def print_calibration(version: str, result: "Calibration", *, stored: bool) -> None:
    """What was found, and whether it is worth having."""
    rows = [
        ["as it is", f"{result.before:.4f}"],
        ["calibrated, on these rows", f"{result.after:.4f}"],
        ["calibrated, on rows left out", f"{result.before + result.gain.value:.4f}"],
    ]
    print_table(["", f"{result.metric} "], rows)
    if result.delta is None:
        listed = ", ".join(
            f"{label} {offset:+.2f}"
            for label, offset in zip(result.labels, result.offsets, strict=True)
        )
        stdout().print(f"Offsets: {listed}.", soft_wrap=True)
    else:
        first, second = result.labels
        stdout().print(
            f"{second} wins where its score is more than {result.delta:+.2f} above {first}'s.",
            soft_wrap=True,
        )
    gain = result.gain
    verdict = "which could be chance" if gain.could_be_chance else "which is hardly chance"
    stdout().print(
        f"Gain on rows left out: {gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}], {verdict}.",
        soft_wrap=True,
    )
    if stored:
        stderr().print(
            f"Stored with {version}. To undo: adapters tag {version} {CALIBRATION}=",
            soft_wrap=True,
        )
