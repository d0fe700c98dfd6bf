"""`adapters runs`: what real runs and made-up ones left, as people and scripts see it."""

import json
import signal
import threading
import time
from pathlib import Path

import pytest

from adaptery.config import Layer, resolve
from adaptery.trainers.config import RunConfig
from adaptery.trainers.run_directory import RunDirectory
from adaptery.trainers.watching.status import Status, write_status
from tests.cli.conftest import House
from tests.cli.test_processes import process
from tests.command import adapters, done
from tests.test_imports import loaded_by
from tests.trainers.watching.test_reporters import scalars


def begin(folder: Path, name: str = "colours", losses: tuple[float, ...] = ()) -> RunDirectory:
    """A run directory with these losses."""
    values = {"name": name, "base": "b", "data.train": "d", "runs": str(folder)}
    run = RunDirectory.create(resolve(RunConfig, [Layer.of(values, "test")]))
    for step, loss in enumerate(losses, 1):
        run.append_metrics({"step": step, "loss": loss, "learning_rate": 1e-3})
    return run


def test_runs_are_listed_with_what_they_became(original: House) -> None:
    lines = done("runs", "list", "--runs", original.root / "runs", "--json").json
    assert {line["method"]: line["version"] for line in lines} == {
        "lora": "colours@1",
        "adalora": "colours@2",
    }
    assert {line["method"]: line["step"] for line in lines} == {"lora": 6, "adalora": 12}
    for line in lines:
        assert line["status"] == "finished"
        assert line["seconds"] > 0
        assert line["loss"] > 0
    text = done("runs", "list", "--runs", original.root / "runs").out
    assert "colours@2" in text
    assert len(text.splitlines()) == 3


def test_a_run_is_shown_with_metrics_and_origins(original: House) -> None:
    runs = original.root / "runs"
    newest = done("runs", "list", "--runs", runs, "--json").json[0]["path"]
    shown = done("runs", "show", newest, "--json").json
    assert shown["config"]["method"] == "adalora"
    assert shown["origins"]["method"] == "flag --method"
    assert shown["metrics"].keys() >= {"loss", "base.loss", "accuracy"}
    assert shown["rows"][-1]["step"] == 12
    text = done("runs", "show", newest).out
    assert "held-out base.loss" in text
    assert "colours@2" in text


def test_a_real_run_is_drawn_and_reported(original: House, tmp_path: Path) -> None:
    run = next((original.root / "runs").iterdir())
    picture, page = tmp_path / "c.png", tmp_path / "r.html"
    assert done("runs", "plot", run, "--output", picture).out.strip() == str(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    done("runs", "plot", run, "--output", page)
    assert "<h2>Held-out rows</h2>" in page.read_text()


def test_where_there_is_no_run_that_is_said(tmp_path: Path) -> None:
    outcome = done("runs", "list", "--runs", tmp_path)
    assert outcome.out == ""
    assert "There is no run in" in outcome.err
    assert done("runs", "list", "--runs", tmp_path, "--json").json == []


def test_a_run_is_named_by_path_name_or_what_begins_it(tmp_path: Path) -> None:
    run = begin(tmp_path, "colours", (1.0,))
    begin(tmp_path, "shapes")
    for name in (run.path, run.path.name, "col"):
        assert done("runs", "tail", name, "--runs", tmp_path).out == "step 1  loss 1  rate 0.001\n"


@pytest.mark.parametrize("command", ["show", "tail", "plot", "diagnose"])
def test_a_missing_run_is_refused_with_those_that_are_there(tmp_path: Path, command: str) -> None:
    begin(tmp_path, "colours")
    outcome = adapters("runs", command, "colors", "--runs", tmp_path)
    assert outcome.code == 2
    assert "There is no run 'colors'" in outcome.err
    assert "Known: colours-" in outcome.err
    empty = adapters("runs", command, "colors", "--runs", tmp_path / "nowhere")
    assert (empty.code, "There is none yet." in empty.err) == (2, True)


def test_a_beginning_that_several_runs_share_is_refused(tmp_path: Path) -> None:
    runs = [begin(tmp_path).path.name for _ in range(2)]
    outcome = adapters("runs", "show", "colours", "--runs", tmp_path)
    assert outcome.code == 2
    assert "begins the names of 2 runs" in outcome.err
    assert done("runs", "tail", min(runs, key=len), "--runs", tmp_path).code == 0


@pytest.mark.parametrize("output", ["c.gif", "report"])
def test_a_picture_of_another_kind_is_refused(tmp_path: Path, output: str) -> None:
    run = begin(tmp_path, losses=(1.0,))
    outcome = adapters("runs", "plot", run.path, "--output", tmp_path / output)
    assert outcome.code == 2
    assert "must end in .png or .html" in outcome.err


def test_a_run_without_figures_has_nothing_to_draw(tmp_path: Path) -> None:
    run = begin(tmp_path)
    outcome = adapters("runs", "plot", run.path)
    assert outcome.code == 2
    assert "no figures yet" in outcome.err
    assert "There are no figures yet" in done("runs", "tail", run.path).err
    assert done("runs", "plot", run.path, "--output", tmp_path / "r.html").code == 0


def test_diagnosis_of_a_run_that_went_well_says_so(tmp_path: Path) -> None:
    run = begin(tmp_path, losses=(3.0, 2.0, 1.0))
    write_status(run.path, Status("finished"))
    outcome = done("runs", "diagnose", run.path)
    assert outcome.out.startswith("Nothing is wrong")
    assert done("runs", "diagnose", run.path, "--json").json == []


def test_diagnosis_names_symptom_cause_and_option(tmp_path: Path) -> None:
    run = begin(tmp_path, losses=tuple(1 + 0.6 * (-1) ** n for n in range(40)))
    write_status(run.path, Status("failed", sentence="The disk is full."))
    text = done("runs", "diagnose", run.path).out
    assert "failed: The run failed after step 40. The disk is full." in text
    assert "swing: The loss swings by" in text
    assert "`training.learning_rate: 0.001 → 0.0005`" in text
    found = done("runs", "diagnose", run.path, "--json").json
    assert [finding["alarm"] for finding in found] == ["failed", "swing"]
    assert found[1]["changes"][0] == {
        "option": "training.learning_rate",
        "now": 0.001,
        "better": 0.0005,
    }


def test_the_last_figures_are_printed(tmp_path: Path) -> None:
    run = begin(tmp_path, losses=(3.0, 2.0, 1.0))
    run.append_metrics({"step": 3, "eval.loss": 1.5})
    lines = done("runs", "tail", run.path, "-n", 2).out.splitlines()
    assert lines == ["step 2  loss 2  rate 0.001", "step 3  loss 1  rate 0.001  held-out loss 1.5"]
    rows = [json.loads(x) for x in done("runs", "tail", run.path, "--json").out.splitlines()]
    assert [row["loss"] for row in rows] == [3.0, 2.0, 1.0]


def test_figures_that_are_no_numbers_are_null_to_scripts(tmp_path: Path) -> None:
    run = begin(tmp_path, losses=(3.0, float("nan")))
    assert json.loads(done("runs", "tail", run.path, "-n", 1, "--json").out)["loss"] is None
    assert "loss nan" in done("runs", "tail", run.path, "-n", 1).out
    assert [row["loss"] for row in done("runs", "show", run.path, "--json").json["rows"]] == [
        3,
        None,
    ]
    done("runs", "plot", run.path)
    assert "not_a_number" in done("runs", "diagnose", run.path).out


def test_a_reporter_is_asked_for_with_a_flag(bare: House) -> None:
    outcome = done(*bare.train("--report-to", "tensorboard", "--max-steps", 2))
    (folder,) = (bare.root / "runs").glob("*/tensorboard")
    assert scalars(folder).keys() >= {"train/loss", "train/learning_rate", "train/grad_norm"}
    assert "training (2) …" in outcome.err


def test_a_reporter_that_there_is_not_is_refused_before_anything_is_written(bare: House) -> None:
    outcome = adapters(*bare.train("--report-to", "tensorboard,tensorbord"))
    assert outcome.code == 2
    assert "'tensorbord' is none of tensorboard, wandb, mlflow" in outcome.err
    assert not (bare.root / "runs").exists()


def test_a_running_run_is_followed_to_its_end(tmp_path: Path) -> None:
    run = begin(tmp_path, losses=(3.0,))
    started = threading.Event()

    def train() -> None:
        with run.resumable():
            started.set()
            for step in (2, 3):
                time.sleep(0.3)
                run.append_metrics({"step": step, "loss": 3.0 / step})

    thread = threading.Thread(target=train)
    thread.start()
    started.wait()
    outcome = done("runs", "tail", run.path, "-f", "--json")
    thread.join()
    assert [json.loads(line)["step"] for line in outcome.out.splitlines()] == [1, 2, 3]
    assert outcome.err.strip() == f"{run.path.name}: finished."


def test_following_ends_quietly_with_ctrl_c(tmp_path: Path) -> None:
    run = begin(tmp_path, losses=(3.0,))
    with run.resumable(), process("runs", "tail", run.path, "-f", bufsize=1) as child:
        assert child.stdout
        assert child.stdout.readline().startswith("step 1")
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert err == ""


def test_looking_at_runs_loads_no_torch() -> None:
    assert not loaded_by("runs", "list", "--json") & {"torch", "transformers", "matplotlib"}
