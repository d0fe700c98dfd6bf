"""Label words: what is learned, what it costs, and which class is told."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from adaptery.base_model import LocalBase
from adaptery.errors import DataError
from adaptery.trainers.compute.enabling import enable_packing
from adaptery.trainers.config import TaskConfig
from adaptery.trainers.data.rows import Conversation, Message
from adaptery.trainers.encoding import IGNORED, Example
from adaptery.trainers.tasks.forward import Forward
from adaptery.trainers.tasks.making import make_task
from adaptery.trainers.tasks.outputs import only_tokens
from adaptery.trainers.tasks.sft import Sft
from adaptery.trainers.tasks.words import LabelWords
from tests.trainers.tasks.conftest import Make, chats, logits_alone, pairs, texts

YES_NO = ["1", "0", "1", "0", "0", "1", "0"]
SINGLE = {"kind": "classify", "words": {"x": "a", "y": "b", "z": "c"}}
# Two tokens each, which the byte-level tokenizer of the tiny base makes of two letters that it
# never saw together; `ab` and `ac` part only at the second.
DOUBLE = {"kind": "classify", "words": {"x": "QX", "y": "QZ", "z": "JX"}}
XYZ = ["x", "y", "z", "x", "x", "y", "z", "z"]


def words_of(task) -> tuple[tuple[int, ...], ...]:
    assert isinstance(task, LabelWords)
    return task.tree.words


def test_only_the_word_and_the_end_are_learned(make: Make, base: LocalBase) -> None:
    task, examples = make(pairs(YES_NO), kind="pair")
    for label, row in zip(YES_NO, examples, strict=True):
        place = row.labels.index(row.ids[len(row.prompt)])
        assert place == len(row.prompt)
        learned = [token for token in row.labels if token != IGNORED]
        assert learned == [*words_of(task)[int(label)], base.tokenizer.eos_token_id]
        assert row.label == int(label)
        assert task.reference(row) == label
    assert "Text 1: 0\nText 2: the sun 0" in base.tokenizer.decode(examples[0].ids)


def test_earlier_turns_of_a_chat_are_not_learned(make: Make, base: LocalBase) -> None:
    turns = [("user", "sky"), ("assistant", "blue"), ("user", "sun")]
    rows = [
        Conversation((*(Message(*turn) for turn in turns), Message("assistant", label)), "c:1")
        for label in ("x", "y", "z")
    ]
    _, examples = make(rows, **SINGLE)
    for row in examples:
        assert sum(token != IGNORED for token in row.labels) == 2
        assert base.tokenizer.decode(row.prompt).count("blue") == 1


@pytest.mark.parametrize("settings", [SINGLE, DOUBLE], ids=["one token", "two tokens"])
def test_the_loss_is_that_of_answers_where_no_class_is_weighed(
    make: Make, model: PreTrainedModel, base: LocalBase, settings
) -> None:
    task, examples = make(texts(XYZ), **settings)
    assert isinstance(task, LabelWords)
    assert (task.length, len(task.tree.forks)) == ((1, 1) if settings is SINGLE else (2, 2))
    with torch.no_grad():
        loss = task.loss(model, examples)
        plain = Sft(Forward(base.tokenizer)).loss(model, examples)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)


def by_hand(model: PreTrainedModel, task: LabelWords, row: Example, label: int) -> float:
    """What a class costs among the classes, word by word: the product of the choices, renormalised
    over all words that are possible."""
    likelihoods = []
    for word in task.tree.words:
        logits = logits_alone(model, (*row.prompt, *word))
        total = 0.0
        for place, token in enumerate(word):
            begun = word[:place]
            rivals = sorted({w[place] for w in task.tree.words if w[:place] == begun})
            scores = logits[len(row.prompt) + place - 1]
            total += float(scores[token] - torch.logsumexp(scores[rivals], 0))
        likelihoods.append(total)
    assert sum(map(torch.exp, torch.tensor(likelihoods).unbind())).item() == pytest.approx(
        1, abs=1e-5
    )
    return -likelihoods[label]


@pytest.mark.parametrize("settings", [SINGLE, DOUBLE], ids=["one token", "two tokens"])
def test_scores_are_the_product_of_the_choices_on_a_words_way(
    make: Make, model: PreTrainedModel, settings
) -> None:
    task, examples = make(texts(XYZ), **settings)
    assert isinstance(task, LabelWords)
    with torch.no_grad():
        answers = task.answers(model, examples, 0)
    for row, answer in zip(examples, answers, strict=True):
        expected = [-by_hand(model, task, row, label) for label in range(3)]
        assert answer.scores == pytest.approx(expected, abs=1e-5)
        assert answer.loss == pytest.approx(-expected[row.label or 0], abs=1e-5)
        assert answer.text == task.labels[max(range(3), key=expected.__getitem__)]
        assert answer.tokens == 1


@pytest.mark.parametrize("settings", [SINGLE, DOUBLE], ids=["one token", "two tokens"])
def test_weights_weigh_the_decision_and_nothing_else(
    make: Make, model: PreTrainedModel, settings
) -> None:
    given = {"x": 1.0, "y": 4.0, "z": 2.0}
    task, examples = make(texts(XYZ), weights=given, **settings)
    plain, _ = make(texts(XYZ), **settings)
    assert isinstance(task, LabelWords)
    mean = sum(given[label] for label in XYZ) / len(XYZ)
    with torch.no_grad():
        difference = (task.loss(model, examples) - plain.loss(model, examples)).item()
    expected = sum(
        (given[label] / mean - 1) * by_hand(model, task, row, row.label or 0)
        for label, row in zip(XYZ, examples, strict=True)
    )
    assert difference == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("settings", [SINGLE, DOUBLE], ids=["one token", "two tokens"])
def test_the_decisions_gradient_is_that_of_finite_differences(make: Make, settings) -> None:
    task, _ = make(texts(XYZ), **settings)
    assert isinstance(task, LabelWords)
    torch.manual_seed(0)
    vocabulary = 1 + max(token for word in task.tree.words for token in word)
    logits = torch.randn(3, task.length, vocabulary, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2])
    assert torch.autograd.gradcheck(lambda x: task.decisions(x, labels), logits)
    task.decisions(logits, labels).sum().backward()
    rivals = {token for word in task.tree.words for token in word}
    others = [token for token in range(vocabulary) if token not in rivals]
    assert logits.grad is not None
    assert not logits.grad[:, :, others].any()
    assert logits.grad.any()


def test_one_pass_is_enough_where_words_part_at_their_first_token(
    make: Make, model: PreTrainedModel
) -> None:
    task, examples = make(texts(["x", "y"]), kind="classify", words={"x": "QX", "y": "JX"})
    calls = []
    hook = model.register_forward_pre_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        task.answers(model, examples, 0)
    hook.remove()
    assert len(calls) == 1
    assert {len(word) for word in words_of(task)} == {2}


def test_scores_need_no_logits_but_the_words_own(make: Make, model: PreTrainedModel) -> None:
    """And the model computes all again afterwards."""
    _, examples = make(texts(XYZ), **SINGLE)
    ids = torch.tensor([examples[0].ids])
    with torch.no_grad():
        whole = model(ids).logits
        with only_tokens(model, (5, 9, 7)) as columns:
            few = model(ids).logits
        after = model(ids).logits
    assert few.shape[-1] == 3
    assert torch.allclose(few[..., columns], whole[..., [5, 9, 7]], atol=1e-5)
    assert torch.equal(after, whole)


def test_scores_do_not_depend_on_the_batch(make: Make, model: PreTrainedModel) -> None:
    task, examples = make(texts(XYZ), **DOUBLE)
    with torch.no_grad():
        together = task.answers(model, examples, 0)
        alone = [task.answers(model, [row], 0)[0] for row in examples]
    for one, other in zip(together, alone, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-5)


def test_texts_and_chats_that_ask_alike_are_the_same_rows(make: Make) -> None:
    task, examples = make(chats(XYZ), **SINGLE)
    assert task.encode(texts(XYZ)) == examples


def test_label_words_that_cannot_be_told_apart_are_refused_with_their_tokens(make: Make) -> None:
    with pytest.raises(DataError, match="different tokens"):
        make(texts(["x", "y"]), kind="classify", words={"x": "same", "y": "same"})
    with pytest.raises(DataError, match=r"equally many tokens[\s\S]*'the sky'"):
        make(texts(["x", "y"]), kind="classify", words={"x": "a", "y": "the sky"})


def test_words_that_would_do_are_offered(make: Make) -> None:
    with pytest.raises(DataError, match=r"These would do: task.words=\{"):
        make(texts(["x", "y"]), kind="classify", words={"x": "blue", "y": "unheard-of"})


def test_offsets_decide_where_scores_are_near(make: Make, base: LocalBase, model) -> None:
    rows = texts(XYZ)
    settings = TaskConfig(**SINGLE)
    task, examples = make(rows, **SINGLE)
    assert isinstance(task, LabelWords)
    raised = LabelWords(task.forward, settings, task.classes, [1.0] * 3, (0.0, 50.0, 0.0))
    with torch.no_grad():
        plain, moved = task.answers(model, examples, 0), raised.answers(model, examples, 0)
    assert {answer.text for answer in moved} == {"y"}
    assert [a.scores for a in plain] == [a.scores for a in moved]


def test_numbers_are_classes_whatever_file_they_came_from(base: LocalBase) -> None:
    rows = pairs(["0", "1"])
    task = make_task(TaskConfig(kind="pair"), Forward(base.tokenizer), rows)
    assert task.labels == ("0", "1")
    assert task.recorded()["words"] == {"0": "no", "1": "yes"}


def test_what_was_recorded_makes_the_same_task(make: Make, base: LocalBase) -> None:
    task, examples = make(pairs(YES_NO), kind="pair", weights="auto")
    again = make_task(TaskConfig(**task.recorded()), Forward(base.tokenizer), pairs(YES_NO))
    assert again.encode(pairs(YES_NO)) == examples
    assert again.recorded() == task.recorded()


def test_the_loss_falls_when_only_the_word_becomes_likelier(make: Make, model) -> None:
    """Three steps of descent on the whole model, each of which lowers it."""
    task, examples = make(texts(XYZ), **SINGLE)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(4):
        loss = task.loss(model, examples) / len(examples)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(later < earlier for earlier, later in pairwise(losses))


def test_cross_entropy_of_two_words_is_the_logistic_loss_of_their_difference(
    make: Make, model: PreTrainedModel
) -> None:
    task, examples = make(pairs(YES_NO), kind="pair", words={"0": "a", "1": "b"})
    (no,), (yes,) = words_of(task)
    with torch.no_grad():
        answers = task.answers(model, examples, 0)
    for row, answer in zip(examples, answers, strict=True):
        scores = logits_alone(model, row.prompt)[-1][[no, yes]]
        expected = cross_entropy(scores[None], torch.tensor([row.label]))
        assert answer.loss == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("settings", [SINGLE, DOUBLE], ids=["one token", "two tokens"])
def test_packed_rows_cost_and_score_the_same(
    make: Make, model: PreTrainedModel, settings: dict[str, object]
) -> None:
    task, examples = make(texts(XYZ), weights="auto", **settings)
    with torch.no_grad():
        loss, answers = task.loss(model, examples), task.answers(model, examples, 0)
        assert enable_packing(model) is None
        task.forward = replace(task.forward, packed=True)
        packed_loss, packed = task.loss(model, examples), task.answers(model, examples, 0)
    assert packed_loss.item() == pytest.approx(loss.item(), rel=1e-5)
    for one, other in zip(answers, packed, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-5)
        assert one.text == other.text
