import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sklearn.metrics import f1_score
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from adaptery.base_model import LocalBase
from adaptery.plugins.builtin.metrics import accuracy, macro_f1
from adaptery.trainers.batches import pad
from adaptery.trainers.config import RunConfig
from adaptery.trainers.encoding import Example
from adaptery.trainers.evaluation import (
    answers_are_labels,
    evaluate,
    greedy_answers,
    pad_id,
    token_losses,
)
from adaptery.trainers.loading import load_base
from adaptery.trainers.method import Method
from adaptery.trainers.watching import Silent


def summed_loss(model: PreTrainedModel, example: Example) -> float:
    """transformers' own loss of one row, as a sum over its learned tokens."""
    with torch.no_grad():
        ids, labels = torch.tensor([example.ids]), torch.tensor([example.labels])
        return model(input_ids=ids, labels=labels).loss.item() * example.learned


def test_the_loss_is_that_of_transformers_row_by_row(
    base: LocalBase, model: PreTrainedModel, examples: list[Example]
) -> None:
    batch = pad([(row.ids, row.labels) for row in examples], pad_id(base.tokenizer))
    with torch.no_grad():
        losses = token_losses(model, batch)
    assert losses.shape == (sum(row.learned for row in examples),)
    expected = sum(summed_loss(model, row) for row in examples)
    assert losses.sum().item() == pytest.approx(expected, rel=1e-5)


def test_padding_moves_no_position(examples: list[Example]) -> None:
    """Which a model shows that, unlike Qwen2, counts positions from the first."""
    torch.manual_seed(0)
    shape = GPT2Config(vocab_size=400, n_positions=256, n_embd=32, n_layer=1, n_head=2)
    model = GPT2LMHeadModel(shape).eval()
    model.transformer.wpe.weight.data.normal_()
    batch = pad([(row.ids, row.labels) for row in examples], 0)
    with torch.no_grad():
        losses = token_losses(model, batch)
    expected = sum(summed_loss(model, row) for row in examples)
    assert losses.sum().item() == pytest.approx(expected, rel=1e-5)


def test_what_a_row_is_padded_with_changes_nothing(
    model: PreTrainedModel, examples: list[Example]
) -> None:
    rows = [(row.ids, row.labels) for row in examples[:6]]
    with torch.no_grad():
        one, other = (token_losses(model, pad(rows, token)) for token in (0, 7))
    assert torch.equal(one, other)


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


def test_greedy_answers_in_a_batch_are_those_of_each_prompt_alone(
    base: LocalBase, model: PreTrainedModel, examples: list[Example]
) -> None:
    together = greedy_answers(model, base.tokenizer, examples, 8)
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
    base: LocalBase, model: PreTrainedModel, examples: list[Example], tmp_path: Path, habits
) -> None:
    """Many published bases come with a repetition penalty, a temperature or another end token."""
    expected = greedy_answers(model, base.tokenizer, examples, 8)
    model.save_pretrained(tmp_path)
    base.tokenizer.save_pretrained(tmp_path)
    GenerationConfig(**habits).save_pretrained(tmp_path)
    config = RunConfig(name="a", base="b", data={"train": "d"}, training={"precision": "fp32"})
    loaded = load_base(replace(base, directory=tmp_path), Method({}), config).eval()
    assert greedy_answers(loaded, base.tokenizer, examples, 8) == expected


def test_evaluation_gives_loss_perplexity_and_the_metrics_asked_for(
    base: LocalBase, model: PreTrainedModel, examples: list[Example]
) -> None:
    calls = []

    def metric(predictions: list[str], references: list[str]) -> float:
        calls.append((predictions, references))
        return 0.25

    scores = evaluate(model, base.tokenizer, examples, {"mine": metric}, 5, Silent())
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
    base: LocalBase, model: PreTrainedModel, examples: list[Example], size: int
) -> None:
    whole = evaluate(model, base.tokenizer, examples, {"accuracy": accuracy}, 24, Silent())
    parts = evaluate(model, base.tokenizer, examples, {"accuracy": accuracy}, size, Silent())
    assert parts == pytest.approx(whole, rel=1e-5)


PREDICTIONS = ["a", "b", "b", "c", "a", "nonsense", "a"]
REFERENCES = ["a", "b", "a", "c", "c", "b", "a"]


def test_macro_f1_is_computed_by_hand_the_same() -> None:
    a = 2 * 2 / (2 * 2 + 1 + 1)  # F1 = 2 TP / (2 TP + FP + FN)
    b = 2 * 1 / (2 * 1 + 1 + 1)
    c = 2 * 1 / (2 * 1 + 0 + 1)
    assert macro_f1()(PREDICTIONS, REFERENCES) == pytest.approx((a + b + c) / 3)


def test_macro_f1_counts_only_true_classes() -> None:
    over_all = f1_score(REFERENCES, PREDICTIONS, average="macro")
    assert macro_f1()(PREDICTIONS, REFERENCES) > over_all


def test_macro_f1_of_answers_that_are_no_class_is_zero_and_not_a_number_never() -> None:
    assert macro_f1()(["x", "y"], ["a", "b"]) == 0.0
    assert macro_f1()(["a", "b"], ["a", "b"]) == 1.0


def test_accuracy_is_the_share_of_equal_answers() -> None:
    assert accuracy(PREDICTIONS, REFERENCES) == pytest.approx(4 / 7)


def labelled(*answers: str) -> list[Example]:
    return [Example((1,), (1,), (1,), answer, "o") for answer in answers]


def test_answers_that_repeat_are_labels_and_texts_are_not() -> None:
    assert answers_are_labels(labelled("a", "a", "b", "b"))
    assert not answers_are_labels(labelled("a", "b", "c"))
    assert not answers_are_labels(
        labelled(*(str(n) for n in range(65)), *(str(n) for n in range(65)))
    )
