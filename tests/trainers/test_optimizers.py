from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

from adaptery.errors import ConfigError, Interrupted
from adaptery.trainers.config import TrainingConfig
from adaptery.trainers.optimizers import (
    check_training,
    decay_groups,
    make_optimizer,
    make_schedule,
)
from tests.trainers.runs import InterruptAt, resume, run, tensors
from tests.trainers.test_loop import same

HERE = (  # of transformers' names, those that work on a CPU with what is installed
    *("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"),
    *("adamw_bnb_8bit", "adamw_8bit", "lion_8bit", "lion_32bit", "ademamix", "ademamix_8bit"),
    *("paged_adamw_8bit", "paged_adamw_32bit", "rmsprop_bnb_8bit"),
)
SCHEDULERS = (
    *("linear", "cosine", "cosine_with_restarts", "polynomial", "constant_with_warmup"),
    *("inverse_sqrt", "warmup_stable_decay", "cosine_with_min_lr", "cosine_warmup_with_min_lr"),
)


def weight(*shape: int) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(*shape))


def rates(total: int = 100, **changes: Any) -> list[float]:
    """The rate of each step, as shares of the peak, and what comes after the last."""
    training = TrainingConfig(**changes)
    optimizer = make_optimizer([{"params": [weight(1)]}], training, 2.0)
    schedule = make_schedule(optimizer, training, total)
    seen = []
    for _ in range(total + 1):
        seen.append(schedule.get_last_lr()[0] / 2.0)
        optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize("name", ["adamw_torch", "adamw_torch_fused", "adafactor", "sgd"])
def test_an_optimizer_steps_as_the_trainer_would(name: str) -> None:
    """Class, betas and epsilon are those of transformers' Trainer."""
    ours, theirs = weight(4, 4), weight(4, 4)
    optimizer = make_optimizer([{"params": [ours]}], TrainingConfig(optimizer=name), 0.1)
    kind, arguments = Trainer.get_optimizer_cls_and_kwargs(
        TrainingArguments(optim=name, learning_rate=0.1, use_cpu=True)
    )
    other = kind([theirs], **arguments)
    for step in range(3):
        for parameter in (ours, theirs):
            parameter.grad = torch.full_like(parameter, 0.5 + step)
        optimizer.step()
        other.step()
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, torch.ones(4, 4))


@pytest.mark.parametrize("name", HERE)
def test_those_that_work_here_are_let_through(name: str) -> None:
    check_training(TrainingConfig(optimizer=name))


@pytest.mark.parametrize("name", ["adafactor", "adamw_8bit", "lion_8bit", "paged_adamw_8bit"])
def test_a_run_with_it_learns_and_goes_on_bit_for_bit(
    name: str, tiny_base: Path, tmp_path: Path
) -> None:
    changes = {"training__optimizer": name, "training__weight_decay": 0.01}
    whole = run(tmp_path / "whole", tiny_base, **changes)
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", tiny_base, watcher=InterruptAt(4), **changes)
    (path,) = (tmp_path / "parts" / "runs").iterdir()
    assert same(tensors(whole), tensors(resume(path)))


def test_two_optimizers_make_two_adapters(tiny_base: Path, tmp_path: Path) -> None:
    one, other, plus, plus_sgd = (
        tensors(run(tmp_path / f"{n}", tiny_base, training__optimizer=name, method=method))
        for n, (name, method) in enumerate(
            [
                ("adamw_torch", "lora"),
                ("sgd", "lora"),
                ("adamw_torch", "loraplus"),
                ("sgd", "loraplus"),
            ]
        )
    )
    assert not same(one, other)
    assert not same(plus, plus_sgd)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("adamw_trch", r"no optimizer 'adamw_trch'\. Did you mean 'adamw_torch'\?"),
        ("galore_adamw", r"'galore_adamw' cannot be used here: .*galore_torch.*adamw_torch works"),
        ("adamw_torch_8bit", r"'adamw_torch_8bit' cannot be used here: .*torchao"),
        ("schedule_free_adamw", r"makes its own schedule"),
        ("lomo", r"'lomo' cannot be used here"),
        ("adamw_torch_xla", r"'adamw_torch_xla' cannot be used here"),
    ],
)
def test_one_that_cannot_be_had_is_a_sentence_with_a_way_out(name: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check_training(TrainingConfig(optimizer=name))


def test_it_is_refused_before_any_row_is_read(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="adamw_trch"):
        run(tmp_path, tiny_base, data__train="nowhere.jsonl", training__optimizer="adamw_trch")


def test_vectors_are_not_decayed() -> None:
    """Biases and norms; pulled to zero, they spoil a model that is fine-tuned as a whole."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))
    training = TrainingConfig(weight_decay=0.5)
    optimizer = make_optimizer(decay_groups(model.parameters(), training), training, 0.1)
    decays = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert {name: decays[id(p)] for name, p in model.named_parameters()} == {
        "0.weight": 0.5,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
    }


def test_what_is_frozen_is_not_in_the_optimizer() -> None:
    frozen, trained = weight(2, 2).requires_grad_(False), weight(2, 2)
    (group,) = decay_groups([frozen, trained], TrainingConfig())
    assert group["params"] == [trained]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_rate_rises_to_its_peak_in_the_warm_up(name: str) -> None:
    seen = rates(scheduler=name, warmup=0.1)
    assert seen[10] == pytest.approx(1, abs=1e-3)  # one is a step late
    assert all(before < after for before, after in pairwise(seen[:10]))


@pytest.mark.parametrize("name", ["linear", "cosine", "polynomial", "warmup_stable_decay"])
def test_and_falls_to_nothing(name: str) -> None:
    seen = rates(scheduler=name, warmup=0.1)
    assert all(after <= before for before, after in pairwise(seen[10:]))
    assert seen[-1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["cosine_with_min_lr", "cosine_warmup_with_min_lr"])
def test_or_to_a_tenth(name: str) -> None:
    assert rates(scheduler=name, warmup=0.1)[-1] == pytest.approx(0.1, abs=1e-3)


def test_a_constant_rate_has_its_warm_up_too() -> None:
    """transformers' own `constant` would ignore `training.warmup`."""
    seen = rates(scheduler="constant", warmup=0.1)
    assert seen[:11] == pytest.approx([n / 10 for n in range(11)])
    assert set(seen[10:]) == {1.0}
    assert set(rates(scheduler="constant", warmup=0)) == {1.0}


def test_no_two_schedules_are_the_same() -> None:
    seen = {name: tuple(rates(scheduler=name, warmup=0.1)) for name in SCHEDULERS}
    assert len(set(seen.values())) == len(SCHEDULERS)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cosin", r"no scheduler 'cosin'\. Did you mean 'cosine'\?"),
        ("reduce_lr_on_plateau", "changes the rate by what was measured"),
        ("greedy", "changes the rate by what was measured"),
    ],
)
def test_a_schedule_that_cannot_be_had_is_a_sentence(name: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check_training(TrainingConfig(scheduler=name))


def test_fp16_on_a_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(is_available=lambda: False))
    with pytest.raises(ConfigError, match=r"fp16.*needs a GPU.*Use bf16, fp32 or auto"):
        check_training(TrainingConfig(precision="fp16"))
