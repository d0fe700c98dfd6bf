"""Where the engine's worker runs: in a process of its own, or in a thread of this one."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

Isolation = Literal["process", "thread"]
DEFAULT: Isolation = "process" if os.name == "posix" else "thread"
# How glibc gets memory: in huge pages, which the processor finds sooner, and kept when it is freed,
# because a page that is new in each step costs a fault in each step. A tenth of a step's time.
TUNABLES = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:"
    "glibc.malloc.trim_threshold=2147483647"
)
# How often a thread of a product looks whether the others are done before it sleeps. gomp's own
# 300,000 would keep cores from the server, whose chunks then hold up the next product.
SPINS = "50000"
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux' prctl
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Host(Protocol):
    """A worker as its launcher holds it."""

    async def end(self, patience: float) -> str:
        """Wait so many seconds for its end, then enforce it; says how it ended."""


def launch(isolation: Isolation) -> tuple[Host, socket.socket]:
    """Start a worker; gives our end of the sockets between us."""
    ours, theirs = socket.socketpair()
    if isolation == "process":
        with theirs:
            return Process(theirs), ours
    return Thread(theirs), ours


class Process:
    """A worker that nothing here can stall, and whose death does not end us."""

    def __init__(self, connection: socket.socket) -> None:
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        number = connection.fileno()
        # A Ctrl-C, and a supervisor's SIGTERM to the whole group, are for the server to obey: it
        # lets requests finish first. Blocked signals are inherited and stay blocked.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(number), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=2,  # data on our stdout is ours alone
                pass_fds=[number],
                env={
                    "GLIBC_TUNABLES": TUNABLES,
                    "GOMP_SPINCOUNT": SPINS,
                    **os.environ,
                    "PYTHONPATH": path,
                },
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    @property
    def pid(self) -> int:
        """The process' number."""
        return self._process.pid

    async def end(self, patience: float) -> str:
        try:
            code = await asyncio.to_thread(self._process.wait, patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = await asyncio.to_thread(self._process.wait)
        if code < 0:
            return f"its process was ended by {signal.Signals(-code).name}"
        return f"its process ended with code {code}"


class Thread:
    """A worker for tests, and for where there are no processes to be had."""

    def __init__(self, connection: socket.socket) -> None:
        from adaptery.serving.torch.worker import work

        self._thread = threading.Thread(
            target=work, args=[connection], name="adaptery-worker", daemon=True
        )
        self._thread.start()

    async def end(self, patience: float) -> str:
        await asyncio.to_thread(self._thread.join)  # a thread cannot be made to
        return "its thread ended"


def main() -> None:
    """The process. It ends when the server does, however that ends."""
    number, parent = map(int, sys.argv[1:])
    die_with(parent)
    import warnings

    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    connection = socket.socket(fileno=number)
    connection.set_inheritable(False)
    from adaptery.serving.torch.worker import work

    work(connection, abandoned=lambda: os._exit(1), loading=lightly())
    sys.stderr.flush()
    os._exit(0)  # threads that still read files need not be waited for


@contextmanager
def lightly() -> Iterator[None]:
    """Load the base with nothing that is not needed for it."""
    from adaptery.serving.torch.imports import UNUSED, loading, uncompiled

    with loading(*UNUSED), uncompiled():
        yield


def die_with(parent: int) -> None:
    """Let this process be killed when `parent` ends, where the system can do that.

    Elsewhere it ends when the sockets are closed, which is noticed at once too.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    main()
