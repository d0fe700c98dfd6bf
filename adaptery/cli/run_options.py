"""The options of a run: flags, file, preset, environment, and the plugins that they name."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from adaptery.cli.context import plugins
from adaptery.cli.flags import config_flags, given
from adaptery.config import (
    Layer,
    Resolved,
    dotted_keys,
    read_assignments,
    read_environment,
    read_file,
    resolve,
)
from adaptery.errors import ConfigError
from adaptery.trainers.config import RunConfig
from adaptery.trainers.presets import PRESETS

if TYPE_CHECKING:
    from adaptery.trainers.work import Parts

F = TypeVar("F", bound=Callable[..., Any])

# Flag → dotted key of RunConfig; help and defaults come from there. All others: --set KEY=VALUE.
FLAGS = {
    "--name": "name",
    "--base": "base",
    "--revision": "revision",
    "--data": "data.train",
    "--eval-data": "data.eval",
    "--method": "method",
    "--task": "task.kind",
    "--rank": "lora.r",
    "--alpha": "lora.alpha",
    "--targets": "lora.targets",
    "--epochs": "training.epochs",
    "--max-steps": "training.max_steps",
    "--learning-rate": "training.learning_rate",
    "--batch-size": "training.batch_size",
    "--max-length": "data.max_length",
    "--seed": "training.seed",
    "--runs": "runs",
    "--report-to": "report_to",
}


def run_options(command: F) -> F:
    """The arguments by which a command is told of a run: FILE, flags, --preset, --set, --option."""
    for decorate in reversed(
        (
            click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path)),
            config_flags(RunConfig, FLAGS),
            click.option(
                "--preset",
                type=click.Choice(sorted(PRESETS)),
                help="Starting values for a size of base.",
            ),
            click.option(
                "--set",
                "assignments",
                multiple=True,
                metavar="KEY=VALUE",
                help="Any option, such as training.warmup=0.1.",
            ),
            click.option(
                "--option",
                "options",
                multiple=True,
                metavar="KEY=VALUE",
                help="An option of the method's own.",
            ),
        )
    ):
        command = decorate(command)
    return command


def run_config(
    file: Path | None,
    preset: str | None,
    assignments: tuple[str, ...],
    options: tuple[str, ...],
    resume: Path | None,
    flags: Mapping[str, str | None],
) -> Resolved[RunConfig]:
    """The layers in their order, checked.

    Raises:
        ConfigError: a value is wrong, or a resumed run is given others.
    """
    used = given(FLAGS, flags)
    own = read_assignments(options).values
    if resume:
        if file or preset or assignments or own or used.values:
            raise ConfigError(
                "--resume goes on with the run's own configuration; give no other options."
            )
        return resolve(RunConfig, [read_file(resume / "config.yaml")])
    layers = [
        preset_layer(preset),
        read_file(file) if file else Layer({}, {}),
        read_environment(RunConfig),
        read_assignments(assignments),
        Layer({"options": own}, {f"options.{key}": "--option" for key in own}),
        used,
    ]
    return resolve(RunConfig, layers)


def layers_over(
    file: Path | None,
    preset: str | None,
    resume: Path | None,
    assignments: tuple[str, ...],
    options: tuple[str, ...],
    flags: Mapping[str, str | None],
) -> list[Layer]:
    """What lies over a configuration that is not read from a file.

    Raises:
        ConfigError: another configuration is given too.
    """
    if file or preset or resume:
        raise ConfigError(
            "--from takes the configuration from a version's manifest; give no FILE, --preset or "
            "--resume with it."
        )
    own = read_assignments(options).values
    own_layer = Layer({"options": own}, {f"options.{key}": "--option" for key in own})
    return [read_assignments(assignments), own_layer, given(FLAGS, flags)]


def preset_layer(preset: str | None) -> Layer:
    """What a preset sets, which is nothing without one."""
    values = PRESETS[preset] if preset else {}
    return Layer(values, dict.fromkeys(dotted_keys(values), f"preset {preset}"))


def run_parts(config: RunConfig) -> "Parts":
    """The plugins that a run names, each found before anything is loaded."""
    from adaptery.trainers.evaluation.scoring import LABEL_METRICS, LOSSES
    from adaptery.trainers.watching.reporters import check_reporters
    from adaptery.trainers.work import Parts

    manager = plugins()
    check_reporters(config.report_to)
    method = manager.load("training_methods", config.method)(config.options)
    formats = manager.load_all("data_formats")
    wanted = LABEL_METRICS if config.evaluation.metrics == "auto" else config.evaluation.metrics
    metrics = {name: manager.load("metrics", name) for name in wanted if name not in LOSSES}
    return Parts(method, formats, metrics)
