"""Thresholds: the best on the grid, the smallest of the best, and no gain claimed that is none."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from adaptery.classification import Classification
from adaptery.errors import DataError, UnknownName, UsageError
from adaptery.trainers.evaluation.calibration import Calibration, Grid, calibrate, quality
from adaptery.trainers.evaluation.scoring import Evaluation, measured
from adaptery.trainers.tasks.base import Answer

AB, ABC = ("a", "b"), ("a", "b", "c")


def evaluation(scores: np.ndarray, truth: np.ndarray, labels: tuple[str, ...]) -> Evaluation:
    found = [
        Answer(labels[int(row.argmax())], 0.0, 1, tuple(row.tolist())) for row in np.array(scores)
    ]
    return measured(found, [labels[place] for place in truth], {})


def shifted(rows: int, shift: float, seed: int = 0, labels: tuple[str, ...] = AB) -> Evaluation:
    """Classes that scores tell well, but for the first one's, which are too low by `shift`."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, len(labels), rows)
    scores = 2.0 * np.eye(len(labels))[truth] + random.normal(size=(rows, len(labels)))
    scores[:, 0] -= shift
    return evaluation(scores - np.logaddexp.reduce(scores, 1)[:, None], truth, labels)


def told(found: Calibration, one: Evaluation) -> list[str]:
    """What a server or `eval` says with these offsets."""
    classes = Classification(kind="classify", way="head", labels=found.labels)
    return [classes.decide(answer.scores, found.offsets) for answer in one.answers]


def test_the_threshold_is_the_best_on_the_grid_by_trying_all() -> None:
    one = shifted(200, 1.2)
    grid = Grid(-3, 3, 0.05)
    found = calibrate(one, AB, grid)
    scores = np.array([answer.scores for answer in one.answers])
    all_values = []
    for delta in grid.offsets:
        wins = np.where(scores[:, 1] - scores[:, 0] > delta, "b", "a")
        all_values.append(f1_score(one.references, wins, average="macro"))
    assert found.after == pytest.approx(max(all_values))
    assert found.after > found.before
    best = grid.offsets[np.isclose(all_values, max(all_values))]
    assert found.delta == pytest.approx(min(best, key=abs))
    assert found.offsets[1] == 0
    assert found.delta is not None
    assert found.delta > 0.5


@pytest.mark.parametrize("metric", ["macro_f1", "accuracy"])
def test_what_is_promised_is_what_deciding_gives(metric: str) -> None:
    for labels in (AB, ABC):
        one = shifted(150, 1.0, seed=3, labels=labels)
        found = calibrate(one, labels, Grid(), metric)
        said = told(found, one)
        expected = (
            accuracy_score(one.references, said)
            if metric == "accuracy"
            else f1_score(one.references, said, average="macro")
        )
        assert found.after == pytest.approx(expected)


def test_of_equal_offsets_the_nearest_to_none_is_taken() -> None:
    """Scores so far apart that any threshold between -2 and 2 is right everywhere."""
    truth = np.array([0, 1] * 10)
    one = evaluation(np.log(np.where(np.eye(2)[truth], 0.99, 0.01)), truth, AB)
    found = calibrate(one, AB, Grid())
    assert (found.offsets, found.before, found.after) == ((0.0, 0.0), 1.0, 1.0)
    assert found.gain.could_be_chance
    raised = evaluation(
        np.array([answer.scores for answer in one.answers]) + np.array([0, 6.0]), truth, AB
    )
    assert calibrate(raised, AB, Grid(-9, 9, 0.5)).delta == 1.5  # 1.41 to 10.6 would do


def test_offsets_of_several_classes_are_as_good_as_trying_all_pairs() -> None:
    one = shifted(90, 1.5, seed=1, labels=ABC)
    grid = Grid(-2, 2, 0.5)
    found = calibrate(one, ABC, grid)
    scores = np.array([answer.scores for answer in one.answers])
    best = max(
        f1_score(
            one.references,
            [ABC[place] for place in (scores + np.array(offsets)).argmax(1)],
            average="macro",
        )
        for offsets in itertools.product(grid.offsets, repeat=3)
    )
    assert found.before < found.after <= best + 1e-9
    assert found.after >= best - 0.02
    assert found.offsets[0] > max(found.offsets[1:])


@pytest.mark.parametrize("metric", ["macro_f1", "accuracy"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_whole_grid_at_once_is_each_offset_by_itself(place: int, metric: str) -> None:
    one = shifted(60, 0.7, seed=5, labels=ABC)
    scores = np.array([answer.scores for answer in one.answers])
    truth = np.array([ABC.index(label) for label in one.references])
    offsets, grid = np.array([0.1, -0.4, 0.3]), Grid(-1, 1, 0.25).offsets
    found = quality(scores, truth, place, grid, offsets, metric)
    for offset, value in zip(grid, found, strict=True):
        tried = offsets.copy()
        tried[place] = offset
        said = (scores + tried).argmax(1)
        expected = (
            accuracy_score(truth, said)
            if metric == "accuracy"
            else f1_score(truth, said, average="macro", labels=[0, 1, 2])
        )
        assert value == pytest.approx(expected)


def test_a_real_shift_is_a_gain_on_rows_left_out() -> None:
    found = calibrate(shifted(600, 2.0), AB, Grid())
    assert not found.gain.could_be_chance
    assert found.gain.low > 0
    assert found.gain.value == pytest.approx(found.after - found.before, abs=0.02)


def test_scores_that_say_nothing_are_no_gain_however_good_the_best_threshold_looks() -> None:
    random = np.random.default_rng(2)
    truth = random.integers(0, 2, 60)
    one = evaluation(random.normal(size=(60, 2)), truth, AB)
    found = calibrate(one, AB, Grid())
    assert found.after > found.before
    assert found.gain.could_be_chance
    assert found.gain.value < found.after - found.before


def test_offsets_that_a_version_has_already_do_not_count() -> None:
    one = shifted(100, 1.0)
    answers = [Answer("b", a.loss, 1, a.scores) for a in one.answers]
    other = measured(answers, one.references, {})
    assert calibrate(other, AB, Grid()) == calibrate(one, AB, Grid())


def test_rows_of_one_class_calibrate_nothing() -> None:
    one = evaluation(np.zeros((4, 2)), np.zeros(4, dtype=int), AB)
    with pytest.raises(DataError, match="All 4 rows are of the class 'a'"):
        calibrate(one, AB, Grid())


def test_a_metric_that_decides_nothing_is_refused() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'macro_f1'"):
        calibrate(shifted(9, 0), AB, Grid(), "micro_f1")


def test_a_grid_has_both_ends_and_none_at_all_in_it() -> None:
    assert sorted(Grid.parse("-1,1,0.5").offsets) == [-1, -0.5, 0, 0.5, 1]
    assert sorted(Grid.parse("0.1,0.3,0.1").offsets) == [0, 0.1, 0.2, 0.3]
    assert Grid.parse("-3,3,0.05") == Grid()
    assert len(Grid().offsets) == 121
    assert Grid().offsets[0] == 0


@pytest.mark.parametrize(
    "text", ["", "1,2", "a,b,c", "3,-3,0.1", "0,1,0", "0,1,-1", "0,1,1e-9", "0,inf,1", "0,nan,1"]
)
def test_what_is_no_grid_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"write START,STOP,STEP"):
        Grid.parse(text)
