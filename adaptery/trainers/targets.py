"""Which linear layers an adapter changes: `auto`, `all`, `attention`, `mlp` or names.

What a layer is for is read off where it stands: a model's layers are in numbered blocks, and in
them the names of attention, MLP and routers are few. What stands before or after the blocks
(embeddings, poolers, output layers and classification heads) is never adapted.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from adaptery.errors import ConfigError, UnknownName

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Group = Literal["attention", "mlp", "router", "tower", "other"]
ROUTERS = {"gate", "router", "shared_expert_gate", "wg", "gating_network"}
TOWERS = ("vision", "visual", "audio", "speech", "image")
ATTENTION = ("attn", "attention")
MLP = ("mlp", "ffn", "feed_forward", "feedforward", "densereludense", "expert")
MLP_LAYERS = {"fc1", "fc2", "ff", "intermediate", "output"}  # of encoders, right in the block
AUTO: tuple[Group, ...] = ("attention", "mlp")


@dataclass(frozen=True, slots=True)
class LinearLayer:
    """A layer that an adapter could change: its weight maps `inputs` numbers to `outputs`."""

    name: str
    outputs: int
    inputs: int
    group: Group


def linear_layers(model: "PreTrainedModel") -> list[LinearLayer]:
    """The linear layers of the model's blocks; what stands before or after them is left out."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    found = []
    for name, module in model.named_modules():
        if not in_block(name):
            continue
        if isinstance(module, Linear):
            found.append(LinearLayer(name, module.out_features, module.in_features, group_of(name)))
        elif isinstance(module, Conv1D):
            found.append(LinearLayer(name, module.nf, module.nx, group_of(name)))
    return found


def in_block(name: str) -> bool:
    """Whether a module is part of a numbered block."""
    return any(part.isdigit() for part in name.split("."))


def group_of(name: str) -> Group:
    """What a layer of a block is for, by its name.

    >>> group_of("model.layers.0.mlp.gate"), group_of("bert.encoder.layer.3.output.dense")
    ('router', 'mlp')
    """
    parts = name.lower().split(".")
    first = next(place for place, part in enumerate(parts) if part.isdigit())
    if any(tower in part for part in parts[:first] for tower in TOWERS):
        return "tower"
    if parts[-1] in ROUTERS or "router" in parts:
        return "router"
    block = parts[first + 1 :]
    if any(mark in part for part in block for mark in ATTENTION):
        return "attention"
    if MLP_LAYERS.intersection(block) or any(mark in part for part in block for mark in MLP):
        return "mlp"
    return "other"


def chosen(layers: list[LinearLayer], wanted: str) -> list[LinearLayer]:
    """The layers that `auto`, `all`, `attention` or `mlp` mean; none if the model has none.

    A model without attention and MLP by name, such as Mamba, has all its layers in `auto`.
    """
    groups = AUTO if wanted == "auto" else (wanted,)
    found = [layer for layer in layers if wanted == "all" or layer.group in groups]
    return found or (layers if wanted == "auto" else [])


def resolve_targets(model: "PreTrainedModel", wanted: str | Iterable[str]) -> list[str]:
    """The target modules as PEFT takes them: ends of module names, as short as they can be.

    Raises:
        UnknownName: a name that is no linear layer of this model.
        ConfigError: a group of which this model has none.
    """
    layers = linear_layers(model)
    if not isinstance(wanted, str):
        return named(layers, wanted)
    found = chosen(layers, wanted)
    if not found:
        groups = ", ".join(sorted({layer.group for layer in layers})) or "none"
        raise ConfigError(
            f"lora.targets={wanted}: this model has no such linear layer (its groups: {groups}); "
            "name layers instead. `adapters targets` lists them."
        )
    return short_names([layer.name for layer in found], [name for name, _ in model.named_modules()])


def meanings(model: "PreTrainedModel") -> dict[str, list[str]]:
    """What `auto`, `all`, `attention` and `mlp` stand for in this model."""
    layers, modules = linear_layers(model), [name for name, _ in model.named_modules()]
    return {
        wanted: short_names([layer.name for layer in chosen(layers, wanted)], modules)
        for wanted in ("auto", "all", "attention", "mlp")
    }


def named(layers: list[LinearLayer], wanted: Iterable[str]) -> list[str]:
    """Names that a user gave, each the end of some layer's."""
    names = [layer.name for layer in layers]
    known = {name.rpartition(".")[2] for name in names}
    for end in wanted:
        if not any(f".{name}".endswith(f".{end}") for name in names):
            raise UnknownName("linear layer in this model", end, known)
    return sorted(set(wanted))


def short_names(wanted: list[str], modules: list[str]) -> list[str]:
    """The fewest ends of names that mean `wanted` and no other of `modules`.

    >>> short_names(["layer.0.output.dense"], ["layer.0.output.dense", "pooler.dense"])
    ['output.dense']
    """
    inside = set(wanted)
    outside: set[str] = set()
    for module in modules:
        if module not in inside:
            outside.update(ends(module))
    return sorted(
        {next((end for end in ends(name) if end not in outside), name) for name in wanted}
    )


def ends(name: str) -> Iterator[str]:
    """`c`, `b.c` and `a.b.c` of a.b.c."""
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        yield ".".join(parts[-length:])


def head_modules(model: "PreTrainedModel") -> tuple[str, ...]:
    """What a classifier has on top of its backbone, and what of the backbone starts at random.

    All of it must be trained and saved whole: some bases come without weights for their pooler, and
    another random one would answer otherwise.
    """
    heads = [
        name
        for name, module in model.named_children()
        if name != model.base_model_prefix and any(True for _ in module.parameters())
    ]
    random = {name.rpartition(".")[0] for name in getattr(model, "random_parameters", ())}
    inside = {name for name in random if name.partition(".")[0] not in heads}
    return (*heads, *sorted(inside))
