"""Variations one after another, by the program that stands in for training."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from adaptery.config import Resolved
from adaptery.errors import ConfigError, DataError, Interrupted
from adaptery.trainers.config import RunConfig
from adaptery.trainers.experiments.child import Child
from adaptery.trainers.experiments.experiment import Experiment, Run, carry_on, slug
from adaptery.trainers.experiments.running import alone
from adaptery.trainers.experiments.variations import changed, ranks
from adaptery.trainers.watching.watcher import Silent
from tests.trainers.experiments import stand_in
from tests.trainers.experiments.conftest import COMMAND

Config = Resolved[RunConfig]
PATIENCE = 60


def make(config: Config, *wanted: int, seeds: tuple[int, ...] = (0,), more: Path | None = None):
    rows = ranks(config.value, wanted, "scaled")
    return Experiment("rank", "rank", config, "base", rows, seeds, calibration=more)


def carry(config: Config, output: Path, *wanted: int, **more: object) -> list[Run]:
    return carry_on(make(config, *wanted, **more), output, COMMAND, Silent())


def starts(run: Run) -> int:
    """How often the run was begun."""
    return (run.folder / "starts").stat().st_size


def until(there: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not there():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_every_variation_and_seed_has_a_run_and_a_process_of_its_own(
    config: Config, tmp_path: Path
) -> None:
    runs = carry(config, tmp_path / "out", 4, 8, seeds=(0, 1))
    assert [(run.variation.name, run.seed) for run in runs] == [
        *(("r=4", 0), ("r=4", 1)),
        *(("r=8", 0), ("r=8", 1)),
    ]
    assert {run.outcome.status for run in runs} == {"finished"}
    assert len({run.folder for run in runs}) == 4
    measured = runs[0].outcome.measured
    assert measured
    assert measured.above == 2_000_000
    assert measured.share == 400 / 100_000
    assert len(runs[0].answers) == stand_in.ROWS
    assert runs[0].curve == (list(range(1, 11)), [2 / step for step in range(1, 11)])


def test_the_untuned_base_is_measured_once(config: Config, tmp_path: Path) -> None:
    runs = carry(config, tmp_path / "out", 4, 8, seeds=(0, 1))
    found = [
        "base.accuracy" in run.outcome.measured.metrics for run in runs if run.outcome.measured
    ]
    assert found == [True, False, False, False]


def test_what_is_over_is_not_run_again_and_what_is_new_is(config: Config, tmp_path: Path) -> None:
    out = tmp_path / "out"
    carry(config, out, 4)
    runs = carry(config, out, 4, 8)
    assert list(map(starts, runs)) == [1, 1]
    other = changed(config, {"training.epochs": 1}, "test")
    assert list(map(starts, carry(other, out, 4))) == [1], "another configuration, another run"
    Path(config.value.data.train).write_text("other rows")
    anew = carry(config, out, 4)
    assert anew[0].folder != runs[0].folder, "other rows, another run"


def test_what_went_wrong_is_kept_with_its_sentence_and_the_rest_goes_on(
    config: Config, tmp_path: Path
) -> None:
    wanted = (
        *(stand_in.FAILS, stand_in.IS_KILLED, stand_in.DOES_NOT_FIT, stand_in.DIVERGES),
        *(stand_in.BREAKS, 8),
    )
    runs = carry(config, tmp_path / "out", *wanted)
    assert [run.outcome.status for run in runs] == [
        *("failed", "failed", "does not fit", "diverged", "failed"),
        "finished",
    ]
    sentences = [run.outcome.sentence for run in runs]
    assert sentences[0] == "It cannot be done."
    assert "SIGKILL" in sentences[1]
    assert "memory" in sentences[1]
    assert sentences[4].startswith("ValueError: what nobody thought of Its log: ")
    again = carry(config, tmp_path / "out", *wanted)
    assert list(map(starts, again)) == [2, 2, 2, 1, 2, 1], "a failure is tried again"


def test_rows_that_are_bad_for_all_end_it_at_once(config: Config, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Rows are bad\."):
        carry(config, tmp_path / "out", stand_in.HAS_BAD_ROWS, 8)
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 1


def test_ctrl_c_ends_the_run_in_hand_and_the_same_call_goes_on(
    config: Config, tmp_path: Path
) -> None:
    out, begun = tmp_path / "out", False

    def press() -> None:
        until(lambda: any(out.glob("runs/r-23*/starts")))
        time.sleep(0.5)
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(Interrupted, match="1 of 3 runs are over, and the one in hand was kept"):
        carry(config, out, 8, stand_in.WAITS, 4)
    thread.join()
    begun = len(list((out / "runs").iterdir())) == 2
    assert begun
    runs = carry(config, out, 8, stand_in.WAITS, 4)
    assert list(map(starts, runs)) == [1, 2, 1]
    assert {run.outcome.status for run in runs} == {"finished"}


def test_a_run_ends_when_whoever_started_it_is_killed(tmp_path: Path) -> None:
    """The worker reads a pipe that ends with its parent."""
    folder = tmp_path / "run"
    folder.mkdir()
    script = (
        "import sys, time; from pathlib import Path\n"
        "from adaptery.trainers.experiments.child import Child\n"
        "reads = 'import sys, pathlib; f = pathlib.Path(sys.argv[1]);'"
        ' \'(f / "up").touch(); sys.stdin.buffer.read(); (f / "ended").touch()\'\n'
        "Child([sys.executable, '-c', reads], Path(sys.argv[1])); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(folder)]) as parent:
        until((folder / "up").exists)
        os.kill(parent.pid, signal.SIGKILL)
    until((folder / "ended").exists)


def test_a_child_that_does_not_listen_is_not_left_behind(tmp_path: Path) -> None:
    child = Child([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path)

    def look() -> bool:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        child.wait(look)
    assert child.process.returncode == -signal.SIGKILL


def test_two_processes_do_not_work_in_one_folder(config: Config, tmp_path: Path) -> None:
    with (
        alone(tmp_path / "out"),
        pytest.raises(ConfigError, match=r"Another process is at work in .*/out"),
    ):
        carry(config, tmp_path / "out", 8)


def test_rows_for_calibration_are_handed_on_and_part_of_what_a_run_is(
    config: Config, tmp_path: Path
) -> None:
    rows = tmp_path / "more.jsonl"
    rows.write_text("more\n")
    (plain,) = carry(config, tmp_path / "out", 8)
    (run,) = carry(config, tmp_path / "out", 8, more=rows)
    assert run.folder != plain.folder
    assert (run.folder / "calibration.txt").read_text() == str(rows)


def test_progress_of_the_process_is_shown_here(config: Config, tmp_path: Path) -> None:
    heard: list[tuple[str, float]] = []

    class Listener(Silent):
        def phase(self, title: str, total: int) -> None:
            heard.append((title, total))

        def advance(self, pieces: int = 1, **figures: float) -> None:
            heard.append(("advanced", pieces))
            heard.append(("loss", figures["loss"]))

    out = tmp_path / "out"

    def say() -> None:
        until(lambda: any(out.glob("runs/r-23*/starts")))
        (folder,) = out.glob("runs/r-23*")
        (folder / "progress.json").write_text(
            '{"title": "training", "total": 10, "done": 4, "figures": {"loss": 0.5}}'
        )
        time.sleep(1)
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=say)
    thread.start()
    with pytest.raises(Interrupted):
        carry_on(make(config, stand_in.WAITS), out, COMMAND, Listener())
    thread.join()
    assert heard == [("  training", 10), ("advanced", 4), ("loss", 0.5)]


def test_any_name_is_a_folder() -> None:
    assert slug("q_proj,v_proj") == "q_proj-v_proj"
    assert slug("../../x/y") == "x-y"
    assert slug("…") == "run"
    assert len(slug("a" * 300)) == 40
