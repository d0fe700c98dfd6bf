"""A search over many processes' trials, by the program that stands in for training."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

from adaptery.config import Resolved
from adaptery.errors import ConfigError, DataError, Interrupted
from adaptery.trainers.config import RunConfig
from adaptery.trainers.experiments.outcome import Outcome
from adaptery.trainers.experiments.space import parse_space
from adaptery.trainers.experiments.sweep import Sweep, carry_on, counted, open_study
from adaptery.trainers.experiments.variations import changed
from adaptery.trainers.watching.watcher import Silent
from tests.trainers.experiments import stand_in
from tests.trainers.experiments.conftest import COMMAND
from tests.trainers.experiments.test_experiment import until

Config = Resolved[RunConfig]


def make(
    config: Config,
    output: Path,
    *space: str,
    trials: int = 4,
    sampler: str = "random",
    metric: str = "accuracy",
) -> Sweep:
    output.mkdir(exist_ok=True)
    study = open_study(f"sqlite:///{output / 'study.db'}", "sweep", metric)
    return Sweep(config, parse_space(space, config), metric, trials, study, sampler, 0, output)


def proposed(sweep: Sweep) -> list[dict[str, object]]:
    return [trial.params for trial in counted(sweep.study)]


def test_a_sweep_finds_what_is_best(config: Config, tmp_path: Path) -> None:
    sweep = make(config, tmp_path / "out", "r=2,4,8,16", sampler="grid")
    carry_on(sweep, COMMAND, Silent())
    assert sorted(trial["lora.r"] for trial in proposed(sweep)) == [2, 4, 8, 16]
    assert sweep.study.best_params == {"lora.r": 8}
    assert sweep.study.best_value == 1


def test_what_is_proposed_depends_on_the_seed_alone(config: Config, tmp_path: Path) -> None:
    """Also where the sweep was stopped in between, as this one is after each trial."""
    space = ("r=2:12", "learning_rate=1e-4:1e-1:log")
    at_once = make(config, tmp_path / "a", *space)
    carry_on(at_once, COMMAND, Silent())
    for trials in (1, 2, 3, 4):
        piecewise = make(config, tmp_path / "b", *space, trials=trials)
        carry_on(piecewise, COMMAND, Silent())
    assert proposed(at_once) == proposed(piecewise)
    assert len({str(one) for one in proposed(at_once)}) == 4


def test_finished_trials_count_in_the_next_sitting(config: Config, tmp_path: Path) -> None:
    for _ in range(2):
        sweep = make(config, tmp_path / "out", "r=2,4", trials=2)
        carry_on(sweep, COMMAND, Silent())
    assert len(sweep.study.trials) == 2
    starts = (tmp_path / "out").glob("trial-*/starts")
    assert [path.stat().st_size for path in starts] == [1, 1]


@pytest.mark.parametrize(
    ("rank", "state", "status"),
    [
        (stand_in.FAILS, TrialState.FAIL, "failed"),
        (stand_in.IS_KILLED, TrialState.FAIL, "failed"),
        (stand_in.DOES_NOT_FIT, TrialState.PRUNED, "does not fit"),
        (stand_in.DIVERGES, TrialState.PRUNED, "diverged"),
    ],
    ids=["fails", "killed", "does not fit", "diverges"],
)
def test_what_goes_wrong_is_recorded_and_the_sweep_goes_on(
    config: Config, tmp_path: Path, rank: int, state: TrialState, status: str
) -> None:
    sweep = make(config, tmp_path / "out", f"r={rank},8", sampler="grid", trials=2)
    carry_on(sweep, COMMAND, Silent())
    found = {t.params["lora.r"]: (t.state, t.user_attrs["status"]) for t in sweep.study.trials}
    assert found == {rank: (state, status), 8: (TrialState.COMPLETE, "finished")}


def test_bad_rows_end_the_sweep(config: Config, tmp_path: Path) -> None:
    sweep = make(config, tmp_path / "out", f"r={stand_in.HAS_BAD_ROWS}", trials=3)
    with pytest.raises(DataError, match=r"Rows are bad\."):
        carry_on(sweep, COMMAND, Silent())
    assert len(sweep.study.trials) == 1


def test_a_metric_that_nobody_measured_is_named(config: Config, tmp_path: Path) -> None:
    sweep = make(config, tmp_path / "out", "r=8", metric="bleu", trials=1)
    with pytest.raises(ConfigError, match="'bleu' was not measured, but loss, accuracy"):
        carry_on(sweep, COMMAND, Silent())


def test_ctrl_c_keeps_the_trial_in_hand(config: Config, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def press() -> None:
        until(lambda: any(out.glob("trial-*/starts")))
        time.sleep(0.5)
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    sweep = make(config, out, f"r={stand_in.WAITS}", trials=1)
    with pytest.raises(Interrupted, match="0 of 1 trials are over"):
        carry_on(sweep, COMMAND, Silent())
    thread.join()
    again = make(config, out, f"r={stand_in.WAITS}", trials=1)
    carry_on(again, COMMAND, Silent())
    (trial,) = counted(again.study)
    assert trial.state == TrialState.COMPLETE
    (folder,) = out.glob("trial-*")
    assert trial.user_attrs["folder"] == str(folder), "in the folder where it was begun"
    assert (folder / "starts").stat().st_size == 2


SWEEP = """
import sys
from pathlib import Path
from adaptery.config import read_file, resolve
from adaptery.trainers.config import RunConfig
from adaptery.trainers.experiments.sweep import carry_on
from adaptery.trainers.watching.watcher import Silent
from tests.trainers.experiments.conftest import COMMAND
from tests.trainers.experiments.test_sweep import make
config = resolve(RunConfig, [read_file(Path(sys.argv[1]))])
carry_on(make(config, Path(sys.argv[2]), sys.argv[3], trials=int(sys.argv[4])), COMMAND, Silent())
"""


def elsewhere(config: Config, out: Path, space: str, trials: int) -> subprocess.Popen[bytes]:
    """A sweep in another process, on the storage of this one."""
    path = out.parent / "config.yaml"
    path.write_text(config.value.model_dump_json())
    command = [sys.executable, "-c", SWEEP, str(path), str(out), space, str(trials)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[3])


def test_a_killed_sweeps_trial_is_tried_again(config: Config, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(config, out, "r=8")
    space = f"r={stand_in.WAITS}"
    with elsewhere(config, out, space, 2) as child:
        until(lambda: any(out.glob("trial-*/starts")))
        os.kill(child.pid, signal.SIGKILL)
    (folder,) = out.glob("trial-*")
    sweep = make(config, out, space, trials=1)
    carry_on(sweep, COMMAND, Silent())
    (trial,) = counted(sweep.study)
    assert trial.state == TrialState.COMPLETE
    assert trial.user_attrs["folder"] == str(folder)
    assert [t.state for t in sweep.study.trials] == [TrialState.FAIL, TrialState.COMPLETE]


def test_two_processes_share_a_storage(config: Config, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(config, out, "r=2:12")
    with (
        elsewhere(config, out, "r=2:12", 6) as first,
        elsewhere(config, out, "r=2:12", 6) as second,
    ):
        pass
    assert (first.returncode, second.returncode) == (0, 0)
    sweep = make(config, out, "r=2:12", trials=6)
    done = counted(sweep.study)
    assert [trial.state for trial in done] == [TrialState.COMPLETE] * 6
    assert len({trial.user_attrs["process"] for trial in done}) == 2
    assert len({trial.user_attrs["folder"] for trial in done}) == 6
    for trial in done:
        assert Outcome.read(Path(trial.user_attrs["folder"]))


def test_a_trial_that_falls_behind_is_pruned(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaptery.trainers.experiments.sweep.HEARTBEAT", 0.05)
    every = changed(config, {"evaluation.every": 2}, "test")
    sweep = make(every, tmp_path / "out", "r=8,16", trials=6)
    for rank in (8, 8, 8, 8, 8, 16):  # MedianPruner lets the first five alone
        sweep.study.enqueue_trial({"lora.r": rank})
    carry_on(sweep, COMMAND, Silent())
    last = counted(sweep.study)[-1]
    assert last.state == TrialState.PRUNED
    assert last.user_attrs["status"] == "pruned"
    outcome = Outcome.read(Path(last.user_attrs["folder"]))
    assert outcome
    assert "behind" in outcome.sentence
    assert max(last.intermediate_values) < 10, "before its end"


def test_a_storage_that_cannot_be_opened_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match="The storage nonsense://x cannot be opened"):
        open_study("nonsense://x", "sweep", "loss")


def test_without_optuna_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'adaptery\[sweep\]'"):
        open_study("sqlite://", "sweep", "loss")
