"""`adapters init`: a commented run.yaml to begin with."""

from pathlib import Path
from typing import Any, get_args

import click

from adaptery.cli.context import plugins, stderr
from adaptery.errors import BaseNotFound, ConfigError
from adaptery.trainers.starting import (
    Kind,
    Wanted,
    parameters_in,
    run_file,
    starting_values,
)
from adaptery.types import check_name

REMARK = """A run of `adapters train {file}`; `adapters plan {file}` tells what it will be.
Values are for {size} parameters and {memory:.3g} GB. What is commented out is at its default: to
change it, uncomment it and the name of its group. Flags and variables win over this file."""


@click.command("init")
@click.option(
    "--task", "kind", type=click.Choice(get_args(Kind)), default="sft", show_default=True,
    help="sft: answers; classify: a class of a text; pair: a class of two texts.",
)  # fmt: skip
@click.option("--base", required=True, help="Base model: a Hub id or a directory.")
@click.option("--data", default="train.jsonl", show_default=True, help="Training rows.")
@click.option("--eval-data", "held_out", help="Held-out rows.")
@click.option("--name", default="mine", show_default=True, help="Adapter to publish versions of.")
@click.option(
    "--gpu-memory", "memory", type=click.FloatRange(min=0, min_open=True), metavar="GB",
    help="Memory of the GPU to train on.  [default: what this machine has]",
)  # fmt: skip
@click.option("--parameters", metavar="7B", help="Of the base, where nothing else tells.")
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), default=Path("run.yaml"),
    show_default=True, help="File to write.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def init_command(
    kind: Kind,
    base: str,
    data: str,
    held_out: str | None,
    name: str,
    memory: float | None,
    parameters: str | None,
    output: Path,
    force: bool,
) -> None:
    """Write a commented run.yaml, its values chosen by task, base and memory."""
    check_name(name)
    count, encoder = looked_at(base, parameters)
    memory = memory or here()
    values = starting_values(Wanted(name, base, kind, data, held_out, count, memory, encoder))
    own: Any = plugins().load("training_methods", values["method"]).Options
    remark = REMARK.format(file=output, size=in_words(count), memory=memory)
    write(output, run_file(values, own, remark), force)
    stderr().print(
        f"Wrote {output}: {values['method']} of rank {values['lora']['r']}. "
        f"Next: adapters plan {output}"
    )


def looked_at(base: str, parameters: str | None) -> tuple[float, bool]:
    """Parameters of the base, and whether it is an encoder: by its config.json, or by its name.

    Raises:
        ConfigError: nothing tells the size.
        BaseNotFound: a directory is named that is none.
    """
    from adaptery.base_model import looks_like_a_path, outline_base
    from adaptery.trainers.plan.outline import natural_labels, outline, parameter_count

    told = parameters_in(parameters) if parameters else parameters_in(base)
    if parameters and told is None:
        raise ConfigError(f"--parameters {parameters!r} is no size such as 7B or 135M.")
    if not Path(base).expanduser().is_dir() and told and not looks_like_a_path(base):
        return told, False
    try:
        found = outline_base(base)
    except BaseNotFound as error:
        if looks_like_a_path(base):
            raise
        raise ConfigError(
            f"Nothing tells how large {base} is: {error} Or give --parameters, such as 7B."
        ) from error
    labels = natural_labels(found)
    return told if parameters and told else parameter_count(outline(found, labels)), bool(labels)


def here() -> float:
    """Gigabytes of the GPU here, or of the machine."""
    from adaptery.trainers.plan.memory import room

    return room().available / 1e9


def in_words(count: float) -> str:
    return f"{count / 1e9:.3g} billion" if count >= 1e9 else f"{count / 1e6:.3g} million"


def write(output: Path, text: str, force: bool) -> None:
    """Raises `ConfigError` if the file is there already, or cannot be written."""
    try:
        with output.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(
            f"{output} is there already; give --force to write over it, or another --output."
        ) from error
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error}.") from error
