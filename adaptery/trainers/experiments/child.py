"""A process for a run: started, watched, stopped at the end of a step."""

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

LOG = "log.txt"
LOOK = 0.2  # seconds between two looks at the process
INTERRUPTED = 130


class Child:
    """A process that trains in a folder; what it says goes to the folder's log.

    It is in a session of its own, so that a Ctrl-C reaches it once, from here. Its standard input
    is a pipe that nothing is written to: when this process is killed, it ends, and so does the run,
    with a checkpoint.
    """

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self.folder = folder
        with (folder / LOG).open("ab") as log:
            self.process = subprocess.Popen(
                [*command, str(folder)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self, look: Callable[[], bool]) -> int:
        """The exit code; `look` is called now and then and stops the run by returning False.

        Raises:
            KeyboardInterrupt: by the user, after the run was stopped.
        """
        try:
            while self.process.poll() is None:
                if not look():
                    return self.stop()
                time.sleep(LOOK)
        except KeyboardInterrupt:
            self.stop()
            raise
        finally:
            self.end()
        return self.process.returncode

    def stop(self) -> int:
        """Let the step in hand end and be kept; a Ctrl-C meanwhile ends it at once."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait()
        except KeyboardInterrupt:
            self.process.kill()
            return self.process.wait()

    def end(self) -> None:
        """Leave nothing behind, whatever went wrong here."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()

    def last_words(self) -> str:
        """The last line of the log."""
        lines = (self.folder / LOG).read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def killed(code: int) -> bool:
    """Whether an exit code says that a signal ended the process."""
    return code < 0


def why_killed(code: int) -> str:
    """A sentence for it."""
    name = signal.Signals(-code).name
    memory = " That is how the system ends a process when memory runs out." if code == -9 else ""
    return f"Its process was ended by {name}.{memory}"
