"""`adapters sweep`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from adaptery.cli.context import json_option, print_json, stderr
from adaptery.cli.experiment import base_of, shown
from adaptery.config import Resolved
from adaptery.errors import ConfigError, UnknownName
from adaptery.trainers.config import RunConfig
from adaptery.trainers.evaluation.scoring import LOSSES

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from adaptery.trainers.experiments.experiment import Run
    from adaptery.trainers.experiments.report import Report
    from adaptery.trainers.experiments.space import Dimension
    from adaptery.trainers.experiments.sweep import Sweep


@click.command("sweep")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--space",
    "texts",
    multiple=True,
    required=True,
    metavar="KEY=VALUES",
    help="r=8,16,32 or learning_rate=1e-4:1e-2:log; repeat it. Short names: r, alpha, dropout, "
    "targets, learning_rate, batch_size, epochs; others dotted, such as training.warmup=0:0.2.",
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    help="How many, all processes and sittings together.  [default: 20, or the whole grid]",
)
@click.option(
    "--metric", help="What decides.  [default: macro_f1 where classes are told, else loss]"
)
@click.option(
    "--storage",
    metavar="URL",
    help="Where Optuna keeps trials, such as sqlite:///sweep.db; several processes may share it.  "
    "[default: a file in the output]",
)
@click.option(
    "--sampler",
    type=click.Choice(["tpe", "random", "grid"]),
    default="tpe",
    show_default=True,
    help="How values are proposed.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the proposals.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where runs and reports go.  [default: NAME-sweep in the run's `runs`]",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any option of the run, such as training.epochs=1.",
)
@json_option
def sweep_command(
    file: Path,
    texts: tuple[str, ...],
    trials: int | None,
    metric: str | None,
    storage: str | None,
    sampler: str,
    seed: int,
    output: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> int:
    """Search for the best options with Optuna.

    Each trial trains in a process of its own, and nothing is published. The same command goes on
    where it was stopped. With evaluation.every set, trials that fall behind are stopped early. The
    best trial's configuration is written to best.yaml.
    """
    from adaptery.cli.progress import Bars
    from adaptery.cli.variation import COMMAND
    from adaptery.trainers.experiments.space import parse_space
    from adaptery.trainers.experiments.sweep import carry_on

    base = base_of({"file": file, "assignments": assignments})
    space = parse_space(texts, base)
    output = (output or base.value.runs / f"{base.value.name}-sweep").absolute()
    sweep = make_sweep(base, space, trials, metric, storage, sampler, seed, output)
    with Bars(stderr()) as bars:
        carry_on(sweep, COMMAND, bars)
    runs = runs_of(sweep)
    report = report_of(sweep, runs)
    report.write(output)
    if as_json:
        print_json(report.data() | best_data(sweep, output))
    shown(report, output, quiet=as_json)
    write_best(sweep, output)
    return 0 if all(run.outcome.status != "failed" for run in runs) else 1


def make_sweep(
    base: Resolved[RunConfig],
    space: "list[Dimension]",
    trials: int | None,
    metric: str | None,
    storage: str | None,
    sampler: str,
    seed: int,
    output: Path,
) -> "Sweep":
    """A sweep, its study opened or made; one of another configuration or space is another study.

    Raises:
        ConfigError: there are no held-out rows to judge by, or a grid with a range.
        UnknownName: the metric is none that will be measured.
    """
    from adaptery.base_model import open_base
    from adaptery.cli.run_options import run_parts
    from adaptery.trainers.experiments.space import grid_size
    from adaptery.trainers.experiments.sweep import Sweep, open_study
    from adaptery.trainers.experiments.variations import digest_of
    from adaptery.types import canonical_json, sha256_of

    config = base.value
    if not config.data.eval:
        raise ConfigError("A sweep is judged by held-out rows: set data.eval.")
    names = (*LOSSES, *run_parts(config).metrics)
    metric = metric or ("macro_f1" if config.task.kind != "sft" else "loss")
    if metric not in names:
        raise UnknownName("measured metric", metric, names)
    points = grid_size(space) if sampler == "grid" else None
    count = min(trials or points, points) if points else trials or 20
    digest = digest_of(config, open_base(config.base, config.revision).identity.digest)
    about = [digest, metric, [[d.key, list(d.choices), d.low, d.high, d.log] for d in space]]
    name = f"{config.name}-{sha256_of(canonical_json(about))[:12]}"
    output.mkdir(parents=True, exist_ok=True)
    study = open_study(storage or f"sqlite:///{output / 'study.sqlite3'}", name, metric)
    return Sweep(base, space, metric, count, study, sampler, seed, output)


def runs_of(sweep: "Sweep") -> "list[Run]":
    """The trials that count as rows of a table."""
    from adaptery.trainers.experiments.experiment import Run
    from adaptery.trainers.experiments.outcome import Outcome
    from adaptery.trainers.experiments.sweep import counted
    from adaptery.trainers.experiments.variations import Variation

    runs = []
    for trial in counted(sweep.study):
        folder = Path(trial.user_attrs.get("folder", ""))
        shown_as = {key.rpartition(".")[2]: told(value) for key, value in trial.params.items()}
        variation = Variation(f"trial {trial.number}", trial.params, shown_as)
        outcome = Outcome.read(folder) or Outcome(status="failed", sentence=why(trial))
        runs.append(Run(variation, sweep.base.value.training.seed, folder, outcome))
    return runs


def told(value: object) -> str:
    """A value as a table shows it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def why(trial: "FrozenTrial") -> str:
    """What is known of a trial without an outcome."""
    return f"Its folder holds no outcome ({trial.state.name.lower()})."


def report_of(sweep: "Sweep", runs: "list[Run]") -> "Report":
    """The report, every other trial compared with the best."""
    from adaptery.cli.run_options import run_parts
    from adaptery.trainers.experiments.experiment import Experiment
    from adaptery.trainers.experiments.report import Report
    from adaptery.trainers.experiments.table import best_of, rows_of

    best = best_of(rows_of(runs), sweep.metric)
    seeds = [sweep.base.value.training.seed]
    note = f"{len(runs)} trials of the sampler {sweep.sampler}, seed {sweep.seed}."
    rows = [run.variation for run in runs]
    experiment = Experiment("sweep", "", sweep.base, "", rows, seeds, [note])
    metrics = run_parts(sweep.base.value).metrics
    return Report.of(experiment, runs, metrics, sweep.metric, best.name if best else None)


def best_trial(sweep: "Sweep") -> "FrozenTrial | None":
    """The best trial that ended well."""
    from optuna.trial import TrialState

    done = sweep.study.get_trials(states=(TrialState.COMPLETE,))
    done = [trial for trial in done if trial.user_attrs.get("status") == "finished"]
    sign = 1 if sweep.metric in LOSSES else -1
    return min(done, key=lambda trial: sign * (trial.value or 0.0), default=None)


def best_data(sweep: "Sweep", output: Path) -> dict[str, object]:
    """The best trial for scripts."""
    best = best_trial(sweep)
    if best is None:
        return {"best_params": None, "best_config": None}
    return {"best_params": best.params, "best_config": str(output / "best.yaml")}


def write_best(sweep: "Sweep", output: Path) -> None:
    """The best trial's whole configuration, for `adapters train`."""
    import yaml

    best = best_trial(sweep)
    if best is None:
        return
    values = sweep.settings(best.params).value.model_dump(mode="json")
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    head = f"# Trial {best.number} of a sweep, {sweep.metric} {best.value:.4g}.\n"
    (output / "best.yaml").write_text(head + text, encoding="utf-8")
    stderr().print(f"The best: adapters train {output / 'best.yaml'}", soft_wrap=True)
