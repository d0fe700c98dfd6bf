import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest

from adaptery.errors import ConfigError, Interrupted
from adaptery.trainers.control import Best, StopSignals
from adaptery.trainers.run_directory import RunDirectory
from tests.models import write_rows
from tests.trainers.runs import InterruptAt, resume, rows, run, tensors
from tests.trainers.test_loop import same


def watched(folder: Path, **changes: Any) -> dict[str, Any]:
    """Options of a run that measures itself every two of its ten steps, on answers that it does
    not learn, so that it is soon at its best."""
    folder.mkdir(exist_ok=True)
    other = [[question, ("assistant", "the tool")] for question, _ in rows(6, start=40)]
    held_out = write_rows(folder / "eval.jsonl", other)
    measured = {"data__eval": str(held_out), "evaluation__every": 2, "evaluation__baseline": False}
    return measured | changes


def measurements(path: Path, metric: str = "loss") -> dict[int, float]:
    lines = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row[f"eval.{metric}"] for row in lines if f"eval.{metric}" in row}


def test_of_losses_the_lowest_is_best_and_of_metrics_the_highest() -> None:
    scores = [0.5, 0.2, 0.2, math.nan, 0.8]
    for metric, step in (("loss", 1), ("perplexity", 1), ("accuracy", 4)):
        best = Best(metric)
        for number, score in enumerate(scores):
            best.hear(number, {metric: score})
        assert best.step == step


def test_patience_counts_measurements_since_the_best() -> None:
    best = Best("loss", patience=2)
    told = []
    for step, score in enumerate([3.0, 2.0, 2.5, 1.0, math.nan, 1.0]):
        best.hear(step, {"loss": score})
        told.append(best.patience_is_over)
    assert told == [False, False, False, False, False, True]


def test_a_score_that_is_no_number_is_never_the_best() -> None:
    best = Best("accuracy")
    assert not best.hear(1, {"accuracy": math.nan})
    assert best.step is None
    assert best.hear(2, {"accuracy": 0.0})


def test_measuring_in_mid_run_changes_nothing_but_the_choice_of_the_checkpoint(
    tiny_base: Path, tmp_path: Path
) -> None:
    plain = run(tmp_path / "a", tiny_base, lora__dropout=0.2)
    measured = run(tmp_path / "b", tiny_base, lora__dropout=0.2, **watched(tmp_path / "b"))
    losses = [[r["loss"] for r in RunDirectory(x.run).metrics()] for x in (plain, measured)]
    assert losses[0] == losses[1]


def test_the_best_checkpoint_is_what_is_baked_and_the_manifest_says_so(
    tiny_base: Path, tmp_path: Path
) -> None:
    changes = watched(tmp_path, training__learning_rate=0.05, training__scheduler="constant")
    result = run(tmp_path, tiny_base, **changes)
    scores = measurements(result.run)
    best = min(scores, key=lambda step: scores[step])
    assert list(scores) == [2, 4, 6, 8, 10]
    assert best < 10
    outcome = result.manifest.config["outcome"]
    assert outcome == {"best": {"step": best, "metric": "loss", "score": scores[best]}}
    assert result.manifest.metrics["loss"] == pytest.approx(scores[best], rel=1e-6)
    early = run(tmp_path / "early", tiny_base, **changes | {"training__max_steps": best})
    assert same(tensors(result), tensors(early))


def test_the_best_may_be_of_any_metric(tiny_base: Path, tmp_path: Path) -> None:
    changes = watched(tmp_path, evaluation__best="accuracy", evaluation__metrics=["accuracy"])
    result = run(tmp_path, tiny_base, **changes)
    scores = measurements(result.run, "accuracy")
    best = result.manifest.config["outcome"]["best"]
    assert best["metric"] == "accuracy"
    assert best["score"] == max(scores.values()) == scores[best["step"]]


def test_a_best_that_is_not_measured_is_refused_before_training(
    tiny_base: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"'bleu'.*Measured are: loss, perplexity"):
        run(tmp_path, tiny_base, **watched(tmp_path, evaluation__best="bleu"))
    assert not (tmp_path / "runs").exists()


def test_a_run_stops_early_when_patience_is_over(tiny_base: Path, tmp_path: Path) -> None:
    changes = watched(
        tmp_path,
        training__epochs=20,
        training__learning_rate=0.05,
        training__scheduler="constant",
        evaluation__patience=2,
    )
    result = run(tmp_path, tiny_base, **changes)
    scores, outcome = measurements(result.run), result.manifest.config["outcome"]
    best, last = outcome["best"]["step"], outcome["steps"]
    assert last == max(scores) == best + 4 < 100
    (event,) = (e for e in RunDirectory(result.run).events() if e["kind"] == "early_stop")
    assert f"Stopped at step {last} of 100: 2 measurements in a row" in event["sentence"]
    assert same(tensors(resume(result.run)), tensors(result))


def test_an_interrupted_run_remembers_its_best_and_its_patience(
    tiny_base: Path, tmp_path: Path
) -> None:
    changes = {
        "training__learning_rate": 0.05,
        "training__scheduler": "constant",
        "evaluation__patience": 3,
        "training__max_steps": 8,
        "lora__dropout": 0.1,
    }
    whole = run(tmp_path / "whole", tiny_base, **watched(tmp_path / "whole", **changes))
    assert whole.manifest.config["outcome"]["best"]["step"] < 7
    with pytest.raises(Interrupted):
        run(
            tmp_path / "parts",
            tiny_base,
            watcher=InterruptAt(7),
            **watched(tmp_path / "parts", **changes),
        )
    (path,) = (tmp_path / "parts" / "runs").iterdir()
    parts = resume(path)
    assert same(tensors(whole), tensors(parts))
    assert parts.manifest.config == whole.manifest.config


def test_adaloras_best_is_chosen_after_its_last_pruning(tiny_base: Path, tmp_path: Path) -> None:
    """Before, the adapter has ranks that nobody asked for."""
    changes = watched(tmp_path, method="adalora", training__epochs=4, training__learning_rate=0.05)
    result = run(tmp_path, tiny_base, **changes)
    assert result.manifest.config["outcome"]["best"]["step"] >= 14
    assert min(measurements(result.run)) == 2


def test_a_second_signal_stops_at_once_and_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.received
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_launched_process_waits_for_the_end_of_its_step_however_often_it_is_told() -> None:
    with StopSignals(patient=True) as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert stop.received
