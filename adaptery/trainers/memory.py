"""Memory: how much is in use, how it is told that there was too little, what can be done then."""

import ctypes
import gc
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptery.trainers.config import TrainingConfig

if TYPE_CHECKING:
    import torch

TOLD = re.compile(  # by libraries that raise a plain RuntimeError
    r"out of memory|can't allocate memory|not enough memory|std::bad_alloc|could not create a "
    r"memory|cannot allocate memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, be it torch's, Python's or bitsandbytes'."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(TOLD.search(str(error)))


def give_back() -> None:
    """Return memory that nothing refers to any more.

    Also what the C library keeps for the next tensor: what it holds already would not be counted.
    """
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def memory_in_use(device: "torch.device") -> int:
    """Bytes now: the GPU allocator's, or the process' where there is no GPU."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.memory_allocated())
    import psutil

    return int(psutil.Process().memory_info().rss)


def peak_memory() -> int:
    """Bytes: the most that was held since the start, or since `forget_peak`.

    Linux hands `getrusage`'s figure down from the process that started this one, so that a small
    run under a large parent would look large; the high-water mark of the address space is its own.
    """
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024


def forget_peak() -> None:
    """Let the peak be of what follows, where the system can do that."""
    import torch

    give_back()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def remedies(training: TrainingConfig) -> str:
    """What needs less memory than what was tried."""
    recompute = "" if training.gradient_checkpointing else "set training.gradient_checkpointing, "
    exact = "set training.precision=bf16, " if training.precision == "fp32" else ""
    ways = f"{recompute}{exact}shorten data.max_length, adapt fewer lora.targets, or hold the base "
    return f"{ways[:1].upper()}{ways[1:]}in 4 bits with the method qlora."
