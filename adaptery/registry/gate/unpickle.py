"""A pickled `adapter_model.bin` made into safetensors, in a process that can do nothing else.

A pickle is a program. PyTorch's reader with `weights_only=True` refuses all but tensors; because
that is one wall, this runs in a process of its own, without the user's environment and with
limits of memory, time and file size, and what it writes goes through the gate like any other file:

    python -I -m adaptery.registry.gate.unpickle adapter_model.bin adapter_model.safetensors
"""

import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from adaptery.errors import InvalidAdapter, brief

_SECONDS = 120
_SPARE = 256 * 2**20  # bytes beside the copies
_COPIES = 4  # of the file's size: read, unpacked, made contiguous, written


def convert(source: Path, target: Path) -> None:
    """Write the tensors of the pickle `source` to `target`, which is not there yet.

    Raises:
        InvalidAdapter: it holds anything but tensors by name, or more than the limits allow.
    """
    command = [sys.executable, "-I", "-m", __name__, str(source), str(target)]
    try:
        run = subprocess.run(
            command,
            env={"OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InvalidAdapter(
            f"{source.name} was not converted: it took more than {_SECONDS} seconds."
        ) from error
    if run.returncode != 0 or not target.is_file():
        lines = run.stderr.decode(errors="replace").strip().splitlines()
        said = brief(lines[-1] if lines else f"exit status {run.returncode}", quote=False)
        raise InvalidAdapter(f"{source.name} was not converted, and nothing of it was run: {said}")


def main(source: Path, target: Path) -> None:
    """What the process does. Leaves by `SystemExit` with a sentence if it cannot."""
    try:
        import torch
        from safetensors.torch import save_file
    except ImportError as error:
        raise SystemExit(f"PyTorch is needed for it: pip install torch ({error}).") from error
    limit(source.stat().st_size)
    try:
        found = torch.load(source, map_location="cpu", weights_only=True)
        save_file(tensors(found), target, metadata={"format": "pt"})
    except Exception as error:  # Of any kind: the file decides what is raised.
        raise SystemExit(reason(error)) from error


def limit(size: int) -> None:
    """Bound what this process may take from now on, given the size of the pickle in bytes."""
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    written = size + _SPARE
    resource.setrlimit(resource.RLIMIT_FSIZE, (written, written))
    taken = Path("/proc/self/statm")
    if taken.exists():  # Linux; elsewhere the limit is not kept anyway.
        memory = int(taken.read_text().split()[0]) * resource.getpagesize()
        memory += _COPIES * size + _SPARE
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def tensors(found: Any) -> "dict[str, Any]":
    """The tensors of a state dict, in order of their names, each with memory of its own.

    Raises:
        TypeError: it is something else.
    """
    import torch

    if not isinstance(found, dict):
        raise TypeError(f"it holds a {type(found).__name__}, not tensors by name")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise TypeError(f"{name!r} is a {type(value).__name__}, not a tensor with a name")
    return {name: found[name].detach().clone().contiguous() for name in sorted(found)}


def reason(error: Exception) -> str:
    """What is wrong, in one line; PyTorch's own has many, and recommends to switch safety off."""
    text = str(error)
    called = re.search(r"GLOBAL ([\w.]+)", text)
    if called:
        return f"it wants to call {called[1]}, which is refused."
    if "weights_only" in text.lower():
        return "it is no pickle that holds tensors alone."
    lines = text.strip().splitlines()
    return f"it cannot be read as tensors ({lines[0] if lines else type(error).__name__})."


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
