"""`adapters train`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from adaptery.cli.context import (
    figure,
    json_option,
    open_registry,
    print_json,
    print_table,
    reason_option,
    registry_option,
    stderr,
    version_data,
)
from adaptery.cli.launch import launch, one_voice
from adaptery.cli.repeat import repeat
from adaptery.cli.run_options import layers_over, run_config, run_options, run_parts
from adaptery.config import Resolved
from adaptery.errors import AdapteryError, ConfigError
from adaptery.trainers.config import RunConfig

if TYPE_CHECKING:
    from adaptery.registry.base import Registry
    from adaptery.trainers.train import TrainingResult
    from adaptery.trainers.work import Parts
    from adaptery.types import Version

NEWEST = Path("newest")  # run directory that `--resume` without a value goes on with


@click.command("train")
@run_options
@click.option(
    "--resume",
    is_flag=False,
    flag_value=NEWEST,
    type=click.Path(path_type=Path),
    metavar="[RUN]",
    help="Go on with an interrupted run directory; by default with the newest of FILE.",
)
@click.option(
    "--launch",
    "launcher",
    metavar="ARGUMENTS",
    help="Train in several processes, started as `accelerate launch ARGUMENTS` would: "
    '"--num_processes 2 --cpu".',
)
@click.option(
    "--from",
    "again",
    metavar="REF",
    help="Train as this version was trained, and say whether the result is the same; give --data "
    "and --eval-data, and --base if it is elsewhere now. Exit code 5 if it is not.",
)
@click.option("--no-publish", is_flag=True, help="Leave the adapter in the run directory.")
@reason_option
@registry_option
@json_option
def train_command(
    file: Path | None,
    preset: str | None,
    assignments: tuple[str, ...],
    options: tuple[str, ...],
    resume: Path | None,
    launcher: str | None,
    again: str | None,
    no_publish: bool,
    reason: str,
    registry: str,
    as_json: bool,
    **flags: str | None,
) -> int:
    """Train an adapter and publish it as the next version.

    FILE is a YAML file of options. Flags win over --set, then the environment
    (ADAPTERS_TRAINING_SEED=1), the file, the preset and the defaults.
    """
    if launcher is not None:
        launch(launcher)
    if again:
        layers = layers_over(file, preset, resume, assignments, options, flags)
        return repeat(again, layers, registry, reason, no_publish=no_publish, as_json=as_json)
    with one_voice():
        if resume and resume.is_file() and not file:  # --resume run.yaml
            file, resume = resume, NEWEST
        given_run = resume if resume != NEWEST else None
        config = run_config(file, preset, assignments, options, given_run, flags)
        resume = newest_run(config.value) if resume == NEWEST else resume
        parts = run_parts(config.value)
        if not (no_publish or parts.method.makes_adapter):
            raise ConfigError(
                f"--method {config.value.method} trains a whole model, and only adapters can be "
                "published. Give --no-publish to leave the model in the run directory, or another "
                "method."
            )
        store = None if no_publish else open_registry(registry)
        if store:
            store.versions(config.value.name)  # one that cannot be read is better known now
        result = run(config, parts, resume)
        version = publish(config.value.name, result, store, reason) if store else None
        show(result, version, as_json)
    return 0


def newest_run(config: RunConfig) -> Path:
    """The newest unfinished run of a configuration."""
    from adaptery.trainers.resuming import find_unfinished

    return find_unfinished(config).path


def run(config: Resolved[RunConfig], parts: "Parts", resume: Path | None) -> "TrainingResult":
    from adaptery.cli.progress import Bars
    from adaptery.trainers.train import train

    with Bars(stderr()) as bars:
        return train(config, parts, resume=resume, watcher=bars)


def publish(name: str, result: "TrainingResult", store: "Registry", reason: str) -> "Version":
    """Hand the run's adapter to the registry; if that fails, say how to do it again."""
    from adaptery.registry.gate.package import build_files
    from adaptery.trainers.run_directory import RunDirectory
    from adaptery.types import AdapterPackage

    manifest = result.manifest.model_copy(update={"files": build_files(result.adapter)})
    package = AdapterPackage(result.adapter, manifest)
    try:
        version = store.publish(name, package, reason=reason or f"trained in {result.run}")
    except (AdapteryError, OSError):
        again = f"adapters train --resume {result.run}"
        stderr().print(
            f"Trained, but not published. When what is wrong is mended: {again}", soft_wrap=True
        )
        raise
    RunDirectory(result.run).published(str(version))
    return version


def show(result: "TrainingResult", version: "Version | None", as_json: bool) -> None:
    """What came out: for scripts, or beside the untuned base for people."""
    from adaptery.trainers.train import summary

    if as_json:
        print_json(summary(result) | (version_data(version) if version else {}))
        return
    metrics = result.manifest.metrics
    names = [name for name in metrics if not name.startswith("base.")]
    label = str(version) if version else "adapter"
    base = {name: metrics[f"base.{name}"] for name in names if f"base.{name}" in metrics}
    rows = [[label, *(figure(metrics, name) for name in names)]]
    if base:
        rows.insert(0, ["base alone", *(figure(base, name) for name in names)])
    if names:
        print_table(["held-out rows", *(f"{name} " for name in names)], rows)
    console = stderr()
    console.print(
        f"{result.manifest.method}: {result.trainable_parameters:,} trainable parameters, "
        f"{result.seconds:.0f} s, peak memory {result.peak_memory / 1e9:.2f} GB"
    )
    if version:
        console.print(f"Published {version} (sha256:{version.digest[:12]}).", style="green")
