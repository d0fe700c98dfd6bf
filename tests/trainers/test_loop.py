import json
import math
from pathlib import Path

import pytest
import torch

from adaptery.errors import ConfigError, Interrupted, VerificationError
from adaptery.trainers.method import Method
from adaptery.trainers.run_directory import RunDirectory
from tests.models import write_rows
from tests.trainers.runs import InterruptAt, resume, rows, run, tensors


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether both hold the same tensors, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[key] - other[key]).abs().max().item() for key in one)


def test_accumulation_is_one_big_batch(tiny_base: Path, tmp_path: Path) -> None:
    """Answers differ in length, so a mean of means would show."""
    uneven = [[("user", f"{n}"), ("assistant", "blue " * (n + 1))] for n in range(20)]
    shared = {
        "data__train": str(write_rows(tmp_path / "uneven.jsonl", uneven)),
        "training__max_steps": 1,
        "training__max_grad_norm": 1e9,
    }
    whole = run(tmp_path / "a", tiny_base, training__batch_size=20, **shared)
    parts = run(
        tmp_path / "b", tiny_base, training__batch_size=5, training__accumulation=4, **shared
    )
    (one,), (other,) = (RunDirectory(r.run).metrics() for r in (whole, parts))
    assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
    assert furthest(tensors(whole), tensors(parts)) < 1e-4


def test_recomputed_activations_give_the_same_adapter(tiny_base: Path, tmp_path: Path) -> None:
    kept = run(tmp_path / "a", tiny_base)
    recomputed = run(tmp_path / "b", tiny_base, training__gradient_checkpointing=True)
    assert furthest(tensors(kept), tensors(recomputed)) < 1e-5


def test_training_learns(tiny_base: Path, tmp_path: Path) -> None:
    result = run(tmp_path, tiny_base, training__epochs=6)
    losses = [row["loss"] for row in RunDirectory(result.run).metrics()]
    assert losses[-1] < losses[0] / 2


def test_another_seed_makes_another_adapter_and_the_same_seed_the_same(
    tiny_base: Path, tmp_path: Path
) -> None:
    one, again, other = (
        tensors(run(tmp_path / name, tiny_base, training__seed=seed, lora__dropout=0.1))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert same(one, again)
    assert not same(one, other)


@pytest.mark.parametrize(("method", "step"), [("lora", 6), ("adalora", 8)])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    tiny_base: Path, tmp_path: Path, method: str, step: int
) -> None:
    changes = {"method": method, "training__epochs": 3, "lora__dropout": 0.1}
    whole = run(tmp_path / "whole", tiny_base, **changes)
    with pytest.raises(Interrupted) as error:
        run(tmp_path / "parts", tiny_base, watcher=InterruptAt(step), **changes)
    (path,) = (tmp_path / "parts" / "runs").iterdir()
    assert str(error.value) == (
        f"Interrupted at step {step} of 15; nothing was published. "
        f"Go on with: adapters train --resume {path}"
    )
    assert not (path / "adapter").exists()
    parts = resume(path)
    assert same(tensors(whole), tensors(parts))
    assert [(row["step"], row["loss"]) for row in RunDirectory(path).metrics()] == [
        (row["step"], row["loss"]) for row in RunDirectory(whole.run).metrics()
    ]
    assert parts.manifest.model_copy(update={"files": ()}) == whole.manifest


def test_a_run_may_be_interrupted_twice_and_at_its_last_step(
    tiny_base: Path, tmp_path: Path
) -> None:
    whole = run(tmp_path / "whole", tiny_base)
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", tiny_base, watcher=InterruptAt(1))
    (path,) = (tmp_path / "parts" / "runs").iterdir()
    for step in (7, 10):
        with pytest.raises(Interrupted, match=f"step {step} of 10"):
            resume(path, InterruptAt(step))
    assert same(tensors(whole), tensors(resume(path)))


def test_a_run_interrupted_after_its_last_step_says_how_to_go_on(
    tiny_base: Path, tmp_path: Path
) -> None:
    held_out = str(write_rows(tmp_path / "eval.jsonl", rows(4, start=40)))
    watcher = InterruptAt(1, "evaluating the adapter")
    with pytest.raises(Interrupted, match=r"adapters train --resume .*/runs/colours-"):
        run(tmp_path, tiny_base, data__eval=held_out, watcher=watcher)
    (path,) = (tmp_path / "runs").iterdir()
    assert resume(path).manifest.metrics["loss"] > 0


def test_a_run_interrupted_before_its_first_step_has_nothing_to_go_on_from(
    tiny_base: Path, tmp_path: Path
) -> None:
    held_out = str(write_rows(tmp_path / "eval.jsonl", rows(4, start=40)))
    watcher = InterruptAt(1, "evaluating the untuned base")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, tiny_base, data__eval=held_out, watcher=watcher)
    (path,) = (tmp_path / "runs").iterdir()
    with pytest.raises(ConfigError, match="no checkpoint"):
        resume(path)


def test_a_resumed_run_refuses_rows_that_have_changed(tiny_base: Path, tmp_path: Path) -> None:
    """It would go on with other rows than it began with, and its manifest would lie."""
    with pytest.raises(Interrupted):
        run(tmp_path, tiny_base, watcher=InterruptAt(2))
    data = tmp_path / "train.jsonl"
    data.write_text(data.read_text().replace("yellow", "green"))
    (path,) = (tmp_path / "runs").iterdir()
    with pytest.raises(ConfigError, match="rows"):
        resume(path)


def test_a_loss_that_is_no_number_stops_the_run(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=r"loss became (nan|inf).*training\.learning_rate"):
        run(tmp_path, tiny_base, training__learning_rate=1e30, training__max_grad_norm=1e30)
    (path,) = (tmp_path / "runs").iterdir()
    assert not (path / "adapter").exists()


def test_a_gradient_that_is_no_number_stops_the_run_before_it_spoils_weights(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def penalty(self: Method, model: torch.nn.Module) -> torch.Tensor:
        return sum((p * float("nan")).sum() for p in model.parameters() if p.requires_grad)

    monkeypatch.setattr(Method, "penalty", penalty)
    with pytest.raises(VerificationError, match=r"norm nan at step 1"):
        run(tmp_path, tiny_base)


def test_metrics_are_logged_as_often_as_asked_and_at_the_end(
    tiny_base: Path, tmp_path: Path
) -> None:
    result = run(tmp_path, tiny_base, training__log_every=4)
    rows = [json.loads(line) for line in (result.run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 8, 10]
    assert all(math.isfinite(value) for row in rows for value in row.values())
