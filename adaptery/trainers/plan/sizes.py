"""What an adapter of a method and rank has: trainable parameters, and bytes on disk."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptery.trainers.method import AdapterPlan, Method

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class AdapterSize:
    """Counts of one adapter. `disk` is `adapter_model.safetensors` in bytes, fp32 as we write it;
    of a whole model its weights."""

    trainable: int
    share: float
    """Trainable parameters over those of the base."""
    disk: int


def adapter_size(model: "PreTrainedModel", method: Method, plan: AdapterPlan) -> AdapterSize:
    """The adapter that `method` would make on an outline; `model` is changed.

    Raises:
        ConfigError: the method refuses this plan.
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    adapted = method.adapt(model, plan)
    trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    return AdapterSize(trainable, trainable / parameters, safetensors_size(method.shapes(adapted)))


def safetensors_size(shapes: Mapping[str, tuple[int, ...]], bytes_each: int = 4) -> int:
    """Bytes of a safetensors file of such tensors: 8, the header padded to 8, the numbers."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name in sorted(shapes):
        count = bytes_each
        for side in shapes[name]:
            count *= side
        offsets = [place, place + count]
        header[name] = {"dtype": "F32", "shape": list(shapes[name]), "data_offsets": offsets}
        place += count
    length = len(json.dumps(header, separators=(",", ":")).encode())
    return 8 + -(-length // 8) * 8 + place
