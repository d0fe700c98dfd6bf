"""A program that stands in for the one that trains: as quick as a process can be.

    python stand_in.py FOLDER

What it does depends on the rank in the folder's config.yaml; what it writes has the true form.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import yaml

FAILS, IS_KILLED, DOES_NOT_FIT, WAITS, HAS_BAD_ROWS, DIVERGES, BREAKS = 13, 17, 19, 23, 29, 31, 37
ROWS = 60


def main(folder: Path) -> int:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    rank = config["lora"]["r"]
    with (folder / "starts").open("a") as file:
        file.write("x")
    if rank == IS_KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == BREAKS:
        print("ValueError: what nobody thought of", file=sys.stderr)
        return 1
    if rank == WAITS and (folder / "starts").stat().st_size == 1:
        return wait()
    if rank == HAS_BAD_ROWS:
        return end(folder, 3, status="failed", sentence="Rows are bad.")
    if rank == DOES_NOT_FIT:
        return end(folder, 4, status="does not fit", sentence="It is too large.")
    if rank == DIVERGES:
        return end(folder, 5, status="diverged", sentence="The loss became nan.")
    if rank == FAILS:
        return end(folder, 2, status="failed", sentence="It cannot be done.")
    return finish(folder, config)


def wait() -> int:
    """Like a run that is told to stop: it ends its step, and says so by its exit code."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    while not stopped:
        time.sleep(0.02)
    return 130


def end(folder: Path, code: int, **outcome: Any) -> int:
    (folder / "outcome.json").write_text(json.dumps(outcome))
    return code


def finish(folder: Path, config: dict[str, Any]) -> int:
    """A run that is the better, the nearer its rank is to 8; seeds change it a little."""
    run = folder / "run" / "stand-in"
    run.mkdir(parents=True)
    wrong = abs(config["lora"]["r"] - 8) + config["training"]["seed"]
    every = config["evaluation"]["every"]
    with (run / "metrics.jsonl").open("a") as file:
        for step in range(1, 11):
            file.write(json.dumps({"step": step, "loss": 2 / step, "learning_rate": 1e-3}) + "\n")
            if every and step % every == 0:
                file.write(json.dumps({"step": step, "eval.accuracy": 1 - wrong / ROWS}) + "\n")
                file.flush()
                time.sleep(0.3 if wrong > 4 else 0)
    told = ["ab"[(n + (n < wrong)) % 2] for n in range(ROWS)]
    lines = [
        {
            "origin": f"rows:{n}",
            "reference": "ab"[n % 2],
            "text": told[n],
            "loss": 0.5,
            "tokens": 1,
            "scores": [-0.5, -0.9] if told[n] == "a" else [-0.9, -0.5],
        }
        for n in range(ROWS)
    ]
    (run / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    base = {"base.accuracy": 0.5} if config["evaluation"]["baseline"] else {}
    measured = {
        "metrics": {"loss": 0.5, "accuracy": 1 - wrong / ROWS, **base},
        "labels": ["a", "b"],
        "training_seconds": 2.0,
        "seconds": 3.0,
        "peak": 3_000_000,
        "loaded": 1_000_000,
        "trainable_parameters": 100 * config["lora"]["r"],
        "base_parameters": 100_000,
        "size": 4_000,
    }
    return end(folder, 0, status="finished", run="run/stand-in", measured=measured)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
