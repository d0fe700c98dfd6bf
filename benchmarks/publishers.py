"""Many processes that publish at the same moment; only Python's own library, as peers import it."""

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from queue import Queue

# Publishes one adapter directory under a name.
Publish = Callable[[str, Path], object]
_PATIENCE_S = 600.0


@dataclass(frozen=True)
class Throughput:
    """What `together` measured; `failures` counts the errors by what they said."""

    seconds: float
    published: int
    failures: dict[str, int]

    @property
    def per_second(self) -> float:
        return self.published / self.seconds


def together(
    open_peer: Callable[[], Publish], jobs: Sequence[Sequence[tuple[str, Path]]]
) -> Throughput:
    """Let one process per list of jobs (name, directory) publish them, all from the same moment on.

    Processes are forked from this one, which has imported everything, and begin when all of them
    have opened what they publish to; so no start of an interpreter is counted.
    """
    fork = multiprocessing.get_context("fork")
    gate, results = fork.Barrier(len(jobs) + 1), fork.Queue()
    workers = [fork.Process(target=_work, args=(open_peer, own, gate, results)) for own in jobs]
    for worker in workers:
        worker.start()
    gate.wait(_PATIENCE_S)
    began = time.perf_counter()
    failures = Counter[str]()
    for _ in workers:
        failures.update(results.get(timeout=_PATIENCE_S))
    seconds = time.perf_counter() - began
    for worker in workers:
        worker.join()
    return Throughput(seconds, sum(map(len, jobs)) - failures.total(), dict(failures))


def apart(deed: Callable[[], None]) -> None:
    """Do something in a process of its own, which leaves this one as it was."""
    process = multiprocessing.get_context("fork").Process(target=deed)
    process.start()
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"The process for {deed.__qualname__} ended with {process.exitcode}.")


def _work(
    open_peer: Callable[[], Publish],
    jobs: Sequence[tuple[str, Path]],
    gate: Barrier,
    results: "Queue[list[str]]",
) -> None:
    publish = open_peer()
    gate.wait(_PATIENCE_S)
    failures = []
    for name, directory in jobs:
        try:
            publish(name, directory)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is counted
            failures.append(f"{type(error).__name__}: {str(error).splitlines()[0][:120]}")
    results.put(failures)


def jobs_of(made: Path, names: int) -> list[list[tuple[str, Path]]]:
    """A list of jobs per directory in `made`, for `names` different names in turn."""
    processes = sorted(made.iterdir())
    return [
        [(f"adapter-{number % names}", directory) for directory in sorted(process.iterdir())]
        for number, process in enumerate(processes)
    ]
