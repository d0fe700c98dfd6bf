"""`adapters experiment` with the processes that truly train."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from adaptery.cli.variation import COMMAND
from adaptery.config import Layer, resolve
from adaptery.trainers.config import RunConfig
from adaptery.trainers.experiments.answers import read_answers
from adaptery.trainers.run_directory import RunDirectory
from tests.cli.conftest import House
from tests.cli.test_processes import PATIENCE, ROOT, process
from tests.command import Outcome, adapters
from tests.trainers.runs import COLOURS


def written(house: House, **more: object) -> Path:
    """A run.yaml of a short run."""
    values = {
        "name": "colours",
        "base": str(house.base),
        "data": {
            "train": str(house.root / "train.jsonl"),
            "eval": str(house.root / "eval.jsonl"),
        },
        "lora": {"r": 4, "alpha": 8},
        "training": {
            "precision": "fp32",
            "batch_size": 4,
            "max_steps": 6,
            "learning_rate": 5e-3,
            "log_every": 1,
        },
        "runs": str(house.root / "runs"),
    }
    path = house.root / "run.yaml"
    path.write_text(json.dumps(values | more))
    return path


def experiment(house: House, kind: str, *more: object) -> Outcome:
    return adapters("experiment", kind, "--config", house.root / "run.yaml", *more)


def test_what_fails_is_told_and_the_rest_is_compared(bare: House) -> None:
    """And the second time nothing that is over is run again."""
    written(bare)
    rows = ("--targets", "q_proj,v_proj", "--targets", "nonsense")
    outcome = experiment(bare, "targets", *rows, "--json")
    assert outcome.code == 1
    assert "nonsense: failed. There is no linear layer in this model 'nonsense'" in outcome.err
    data = outcome.json
    assert [row["status"] for row in data["rows"]] == ["finished", "failed"]
    measured = data["rows"][0]["runs"][0]["measured"]
    assert measured["trainable_parameters"] == 2 * (4 * (64 + 64) + 4 * (64 + 32))
    assert measured["peak"] > measured["loaded"] > 50_000_000
    assert 0 < measured["training_seconds"] < measured["seconds"]
    output = bare.root / "runs" / "colours-targets"
    assert {path.name for path in output.iterdir()} >= {"results.json", "report.md", "report.html"}
    (run,) = output.glob("runs/q_proj*/run/*")
    assert measured["size"] == sum(p.stat().st_size for p in (run / "adapter").iterdir())
    said = read_answers(run / "answers.jsonl")
    assert [one.origin.rpartition(":")[2] for one in said] == [str(n) for n in range(1, 10)]
    assert [one.reference for one in said] == [COLOURS[n % 3] for n in range(40, 49)]
    told = json.loads((run / "result.json").read_text())["metrics"]
    assert data["rows"][0]["mean"]["loss"] == told["loss"]
    assert not bare.registry.exists(), "nothing is published"
    again = experiment(bare, "targets", "--targets", "q_proj,v_proj")
    assert again.code == 0
    assert "is there already" in again.err
    assert "training (" not in again.err
    assert len(list(output.glob("runs/q_proj*/run/*"))) == 1
    assert "q_proj,v_proj" in again.out


def test_weights_and_thresholds_are_compared_on_rows_of_their_own(bare: House) -> None:
    for name, start, count in (("train", 0, 24), ("eval", 40, 12), ("more", 60, 12)):
        rows = [
            {"text": f"{'the sky ' * (n % 5)}{n}", "label": COLOURS[min(n % 5, 2)]}
            for n in range(start, start + count)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (bare.root / f"{name}.jsonl").write_text(lines)
    written(bare, task={"kind": "classify", "way": "head"})
    more = bare.root / "more.jsonl"
    outcome = experiment(bare, "weighted", "--calibration-data", more, "--json")
    assert outcome.code == 0, outcome.err
    recall, thresholds = outcome.json["tables"]
    assert recall["headings"][1:] == ["blue (3 rows)", "red (6 rows)", "yellow (3 rows)"]
    assert "chosen on the calibration rows" in thresholds["caption"]
    assert [row["name"] for row in outcome.json["rows"]] == ["none", "auto"]
    for run in (bare.root / "runs").glob("colours-weighted/runs/*/run/*"):
        said = read_answers(run / "calibration.jsonl")
        assert len(said) == 12
        assert all(len(one.scores) == 3 for one in said)
    refused = experiment(bare, "weighted", "--calibration-data", bare.root / "eval.jsonl")
    assert refused.code == 3
    assert "held-out rows, which would then be no test of it" in refused.err


def test_ctrl_c_keeps_the_run_in_hand_and_the_same_command_goes_on(bare: House) -> None:
    path = written(bare)
    endless = ("--set", "training.max_steps=400", "--set", "training.epochs=400")
    command = ("experiment", "lr", "--config", path, "--rates", "1e-3", *endless, "--json")
    metrics = bare.root / "runs/colours-lr/runs/x/run/x/metrics.jsonl"
    with process(*command) as child:
        wait_for_any(metrics, child)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=PATIENCE)
    assert child.returncode == 130, err
    assert out == ""
    assert "0 of 1 runs are over, and the one in hand was kept. The same command goes on" in err
    assert "Traceback" not in err
    (run,) = (bare.root / "runs/colours-lr/runs").glob("*/run/*")
    done = RunDirectory(run).checkpoints.steps()
    assert done
    again = adapters(*command)
    assert again.code == 0, again.err
    assert list((bare.root / "runs/colours-lr/runs").glob("*/run/*")) == [run], "the same run"
    assert [row["step"] for row in RunDirectory(run).metrics()] == list(range(1, 401))
    assert [event["kind"] for event in RunDirectory(run).events()].count("resume") == 1


def wait_for_any(path: Path, child: subprocess.Popen[str]) -> None:
    """Until a file that matches is there, its two wildcards being the folders named x."""
    pattern = str(path.relative_to(ROOT.anchor)).replace("/x/", "/*/")
    end = time.monotonic() + PATIENCE
    while not any(found.stat().st_size for found in Path(ROOT.anchor).glob(pattern)):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_worker_whose_parent_is_gone_ends_with_a_checkpoint(bare: House) -> None:
    folder = bare.root / "variation"
    folder.mkdir()
    more = {"training.max_steps": 100_000, "training.epochs": 100_000, "runs": str(folder / "run")}
    values = json.loads(written(bare).read_text())
    config = resolve(RunConfig, [Layer(values, {}), Layer.of(more, "test")])
    RunDirectory(folder).write_config(config)
    with subprocess.Popen(
        [*COMMAND, str(folder)], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as child:
        wait_for_any(folder / "run" / "x" / "metrics.jsonl", child)
        assert child.stdin
        child.stdin.close()
        child.wait(PATIENCE)
    assert child.returncode == 130
    (run,) = (folder / "run").iterdir()
    assert RunDirectory(run).checkpoints.steps()
    assert not (folder / "outcome.json").exists()


def test_bad_rows_end_it_with_what_is_wrong_with_them(bare: House) -> None:
    written(bare)
    (bare.root / "train.jsonl").write_text("{\n")
    outcome = experiment(bare, "rank", "--ranks", "2,4")
    assert outcome.code == 3
    assert "train.jsonl:1" in outcome.err
    assert outcome.out == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("methods", "--methods", "lora,qlroa"), "Did you mean 'qlora'"),
        (("methods", "--methods", "lora", "--rates", "full=1"), "'full'"),
        (("methods", "--rates", "lora"), "is not NAME=NUMBER"),
        (("rank", "--ranks", "4,4"), "names one twice"),
        (("rank", "--ranks", "4,x"), "is no list of numbers"),
        (("rank", "--ranks", "0"), "'lora.r' cannot be 0"),
        (("rank", "--baseline", "r=5"), "no row in this experiment 'r=5'"),
        (("rank", "--metric", "bleu"), "There is no measured metric 'bleu'"),
        (("lr", "--rates", "-1"), "'training.learning_rate' cannot be -1"),
        (("weighted",), "set task.kind to classify or pair"),
        (("targets", "--targets", "mlp", "--targets", "mlp"), "Two rows of this experiment"),
        (("rank", "--set", "training.epoch=1"), "Did you mean"),
        (("rank", "--set", "base=/nowhere"), "There is no directory '/nowhere'"),
        (("rank", "--set", "data.train=gone.jsonl"), "gone.jsonl cannot be read"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_runs(
    bare: House, arguments: tuple[str, ...], said: str
) -> None:
    written(bare)
    outcome = experiment(bare, *arguments)
    assert outcome.code == 2, outcome.err
    assert said in outcome.err
    assert outcome.out == ""
    assert not list(bare.root.glob("runs/*/runs/*"))
