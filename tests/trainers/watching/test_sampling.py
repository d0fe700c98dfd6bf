"""Answers in mid-run: real runs write them, judge them, and raise no alarm without cause."""

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from adaptery.base_model import LocalBase
from adaptery.trainers.data.rows import Conversation, Message
from adaptery.trainers.run_directory import RunDirectory
from adaptery.trainers.tasks.forward import Forward
from adaptery.trainers.tasks.sft import Sft
from adaptery.trainers.watching.diagnosis import diagnose
from adaptery.trainers.watching.sampling import take_samples
from tests.models import write_rows
from tests.trainers.runs import rows, run


@pytest.fixture
def task(base: LocalBase) -> Sft:
    return Sft(Forward(base.tokenizer))


def asked(task: Sft, count: int) -> list[Any]:
    turns = [(Message("user", f"{n}"), Message("assistant", "blue")) for n in range(count)]
    return task.encode([Conversation(turn, f"rows:{n}") for n, turn in enumerate(turns)])


def test_answers_say_whether_they_ended(task: Sft, model: PreTrainedModel) -> None:
    """The same answers, first with an end token that no row comes to, then with one's own."""
    rows = asked(task, 3)
    new = task.forward.generated(model, rows, 4)
    cut = take_samples(task, model, rows, 4)
    assert not any(sample.ended for sample in cut)
    assert [sample.answer for sample in cut] == task.forward.texts(new)
    assert all("user" in sample.prompt for sample in cut)
    model.generation_config.eos_token_id = int(new[1, 1])
    assert take_samples(task, model, rows, 4)[1].ended


def test_no_row_and_no_answer(task: Sft, model: PreTrainedModel) -> None:
    assert take_samples(task, model, [], 8) == []


def test_the_model_is_left_as_it_was(task: Sft, model: PreTrainedModel) -> None:
    model.train()
    (sample,) = take_samples(task, model, asked(task, 1), 3)
    assert model.training
    assert not sample.ended or sample.answer


@pytest.mark.parametrize(
    ("method", "rate"), [("lora", 2e-3), ("loraplus", 2e-3), ("adalora", 0.02)]
)
def test_a_healthy_short_run_raises_no_alarm(
    tiny_base: Path, tmp_path: Path, method: str, rate: float
) -> None:
    held_out = str(write_rows(tmp_path / "eval.jsonl", rows(6, start=40)))
    result = run(
        tmp_path / "run",
        tiny_base,
        method=method,
        training__epochs=6,
        training__learning_rate=rate,
        data__eval=held_out,
        evaluation__every=10,
        evaluation__samples=2,
        evaluation__max_new_tokens=12,
    )
    done = RunDirectory(result.run)
    samples = done.samples()
    assert [sample["step"] for sample in samples] == [10, 10, 20, 20, 30, 30]
    kinds = [event["kind"] for event in done.events()]
    assert set(kinds) <= {"best", "endless"}, done.events()
    assert {finding.alarm for finding in diagnose(done)} <= {"endless"}
    assert done.status.state == "finished"
    figures = done.data()
    assert (figures["training"]["rows"], figures["held-out"]["rows"]) == (20, 6)
    assert figures["training"]["tokens"] > figures["training"]["learned tokens"] > 20


def test_a_rate_far_too_high_is_told_while_the_run_goes_on(tiny_base: Path, tmp_path: Path) -> None:
    result = run(tmp_path, tiny_base, training__learning_rate=5.0, training__epochs=8)
    told = {event["kind"]: event for event in RunDirectory(result.run).events()}
    assert told["rate"]["step"] <= 3
    assert told["gradient_explosion"]["step"] <= 5
    for event in told.values():
        assert "`training.learning_rate: 5 → 0.0005`" in event["sentence"]
