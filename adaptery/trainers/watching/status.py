"""How a run stands: `status.json`, which tells a run that goes on from one that was killed."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from adaptery.errors import Interrupted

HEARTBEAT = 5.0  # seconds between two signs of life
SILENCE = 60.0  # seconds without one after which a process is taken for dead
FILE = "status.json"
METRICS = "metrics.jsonl"  # a sign of life as well


@dataclass(frozen=True)
class Status:
    """What is known of a run's life."""

    state: str
    """running, interrupted, failed, killed or finished."""
    started: str = ""
    """When it first began, ISO 8601 in UTC."""
    seconds: float = 0.0
    """How long it has run, all sittings together."""
    sentence: str = ""
    """Why it failed."""
    error: str = ""
    """The kind of error that was."""
    version: str = ""
    """What it was published as."""
    pid: int = 0
    host: str = ""
    since: float = 0.0
    """When this sitting began, in seconds since 1970."""

    @property
    def over(self) -> bool:
        return self.state != "running"

    @property
    def told(self) -> str:
        """The state as people read it."""
        return f"published as {self.version}" if self.version else self.state


def read_status(run: Path) -> Status:
    """The status of a run directory; a process that is gone is not running, whatever it wrote."""
    path = run / FILE
    try:
        status = Status(**json.loads(path.read_text(encoding="utf-8")))
        beat = max(file.stat().st_mtime for file in (path, run / METRICS) if file.exists())
    except (OSError, ValueError, TypeError):  # of an older adaptery, or cut off
        return Status("finished" if (run / "result.json").is_file() else "killed")
    if status.state != "running":
        return status
    alive = status.host != socket.gethostname() or is_process(status.pid)
    if alive and time.time() - beat < SILENCE:
        return replace(status, seconds=status.seconds + time.time() - status.since)
    return replace(status, state="killed", seconds=status.seconds + beat - status.since)


def is_process(pid: int) -> bool:
    """Whether there is a process of that number here that is more than an unburied dead."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    try:
        told = Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # no Linux
        return True
    return told.rpartition(")")[2].split()[0] != "Z"


def write_status(run: Path, status: Status) -> None:
    """Replace the file as a whole."""
    partial = run / f"{FILE}.partial"
    partial.write_text(json.dumps(asdict(status), indent=2) + "\n", encoding="utf-8")
    partial.replace(run / FILE)


@contextmanager
def alive(run: Path) -> Iterator[None]:
    """Keep the status of a run while its body runs, and how it ended."""
    now = datetime.now(UTC)
    known = read_status(run) if (run / FILE).exists() else Status("new")
    status = Status(
        "running",
        started=known.started or now.isoformat(timespec="seconds"),
        seconds=known.seconds,
        pid=os.getpid(),
        host=socket.gethostname(),
        since=now.timestamp(),
    )
    write_status(run, status)
    state = "failed"
    with beating(run / FILE):
        try:
            yield
            state = "finished"
        except (KeyboardInterrupt, Interrupted):
            state = "interrupted"
            raise
        except BaseException as error:
            kind = type(error).__name__
            status = replace(status, sentence=str(error) or kind, error=kind)
            raise
        finally:
            seconds = status.seconds + time.time() - status.since
            write_status(run, replace(status, state=state, seconds=seconds))


@contextmanager
def beating(path: Path) -> Iterator[None]:
    """Touch a file every few seconds."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT):
            with suppress(OSError):  # somebody took the folder away; the run itself will say so
                path.touch()

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
