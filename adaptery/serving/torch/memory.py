"""How much memory a device still has, and how much of it keys and values get."""

from math import prod

import numpy
import torch
from torch import Tensor

from adaptery.errors import DoesNotFit
from adaptery.serving.config import ServeConfig
from adaptery.serving.torch.blocks import BLOCK, needed

SHARE = 0.5  # of what is free, for keys and values unless told otherwise


def available_memory(device: torch.device) -> int:
    """Bytes that can be allocated on `device` now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    import psutil

    return int(psutil.virtual_memory().available)


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of zeros. On a CPU its pages take memory when they are first written to."""
    if device.type != "cpu" or not prod(shape):
        return torch.zeros(shape, dtype=dtype, device=device)
    pages = numpy.zeros(prod(shape) * dtype.itemsize, numpy.uint8)
    return torch.from_numpy(pages).view(dtype).view(shape)


def gigabytes(size: int) -> str:
    """Bytes as messages show them."""
    return f"{size / 1e9:.1f} GB"


def cache_blocks(config: ServeConfig, context: int, token: int, device: torch.device) -> int:
    """How many blocks the cache has if a token takes `token` bytes and a request `context` tokens.

    Raises:
        DoesNotFit: there is not so much memory, or not enough for one request.
    """
    available, one = available_memory(device), needed(context)
    block = BLOCK * token
    if config.kv_memory is not None:
        wanted, told = config.kv_memory // block, "--kv-memory allows"
    else:
        half = int(SHARE * available) // block
        wanted, told = min(config.max_sequences * one, half), "there is room for"
    if wanted < one:
        raise DoesNotFit(
            f"Keys and values of one request of {context:,} tokens need {gigabytes(one * block)}, "
            f"but {told} {gigabytes(wanted * block)}. Lower --max-context, or give more memory."
        )
    if wanted * block > available:
        raise DoesNotFit(
            f"--kv-memory asks for {gigabytes(wanted * block)}, but {gigabytes(available)} are "
            "free. Ask for less."
        )
    return int(wanted)
