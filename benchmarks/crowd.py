"""Many processes that publish at once: to a registry in a directory, and to MLflow's."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from adaptery.registry.local import LocalRegistry
from adaptery.types import AdapterPackage
from benchmarks.figures import Figure, run
from benchmarks.publishers import Publish, Throughput, jobs_of, together
from tests.adapters import make_adapter, package

ROOT = Path(__file__).parents[1]


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
        what = f"{processes} processes publish {each} of 200 kB each, "
        what += "one adapter" if names == 1 else f"{names} adapters"
        mine = ours(folder / f"registry-{names}", made, names)
        yield Figure(what, told(mine), "no failure", not mine.failures)
        if python is not None:
            theirs = mlflow(python, folder / f"mlflow-{names}", made, names)
            ratio = mine.per_second / theirs.per_second if theirs.published else float("inf")
            yield Figure("the same to MLflow", f"{told(theirs)} (ours {ratio:.1f} × as many)")


def told(outcome: Throughput) -> str:
    failed = f"{sum(outcome.failures.values())} failed"
    reasons = "".join(f"; {count} × {reason}" for reason, count in outcome.failures.items())
    return f"{outcome.per_second:.0f} versions/s, {failed}{reasons}"
