"""`python -m tests.torture.template`: forks a child for every deed that it is asked for.

A request is a line of JSON on standard input. The answers are two lines on standard output: the
child's process id, once it has stopped itself, and its exit status, once it is gone.
"""

import ctypes
import gc
import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.torture.deeds import ALL_DEEDS

_PR_SET_PTRACER = 0x59616D61


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        told, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            become(request, tell)
            sys.exit(do(request, tell))
        os.close(tell)
        os.waitpid(pid, os.WUNTRACED)
        print(pid, flush=True)
        imported = os.fdopen(told).read()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        for module in imported.split():
            importlib.import_module(module)
        gc.freeze()
        print(status, flush=True)


def become(request: dict[str, Any], tell: int) -> None:
    """Make the child a process with output files of its own, then wait for SIGCONT."""
    for path, descriptor in ((request["stdout"], 1), (request["stderr"], 2)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ |= request["environment"]
    os.close(0)
    os.open(os.devnull, os.O_RDONLY)
    if not request["warm"]:
        os.close(tell)
    # Where only a parent may trace (Yama), any process may trace this one.
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
    os.kill(os.getpid(), signal.SIGSTOP)


def do(request: dict[str, Any], tell: int) -> int:
    """Do the deed; when it was to warm up, say what it had to import."""
    before = set(sys.modules)
    status = ALL_DEEDS[request["deed"]].perform(Path(request["arena"]))
    if request["warm"]:
        with os.fdopen(tell, "w") as pipe:
            pipe.write("\n".join(sorted(sys.modules.keys() - before)))
    return status


if __name__ == "__main__":
    main()
