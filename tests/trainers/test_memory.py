"""Memory that runs out in mid-step: fewer rows at once, the same result, and a record of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from adaptery.errors import DoesNotFit
from adaptery.trainers.config import TrainingConfig
from adaptery.trainers.memory import is_out_of_memory, remedies
from adaptery.trainers.run_directory import RunDirectory
from tests.models import write_rows
from tests.trainers.runs import InterruptAt, resume, run, tensors
from tests.trainers.test_loop import same


@contextmanager
def memory_for(tokens: int) -> Iterator[None]:
    """A machine on which more tokens than that in one training forward end as they do on a GPU."""

    def hook(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        ids = inputs[0] if isinstance(module, torch.nn.Embedding) else None
        if ids is not None and module.training and ids.numel() > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    handle = torch.nn.modules.module.register_module_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def alike(folder: Path) -> dict[str, Any]:
    """Rows of one length, so that micro-batches differ in the number of rows alone."""
    rows = [[("user", f"the sky {n}"), ("assistant", "blue yellow")] for n in range(10, 34)]
    changes = {"data__train": str(write_rows(folder / "alike.jsonl", rows))}
    return changes | {"training__batch_size": 8, "lora__dropout": 0.3, "training__epochs": 2}


def losses(path: Path) -> list[float]:
    return [row["loss"] for row in RunDirectory(path).metrics()]


def test_a_run_goes_on_with_fewer_rows_at_once_and_ends_as_if_it_had_begun_so(
    tiny_base: Path, tmp_path: Path
) -> None:
    with memory_for(130):
        result = run(tmp_path / "tight", tiny_base, **alike(tmp_path))
    outcome = result.manifest.config["outcome"]
    size, accumulation = outcome["batch_size"], outcome["accumulation"]
    assert size < 8
    assert size * accumulation == 8
    changes = {"training__batch_size": size, "training__accumulation": accumulation}
    roomy = run(tmp_path / "roomy", tiny_base, **alike(tmp_path) | changes)
    assert losses(result.run) == losses(roomy.run)
    assert same(tensors(result), tensors(roomy))
    told = [e for e in RunDirectory(result.run).events() if e["kind"] == "out_of_memory"]
    assert f"micro-batches have {size} and a step {accumulation} of them" in told[-1]["sentence"]


def test_a_resumed_run_remembers_how_much_fits(tiny_base: Path, tmp_path: Path) -> None:
    with memory_for(130), pytest.raises(BaseException, match="Interrupted"):
        run(tmp_path, tiny_base, watcher=InterruptAt(3), **alike(tmp_path))
    (path,) = (tmp_path / "runs").iterdir()
    before = len(RunDirectory(path).events())
    with memory_for(130):
        result = resume(path)
    kinds = [event["kind"] for event in RunDirectory(path).events()[before:]]
    assert "out_of_memory" not in kinds
    assert result.manifest.config["outcome"]["batch_size"] < 8


def test_one_row_that_does_not_fit_ends_the_run_with_remedies(
    tiny_base: Path, tmp_path: Path
) -> None:
    with memory_for(4), pytest.raises(DoesNotFit) as error:
        run(tmp_path, tiny_base, **alike(tmp_path))
    assert str(error.value) == (
        "Memory ran out at step 1 with 1 row at once (CUDA out of memory. Tried to allocate "
        f"2.00 GiB.). {remedies(TrainingConfig(precision='fp32'))}"
    )
    assert "gradient_checkpointing" in str(error.value)


def test_a_run_that_was_told_to_stop_stops(tiny_base: Path, tmp_path: Path) -> None:
    with memory_for(130), pytest.raises(DoesNotFit, match=r"8 rows at once.*out_of_memory=halve"):
        run(tmp_path, tiny_base, training__out_of_memory="stop", **alike(tmp_path))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: tried"), True),
        (RuntimeError("CUDA error: out of memory at line 380 in file ops.cu"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_says_that_memory_ran_out(error: Exception, told: bool) -> None:
    assert is_out_of_memory(error) is told


def test_what_torch_says_when_a_cpu_has_no_more_is_understood() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60)
    assert is_out_of_memory(error.value)
