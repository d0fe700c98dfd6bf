"""Many processes that publish at once: to a registry in a directory, and to MLflow's."""

import json
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from adaptery.registry.local import LocalRegistry
from adaptery.types import AdapterPackage
from benchmarks.figures import Figure, run
from benchmarks.publishers import Publish, Throughput, jobs_of, together
from tests.adapters import make_adapter, package

ROOT = Path(__file__).parents[1]
_TURNS = 3


def ours(folder: Path, made: Path, names: int) -> Throughput:
    """All of `made`, published at once to a registry in `folder`."""
    LocalRegistry.open(str(folder)).init()

    def open_peer() -> Publish:
        registry = LocalRegistry.open(str(folder))
        registry.names()  # connected before the start

        def publish(name: str, directory: Path) -> None:
            registry.publish(name, packages[directory])

        return publish

    jobs = jobs_of(made, names)
    packages: dict[Path, AdapterPackage] = {
        directory: package(directory) for own in jobs for _, directory in own
    }
    return together(open_peer, jobs)


def mlflow(python: Path, folder: Path, made: Path, names: int) -> Throughput:
    """The same to MLflow's model registry in `folder`."""
    folder.mkdir()
    command = [str(python), "-m", "benchmarks.mlflow_peer", str(folder), str(made), str(names)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return Throughput(**json.loads(done.stdout))


def mlflow_environment(folder: Path) -> Path:
    """The interpreter of a new environment with MLflow in it."""
    run(sys.executable, "-m", "venv", str(folder))
    python = folder / "bin" / "python"
    run(str(python), "-m", "pip", "install", "-qq", "mlflow-skinny", "sqlalchemy", "alembic")
    return python


def crowd(folder: Path, python: Path | None, processes: int, each: int) -> Iterator[Figure]:
    """`processes` publishers at once, of one adapter and of one adapter each."""
    made = folder / "made"
    for number in range(processes * each):
        directory = made / f"{number // each:03d}" / f"{number % each:03d}"
        make_adapter(directory, seed=number, r=16, width=784)
    for names in (1, processes):
        mine, theirs = [], []
        for turn in range(_TURNS):
            mine.append(ours(folder / f"registry-{names}-{turn}", made, names))
            if python is not None:
                theirs.append(mlflow(python, folder / f"mlflow-{names}-{turn}", made, names))
        what = f"{processes} processes publish {each} of 200 kB each, "
        what += "one adapter" if names == 1 else f"{names} adapters"
        clean = not any(outcome.failures for outcome in mine)
        yield Figure(what, told(mine), "no failure", clean)
        if theirs:
            yield Figure("the same to MLflow, in turns", told(theirs))


def told(outcomes: Sequence[Throughput]) -> str:
    """The median of several turns, and what failed in any of them."""
    speeds = [outcome.per_second for outcome in outcomes]
    reasons = Counter[str]()
    for outcome in outcomes:
        reasons.update(outcome.failures)
    listed = "".join(f"; {count} × {reason}" for reason, count in reasons.items())
    return (
        f"median {statistics.median(speeds):.0f} versions/s "
        f"({min(speeds):.0f} to {max(speeds):.0f}), {reasons.total()} failed{listed}"
    )
