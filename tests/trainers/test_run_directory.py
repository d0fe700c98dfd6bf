import json
from pathlib import Path

import pytest

from adaptery.config import Layer, Resolved, resolve
from adaptery.errors import ConfigError
from adaptery.trainers.config import RunConfig
from adaptery.trainers.run_directory import RunDirectory

PLOT = RunDirectory.plot  # before a fixture spares the other tests its time


def config(runs: Path) -> Resolved[RunConfig]:
    values = {"name": "a", "base": "b", "data.train": "d", "runs": str(runs)}
    return resolve(RunConfig, [Layer.of(values, "test")])


def test_runs_of_one_second_get_directories_of_their_own(tmp_path: Path) -> None:
    paths = {RunDirectory.create(config(tmp_path / "runs")).path for _ in range(3)}
    assert len(paths) == 3
    assert all((path / "config.yaml").is_file() for path in paths)


def test_a_runs_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"runs.* cannot be made"):
        RunDirectory.create(config(tmp_path / "file" / "runs"))


def test_only_an_interrupted_run_can_be_reopened(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run directory"):
        RunDirectory.reopen(tmp_path / "nowhere")
    run = RunDirectory.create(config(tmp_path))
    with pytest.raises(ConfigError, match="no checkpoint"):
        RunDirectory.reopen(run.path)
    run.checkpoints.path(1).write_bytes(b"x")
    assert RunDirectory.reopen(run.path).path == run.path


def test_a_resumed_runs_repeated_steps_count_once(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for step, loss in [(1, 3.0), (2, 2.0), (2, 2.5), (3, 1.0)]:
        run.append_metrics({"step": step, "loss": loss})
    assert [(row["step"], row["loss"]) for row in run.metrics()] == [(1, 3.0), (2, 2.5), (3, 1.0)]


def test_a_line_that_a_crash_cut_off_is_no_obstacle(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.append_metrics({"step": 1, "loss": 3.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert [row["step"] for row in run.metrics()] == [1]


def test_a_line_behind_one_that_was_cut_off_is_whole(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.append_metrics({"step": 1, "loss": 3.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    run.append_metrics({"step": 2, "loss": 2.0})
    assert [row["loss"] for row in run.metrics()] == [3.0, 2.0]


def test_what_came_after_the_step_of_a_resume_has_not_happened(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for step in (10, 20, 30):
        run.append_metrics({"step": step, "loss": 3.0})
        run.append_metrics({"step": step, "eval.loss": 4.0})
    run.append_metrics({"step": 10, "loss": 2.0})
    assert run.metrics() == [{"step": 10, "loss": 2.0, "eval.loss": 4.0}]


def test_events_and_samples_are_kept(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert (run.events(), run.samples()) == ([], [])
    run.append_event("best", 20, "Step 20 is the best so far.")
    for answer in ("blau", "blue"):  # the second time after a resume
        run.append_sample(20, "which colour", answer, True)
    (event,) = run.events()
    assert (event["kind"], event["step"]) == ("best", 20)
    assert event["time"].startswith("20")
    assert [sample["answer"] for sample in run.samples()] == ["blue"]


def test_the_configuration_comes_back_with_its_origins(tmp_path: Path) -> None:
    given = config(tmp_path)
    run = RunDirectory.create(given)
    assert run.config() == given.value
    assert run.origins() == {"name": "test", "base": "test", "data.train": "test", "runs": "test"}


def test_a_run_knows_what_it_was_published_as(tmp_path: Path) -> None:
    run = RunDirectory.create(config(tmp_path))
    with run.resumable():
        assert run.status.told == "running"
    run.published("a@3")
    assert (run.status.state, run.status.told) == ("finished", "published as a@3")


@pytest.mark.parametrize("rows", [0, 1, 20])
def test_the_plot_is_a_picture(tmp_path: Path, rows: int) -> None:
    run = RunDirectory(tmp_path)
    for step in range(rows):
        run.append_metrics({"step": step, "loss": 3.0 - step / 10, "learning_rate": 1e-3})
    PLOT(run)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_result_is_json(tmp_path: Path) -> None:
    RunDirectory(tmp_path).write_result({"metrics": {"loss": 0.5}})
    assert json.loads((tmp_path / "result.json").read_text()) == {"metrics": {"loss": 0.5}}
