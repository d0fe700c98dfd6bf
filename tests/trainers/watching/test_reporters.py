"""What services were told is read back from what they wrote; none can end a run."""

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from adaptery.config import Layer, Resolved, resolve
from adaptery.errors import ConfigError
from adaptery.trainers.config import RunConfig
from adaptery.trainers.run_directory import RunDirectory
from adaptery.trainers.watching import Silent, reporters
from adaptery.trainers.watching.reporters import Guarded, check_reporters, make_reporters


def config(folder: Path, *names: str) -> Resolved[RunConfig]:
    values: dict[str, Any] = {"name": "a", "base": "b", "data.train": "d", "runs": str(folder)}
    return resolve(RunConfig, [Layer.of(values | {"report_to": names}, "test")])


class Notes(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, sentence: str) -> None:
        self.said.append(sentence)


def told(name: str, run: RunDirectory, settings: RunConfig, *rows: Mapping[str, float]) -> None:
    """Tell one reporter these rows, from its beginning to its end."""
    (reporter,) = make_reporters(settings, run, Silent())
    for row in rows:
        reporter.row(row)
    reporter.end()


ROWS = (
    {"step": 10, "loss": 2.0, "learning_rate": 1e-3},
    {"step": 10, "eval.loss": 1.75},
    {"step": 20, "loss": 1.5, "learning_rate": 5e-4},
)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's reading of its own files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_tensorboard_has_every_figure(tmp_path: Path) -> None:
    settings = config(tmp_path, "tensorboard")
    run = RunDirectory.create(settings)
    told("tensorboard", run, settings.value, *ROWS)
    found = scalars(run.path / "tensorboard")
    assert found["train/loss"] == [(10, 2.0), (20, 1.5)]
    assert found["eval/loss"] == [(10, 1.75)]
    assert found["train/learning_rate"] == [(10, pytest.approx(1e-3)), (20, pytest.approx(5e-4))]


def test_tensorboard_has_a_resumed_runs_steps_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    settings = config(tmp_path, "tensorboard")
    run = RunDirectory.create(settings)
    told("tensorboard", run, settings.value, *ROWS, {"step": 30, "loss": 9.0})
    told("tensorboard", run, settings.value, {"step": 20, "loss": 1.25}, {"step": 30, "loss": 1.0})
    assert scalars(tmp_path / "board")["train/loss"] == [(10, 2.0), (20, 1.25), (30, 1.0)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*")
def test_mlflow_has_figures_options_and_how_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "colours")
    settings = config(tmp_path, "mlflow")
    run = RunDirectory.create(settings)
    told("mlflow", run, settings.value, *ROWS)
    told("mlflow", run, settings.value, {"step": 30, "loss": 1.0})  # resumed
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("colours")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.info.run_name == run.path.name
    assert found.data.params["lora.r"] == "16"
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert [(item.step, item.value) for item in history] == [(10, 2.0), (20, 1.5), (30, 1.0)]
    assert found.data.metrics["eval/loss"] == 1.75
    with pytest.raises(RuntimeError, match="crash"):
        fail(make_reporters(settings.value, run, Silent())[0])
    assert client.get_run(found.info.run_id).info.status == "FAILED"


def fail(reporter: Guarded) -> None:
    try:
        raise RuntimeError("crash")
    finally:
        reporter.end()


def test_wandb_writes_offline_into_the_run_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    settings = config(tmp_path, "wandb")
    run = RunDirectory.create(settings)
    told("wandb", run, settings.value, *ROWS)
    assert capfd.readouterr().out == ""  # which is for data
    (path,) = run.path.glob("wandb/offline-run-*/*.wandb")
    losses = []
    for data in log_records(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        items = {"/".join(i.nested_key) or i.key: i.value_json for i in record.history.item}
        losses += [float(items["train/loss"])] if "train/loss" in items else []
    assert losses == [2.0, 1.5]


def log_records(data: bytes) -> Iterator[bytes]:
    """The records of W&B's file: LevelDB's log, in blocks of 32 KiB, the first from byte seven."""
    block, header, whole, last = 1 << 15, 7, 1, 4
    at, record = header, b""
    while at + header <= len(data):
        if block - at % block < header:  # too little room for a record: zeros
            at += block - at % block
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + header])
        record += data[at + header : at + header + length]
        at += header + length
        if kind in (whole, last):
            yield record
            record = b""


def test_a_missing_package_is_refused_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reporters.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"'wandb'.*pip install wandb"):
        check_reporters(["wandb"])
    check_reporters([])


class Gone:
    """A service whose server goes away after the first row."""

    def __init__(self, *_: object) -> None:
        self.heard: list[int] = []

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        if self.heard:
            raise ConnectionError("connection\nrefused")
        self.heard.append(step)

    def close(self, *, failed: bool) -> None:
        raise AssertionError("it was left out")


def test_a_reporter_that_fails_is_left_out_with_one_sentence() -> None:
    notes, gone = Notes(), Gone()
    reporter = Guarded("mlflow", gone, notes)
    for step in (1, 2, 3):
        reporter.row({"step": step, "loss": 1.0})
    reporter.end()
    assert gone.heard == [1]
    assert notes.said == [
        "warning: mlflow failed and hears no more of this run, which goes on; metrics.jsonl has "
        "every figure. It said: connection refused."
    ]


def test_one_that_cannot_begin_refuses_a_new_run_and_not_a_resumed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "file" / "board"))
    settings = config(tmp_path, "tensorboard")
    run = RunDirectory.create(settings)
    with pytest.raises(ConfigError, match=r"tensorboard cannot begin.*Nothing was trained"):
        make_reporters(settings.value, run, Silent())
    run.append_metrics({"step": 1, "loss": 1.0})
    notes = Notes()
    assert make_reporters(settings.value, run, notes) == []
    assert "goes on without it" in notes.said[0]


def test_reporters_are_given_as_a_list_or_with_commas(tmp_path: Path) -> None:
    both = ("tensorboard", "mlflow")
    assert config(tmp_path, "tensorboard,mlflow").value.report_to == both
    assert config(tmp_path, *both).value.report_to == both
    with pytest.raises(ConfigError, match="'tensorbord' is none of tensorboard, wandb, mlflow"):
        config(tmp_path, "tensorbord")
