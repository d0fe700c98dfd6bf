"""`adapters experiment`: one run, varied in one thing."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from adaptery.cli.context import json_option, plugins, print_json, print_table, stderr, stdout
from adaptery.cli.run_options import run_config, run_parts
from adaptery.cli.several import Numbers, Pairs, Words
from adaptery.config import Resolved
from adaptery.errors import ConfigError, UnknownName
from adaptery.trainers.config import RunConfig
from adaptery.trainers.evaluation.scoring import LOSSES

if TYPE_CHECKING:
    from adaptery.trainers.experiments.experiment import Run
    from adaptery.trainers.experiments.report import Report
    from adaptery.trainers.experiments.variations import Variation

F = TypeVar("F", bound=Callable[..., Any])


@click.group("experiment")
def experiment_command() -> None:
    """Vary one thing of a run and compare: methods, ranks, targets, weights, rates.

    Each variation trains in a process of its own, one after another, and nothing is published.
    What is finished is not run again: the same command goes on where it was stopped.
    """


def shared(command: F) -> F:
    """The options of every experiment."""
    options = [
        click.option(
            "--config",
            "file",
            required=True,
            type=click.Path(dir_okay=False, path_type=Path),
            help="The run that is varied: a YAML file as `adapters train` takes it.",
        ),
        click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="KEY=VALUE",
            help="Any option of the run, such as training.epochs=1.",
        ),
        click.option(
            "--output",
            type=click.Path(file_okay=False, path_type=Path),
            metavar="DIR",
            help="Where runs and reports go.  [default: NAME-EXPERIMENT in the run's `runs`]",
        ),
        click.option(
            "--seeds",
            type=Numbers(int),
            metavar="0,1,…",
            help="Run everything with each of them.  [default: the run's seed]",
        ),
        click.option(
            "--metric", help="What decides.  [default: macro_f1 where it is measured, else loss]"
        ),
        click.option(
            "--baseline",
            metavar="ROW",
            help="The row that others are compared with.  [default: the first]",
        ),
        json_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


@experiment_command.command("methods")
@shared
@click.option("--methods", type=Words(), metavar="A,B", help="Which.  [default: all built in]")
@click.option(
    "--rates",
    type=Pairs(),
    default={},
    metavar="A=RATE,…",
    help="Learning rates by method.  [default: the run's, times the ratio of the methods' own]",
)
def methods_command(methods: Sequence[str] | None, rates: dict[str, float], **given: Any) -> int:
    """Compare training methods, full fine-tuning among them."""
    from adaptery.trainers.experiments.variations import methods as vary

    base, names = base_of(given), methods or built_in()
    own = own_rates(names, base.value.method)
    strange = sorted(rates.keys() - set(names))
    if strange:
        raise UnknownName("method in this experiment", strange[0], names)
    note = (
        "Where no rate is given, a method has the configured rate times the ratio of its own "
        f"default rate to that of {base.value.method}."
    )
    rows = vary(base.value, names, own, rates)
    return carry_out("methods", "method", base, rows, [note], given)


@experiment_command.command("rank")
@shared
@click.option("--ranks", type=Numbers(int), default=(4, 8, 16, 32), metavar="4,8,…", help="Which.")
@click.option(
    "--alpha",
    type=click.Choice(["scaled", "kept"]),
    default="scaled",
    show_default=True,
    help="Alpha in proportion to the rank, or as it is configured.",
)
def rank_command(ranks: Sequence[int], alpha: str, **given: Any) -> int:
    """Climb a ladder of ranks."""
    from adaptery.trainers.experiments.variations import ranks as vary

    base = base_of(given)
    note = {
        "scaled": "Alpha is scaled with the rank, so that updates keep their scale.",
        "kept": "Alpha is the same for all ranks, so that updates shrink as ranks grow.",
    }[alpha]
    return carry_out("rank", "rank", base, vary(base.value, ranks, alpha), [note], given)


@experiment_command.command("targets")
@shared
@click.option(
    "--targets",
    "names",
    multiple=True,
    metavar="NAMES",
    help="A choice of layers: a group, or names with commas; repeat it for every row.  "
    "[default: q_proj,v_proj; attention; mlp; all]",
)
def targets_command(names: tuple[str, ...], **given: Any) -> int:
    """Compare which linear layers are adapted: with and without the MLP's."""
    from adaptery.trainers.experiments.variations import TARGETS
    from adaptery.trainers.experiments.variations import targets as vary

    return carry_out("targets", "targets", base_of(given), vary(names or TARGETS), [], given)


@experiment_command.command("weighted")
@shared
@click.option(
    "--weights",
    type=Pairs(),
    multiple=True,
    metavar="LABEL=W,…",
    help="Class weights to compare with none and auto; repeat it for more rows.",
)
@click.option(
    "--calibration-data",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Rows to calibrate thresholds on.  [default: half of the held-out rows, scored on the "
    "other half]",
)
def weighted_command(
    weights: Sequence[dict[str, float]], calibration_data: Path | None, **given: Any
) -> int:
    """Compare class weights, each also with calibrated thresholds."""
    from adaptery.trainers.experiments.variations import weights as vary

    base = base_of(given)
    if not base.value.data.eval:
        raise ConfigError("Class weights are judged by held-out rows: set data.eval.")
    rows = vary(base.value, weights)
    return carry_out(
        "weighted", "class weights", base, rows, [], given, calibration=calibration_data
    )


@experiment_command.command("lr")
@shared
@click.option(
    "--rates",
    type=Numbers(float),
    default=(),
    metavar="1e-4,…",
    help="Which.  [default: from a tenth of the run's rate to 30 times it]",
)
def lr_command(rates: Sequence[float], **given: Any) -> int:
    """Climb a ladder of learning rates; those that diverge are marked."""
    from adaptery.trainers.experiments.variations import rates as vary

    base = base_of(given)
    own = own_rates([], base.value.method)[base.value.method]
    return carry_out("lr", "learning rate", base, vary(base.value, rates, own), [], given)


def base_of(given: dict[str, Any]) -> Resolved[RunConfig]:
    """The run that is varied, its method and metrics found."""
    base = run_config(given["file"], None, given["assignments"], (), None, {})
    run_parts(base.value)
    return base


def built_in() -> list[str]:
    """The methods that come with this program, in the order in which they are registered."""
    found = plugins().registered("training_methods")
    return [name for name, item in found.items() if item.owner == "adaptery"]


def own_rates(methods: Sequence[str], configured: str) -> dict[str, float]:
    """The default rate of each method, and of the configured one.

    Raises:
        UnknownName: there is no such method.
    """
    names = dict.fromkeys([*methods, configured])
    return {name: plugins().load("training_methods", name).learning_rate for name in names}


def carry_out(
    kind: str,
    heading: str,
    base: Resolved[RunConfig],
    rows: "Sequence[Variation]",
    notes: Sequence[str],
    given: dict[str, Any],
    calibration: Path | None = None,
) -> int:
    """Run all that is not over, write the reports, show the table; returns the exit code."""
    from adaptery.base_model import open_base
    from adaptery.cli.progress import Bars
    from adaptery.cli.variation import COMMAND
    from adaptery.trainers.experiments.experiment import Experiment, carry_on
    from adaptery.trainers.experiments.report import Report
    from adaptery.trainers.experiments.thresholds import recall_table, threshold_table

    config, metrics = base.value, run_parts(base.value).metrics
    check_rows([row.name for row in rows], given["baseline"], given["metric"], metrics)
    digest = open_base(config.base, config.revision).identity.digest
    seeds = given["seeds"] or (config.training.seed,)
    experiment = Experiment(kind, heading, base, digest, rows, seeds, notes, calibration)
    output = given["output"] or config.runs / f"{config.name}-{kind}"
    with Bars(stderr()) as bars:
        runs = carry_on(experiment, output, COMMAND, bars)
    report = Report.of(experiment, runs, metrics, given["metric"], given["baseline"])
    if kind == "weighted" and any(row.finished for row in report.rows):
        report.more.extend([recall_table(report.rows), threshold_table(report.rows)])
    report.write(output)
    if given["as_json"]:
        print_json(report.data())
    shown(report, output, quiet=given["as_json"])
    return exit_code(kind, runs)


def check_rows(
    rows: Sequence[str], baseline: str | None, metric: str | None, metrics: Iterable[str]
) -> None:
    """Find out before hours of training what could not be said after them.

    Raises:
        UnknownName: `baseline` is no row, or `metric` will not be measured.
        ConfigError: two rows are the same.
    """
    if baseline is not None and baseline not in rows:
        raise UnknownName("row in this experiment", baseline, rows)
    if metric is not None and metric not in (*LOSSES, *metrics):
        raise UnknownName("measured metric", metric, (*LOSSES, *metrics))
    if len(set(rows)) < len(rows):
        raise ConfigError(f"Two rows of this experiment are the same: {', '.join(rows)}.")


def shown(report: "Report", output: Path, *, quiet: bool) -> None:
    """Print the tables and the verdict, unless quiet, and where the reports are."""
    console = stderr()
    for table in () if quiet else (report.table, *report.more):
        marked = zip(table.headings, table.figures, strict=True)
        headings = [heading + (" " if figure else "") for heading, figure in marked]
        print_table(headings, table.rows, table.caption)
    if not quiet:
        stdout().print(report.verdict, soft_wrap=True)
    for trouble in report.troubles:
        console.print(trouble, style="yellow", soft_wrap=True)
    console.print(f"Reports: {output / 'report.md'}, {output / 'report.html'}", soft_wrap=True)


def exit_code(kind: str, runs: "Sequence[Run]") -> int:
    """1 if a run came to nothing. That a rate diverges is what a ladder of rates is to find out."""
    fine = {"finished", "diverged"} if kind == "lr" else {"finished"}
    return 0 if all(run.outcome.status in fine for run in runs) else 1
