"""The process that trains one run of an experiment: `python -m adaptery.cli.variation DIR`.

The folder holds `config.yaml`, a whole configuration; the outcome is written beside it.
"""

import os
import signal
import sys
import threading
from pathlib import Path

from adaptery.cli.main import fail, quiet_libraries
from adaptery.errors import AdapteryError, Interrupted

COMMAND = (sys.executable, "-m", "adaptery.cli.variation")


def main(folder: Path) -> int:
    """Train there; returns the exit code."""
    from adaptery.cli.run_options import run_parts
    from adaptery.config import read_file, resolve
    from adaptery.trainers.config import RunConfig
    from adaptery.trainers.experiments.carry_out import carry_out

    threading.Thread(target=leave_with_the_parent, name="parent", daemon=True).start()
    try:
        config = resolve(RunConfig, [read_file(folder / "config.yaml")])
        carry_out(folder, config, run_parts(config.value))
    except AdapteryError as error:
        return fail(error, error.exit_code)
    except KeyboardInterrupt:
        return fail("Interrupted.", Interrupted.exit_code)
    return 0


def leave_with_the_parent() -> None:
    """End this run, with a checkpoint, when whoever started it is gone."""
    os.read(sys.stdin.fileno(), 1)  # unbuffered: nothing is held when the interpreter ends
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    quiet_libraries()
    sys.exit(main(Path(sys.argv[1])))
