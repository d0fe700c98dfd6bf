"""What a safetensors file says about itself, checked before any tensor is loaded.

The format: eight bytes with the header's length N (little endian), N bytes of JSON that give every
tensor's dtype, shape and byte range, then the bytes. The safetensors library checks most of this
when it loads; here it is checked without loading, and every refusal names the tensor.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adaptery.errors import InvalidAdapter, brief
from adaptery.registry.gate.text import strict_json

# dtype -> (unsigned integer of the same width, exponent mask): a value whose exponent bits are all
# set is NaN or infinite, in each of the three formats.
_EXPONENTS = {
    "F32": (np.uint32, 0x7F800000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
}
_MAX_HEADER = 12 * 2**20  # 70,000 tensors: every expert of the largest mixtures
_MAX_FILE = 64 * 2**30
_MAX_DIMENSIONS = 8
_MAX_PARTS = (
    16  # commas and colons in a tensor's entry, so that no other header is parsed at length
)
_CHUNK = 16 * 2**20  # bytes read at once
# What modules and parameters are called. No tensor's name ever becomes a path; all the same none
# can climb out of a directory or write to a terminal.
TENSOR_NAME = re.compile(r"(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: `start` and `end` are byte offsets in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(path: Path) -> list[TensorInfo]:
    """The tensors that the file at `path` holds, in the order of their bytes.

    Raises:
        InvalidAdapter: the header is too long, not JSON, names a tensor twice or by a name that no
            parameter has, or has a tensor whose dtype is not F32, F16 or BF16, whose bytes do not
            fit its shape, overlap another's or leave a gap.
    """
    size = path.stat().st_size
    if size > _MAX_FILE:
        raise InvalidAdapter(f"{path.name} has {size} bytes; an adapter has at most {_MAX_FILE}.")
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise InvalidAdapter(
                f"{path.name} is not a safetensors file{_pickle(start)}: its header claims "
                f"{length} bytes, of a file of {size}; at most {_MAX_HEADER} are read."
            )
        data = file.read(length)
    if data.count(b",") + data.count(b":") > _MAX_PARTS * (data.count(b'"data_offsets"') + 1000):
        raise InvalidAdapter(f"The header of {path.name} is malformed: most of it is no tensor.")
    header = strict_json(data, f"The header of {path.name}")
    if not data.startswith(b"{"):
        raise InvalidAdapter(f"The header of {path.name} is not a JSON object.")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise InvalidAdapter(f"{path.name}: the header's __metadata__ does not map names to texts.")
    tensors = [_tensor(path.name, name, entry, 8 + length, size) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
    _check_layout(path.name, tensors, 8 + length, size)
    return tensors


def _pickle(start: bytes) -> str:
    """What the file seems to be instead, by its first bytes."""
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return ", but a pickle by its first bytes, which is never opened"
    return ""


def _tensor(file: str, name: str, entry: Any, origin: int, size: int) -> TensorInfo:
    """The header's `entry` for one tensor, whose offsets count from `origin`."""
    if not TENSOR_NAME.fullmatch(name):
        raise InvalidAdapter(f"{file}: {brief(name)} is a name that no module's tensor has.")
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [start, end], **others}:
            pass
        case _:
            raise InvalidAdapter(f"{file}: the header's entry for {name!r} is malformed.")
    if others or type(start) is not int or type(end) is not int:
        raise InvalidAdapter(f"{file}: the header's entry for {name!r} is malformed.")
    if dtype not in _EXPONENTS:
        raise InvalidAdapter(
            f"{file}: {name!r} is {brief(dtype, quote=False)}; use one of {', '.join(_EXPONENTS)}."
        )
    if 0 in shape:
        raise InvalidAdapter(f"{file}: {name!r} is empty: its shape is {brief(shape)}.")
    possible = len(shape) <= _MAX_DIMENSIONS and all(
        type(length) is int and 0 < length <= size for length in shape
    )
    if not possible:
        raise InvalidAdapter(f"{file}: {name!r} has the impossible shape {brief(shape)}.")
    needed = math.prod(shape) * np.dtype(_EXPONENTS[dtype][0]).itemsize
    if start < 0 or end - start != needed:
        raise InvalidAdapter(
            f"{file}: {name!r} is given the bytes {brief(start)} to {brief(end)}, "
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
    with path.open("rb") as file:
        for tensor in tensors:
            kind, mask = _EXPONENTS[tensor.dtype]
            file.seek(tensor.start)
            for at in range(tensor.start, tensor.end, _CHUNK):
                bits = np.frombuffer(file.read(min(_CHUNK, tensor.end - at)), dtype=kind)
                if bool(np.any((bits & mask) == mask)):
                    raise InvalidAdapter(
                        f"{path.name}: {tensor.name!r} holds a NaN or an infinity."
                    )
