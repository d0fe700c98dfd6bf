"""The command as a process of its own: signals, pipes, streams."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import House
from tests.command import done

ROOT = Path(__file__).parents[2]
PATIENCE = 200  # seconds, on a very busy machine


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "adaptery.cli", *map(str, arguments)]


def process(*arguments: object, **options: object) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(command(*arguments), text=True, cwd=ROOT, **pipes)


def wait_for(path: Path, child: subprocess.Popen[str]) -> None:
    """Until a file that matches is there and not empty."""
    end = time.monotonic() + PATIENCE
    while not any(found.stat().st_size for found in path.parent.parent.glob(f"*/{path.name}")):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def test_ctrl_c_ends_the_step_publishes_nothing_and_the_run_goes_on_later(bare: House) -> None:
    endless = ("--max-steps", 100_000, "--epochs", 100_000, "--set", "training.log_every=1")
    with process(*bare.train(*endless)) as child:
        wait_for(bare.root / "runs" / "x" / "metrics.jsonl", child)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=PATIENCE)
    (run,) = (bare.root / "runs").iterdir()
    assert child.returncode == 130, err
    assert out == ""
    assert "error: Interrupted at step " in err
    assert f"nothing was published. Go on with: adapters train --resume {run}\n" in err
    assert "Traceback" not in err
    assert not bare.registry.exists()
    written = run / "config.yaml"
    step = int(err.split("Interrupted at step ")[1].split()[0])
    text = written.read_text().replace("max_steps: 100000", f"max_steps: {step + 2}")
    written.write_text(text)  # so that this test ends
    resumed = subprocess.run(
        command("train", "--resume", run, "--json", *bare.at),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE,
        check=True,
    )
    assert json.loads(resumed.stdout)["version"] == 1, "and stdout holds nothing but that"
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, step + 3))


def test_a_reader_that_goes_away_is_no_error(house: House) -> None:
    for _ in range(40):
        done("promote", "colours@2", "--alias", "canary", *house.at)
        done("promote", "colours@1", "--alias", "canary", *house.at)
    read, write = os.pipe()
    with process("history", "colours", "--json", *house.at, stdout=write) as child:
        os.close(write)
        os.read(read, 10)
        os.close(read)
        _, err = child.communicate(timeout=PATIENCE)
    assert err == ""
    assert child.returncode in (0, 128 + signal.SIGPIPE)


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--version"], 0), (["show", "nothing"], 2), (["nonsense"], 2)]
)
def test_the_exit_code_reaches_the_shell(tmp_path: Path, arguments: list[str], code: int) -> None:
    script = Path(sys.executable).with_name("adapters")
    environment = os.environ | {"ADAPTERS_REGISTRY": str(tmp_path / "registry"), "COLUMNS": "40"}
    ended = subprocess.run([script, *arguments], capture_output=True, text=True, env=environment)
    assert ended.returncode == code
    assert bool(ended.stdout) is (code == 0)
    assert bool(ended.stderr) is (code != 0)
    assert not list(tmp_path.iterdir())


def test_a_broken_plugin_is_one_warning_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken_one.py").write_text("1 / 0\n")
    info = tmp_path / "broken_one-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-one\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[adapters]\nbroken = broken_one\n")
    ended = subprocess.run(
        command("plugins", "--json"),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        check=True,
    )
    assert json.loads(ended.stdout)["registered"]
    assert ended.stderr == (
        "warning: The plugin of broken-one is broken and was left out: "
        "ZeroDivisionError: division by zero\n"
    )
