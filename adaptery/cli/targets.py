"""`adapters targets` and `adapters params`: what of a base an adapter can change, and how much.

Both read `config.json` alone; weights need not be there.
"""

import re
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from adaptery.cli.context import human_size, json_option, plugins, print_json, print_table, stderr
from adaptery.config import read_assignments
from adaptery.errors import ConfigError
from adaptery.trainers.config import GROUPS, LoraSettings

if TYPE_CHECKING:
    from adaptery.base_model import LocalBase
    from adaptery.trainers.plan.sizes import AdapterSize
    from adaptery.trainers.targets import LinearLayer

RANKS = "4,8,16,32,64"
STEPS = 1000  # of a run that there is none of; AdaLoRA asks for the number

revision_option = click.option("--revision", help="Branch, tag or commit of a Hub base.")


@click.command("targets")
@click.argument("base")
@revision_option
@json_option
def targets_command(base: str, revision: str | None, as_json: bool) -> None:
    """List a base's linear layers, and what auto, all, attention and mlp mean for it."""
    from adaptery.base_model import outline_base
    from adaptery.trainers.plan.outline import natural_labels, outline, parameter_count
    from adaptery.trainers.targets import linear_layers, meanings

    found = outline_base(base, revision)
    model = outline(found, natural_labels(found))
    layers = kinds(linear_layers(model))
    means = meanings(model)
    if as_json:
        print_json(
            {
                "base": base,
                "family": model.config.model_type,
                "parameters": parameter_count(model),
                "layers": layers,
                "targets": means,
            }
        )
        return
    columns = ("module", "group", "out × in ", "count ")
    print_table(
        columns,
        [
            (row["name"], row["group"], f"{row['outputs']} × {row['inputs']}", row["count"])
            for row in layers
        ],
    )
    print_table(
        ("lora.targets", "modules"),
        [(name, ", ".join(names) or "none") for name, names in means.items()],
    )
    stderr().print(f"{model.config.model_type}: {parameter_count(model):,} parameters")


def kinds(layers: "Iterable[LinearLayer]") -> list[dict[str, Any]]:
    """Layers that differ in their block's number alone, counted."""
    counted: dict[tuple[str, int, int, str], int] = {}
    for layer in layers:
        name = re.sub(r"(^|\.)\d+(?=\.)", r"\1N", layer.name)
        kind = (name, layer.outputs, layer.inputs, layer.group)
        counted[kind] = counted.get(kind, 0) + 1
    return [
        {"name": name, "outputs": outputs, "inputs": inputs, "group": group, "count": count}
        for (name, outputs, inputs, group), count in counted.items()
    ]


@click.command("params")
@click.argument("base")
@click.option(
    "--ranks", default=RANKS, show_default=True, metavar="R,R,…", help="Ranks to count for."
)
@click.option(
    "--targets", help=f"One of {', '.join(GROUPS)}, or names with commas.  [default: auto]"
)
@click.option("--method", default="lora", show_default=True, help="Training method plugin.")
@click.option(
    "--option", "options", multiple=True, metavar="KEY=VALUE", help="An option of the method's own."
)
@revision_option
@json_option
def params_command(
    base: str,
    ranks: str,
    targets: str | None,
    method: str,
    options: tuple[str, ...],
    revision: str | None,
    as_json: bool,
) -> None:
    """Count trainable parameters and bytes on disk for a ladder of ranks."""
    from adaptery.base_model import outline_base

    found = outline_base(base, revision)
    sizes = {
        rank: size_at(found, rank, targets, method, options) for rank in numbers(ranks, "--ranks")
    }
    if as_json:
        print_json([{"rank": rank} | asdict(size) for rank, size in sizes.items()])
        return
    columns = ("rank ", "trainable parameters ", "share of the base ", "on disk ")
    rows = [
        (rank, f"{size.trainable:,}", f"{size.share:.3%}", human_size(size.disk))
        for rank, size in sizes.items()
    ]
    print_table(columns, rows)


def size_at(
    base: "LocalBase", rank: int, targets: str | None, method: str, options: tuple[str, ...]
) -> "AdapterSize":
    """The adapter of one rank."""
    from adaptery.trainers.method import AdapterPlan, Method, TaskType
    from adaptery.trainers.plan.outline import natural_labels, outline
    from adaptery.trainers.plan.sizes import adapter_size
    from adaptery.trainers.targets import head_modules, resolve_targets

    lora = LoraSettings.model_validate({"r": rank, "targets": targets or "auto"})
    labels = natural_labels(base)
    model = outline(base, labels)
    make: Method = plugins().load("training_methods", method)(read_assignments(options).values)
    heads = head_modules(model) if labels else ()
    kind: TaskType = "SEQ_CLS" if labels else "CAUSAL_LM"
    names = resolve_targets(model, lora.targets)
    return adapter_size(model, make, AdapterPlan(lora, names, STEPS, 0, kind, heads))


def numbers(text: str, flag: str) -> list[int]:
    """`4,8,16` as numbers. Raises `ConfigError` for anything else."""
    try:
        found = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ConfigError(f"{flag} {text!r} is not a list of positive numbers such as {RANKS}.")
    return found
