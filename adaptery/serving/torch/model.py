"""Loading the base: on which device, in which number format, and whether it fits."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from adaptery.base_model import LocalBase
from adaptery.errors import BaseNotFound, ConfigError, DoesNotFit
from adaptery.serving.torch.memory import available_memory, gigabytes

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Decoder:
    """The base, ready to be called.

    `layers` are those that adapters may change; a token of `end_ids` ends an answer.
    """

    model: PreTrainedModel
    layers: Mapping[str, nn.Linear]
    end_ids: frozenset[int]
    vocabulary: int

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The number format that it computes in."""
        return self.model.dtype


def choose_device(name: str) -> torch.device:
    """The device that the option `name` means; `auto` is CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: this machine has no such device.
    """
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    usable = [device for device, there in present.items() if there]
    if name == "auto":
        return torch.device(usable[0])
    if name not in usable:
        raise ConfigError(
            f"The device {name!r} is not usable on this machine. Usable: {', '.join(usable)}."
        )
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format that the option `name` means on `device`.

    `auto` is float32, in which answers equal the trained model's, and bfloat16 on CUDA, where
    weights are too large and float32 too slow.
    """
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return DTYPES[name]


def load_model(base: LocalBase, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """The base's weights on `device`.

    Raises:
        DoesNotFit: there is too little memory.
        BaseNotFound: the files are not a model that transformers can load.
    """
    try:
        require_memory(base, device, dtype)
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            base.directory, dtype=dtype, local_files_only=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise BaseNotFound(f"{base.directory} cannot be loaded as a model: {error}") from error
    model.eval().requires_grad_(False)
    try:
        return model.to(device)
    except torch.OutOfMemoryError as error:
        raise DoesNotFit(f"The base does not fit on {device}: {error}") from error


def require_memory(base: LocalBase, device: torch.device, dtype: torch.dtype) -> None:
    """Do nothing if the base's weights fit into the memory that is free. Raises `DoesNotFit`."""
    parameters = 0
    for shard in base.directory.glob("*.safetensors"):
        with safe_open(shard, framework="pt") as file:
            names = list(file.keys())
            parameters += sum(prod(file.get_slice(name).get_shape()) for name in names)
    needed, available = parameters * dtype.itemsize, available_memory(device)
    if needed > available:
        raise DoesNotFit(
            f"{base.identity.id} needs {gigabytes(needed)} as {str(dtype).removeprefix('torch.')}, "
            f"but {gigabytes(available)} are free on {device.type}. "
            "Use a smaller --dtype or a smaller base."
        )


def end_tokens(model: PreTrainedModel, base: LocalBase) -> frozenset[int]:
    """The tokens that end an answer: what the generation config lists, and the tokenizer's own."""
    listed: Any = getattr(model.generation_config, "eos_token_id", None)
    ids = listed if isinstance(listed, list) else [listed]
    return frozenset(i for i in [*ids, base.tokenizer.eos_token_id] if isinstance(i, int))


def longest_context(model: PreTrainedModel, asked: int | None, default: int) -> int:
    """Prompt and answer together, in tokens; without a wish the base's own, at most `default`.

    Raises:
        ConfigError: more is asked than the base was made for.
    """
    config: Any = model.config.get_text_config()
    own: int = getattr(config, "max_position_embeddings", None) or default
    rope: Mapping[str, Any] = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        # Beyond its original length it turns all tokens of a batch by other angles: an answer
        # would depend on its neighbours.
        own = min(own, rope["original_max_position_embeddings"])
    if asked is not None and asked > own:
        raise ConfigError(
            f"--max-context {asked:,} is more than the {own:,} tokens that this base can be "
            "served with."
        )
    return asked or min(own, default)
