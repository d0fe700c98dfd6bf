"""Which linear layers an adapter changes: `all`, `attention`, `mlp` or names, for any model."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from adaptery.errors import ConfigError, UnknownName

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GROUPS = {"attention": ("attn", "attention"), "mlp": ("mlp", "feed_forward", "ffn")}


def resolve_targets(model: "PreTrainedModel", wanted: str | Iterable[str]) -> list[str] | str:
    """The target modules as PEFT takes them.

    Raises:
        UnknownName: a name that is no linear layer of this model.
        ConfigError: a group of which this model has none.
    """
    if wanted == "all":
        return "all-linear"
    layers = linear_layers(model)
    if isinstance(wanted, str):
        parts = GROUPS[wanted]
        names = {name.rpartition(".")[2] for name in layers if in_group(name, parts)}
        if not names:
            raise ConfigError(
                f"This model has no linear layer under {' or '.join(parts)}; name them instead."
            )
        return sorted(names)
    known = {name.rpartition(".")[2] for name in layers}
    for name in wanted:
        if name not in known and name not in layers:
            raise UnknownName("linear layer in this model", name, known)
    return sorted(wanted)


def linear_layers(model: "PreTrainedModel") -> list[str]:
    """The full names of the linear layers, output layer left out."""
    import torch

    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    ]


def in_group(name: str, parts: tuple[str, ...]) -> bool:
    """Whether a module above the layer belongs to the group."""
    return any(part in parent for parent in name.split(".")[:-1] for part in parts)
