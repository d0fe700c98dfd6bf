"""The paired bootstrap: right intervals, the same for the same rows, and no slower than need be."""

import time

import numpy as np
import pytest

from adaptery.trainers.evaluation.additive import ACCURACY, MACRO_F1
from adaptery.trainers.evaluation.bootstrap import (
    SLOW_RESAMPLES,
    Difference,
    Measure,
    difference,
    draws,
    measures,
)
from adaptery.trainers.evaluation.scoring import Evaluation
from adaptery.trainers.evaluation.scoring import measured as scored
from adaptery.trainers.evaluation.verdict import compared, headline, judge
from adaptery.trainers.tasks.base import Answer

METRICS = {"accuracy": ACCURACY, "macro_f1": MACRO_F1}


def answers(right: np.ndarray, seed: int = 0) -> Evaluation:
    """An evaluation over two classes with right answers where `right` is true."""
    random = np.random.default_rng(seed)
    true = np.where(np.arange(len(right)) % 3 == 0, "b", "a")
    said = np.where(right, true, np.where(true == "a", "b", "a"))
    losses = random.exponential(size=len(right)) + ~right
    found = [Answer(str(text), float(loss), 1) for text, loss in zip(said, losses, strict=True)]
    return scored(found, true.tolist(), METRICS)


def two(rows: int, seed: int, first: float, second: float) -> tuple[Evaluation, Evaluation]:
    """Two models that are right with these probabilities, mostly on the same rows."""
    luck = np.random.default_rng(seed).random(rows)
    noise = np.random.default_rng(seed + 1_000_000).normal(scale=0.1, size=rows)
    return answers(luck < first, seed), answers(np.clip(luck + noise, 0, 1) < second, seed + 1)


def between(one: Evaluation, other: Evaluation, metric: str, **settings: int) -> Difference:
    mine, theirs = (measures(each, METRICS, **settings)[metric] for each in (one, other))
    return difference(mine, theirs)


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "loss", "perplexity"])
def test_samples_are_the_metric_of_the_rows_drawn(metric: str) -> None:
    one = answers(np.random.default_rng(1).random(30) < 0.6)
    found = measures(one, METRICS, resamples=20)[metric]
    assert found.value == one.metrics[metric]
    (counts,) = draws(30, 20, 0)
    for sample, value in zip(counts.astype(int), found.samples, strict=True):
        rows = np.repeat(np.arange(30), sample).tolist()
        drawn = scored([one.answers[i] for i in rows], [one.references[i] for i in rows], METRICS)
        assert value == pytest.approx(drawn.metrics[metric])


def test_every_sample_has_as_many_rows_as_there_are() -> None:
    (counts,) = draws(17, 50, 0)
    assert (counts.sum(1) == 17).all()
    assert counts.mean() == pytest.approx(1)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Of 200 experiments in which the second model is better by exactly 0.1, 95 % have 0.1 within
    the interval, give or take three standard errors (4.6 %)."""
    covered = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        one, other = random.random(200) < 0.7, random.random(200) < 0.6
        found = between(answers(one), answers(other), "accuracy", resamples=300, seed=seed)
        covered += found.low <= 0.1 <= found.high
    assert 0.95 - 0.046 <= covered / 200 <= 0.95 + 0.046


def test_pairing_makes_intervals_narrow_where_models_err_on_the_same_rows() -> None:
    one, other = two(400, 3, 0.7, 0.75)
    paired = between(one, other, "accuracy")
    mine = measures(one, METRICS, seed=0)["accuracy"]
    theirs = measures(other, METRICS, seed=1)["accuracy"]
    unpaired = difference(mine, theirs)
    assert paired.high - paired.low < 0.7 * (unpaired.high - unpaired.low)


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "loss"])
def test_swapping_two_models_turns_the_interval_round(metric: str) -> None:
    one, other = two(150, 5, 0.7, 0.6)
    there, back = between(one, other, metric), between(other, one, metric)
    assert (back.value, back.low, back.high) == pytest.approx(
        (-there.value, -there.high, -there.low)
    )


def test_a_model_is_no_different_from_itself() -> None:
    one = answers(np.random.default_rng(0).random(50) < 0.5)
    assert between(one, one, "macro_f1") == Difference(0.0, 0.0, 0.0)


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    one, other = two(80, 7, 0.8, 0.6)
    assert between(one, other, "loss", seed=4) == between(one, other, "loss", seed=4)
    assert between(one, other, "loss", seed=4) != between(one, other, "loss", seed=5)


def test_many_rows_are_drawn_in_parts_of_bounded_memory() -> None:
    sizes = [counts.size for counts in draws(50_000, 200, 0)]
    assert max(sizes) <= 4_000_000
    assert sum(sizes) == 200 * 50_000


def test_two_thousand_samples_of_a_thousand_rows_take_a_second() -> None:
    one = answers(np.random.default_rng(0).random(1000) < 0.5)
    started = time.process_time()
    measures(one, METRICS)
    assert time.process_time() - started < 1


def test_a_metric_that_is_no_sum_is_taken_of_fewer_samples() -> None:
    calls = []

    def third(predictions: list[str], references: list[str]) -> float:
        calls.append(len(predictions))
        return sum(p == r for p, r in zip(predictions, references, strict=True)) / len(references)

    one = answers(np.random.default_rng(0).random(40) < 0.5)
    with_it = Evaluation(one.answers, one.references, one.metrics | {"third": 0.5})
    found = measures(with_it, METRICS | {"third": third})
    assert len(calls) == SLOW_RESAMPLES
    assert set(calls) == {40}
    plain = found["accuracy"].samples[:SLOW_RESAMPLES]
    assert found["third"].samples == pytest.approx(plain)
    assert difference(found["third"], found["accuracy"]).high == pytest.approx(0)


def apart(value: float, low: float, high: float) -> Difference:
    return Difference(value, low, high)


def test_better_and_worse_depend_on_the_metric_and_chance_on_the_interval() -> None:
    assert compared("accuracy", apart(0.1, 0.05, 0.2)) == "better"
    assert compared("loss", apart(0.1, 0.05, 0.2)) == "worse"
    assert compared("perplexity", apart(-0.1, -0.2, -0.05)) == "better"
    assert compared("accuracy", apart(0.1, -0.05, 0.2)) == "no difference"


@pytest.mark.parametrize(
    ("metric", "value", "baseline", "grade"),
    [
        ("macro_f1", 0.71, 0.65, "effective"),  # the notes' own: +9.2 %
        ("macro_f1", 0.67, 0.65, "limited"),
        ("macro_f1", 0.655, 0.65, "none"),
        ("macro_f1", 0.5, 0.65, "none"),
        ("loss", 1.8, 2.0, "effective"),
        ("loss", 2.2, 2.0, "none"),
        ("accuracy", 0.1, 0.0, "effective"),
        ("accuracy", 0.0, 0.0, "none"),
    ],
)
def test_the_verdict_has_the_notes_three_grades(
    metric: str, value: float, baseline: float, grade: str
) -> None:
    gain = value - baseline
    verdict = judge(metric, value, baseline, apart(gain, gain - 0.001, gain + 0.001))
    assert verdict.grade == grade
    assert metric in verdict.sentence
    assert (verdict.improvement is None) == (baseline == 0)
    if verdict.improvement is not None:
        assert ("better" in verdict.sentence) == (verdict.improvement >= 0)


def test_a_verdict_that_could_be_chance_says_so_and_no_more() -> None:
    sentence = judge("macro_f1", 0.8, 0.6, apart(0.2, -0.1, 0.5)).sentence
    assert sentence == (
        "macro_f1 is 33.3% better than the baseline's, which could be chance: measure on more rows."
    )


def test_the_headline_is_macro_f1_then_what_answers_are_worth_then_the_loss() -> None:
    assert headline(["loss", "accuracy", "macro_f1"]) == "macro_f1"
    assert headline(["loss", "accuracy", "f1"]) == "f1"
    assert headline(["loss", "perplexity", "rouge"]) == "rouge"
    assert headline(["loss", "perplexity"]) == "loss"


def test_a_measure_of_few_samples_is_compared_on_those() -> None:
    few, many = Measure(1.0, np.ones(3)), Measure(0.0, np.zeros(9))
    assert difference(few, many) == Difference(1.0, 1.0, 1.0)
