"""`adapters data`: what training data holds, and what the model will see of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adaptery.cli.context import json_option, plugins, print_json, stderr
from adaptery.cli.flags import config_flags, given
from adaptery.config import Layer, read_assignments, read_environment, read_file, resolve
from adaptery.errors import DataError, UsageError
from adaptery.trainers.config import DataConfig, RunConfig, TaskConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Flag → dotted key of RunConfig, as in `adapters train`.
FLAGS = {
    "--base": "base",
    "--revision": "revision",
    "--task": "task.kind",
    "--way": "task.way",
    "--format": "data.format",
    "--max-length": "data.max_length",
}
config_option = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A run's YAML file: its base, task and data options, and its files if none are given.",
)
set_option = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any option of data or task, such as data.columns={text: sentence}.",
)


@dataclass(frozen=True)
class Asked:
    """What a command was asked to look at, and how."""

    sources: list[str]
    data: DataConfig
    task: TaskConfig
    base: str
    revision: str | None

    def tokenizer(self) -> "PreTrainedTokenizerBase | None":
        """The base's tokenizer, if a base is named. No weight is read."""
        from adaptery.base_model import open_tokenizer

        return open_tokenizer(self.base, self.revision) if self.base else None


def ask(
    sources: Sequence[str],
    config: Path | None,
    assignments: tuple[str, ...],
    flags: Mapping[str, Any],
) -> Asked:
    """The files and options that are meant.

    Raises:
        ConfigError: a value is wrong.
        UsageError: there is no file to look at.
    """
    if not sources and config is None:
        raise UsageError("Name at least one data file, or a run's YAML file with --config.")
    missing: dict[str, Any] = {"name": "data", "base": ""}  # what a run needs and a look does not
    layers = [
        Layer(missing | ({"data": {"train": sources[0]}} if sources else {}), {}),
        read_file(config) if config else Layer({}, {}),
        read_environment(RunConfig),
        read_assignments(assignments),
        given(FLAGS, flags),
    ]
    if config is None:
        layers.insert(1, Layer({"task": {"kind": kind_of(sources[0], layers)}}, {}))
    run = resolve(RunConfig, layers).value
    files = list(sources) or [name for name in (run.data.train, run.data.eval) if name]
    return Asked(files, run.data, run.task, run.base, run.revision)


def kind_of(source: str, layers: Sequence[Layer]) -> str:
    """The task that a file's columns speak for: a class of one or two texts, or answers."""
    from adaptery.trainers.data.reading import first_row
    from adaptery.trainers.data.rows import Labelled

    others = [
        Layer({key: value for key, value in layer.values.items() if key != "task"}, layer.origins)
        for layer in layers
    ]
    settings = resolve(RunConfig, others).value.data
    try:
        row = first_row(source, settings, plugins().load_all("data_formats"))
    except DataError:
        return "sft"  # what is wrong is told when the file is read
    if not isinstance(row, Labelled):
        return "sft"
    return "pair" if len(row.texts) == 2 else "classify"


@click.group("data")
def data_command() -> None:
    """Check training data, and show it as the model will see it."""


@data_command.command("check")
@click.argument("files", nargs=-1, metavar="FILE…")
@config_flags(RunConfig, FLAGS)
@config_option
@set_option
@json_option
def check_command(
    files: tuple[str, ...],
    config: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
    **flags: Any,
) -> int:
    """Look for whatever would train a wrong model, or measure a right one wrongly.

    The first FILE is what is trained on, the others what is measured on: JSON Lines, CSV, Parquet
    or hf://ORG/NAME[@REVISION][:SPLIT]. With --base, or a --config that names one, rows are
    tokenized too, without loading a weight. Without --task and --config the task is told by the
    first file's columns. Exit code 3 means that there are errors.
    """
    from adaptery.cli.data_report import show_report
    from adaptery.cli.progress import Bars
    from adaptery.trainers.audit.checking import Check

    asked = ask(files, config, assignments, flags)
    formats = plugins().load_all("data_formats")
    stderr().print(f"Checked for the task {asked.task.kind!r}.")
    with Bars(stderr()) as bars:
        check = Check(asked.data, asked.task, formats, asked.tokenizer(), bars)
        report = check.run(asked.sources)
    if as_json:
        print_json(report.as_data())
    else:
        show_report(report)
    return DataError.exit_code if report.errors else 0


@data_command.command("preview")
@click.argument("file", required=False)
@config_flags(RunConfig, FLAGS)
@click.option("--mask", is_flag=True, help="Mark what is learned: by colour, or between ⟦ and ⟧.")
@click.option(
    "-n", "--rows", "count", type=click.IntRange(1), default=3, show_default=True, help="How many."
)
@config_option
@set_option
@json_option
def preview_command(
    file: str | None,
    mask: bool,
    count: int,
    config: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
    **flags: Any,
) -> None:
    """Show rows of FILE as the model will see them, special tokens and all.

    --json gives token ids, tokens and labels (-100 where nothing is learned).
    """
    from adaptery.cli.data_preview import as_data, show_example
    from adaptery.trainers.data.reading import read_rows
    from adaptery.trainers.tasks.forward import Forward
    from adaptery.trainers.tasks.making import make_task

    asked = ask([file] if file else [], config, assignments, flags)
    tokenizer = asked.tokenizer()
    if tokenizer is None:
        raise UsageError("What the model will see is its tokenizer's to say: name it with --base.")
    data = read_rows(asked.sources[0], asked.data, plugins().load_all("data_formats"))
    task = make_task(asked.task, Forward(tokenizer), data.rows)
    examples = task.encode(data.rows[:count])
    if as_json:
        print_json([as_data(example, tokenizer) for example in examples])
        return
    for example in examples:
        label = None if example.label is None else task.labels[example.label]
        show_example(example, label, tokenizer, mask=mask)
