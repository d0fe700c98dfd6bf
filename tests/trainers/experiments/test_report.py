"""Tables, verdicts and reports of runs whose answers are known."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score, recall_score

from adaptery.config import Resolved
from adaptery.errors import UnknownName
from adaptery.trainers.config import RunConfig
from adaptery.trainers.evaluation.additive import ACCURACY, MACRO_F1
from adaptery.trainers.experiments.answers import Said, read_answers, write_answers
from adaptery.trainers.experiments.cells import duration, percent, size
from adaptery.trainers.experiments.comparison import compare
from adaptery.trainers.experiments.experiment import Experiment, Run
from adaptery.trainers.experiments.outcome import Measured, Outcome
from adaptery.trainers.experiments.report import Report
from adaptery.trainers.experiments.table import Row, best_of, rows_of
from adaptery.trainers.experiments.thresholds import (
    calibrated,
    halves,
    recall_table,
    threshold_table,
)
from adaptery.trainers.experiments.variations import Variation

METRICS = {"accuracy": ACCURACY, "macro_f1": MACRO_F1}
LABELS = ("a", "b")
TRUTH = ["a"] * 60 + ["b"] * 40


def answers(wrong: int, truth: list[str] = TRUTH, shift: float = 0.0, seed: int = 0) -> list[Said]:
    """Answers of which the first `wrong` are wrong; `shift` makes class b likelier than it is."""
    random = np.random.default_rng(seed)
    said = []
    for n, true in enumerate(truth):
        right = (1 if true == "b" else -1) * (-1 if n < wrong else 1)
        odds = right * (1 + random.random()) + shift
        scores = (float(-np.logaddexp(0, odds)), float(-np.logaddexp(0, -odds)))
        text = LABELS[int(odds > 0)]
        said.append(Said(f"rows:{n}", true, text, -scores[LABELS.index(true)], 1, scores))
    return said


def run(
    tmp_path: Path, name: str, said: list[Said], seed: int = 0, more: list[Said] | None = None
) -> Run:
    folder = tmp_path / f"{name}-{seed}"
    directory = folder / "run"
    directory.mkdir(parents=True)
    write_answers(directory / "answers.jsonl", said)
    if more is not None:
        write_answers(directory / "calibration.jsonl", more)
    texts, references = [one.text for one in said], [one.reference for one in said]
    metrics = {
        "accuracy": ACCURACY(texts, references),
        "macro_f1": MACRO_F1(texts, references),
        "loss": float(np.mean([one.loss for one in said])),
        "base.macro_f1": 0.25,
    }
    measured = Measured(
        metrics=metrics,
        labels=LABELS,
        training_seconds=90.0 + seed,
        seconds=120.0,
        peak=1_500_000_000,
        loaded=1_000_000_000,
        trainable_parameters=4_200_000,
        base_parameters=6_200_000_000,
        size=16_800_000,
    )
    outcome = Outcome(status="finished", run="run", measured=measured)
    (directory / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1}\n')
    return Run(Variation(name, {"lora.r": 8}, {"rate": "0.1"}), seed, folder, outcome)


def failed(tmp_path: Path, name: str, status: str = "failed") -> Run:
    outcome = Outcome(status=status, sentence="It cannot be done.")  # type: ignore[arg-type]
    return Run(Variation(name, {}, {}), 0, tmp_path / name, outcome)


def report(config: Resolved[RunConfig], runs: list[Run], **more: str) -> Report:
    seeds = sorted({one.seed for one in runs})
    rows = list({one.variation.name: one.variation for one in runs}.values())
    experiment = Experiment("methods", "method", config, "base", rows, seeds, ["A note."])
    return Report.of(experiment, runs, METRICS, **more)


def test_answers_are_kept_as_they_are(tmp_path: Path) -> None:
    write_answers(tmp_path / "a.jsonl", answers(3))
    assert read_answers(tmp_path / "a.jsonl") == answers(3)
    assert read_answers(tmp_path / "none.jsonl") == []


def test_the_table_has_the_notes_columns(config: Resolved[RunConfig], tmp_path: Path) -> None:
    made = report(config, [run(tmp_path, "lora", answers(5)), run(tmp_path, "full", answers(40))])
    table = made.table
    assert table.headings == [
        *("method", "rate", "memory", "above the base", "training time", "accuracy", "macro-F1"),
        *("loss", "trainable", "share", "on disk", "macro-F1 less that of lora"),
    ]
    assert table.rows[0][:6] == ["lora", "0.1", "1.50 GB", "500.0 MB", "90.0 s", "0.950"]
    assert table.rows[0][8:11] == ["4,200,000", "0.0677 %", "16.8 MB"]
    assert table.rows[2][0] == "base alone"
    assert table.rows[2][6] == "0.250"


def test_several_seeds_are_a_mean_and_a_standard_deviation(
    config: Resolved[RunConfig], tmp_path: Path
) -> None:
    wrong = (2, 4, 9)
    made = report(config, [run(tmp_path, "lora", answers(n), seed=n) for n in wrong])
    shares = [1 - n / 100 for n in wrong]
    assert made.table.rows[0][5] == f"{np.mean(shares):.3f} ± {np.std(shares, ddof=1):.3f}"
    assert "one standard deviation" in made.about[0]


def test_a_difference_that_chance_could_make_is_called_so(
    config: Resolved[RunConfig], tmp_path: Path
) -> None:
    far = report(
        config, [run(tmp_path / "a", "one", answers(40)), run(tmp_path / "a", "two", answers(5))]
    )
    assert not far.differences["two"].could_be_chance
    assert far.verdict.startswith("two has the best macro-F1: 0.949.")
    assert far.verdict.endswith("in 95 % of samples of the rows: more than chance.")
    near = report(
        config, [run(tmp_path / "b", "one", answers(6)), run(tmp_path / "b", "two", answers(5))]
    )
    assert near.differences["two"].could_be_chance
    assert near.verdict.endswith("that could be chance.")


def test_seeds_are_drawn_together(tmp_path: Path) -> None:
    """Twice the same seed says no more than once: rows are what chance draws, not answers."""
    one, two = answers(20), answers(5)
    once = [run(tmp_path, "one", one), run(tmp_path, "two", two)]
    twice = [*once, run(tmp_path, "one", one, seed=1), run(tmp_path, "two", two, seed=1)]
    found = [compare(rows[1], rows[0], "macro_f1", METRICS) for rows in map(rows_of, (once, twice))]
    assert found[0] == found[1]
    assert found[0]
    references = [said.reference for said in one]
    scores = [f1_score(references, [s.text for s in own], average="macro") for own in (two, one)]
    assert found[0].value == pytest.approx(scores[0] - scores[1])


def test_answers_to_other_rows_are_not_compared(tmp_path: Path) -> None:
    other = [Said("others:1", "a", "a", 0.1, 1)]
    rows = rows_of([run(tmp_path, "one", answers(5)), run(tmp_path, "two", other)])
    assert compare(rows[1], rows[0], "macro_f1", METRICS) is None


def test_a_loss_is_the_better_the_lower(tmp_path: Path) -> None:
    rows = rows_of([run(tmp_path, "worse", answers(40)), run(tmp_path, "better", answers(2))])
    best = best_of(rows, "loss")
    assert best
    assert best.name == "better"


def test_what_failed_stands_in_the_table_with_its_reason(
    config: Resolved[RunConfig], tmp_path: Path
) -> None:
    made = report(
        config,
        [
            run(tmp_path, "lora", answers(5)),
            failed(tmp_path, "qlora"),
            failed(tmp_path, "full", "does not fit"),
        ],
    )
    assert made.table.rows[1][2:8] == ["–", "–", "–", "failed", "failed", "failed"]
    assert made.table.rows[2][6] == "does not fit"
    assert made.troubles[0] == "qlora: failed. It cannot be done."
    assert "qlora: failed. It cannot be done." in made.markdown()
    assert made.verdict == "lora has the best macro-F1: 0.949."


def test_a_row_with_a_failed_seed_is_not_the_best(tmp_path: Path) -> None:
    half = [run(tmp_path, "half", answers(0)), failed(tmp_path, "half")]
    rows = rows_of([*half, run(tmp_path, "whole", answers(9))])
    best = best_of(rows, "macro_f1")
    assert best
    assert best.name == "whole"


def test_nothing_finished_is_no_best(config: Resolved[RunConfig], tmp_path: Path) -> None:
    made = report(config, [failed(tmp_path, "qlora")])
    assert made.verdict.startswith("No run ended well")
    assert made.data()["best"] is None
    made.write(tmp_path)
    assert "<svg" in (tmp_path / "report.html").read_text()


def test_a_metric_that_was_not_measured_is_refused(
    config: Resolved[RunConfig], tmp_path: Path
) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'macro_f1'"):
        report(config, [run(tmp_path, "lora", answers(5))], metric="macro_f")


class Reader(HTMLParser):
    """Collects whatever a browser would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "action") and value:
                self.asked += [] if value.startswith("#") else [value]


def test_the_page_stands_by_itself(config: Resolved[RunConfig], tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    made = report(config, [run(tmp_path, "lora", answers(5)), failed(tmp_path, evil)])
    made.write(tmp_path)
    text = (tmp_path / "report.html").read_text()
    reader = Reader()
    reader.feed(text)
    assert reader.asked == []
    assert "script" not in reader.tags
    assert "link" not in reader.tags
    assert reader.tags.count("svg") == 2, "curves and bars"
    assert not re.search(r"url\((?!#)", text)
    assert not re.search(r"@import", text)
    for cell in made.table.rows[0]:
        assert cell in text


def test_the_same_runs_make_the_same_reports(config: Resolved[RunConfig], tmp_path: Path) -> None:
    runs = [run(tmp_path, "lora", answers(5)), run(tmp_path, "full", answers(9))]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        report(config, runs).write(tmp_path / name)
    for name in ("results.json", "report.md", "report.html"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_results_are_there_for_scripts(config: Resolved[RunConfig], tmp_path: Path) -> None:
    report(
        config,
        [run(tmp_path, "lora", answers(5)), run(tmp_path, "full", answers(30))],
        baseline="full",
    ).write(tmp_path)
    data = json.loads((tmp_path / "results.json").read_text())
    assert data["experiment"] == "methods"
    assert data["best"] == "lora"
    assert data["base"] == {"macro_f1": 0.25}
    lora = data["rows"][0]
    assert lora["difference"]["against"] == "full"
    assert lora["difference"]["could_be_chance"] is False
    assert lora["runs"][0]["measured"]["trainable_parameters"] == 4_200_000
    assert lora["changes"] == {"lora.r": 8}


def test_recall_is_sklearns(tmp_path: Path) -> None:
    rows = rows_of([run(tmp_path, "none", answers(12)), run(tmp_path, "auto", answers(70))])
    table = recall_table(rows)
    assert table.headings == ["recall of", "a (60 rows)", "b (40 rows)"]
    for row, cells in zip(rows, table.rows, strict=True):
        said = row.runs[0].answers
        wanted = recall_score([s.reference for s in said], [s.text for s in said], average=None)
        assert cells[1:] == [f"{share:.3f}" for share in wanted]


def test_thresholds_are_never_chosen_on_the_rows_they_are_scored_on() -> None:
    first, second = halves(TRUTH)
    assert not set(first) & set(second)
    assert sorted([*first, *second]) == list(range(100))
    for part in (first, second):
        assert sum(TRUTH[place] == "a" for place in part) == 30


def test_calibration_mends_scores_that_lean_to_one_class(tmp_path: Path) -> None:
    """Both ways of choosing: on half of the held-out rows, and on rows of their own."""
    leaning = answers(0, shift=1.8)
    halved = calibrated(run(tmp_path, "halves", leaning))
    assert halved.before.value < 0.75
    assert halved.after.value > 0.85
    assert halved.offsets[0] > 0
    own = run(tmp_path, "own", leaning, more=answers(0, shift=1.8, seed=1))
    assert calibrated(own).after.value > 0.85
    misled = run(tmp_path, "misled", answers(0), more=answers(0, shift=3.0, seed=1))
    assert calibrated(misled).after.value < 1, "what the other rows say is what is applied"


def test_the_table_of_thresholds_shows_both_sides_on_the_same_rows(tmp_path: Path) -> None:
    rows: list[Row] = rows_of(
        [run(tmp_path, "none", answers(0, shift=1.8)), failed(tmp_path, "auto")]
    )
    table = threshold_table(rows)
    assert table.headings[-1] == "offsets of a, b"
    assert "other held-out rows" in table.caption
    assert float(table.rows[0][2]) > float(table.rows[0][1])
    assert table.rows[1][:2] == ["auto", "failed"]


def test_figures_are_told_in_fitting_units() -> None:
    assert [size(n) for n in (3, 4_000, 16_800_000, 2e9)] == ["3 B", "4.0 kB", "16.8 MB", "2.00 GB"]
    assert [duration(s) for s in (3.21, 119, 600, 4 * 3600)] == [
        *("3.2 s", "119.0 s", "10.0 min", "4.0 h"),
    ]
    assert [percent(share) for share in (1.0, 0.000677)] == ["100 %", "0.0677 %"]
