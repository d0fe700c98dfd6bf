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
from adaptery.serving.torch.kernels.calls import Kernels
from adaptery.serving.torch.lora import ActiveAdapters
from adaptery.serving.torch.memory import available_memory, gigabytes

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Decoder:
    """The base, ready to be called.

    `layers` are those that adapters may change, `active` the adapters of the step being computed;
    a token of `end_ids` ends an answer; `kernels` compute what they can, if there are any.
    """

    model: PreTrainedModel
    layers: Mapping[str, nn.Linear]
    active: ActiveAdapters
    end_ids: frozenset[int]
    vocabulary: int
    weights: int
    """Bytes of the parameters."""
    kernels: Kernels | None = None

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


def choose_dtype(name: str, device: torch.device, stored: torch.dtype) -> torch.dtype:
    """The number format that the option `name` means on `device`.

    `auto` is the one in which the base is stored, if the device is fast in it. Else it is float32
    on a CPU and float16 on other devices, where weights would be too large otherwise.
    """
    if name != "auto":
        return DTYPES[name]
    if device.type == "cpu":
        fast = torch.ops.mkldnn._is_mkldnn_bf16_supported() if stored == torch.bfloat16 else False
        return torch.bfloat16 if fast else torch.float32
    if stored == torch.bfloat16 and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return torch.float16
    return stored if stored in DTYPES.values() else torch.float16


def stored_dtype(base: LocalBase) -> torch.dtype:
    """The number format of the base's files, as its configuration gives it."""
    config = base.config.get("text_config", base.config)
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    return DTYPES.get(str(name), torch.float32)


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
        # Further lines would list all models that there are.
        first, *_ = str(error).splitlines() or [type(error).__name__]
        raise BaseNotFound(f"{base.directory} cannot be loaded as a model: {first}") from error
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
