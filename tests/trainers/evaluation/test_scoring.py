"""Measuring a model on rows: losses and greedy answers against transformers' own, row by row."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from adaptery.base_model import LocalBase
from adaptery.errors import ConfigError
from adaptery.trainers.config import EvaluationConfig
from adaptery.trainers.encoding import Example
from adaptery.trainers.evaluation.additive import ACCURACY
from adaptery.trainers.evaluation.scoring import (
    Evaluation,
    answers_are_labels,
    are_labels,
    check_best,
    evaluate,
    wanted_metrics,
)
from adaptery.trainers.loading import load_base
from adaptery.trainers.method import Method
from adaptery.trainers.tasks.base import Task
from adaptery.trainers.tasks.forward import Forward
from adaptery.trainers.tasks.sft import Sft
from adaptery.trainers.watching import Silent


def summed_loss(model: PreTrainedModel, example: Example) -> float:
    """transformers' own loss of one row, as a sum over its learned tokens."""
    with torch.no_grad():
        ids, labels = torch.tensor([example.ids]), torch.tensor([example.labels])
        return model(input_ids=ids, labels=labels).loss.item() * example.learned


@pytest.fixture
def task(base: LocalBase) -> Sft:
    return Sft(Forward(base.tokenizer))


def measured(
    task: Task, model: Any, examples: list[Example], metrics: dict, size: int = 64
) -> Evaluation:
    settings = EvaluationConfig(batch_size=size)
    return evaluate(task, model, examples, metrics, settings, Silent())


def test_the_loss_of_every_row_is_that_of_transformers(
    task: Sft, model: PreTrainedModel, examples: list[Example]
) -> None:
    answers = measured(task, model, examples, {}, 7).answers
    for answer, row in zip(answers, examples, strict=True):
        assert answer.loss == pytest.approx(summed_loss(model, row), rel=1e-5)
        assert answer.tokens == row.learned


def test_padding_moves_no_position(task: Sft, examples: list[Example]) -> None:
    """Which a model shows that, unlike Qwen2, counts positions from the first."""
    torch.manual_seed(0)
    shape = GPT2Config(vocab_size=400, n_positions=256, n_embd=32, n_layer=1, n_head=2)
    model = GPT2LMHeadModel(shape).eval()
    model.transformer.wpe.weight.data.normal_()
    answers = measured(task, model, examples, {}).answers
    expected = [summed_loss(model, row) for row in examples]
    assert [answer.loss for answer in answers] == pytest.approx(expected, rel=1e-5)


def answers_one_by_one(
    model: PreTrainedModel, base: LocalBase, rows: list[Example], tokens: int
) -> list[str]:
    """What `generate` says to each prompt alone, greedily."""
    answers = []
    for row in rows:
        ids = torch.tensor([row.prompt])
        plain = GenerationConfig(
            max_new_tokens=tokens, do_sample=False, eos_token_id=base.tokenizer.eos_token_id
        )
        with torch.no_grad():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=plain)
        answers.append(base.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
    return [answer.strip() for answer in answers]


def greedy(task: Task, model: Any, rows: list[Example], tokens: int) -> list[str]:
    with torch.no_grad():
        return [answer.text for answer in task.answers(model, rows, tokens)]


def test_greedy_answers_in_a_batch_are_those_of_each_prompt_alone(
    task: Sft, base: LocalBase, model: PreTrainedModel, examples: list[Example]
) -> None:
    together = greedy(task, model, examples, 8)
    assert together == answers_one_by_one(model, base, examples, 8)
    assert len(set(together)) > 1


@pytest.mark.parametrize(
    "habits",
    [
        {"repetition_penalty": 5.0, "eos_token_id": 2},
        {"do_sample": True, "temperature": 9.0, "top_k": 3, "eos_token_id": 2},
        {"eos_token_id": None},
        {"eos_token_id": 0},
    ],
    ids=lambda habits: next(iter(habits)),
)
def test_greedy_means_greedy_whatever_the_base_is_used_to(
    task: Sft,
    base: LocalBase,
    model: PreTrainedModel,
    examples: list[Example],
    tmp_path: Path,
    habits: dict[str, Any],
) -> None:
    """Many published bases come with a repetition penalty, a temperature or another end token."""
    expected = greedy(task, model, examples, 8)
    model.save_pretrained(tmp_path)
    base.tokenizer.save_pretrained(tmp_path)
    GenerationConfig(**habits).save_pretrained(tmp_path)
    loaded = load_base(replace(base, directory=tmp_path), task, Method({}), "fp32").eval()
    assert greedy(task, loaded, examples, 8) == expected


def test_evaluation_gives_loss_perplexity_and_the_metrics_asked_for(
    task: Sft, base: LocalBase, model: PreTrainedModel, examples: list[Example]
) -> None:
    calls = []

    def metric(predictions: list[str], references: list[str]) -> float:
        calls.append((predictions, references))
        return 0.25

    scores = measured(task, model, examples, {"mine": metric}, 5).metrics
    expected = sum(summed_loss(model, row) for row in examples) / sum(r.learned for r in examples)
    assert scores.keys() == {"loss", "perplexity", "mine"}
    assert scores["loss"] == pytest.approx(expected, rel=1e-5)
    assert scores["perplexity"] == pytest.approx(math.exp(expected), rel=1e-4)
    ((predictions, references),) = calls
    assert references == [row.answer for row in examples]
    longest = max(len(row.ids) - len(row.prompt) for row in examples)
    assert predictions == answers_one_by_one(model, base, examples, longest)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_scores_do_not_depend_on_the_batch_size(
    task: Sft, model: PreTrainedModel, examples: list[Example], size: int
) -> None:
    whole = measured(task, model, examples, {"accuracy": ACCURACY}, 24)
    parts = measured(task, model, examples, {"accuracy": ACCURACY}, size)
    assert parts.metrics == pytest.approx(whole.metrics, rel=1e-5)
    assert [a.text for a in parts.answers] == [a.text for a in whole.answers]


@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_left_as_it_was(
    task: Sft, model: PreTrainedModel, examples: list[Example], training: bool
) -> None:
    modes = []
    model.train(training)
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    measured(task, model, examples[:3], {})
    assert modes == [False]
    assert model.training is training


def labelled(*answers: str) -> list[Example]:
    return [Example((1,), (1,), (1,), answer, "o") for answer in answers]


def test_answers_that_repeat_are_labels_and_texts_are_not(task: Sft) -> None:
    assert answers_are_labels(task, labelled("a", "a", "b", "b"))
    assert not answers_are_labels(task, labelled("a", "b", "c"))
    assert not are_labels([str(n) for n in range(65)] * 2)


def test_metrics_are_those_asked_for_or_those_that_fit(task: Sft) -> None:
    auto, texts = EvaluationConfig(), labelled("a", "b", "c")
    assert wanted_metrics(auto, task, labelled("a", "a", "b", "b")) == ("accuracy", "macro_f1")
    assert wanted_metrics(auto, task, texts) == ()
    named = EvaluationConfig(metrics=("loss", "bleu", "perplexity"))
    assert wanted_metrics(named, task, texts) == ("bleu",)


def test_the_best_checkpoint_is_by_something_that_is_measured() -> None:
    check_best("loss", [])
    check_best("bleu", ["bleu"])
    with pytest.raises(ConfigError, match=r"'f1', which is not measured.*loss, perplexity, bleu"):
        check_best("f1", ["bleu"])
