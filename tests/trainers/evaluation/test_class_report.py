"""Confusion, shares and overlap: sklearn's numbers, and the notes' diagnosis."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, roc_auc_score

from adaptery.trainers.evaluation.class_report import OTHER, class_report
from adaptery.trainers.evaluation.scoring import Evaluation, measured
from adaptery.trainers.tasks.base import Answer

LABELS = ("a", "b", "c")


def made(classes: int, rows: int = 80, seed: int = 0) -> Evaluation:
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, rows)
    scores = np.eye(classes)[truth] + random.normal(size=(rows, classes))
    scores -= np.logaddexp.reduce(scores, 1)[:, None]
    answers = [Answer(LABELS[int(row.argmax())], 0.0, 1, tuple(row.tolist())) for row in scores]
    return measured(answers, [LABELS[place] for place in truth], {})


@pytest.mark.parametrize("classes", [2, 3])
def test_counts_and_shares_are_sklearns(classes: int) -> None:
    one = made(classes)
    labels = LABELS[:classes]
    report = class_report(one, labels)
    told = [answer.text for answer in one.answers]
    assert report.columns == labels
    assert (
        np.array(report.confusion) == confusion_matrix(one.references, told, labels=labels)
    ).all()
    shares = precision_recall_fscore_support(one.references, told, labels=labels)
    for place, row in enumerate(report.classes):
        expected = [share[place] for share in shares]
        assert [row.precision, row.recall, row.f1, row.rows] == pytest.approx(expected)


def test_answers_that_are_no_class_have_a_column_of_their_own() -> None:
    answers = [Answer(text, 1.0, 2) for text in ("a", "well, a", "b", "b")]
    report = class_report(measured(answers, ["a", "a", "b", "a"], {}))
    assert report.columns == ("a", "b", OTHER)
    assert report.confusion == ((1, 1, 1), (0, 1, 0))
    assert report.overlaps == ()


def test_the_overlap_of_two_classes_is_of_the_difference_of_their_scores() -> None:
    scores = np.log([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.45, 0.55], [0.7, 0.3], [0.1, 0.9]])
    answers = [Answer("a", 0.0, 1, tuple(row)) for row in scores.tolist()]
    one = measured(answers, ["a", "a", "a", "b", "b", "b"], {})
    (found,) = class_report(one, ("a", "b")).overlaps
    differences = scores[:, 1] - scores[:, 0]
    assert found.label == "b"
    assert found.own == pytest.approx((differences[4], differences[5]))
    assert found.others == pytest.approx((differences[0], differences[2]))
    assert found.own_within_others == pytest.approx(2 / 3)  # all but the surest b
    assert found.others_within_own == pytest.approx(2 / 3)  # all but the surest a
    assert found.auc == pytest.approx(roc_auc_score([0, 0, 0, 1, 1, 1], differences))


def test_each_of_several_classes_is_held_against_all_others() -> None:
    one = made(3)
    report = class_report(one, LABELS)
    assert [found.label for found in report.overlaps] == list(LABELS)
    scores = np.exp([answer.scores for answer in one.answers])
    for place, found in enumerate(report.overlaps):
        own = [reference == LABELS[place] for reference in one.references]
        assert found.auc == pytest.approx(roc_auc_score(own, scores[:, place]))


def test_equal_scores_count_half() -> None:
    answers = [Answer("a", 0.0, 1, (-1.0, -1.0)) for _ in range(4)]
    (found,) = class_report(measured(answers, ["a", "b", "a", "b"], {}), ("a", "b")).overlaps
    assert found.auc == 0.5
    assert (found.own_within_others, found.others_within_own) == (1.0, 1.0)


def test_a_class_without_rows_has_no_overlap_and_no_share() -> None:
    answers = [Answer("a", 0.0, 1, (-0.5, -1.0)) for _ in range(2)]
    report = class_report(measured(answers, ["a", "a"], {}), ("a", "b"))
    assert report.overlaps == ()
    assert (report.classes[1].rows, report.classes[1].f1) == (0, 0.0)
