"""Training in processes of their own, forked from one that has imported torch and done nothing."""

import multiprocessing
import os
import socket
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from adaptery.trainers.run_directory import RunDirectory

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["tests.trainers.runs", "transformers.models.qwen2.modeling_qwen2", "peft", "bitsandbytes"]
)
SECONDS = 120.0


def begin(work: Callable[..., object], *arguments: Any, **options: Any) -> ForkServerProcess:
    """Do some work, a function of a module, in a new process."""
    process = CONTEXT.Process(target=do, args=(dict(os.environ), work, arguments, options))
    process.daemon = True
    process.start()
    return process


def do(environment: Mapping[str, str], work: Any, arguments: Any, options: Any) -> None:
    os.environ |= environment
    RunDirectory.plot = lambda self: None  # type: ignore[method-assign]
    work(*arguments, **options)


def together(count: int, work: Callable[..., object], *arguments: Any, **options: Any) -> list[int]:
    """Do the same work in processes that know of one another; returns their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    size = str(count)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": size}
    processes = [
        CONTEXT.Process(
            target=do,
            args=(
                os.environ | place | {"RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size},
                *(work, arguments, options),
            ),
            daemon=True,
        )
        for rank in map(str, range(count))
    ]
    for process in processes:
        process.start()
    return [ended(process) for process in processes]


def ended(process: ForkServerProcess) -> int:
    """The exit code of a process, or minus the signal that ended it."""
    process.join(SECONDS)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"A process did not end within {SECONDS} s.")
    return process.exitcode


def lora_weights(folder: Path) -> Path:
    """The weights that the only run in `folder` left."""
    (path,) = (folder / "runs").glob("*/adapter/adapter_model.safetensors")
    return path
