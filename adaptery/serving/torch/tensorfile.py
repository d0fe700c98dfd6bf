"""What a safetensors file says before its bytes are read, and how its numbers are recognised.

The format: eight bytes with the header's length N (little endian), N bytes of JSON that give every
tensor's dtype, shape and byte range, then the bytes.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO

import torch
from torch import Tensor

from adaptery.errors import InvalidAdapter, brief

FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
LONGEST_HEADER = 64 * 2**20  # bytes

# What bits of an infinity are, without its sign; those of every NaN are above, of numbers below.
INFINITY = {torch.float32: 0x7F800000, torch.float16: 0x7C00, torch.bfloat16: 0x7F80}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """`count` numbers, whose bytes are those from `start` to `end` of what follows the header."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int
    count: int


def read_header(file: BinaryIO) -> bytes:
    """The header's text; the file is where the tensors begin then. Raises `InvalidAdapter`."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(size - 8, LONGEST_HEADER):
        raise InvalidAdapter(
            f"its header claims {length:,} bytes, but the file has {size:,}; it is no safetensors "
            "file, or a torn one"
        )
    return file.read(length)


def parse_header(header: bytes, size: int) -> list[StoredTensor]:
    """The tensors in the order of their bytes, which are `size` together.

    Raises:
        InvalidAdapter: the header is not JSON of the format, a tensor's bytes do not fit its
            shape, overlap another's or leave a gap, or are not floating point numbers.
    """
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        tensors = [stored(name, entry) for name, entry in entries.items()]
    except InvalidAdapter:
        raise
    except (ValueError, AttributeError, TypeError, LookupError, RecursionError) as error:
        raise InvalidAdapter(f"its header is malformed: {type(error).__name__}") from error
    tensors.sort(key=lambda tensor: tensor.start)
    require_gapless(tensors, size)
    return tensors


def stored(name: str, entry: Any) -> StoredTensor:
    """The header's entry for one tensor."""
    shape, (start, end) = tuple(entry["shape"]), entry["data_offsets"]
    if entry["dtype"] not in FLOATS:
        raise InvalidAdapter(
            f"{name!r} holds {brief(entry['dtype'])}, not floating point numbers "
            f"({', '.join(FLOATS)})"
        )
    dtype = FLOATS[entry["dtype"]]
    if not all(type(number) is int and number >= 0 for number in (*shape, start, end)):
        raise InvalidAdapter(f"the header's entry for {name!r} is malformed")
    count = prod(shape)
    if end - start != count * dtype.itemsize:
        raise InvalidAdapter(f"{name!r} has {end - start:,} bytes, which is not its shape {shape}")
    return StoredTensor(name, dtype, shape, start, end, count)


def require_gapless(tensors: Sequence[StoredTensor], size: int) -> None:
    at = 0
    for tensor in tensors:
        if tensor.start != at:
            raise InvalidAdapter(f"{tensor.name!r} overlaps the tensor before it or leaves a gap")
        at = tensor.end
    if at != size:
        raise InvalidAdapter(f"its tensors have {at:,} bytes, but the file holds {size:,} of them")


def all_finite(numbers: Tensor) -> bool:
    """Whether there is neither NaN nor infinity in a contiguous tensor of the CPU.

    Read as integers, numbers with a sign bit are in the order of their magnitude, and so are those
    without; NaN and infinity come last. Two maxima therefore tell, at the speed of memory and on
    one thread, where torch's own `isfinite` takes many times as long.
    """
    infinity = INFINITY[numbers.dtype]
    width = f"int{8 * numbers.itemsize}"
    bits = numbers.detach().reshape(-1).view(getattr(torch, width)).numpy()
    if not bits.size:
        return True
    sign = 1 << (8 * numbers.itemsize - 1)
    return bool(bits.max() < infinity) and bool(bits.view(f"u{width}").max() < infinity | sign)
