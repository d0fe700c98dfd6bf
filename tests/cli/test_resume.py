"""Runs that end in the middle as users' do, and runs in several processes, all from the shell."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.cli.conftest import House
from tests.command import adapters, done
from tests.trainers.test_loop import furthest, same

LAUNCH = "--num_processes 2 --cpu"


def command(house: House, runs: str, *more: object) -> list[str]:
    """A run of 8 steps with a checkpoint after each."""
    every = [f"training.{name}=1" for name in ("log_every", "checkpoint_every")]
    flags = [word for setting in every for word in ("--set", setting)]
    own = house.train("--no-publish", "--json", *flags, "--runs", house.root / runs, *more)
    return list(map(str, own))


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "adaptery.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def checkpoint(folder: Path, step: int) -> None:
    """Wait until a run in `folder` has reached a step."""
    end = time.monotonic() + 120
    while not any(int(p.stem.split("-")[-1]) >= step for p in folder.glob("*/checkpoint-*.pt")):
        assert time.monotonic() < end
        time.sleep(0.002)


def weights(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("*/adapter/adapter_model.safetensors")
    return load_file(path)


def losses(folder: Path) -> list[float]:
    (path,) = folder.glob("*/metrics.jsonl")
    return [row["loss"] for row in map(json.loads, path.read_text().splitlines())]


def test_a_killed_run_is_resumed_from_the_shell_with_the_same_weights(bare: House) -> None:
    dropout = ("--set", "lora.dropout=0.2", "--max-steps", 60, "--epochs", 20)
    done(*command(bare, "whole", *dropout))
    process = start(command(bare, "parts", *dropout))
    checkpoint(bare.root / "parts", 3)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    outcome = done(*command(bare, "parts", *dropout, "--resume"))
    assert "Going on from step" in outcome.err
    assert same(weights(bare.root / "whole"), weights(bare.root / "parts"))
    again = adapters(*command(bare, "parts", *dropout, "--resume"))
    assert again.code == 2
    assert "has finished; nothing is left to do" in again.err


def test_there_must_be_a_run_to_go_on_with(bare: House) -> None:
    outcome = adapters(*command(bare, "runs", "--resume"))
    assert outcome.code == 2
    assert "There is no unfinished run of 'colours'" in outcome.err
    assert not (bare.root / "runs").exists()


def test_what_has_changed_since_is_said(bare: House) -> None:
    process = start(command(bare, "parts", "--max-steps", 60, "--epochs", 20))
    checkpoint(bare.root / "parts", 2)
    process.send_signal(signal.SIGTERM)
    _, story = process.communicate(timeout=60)
    assert process.returncode == 130, story
    (path,) = (bare.root / "parts").iterdir()
    assert f"Go on with: adapters train --resume {path}" in story
    changed = ("--max-steps", 60, "--epochs", 20, "--seed", 7, "--resume")
    outcome = adapters(*command(bare, "parts", *changed))
    assert outcome.code == 2
    assert f"The newest, {path}, differs: training.seed was 0 and is 7." in outcome.err


def test_two_launched_processes_train_what_one_trains(bare: House) -> None:
    done(*command(bare, "one", "--set", "training.accumulation=2"))
    process = start(command(bare, "two", "--launch", LAUNCH))
    data, story = process.communicate(timeout=200)
    assert process.returncode == 0, story
    assert json.loads(data)["method"] == "lora"
    assert losses(bare.root / "two") == pytest.approx(losses(bare.root / "one"), abs=1e-5)
    assert furthest(weights(bare.root / "one"), weights(bare.root / "two")) < 1e-5


def test_launched_processes_fail_with_one_voice(bare: House) -> None:
    """Both find the same mistake; one says it."""
    (bare.root / "train.jsonl").write_text("")
    process = start(command(bare, "two", "--launch", LAUNCH))
    _, story = process.communicate(timeout=200)
    assert process.returncode == 3, story
    assert story.count("error:") == 1
    assert "Traceback" not in story


def test_what_fails_in_one_process_ends_the_others(bare: House) -> None:
    """Only the main process makes the run directory; the other waits for it."""
    (bare.root / "file").write_text("")
    process = start(command(bare, "file/runs", "--launch", LAUNCH))
    _, story = process.communicate(timeout=200)
    assert process.returncode == 2, story
    assert story.count("error:") == 1
    assert "cannot be made" in story
    assert "Traceback" not in story


def test_ctrl_c_ends_all_launched_processes_and_they_can_go_on(bare: House) -> None:
    long = ("--max-steps", 60, "--epochs", 20)
    process = start(command(bare, "two", *long, "--launch", LAUNCH))
    checkpoint(bare.root / "two", 3)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, story = process.communicate(timeout=200)
    assert process.returncode == 130, story
    assert story.count("Go on with: adapters train --resume") == 1
    assert "Traceback" not in story
    (path,) = (bare.root / "two").iterdir()
    alone = adapters("train", "--resume", path, "--no-publish")
    assert alone.code == 2
    assert "trained by 2 processes and now there are 1" in alone.err
    process = start(["train", "--resume", str(path), "--no-publish", "--launch", LAUNCH])
    _, story = process.communicate(timeout=200)
    assert process.returncode == 0, story


@pytest.mark.parametrize("arguments", ["--num_proceses 2", "--cpu --multi_gpu"])
def test_what_the_launcher_does_not_know_is_a_sentence(bare: House, arguments: str) -> None:
    outcome = adapters(*command(bare, "runs", "--launch", arguments))
    assert outcome.code == 2
    assert "--launch" in outcome.err
    assert "usage:" not in outcome.err
