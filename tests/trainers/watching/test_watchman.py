"""Alarms are raised while the run goes on, once, and not again when it is resumed."""

from pathlib import Path

import numpy as np

from adaptery.config import Layer, resolve
from adaptery.trainers.config import RunConfig
from adaptery.trainers.run_directory import RunDirectory
from adaptery.trainers.watching import Observer, Silent, make_observers
from adaptery.trainers.watching.diagnosis import described, diagnose
from adaptery.trainers.watching.watchman import Watchman
from tests.trainers.watching.curves import made_up

NORMS = np.where(np.arange(40) == 25, 50.0, 1.0)
ROWS = made_up(np.linspace(3, 1, 40), grad_norm=NORMS)


class Notes(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, sentence: str) -> None:
        self.said.append(sentence)


def begin(folder: Path) -> tuple[RunDirectory, RunConfig]:
    values = {"name": "a", "base": "b", "data.train": "d", "runs": str(folder)}
    config = resolve(RunConfig, [Layer.of(values, "test")])
    return RunDirectory.create(config), config.value


def watched(run: RunDirectory, settings: RunConfig) -> tuple[Notes, list[Observer]]:
    notes = Notes()
    return notes, list(make_observers(settings, run, notes))


def test_an_alarm_is_raised_at_its_step_and_kept(tmp_path: Path) -> None:
    run, settings = begin(tmp_path)
    notes, observers = watched(run, settings)
    for row in ROWS:
        for observer in observers:
            observer.row(row)
        assert len(notes.said) == (row["step"] >= 26)
    (event,) = run.events()
    assert (event["kind"], event["step"]) == ("gradient_explosion", 26)
    assert notes.said == [f"warning: {event['sentence']}"]
    assert run.metrics() == ROWS


class Counting(Watchman):
    looks = 0

    def look(self) -> None:
        self.looks += 1
        super().look()


def test_a_long_run_is_not_held_up(tmp_path: Path) -> None:
    """Each look is at all that was measured, so that there is one at each hundredth more."""
    run, settings = begin(tmp_path)
    watching = Counting(settings, run, Silent())
    for row in made_up(np.ones(2000)):
        watching.row(row)
    assert 200 < watching.looks < 500
    before = watching.looks
    watching.row({"step": 2000, "eval.loss": 1.0})
    watching.end()
    assert watching.looks == before + 2


def test_a_resumed_run_knows_what_was_measured_and_said(tmp_path: Path) -> None:
    run, settings = begin(tmp_path)
    first, observers = watched(run, settings)
    for row in ROWS[:30]:
        for observer in observers:
            observer.row(row)
    second, observers = watched(run, settings)
    for row in ROWS[27:]:
        for observer in observers:
            observer.row(row)
    assert (len(first.said), second.said) == (1, [])
    assert run.metrics() == ROWS
    assert [finding.alarm for finding in diagnose(run)] == ["killed", "gradient_explosion"]


def test_an_alarm_that_needs_what_was_before_a_resume_is_raised_after_it(tmp_path: Path) -> None:
    run, settings = begin(tmp_path)
    for part in (ROWS[:20], ROWS[20:]):
        notes, observers = watched(run, settings)
        for row in part:
            for observer in observers:
                observer.row(row)
    assert len(notes.said) == 1


def test_answers_and_events_are_kept_and_judged(tmp_path: Path) -> None:
    run, settings = begin(tmp_path)
    notes, observers = watched(run, settings)
    for observer in observers:
        observer.event("best", 10, "Step 10 is the best so far.")
        observer.sample(10, "which colour", "blue and " * 20, False)
        observer.row(ROWS[9])
        observer.end()
    assert [event["kind"] for event in run.events()] == ["best", "repetition"]
    assert len(notes.said) == 1  # a loop says its own events itself
    (sample,) = run.samples()
    assert not sample["ended"]


def test_a_run_in_one_line(tmp_path: Path) -> None:
    run, _ = begin(tmp_path)
    assert described(run)["loss"] is None
    assert described(run)["step"] == 0
    for row in [*ROWS, {"step": 20, "eval.loss": 1.5}, {"step": 40, "eval.loss": 1.75}]:
        run.append_metrics(row)
    line = described(run)
    assert (line["method"], line["step"], line["loss"]) == ("lora", 40, 1.0)
    assert line["best"] == {"loss": 1.5, "step": 20}


def test_a_run_whose_configuration_is_of_another_adaptery_is_listed_all_the_same(
    tmp_path: Path,
) -> None:
    run, _ = begin(tmp_path)
    (run.path / "config.yaml").write_text("nmae: a\n")
    assert described(run)["run"] == run.path.name


def test_an_adapter_that_is_worse_than_its_base(tmp_path: Path) -> None:
    run, _ = begin(tmp_path)
    with run.resumable():
        run.append_metrics(ROWS[0])
    run.write_result({"metrics": {"loss": 2.0, "base.loss": 1.5}})
    (finding,) = diagnose(run)
    assert finding.alarm == "worse_than_base"
    run.write_result({"metrics": {"loss": 1.0, "base.loss": 1.5}})
    assert diagnose(run) == []
