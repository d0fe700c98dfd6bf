"""The built-in metrics: the values of the libraries that define them."""

from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import accuracy_score, f1_score

from adaptery.errors import PluginError, UnknownName
from adaptery.plugins.manager import PluginManager
from adaptery.trainers.evaluation.additive import ACCURACY, MACRO_F1, Additive
from adaptery.trainers.evaluation.texts import Words, bleu, chrf, rouge

PREDICTIONS = ["a", "b", "b", "c", "a", "nonsense", "a"]
REFERENCES = ["a", "b", "a", "c", "c", "b", "a"]
SAID = [
    "The sky is blue in spring.",
    "A tool that reads and writes compressed files",
    "no",
    "It is a_library, isn't it?",
    "",
]
TRUE = [
    "In spring the sky is blue.",
    "A tool for reading and writing compressed files",
    "yes",
    "It's a library for 3 things.",
    "nothing was said",
]


def test_macro_f1_is_computed_by_hand_the_same() -> None:
    a = 2 * 2 / (2 * 2 + 1 + 1)  # F1 = 2 TP / (2 TP + FP + FN)
    b = 2 * 1 / (2 * 1 + 1 + 1)
    c = 2 * 1 / (2 * 1 + 0 + 1)
    assert MACRO_F1(PREDICTIONS, REFERENCES) == pytest.approx((a + b + c) / 3)


@pytest.mark.parametrize("seed", range(5))
def test_label_metrics_are_sklearns(seed: int) -> None:
    random = np.random.default_rng(seed)
    references = random.choice(list("abcd"), 50, p=[0.7, 0.2, 0.09, 0.01]).tolist()
    predictions = random.choice(["a", "b", "c", "d", "no class"], 50).tolist()
    true = sorted(set(references))
    expected = f1_score(references, predictions, labels=true, average="macro", zero_division=0)
    assert MACRO_F1(predictions, references) == pytest.approx(expected)
    assert ACCURACY(predictions, references) == accuracy_score(references, predictions)


def test_macro_f1_counts_only_true_classes() -> None:
    over_all = f1_score(REFERENCES, PREDICTIONS, average="macro")
    assert MACRO_F1(PREDICTIONS, REFERENCES) > over_all


def test_macro_f1_of_answers_that_are_no_class_is_zero_and_always_a_number() -> None:
    assert MACRO_F1(["x", "y"], ["a", "b"]) == 0.0
    assert MACRO_F1(["a", "b"], ["a", "b"]) == 1.0


def test_bleu_and_chrf_are_sacrebleus_from_0_to_100() -> None:
    assert bleu()(SAID, TRUE) == pytest.approx(sacrebleu.corpus_bleu(SAID, [TRUE]).score)
    assert chrf()(SAID, TRUE) == pytest.approx(sacrebleu.corpus_chrf(SAID, [TRUE]).score)
    assert bleu()(TRUE, TRUE) == pytest.approx(100)
    assert chrf()(TRUE, TRUE) == pytest.approx(100)
    assert 0 < bleu()(SAID, TRUE) < 100


def test_rouge_is_the_librarys_f1_averaged_over_rows() -> None:
    scorer = RougeScorer(["rougeL"])
    pairs = zip(TRUE, SAID, strict=True)
    expected = [scorer.score(true, said)["rougeL"].fmeasure for true, said in pairs]
    assert rouge()(SAID, TRUE) == pytest.approx(float(np.mean(expected)))
    assert rouge()(TRUE, TRUE) == 1.0


def test_scripts_without_spaces_are_measured_by_character() -> None:
    said, true = ["天空是蓝色的"], ["天空不是蓝色的"]
    assert Words().tokenize("天空 is Blue_3 größer") == ["天", "空", "is", "blue", "3", "größer"]
    assert RougeScorer(["rougeL"]).score(true[0], said[0])["rougeL"].fmeasure == 0
    assert rouge()(said, true) == pytest.approx(2 * 6 / (6 + 7))
    expected = sacrebleu.corpus_bleu(said, [true], tokenize="zh").score
    assert bleu()(said, true) == pytest.approx(expected)
    assert expected > sacrebleu.corpus_bleu(said, [true]).score


@pytest.mark.parametrize("metric", [ACCURACY, MACRO_F1, bleu(), chrf(), rouge()])
def test_sums_over_chosen_rows_are_the_metric_of_those_rows(metric: Additive) -> None:
    predictions, references = SAID * 2, TRUE + SAID[:4] + ["x"]
    rows = [0, 0, 3, 4, 7, 8, 8, 8]
    counts = np.bincount(rows, minlength=10).astype(float)
    sums = counts @ metric.statistics(predictions, references)
    expected = metric([predictions[i] for i in rows], [references[i] for i in rows])
    assert metric.value(np.stack([sums, sums])) == pytest.approx([expected] * 2)


def test_every_metric_is_a_plugin_and_f1_is_macro_f1() -> None:
    plugins = PluginManager(entry_points=[])
    names = ("accuracy", "bleu", "chrf", "f1", "macro_f1", "rouge")
    assert tuple(sorted(plugins.registered("metrics"))) == names
    assert plugins.load("metrics", "f1") is plugins.load("metrics", "macro_f1")
    for name in names:
        assert plugins.load("metrics", name)(["a", "b"], ["a", "b"]) > 0 or name == "bleu"


def test_a_metric_that_does_not_exist_is_guessed() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'rouge'"):
        PluginManager(entry_points=[]).load("metrics", "rogue")


@pytest.mark.parametrize(("name", "package"), [("bleu", "sacrebleu"), ("rouge", "rouge_score")])
def test_a_missing_package_is_named_with_what_installs_it(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import sys

    for module in [module for module in sys.modules if module.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PluginError, match=rf"{package}[\s\S]*pip install"):
        PluginManager(entry_points=[]).load("metrics", name)
