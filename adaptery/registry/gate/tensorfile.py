"""What a safetensors file says about itself, checked before any tensor is loaded.

The format: eight bytes with the header's length N (little endian), N bytes of JSON that give every
tensor's dtype, shape and byte range, then the bytes. The safetensors library checks most of this
when it loads; here it is checked without loading, and every refusal names the tensor.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adaptery.errors import InvalidAdapter

# dtype -> (unsigned integer of the same width, exponent mask): a value whose exponent bits are all
# set is NaN or infinite, in each of the three formats.
_EXPONENTS = {
    "F32": (np.uint32, 0x7F800000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
}
_MAX_HEADER = 16 * 2**20


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: `start` and `end` are byte offsets in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def strict_json(data: bytes, what: str) -> Any:
    """The value of a UTF-8 JSON text in which no key comes twice and no number is NaN or infinite.

    Raises:
        InvalidAdapter: it is not such a text; the message begins with `what`.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"the key {key!r} comes twice")
            found[key] = value
        return found

    def finite(text: str) -> float:
        raise ValueError(f"{text} is not a finite number")

    try:
        return json.loads(data.decode(), object_pairs_hook=unique, parse_constant=finite)
    except (ValueError, RecursionError) as error:
        raise InvalidAdapter(f"{what} is not valid JSON: {error}.") from error


def read_header(path: Path) -> list[TensorInfo]:
    """The tensors that the file at `path` holds, in the order of their bytes.

    Raises:
        InvalidAdapter: the header is too long, not JSON, names a tensor twice, or has a tensor
            whose dtype is not F32, F16 or BF16, whose bytes do not fit its shape, overlap
            another's or leave a gap.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise InvalidAdapter(
                f"{path.name} is not a safetensors file: its header claims {length} bytes, of a "
                f"file of {size}; at most {_MAX_HEADER} are read."
            )
        header = strict_json(file.read(length), f"The header of {path.name}")
    if not isinstance(header, dict):
        raise InvalidAdapter(f"The header of {path.name} is not a JSON object.")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise InvalidAdapter(f"{path.name}: the header's __metadata__ does not map names to texts.")
    tensors = [_tensor(path.name, name, entry, 8 + length) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
    _check_layout(path.name, tensors, 8 + length, size)
    return tensors


def _tensor(file: str, name: str, entry: Any, origin: int) -> TensorInfo:
    """The header's `entry` for one tensor, whose offsets count from `origin`."""
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(end)]}:
            pass
        case _:
            raise InvalidAdapter(f"{file}: the header's entry for {name!r} is malformed.")
    if dtype not in _EXPONENTS:
        raise InvalidAdapter(f"{file}: {name!r} is {dtype}; use one of {', '.join(_EXPONENTS)}.")
    if not all(type(length) is int and length >= 0 for length in shape):
        raise InvalidAdapter(f"{file}: {name!r} has the impossible shape {shape}.")
    needed = math.prod(shape) * np.dtype(_EXPONENTS[dtype][0]).itemsize
    if start < 0 or end - start != needed:
        raise InvalidAdapter(
            f"{file}: {name!r} is given the bytes {start} to {end}, "
            f"but {dtype} {shape} needs {needed}."
        )
    return TensorInfo(name, dtype, tuple(shape), origin + start, origin + end)


def _check_layout(file: str, tensors: Sequence[TensorInfo], origin: int, size: int) -> None:
    """Every byte after the header belongs to exactly one tensor."""
    at = origin
    for tensor in tensors:
        if tensor.start != at:
            fault = "overlaps the one before it" if tensor.start < at else "leaves a gap before it"
            raise InvalidAdapter(f"{file}: the tensor {tensor.name!r} {fault}.")
        at = tensor.end
    if at != size:
        raise InvalidAdapter(f"{file}: its tensors end at byte {at}, but the file has {size}.")


def check_finite(path: Path, tensors: Sequence[TensorInfo]) -> None:
    """Read every value.

    Raises:
        InvalidAdapter: one of them is NaN or infinite.
    """
    data = np.memmap(path, dtype=np.uint8, mode="r")
    for tensor in tensors:
        kind, mask = _EXPONENTS[tensor.dtype]
        # Tensors need not start at a multiple of their width; a view of bytes would insist on it.
        bits = np.frombuffer(data[tensor.start : tensor.end].tobytes(), dtype=kind)
        if bool(np.any((bits & mask) == mask)):
            raise InvalidAdapter(f"{path.name}: {tensor.name!r} holds a NaN or an infinity.")
