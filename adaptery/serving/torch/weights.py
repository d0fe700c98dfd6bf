"""An adapter's files, applied in full or refused.

Other servers answer with the base's weights, or with half an adapter, when names or shapes do not
fit. Here every tensor must find its layer, and every declared layer its two tensors.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from adaptery.errors import InvalidAdapter
from adaptery.serving.torch.declaration import Declaration, read_declaration
from adaptery.serving.torch.lora import Adapter, Factors

WEIGHTS = "adapter_model.safetensors"
KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def read_adapter(
    name: str,
    directory: Path,
    layers: Mapping[str, nn.Linear],
    dtype: torch.dtype,
    device: torch.device,
) -> Adapter:
    """The adapter in `directory`, ready for the base whose adaptable layers are `layers`.

    Raises:
        InvalidAdapter: it cannot be applied in full; the message says what is in the way.
    """
    try:
        declaration = read_declaration(directory)
        with safe_open(directory / WEIGHTS, framework="pt") as file:
            modules = paired_modules(file.keys())
            require_targets(declaration, modules, layers)
            factors = {
                module: read_factors(file, module, layers[module], declaration, dtype, device)
                for module in sorted(modules)
            }
    except InvalidAdapter as error:
        raise InvalidAdapter(f"{name} cannot be applied to this base in full: {error}.") from error
    except (FileNotFoundError, SafetensorError, re.error, ValueError) as error:
        raise InvalidAdapter(f"{name} cannot be read: {error}") from error
    return Adapter(name, factors)


def paired_modules(keys: Iterable[str]) -> set[str]:
    """The layers for which there are both A and B. Raises `InvalidAdapter` for any other tensor."""
    sides: dict[str, set[str]] = {"A": set(), "B": set()}
    for key in keys:
        match = KEY.fullmatch(key)
        if match is None:
            raise InvalidAdapter(f"the tensor {key!r} is not a LoRA matrix of a layer")
        sides[match["side"]].add(match["module"])
    for module in sorted(sides["A"] ^ sides["B"]):
        missing = "B" if module in sides["A"] else "A"
        raise InvalidAdapter(f"{module!r} has no matrix lora_{missing}")
    if not sides["A"]:
        raise InvalidAdapter("it holds no tensors")
    return sides["A"]


def require_targets(
    declaration: Declaration, modules: set[str], layers: Mapping[str, nn.Linear]
) -> None:
    """Do nothing if exactly the declared layers have matrices, and the base has all of them."""
    for module in sorted(modules - layers.keys()):
        raise InvalidAdapter(f"the base has no linear layer {module!r} that adapters can change")
    targets = declaration.targets(list(layers))
    for module in sorted(targets - modules):
        raise InvalidAdapter(f"{module!r} is among the declared target modules but has no matrices")
    for module in sorted(modules - targets):
        raise InvalidAdapter(f"{module!r} has matrices but is not a declared target module")


def read_factors(
    file: Any,
    module: str,
    layer: nn.Linear,
    declaration: Declaration,
    dtype: torch.dtype,
    device: torch.device,
) -> Factors:
    """A and B of one layer, the scaling multiplied into B before it is rounded to `dtype`."""
    rank = declaration.rank(module)
    a = read_matrix(file, f"base_model.model.{module}.lora_A.weight", (rank, layer.in_features))
    b = read_matrix(file, f"base_model.model.{module}.lora_B.weight", (layer.out_features, rank))
    scaled = b.float() * declaration.scale(module)
    factors = Factors(a.to(device, dtype), scaled.to(device, dtype))
    if not all_finite(factors.a) or not all_finite(factors.b):
        raise InvalidAdapter(f"the matrices of {module!r} overflow {dtype}; serve in float32")
    return factors


def read_matrix(file: Any, key: str, shape: tuple[int, int]) -> Tensor:
    """A tensor that must have `shape`, hold floating point numbers, and only finite ones."""
    stored = tuple(file.get_slice(key).get_shape())
    if stored != shape:
        raise InvalidAdapter(
            f"{key!r} has shape {stored}, but the base and the declared rank ask for {shape}"
        )
    tensor: Tensor = file.get_tensor(key)
    if tensor.dtype not in FLOATS:
        raise InvalidAdapter(f"{key!r} holds {tensor.dtype}, not floating point numbers")
    if not all_finite(tensor):
        raise InvalidAdapter(f"{key!r} holds numbers that are not finite")
    return tensor


def all_finite(tensor: Tensor) -> bool:
    """Whether there is neither NaN nor infinity."""
    return bool(tensor.isfinite().all())
