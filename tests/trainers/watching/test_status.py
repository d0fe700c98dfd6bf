"""A run's status says the truth, whatever became of the process that wrote it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adaptery.errors import Interrupted, VerificationError
from adaptery.trainers.watching import status
from adaptery.trainers.watching.status import Status, alive, read_status, write_status

CHILD = """
import sys, time
from pathlib import Path
from adaptery.trainers.watching.status import alive
with alive(Path(sys.argv[1])):
    print("up", flush=True)
    time.sleep(60)
"""


def test_a_run_is_running_and_then_finished(tmp_path: Path) -> None:
    with alive(tmp_path):
        now = read_status(tmp_path)
        assert (now.state, now.pid, now.host) == ("running", os.getpid(), socket.gethostname())
        assert not now.over
    assert read_status(tmp_path).state == "finished"
    assert read_status(tmp_path).started.startswith("20")


@pytest.mark.parametrize(
    ("error", "state", "sentence"),
    [
        (KeyboardInterrupt(), "interrupted", ""),
        (Interrupted("Interrupted at step 3."), "interrupted", ""),
        (VerificationError("The loss became nan."), "failed", "The loss became nan."),
        (MemoryError(), "failed", "MemoryError"),
    ],
)
def test_how_a_run_ended_is_kept(
    tmp_path: Path, error: BaseException, state: str, sentence: str
) -> None:
    with pytest.raises(type(error)), alive(tmp_path):
        raise error
    assert (read_status(tmp_path).state, read_status(tmp_path).sentence) == (state, sentence)


@pytest.mark.parametrize("reaped", [True, False], ids=["reaped", "unburied"])
def test_a_killed_run_is_not_running(tmp_path: Path, reaped: bool) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.readline() == b"up\n"
        assert read_status(tmp_path).state == "running"
        child.send_signal(signal.SIGKILL)
        if reaped:
            child.wait()
        else:
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert read_status(tmp_path).state == "killed"


def test_a_run_elsewhere_is_known_by_its_heartbeat(tmp_path: Path) -> None:
    began = time.time() - 100
    elsewhere = Status("running", pid=1, host="another-machine", since=began, seconds=5)
    write_status(tmp_path, elsewhere)
    assert read_status(tmp_path).state == "running"
    os.utime(tmp_path / "status.json", (began + 30, began + 30))
    silent = read_status(tmp_path)
    assert silent.state == "killed"
    assert silent.seconds == pytest.approx(35, abs=1)


def test_the_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "HEARTBEAT", 0.01)
    with alive(tmp_path):
        os.utime(tmp_path / "status.json", (0, 0))
        deadline = time.monotonic() + 5
        while (tmp_path / "status.json").stat().st_mtime < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert read_status(tmp_path).state == "running"


def test_sittings_add_up_and_the_beginning_stays(tmp_path: Path) -> None:
    write_status(tmp_path, Status("interrupted", started="2026-01-02T03:04:05+00:00", seconds=40))
    with alive(tmp_path):
        pass
    again = read_status(tmp_path)
    assert again.started == "2026-01-02T03:04:05+00:00"
    assert 40 <= again.seconds < 45


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "running", "mood": "good"}'])
def test_a_status_that_cannot_be_read_is_no_obstacle(tmp_path: Path, text: str) -> None:
    (tmp_path / "status.json").write_text(text)
    assert read_status(tmp_path).state == "killed"
    (tmp_path / "result.json").write_text(json.dumps({}))
    assert read_status(tmp_path).state == "finished"
