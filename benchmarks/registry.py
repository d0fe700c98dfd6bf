"""How fast a registry in a directory is: looking up, listing, publishing, and many at once.

    make bench-registry
    python -m benchmarks.registry --adapters 1000 --without-mlflow --json

Looking up and listing are measured in a catalogue of 10,000 adapters with 10 versions each, filled
as `benchmarks.filled` says. A publish of 20 MB is measured beside `sha256sum` and `cp` of the same
files, in turns. Then 16 processes publish at once: here, and to MLflow's model registry on SQLite
(`mlflow-skinny`, in an environment that is made for it and thrown away).
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

from adaptery.registry.listing import Query
from adaptery.registry.local import LocalRegistry
from adaptery.types import AdapterRef
from benchmarks.crowd import crowd, mlflow_environment
from benchmarks.figures import Figure, percentile, run, timed
from benchmarks.filled import BASES, METHODS, fill, name_of
from tests.adapters import make_adapter

HOT = 100  # adapters that a busy server answers with
PAGE = 50


def lookups(registry: LocalRegistry, adapters: int, rounds: int) -> Iterator[Figure]:
    """Resolving a bare name: those of a hot set, whose manifests are in memory, and any at all."""
    chosen = random.Random(0)
    hot = [AdapterRef.parse(name_of(chosen.randrange(adapters))) for _ in range(HOT)]
    for ref in hot:
        registry.resolve(ref)
    times = [timed(lambda: registry.resolve(chosen.choice(hot))) for _ in range(rounds)]
    median, worst = statistics.median(times), percentile(times, 99)
    yield Figure(
        f"resolve a reference, {HOT} adapters in use",
        f"median {1e6 * median:.0f} µs, p99 {1e6 * worst:.0f} µs",
        "median ≤ 100 µs",
        median <= 100e-6,
    )
    names = [name_of(number) for number in range(adapters)]
    cold = [
        timed(lambda: registry.resolve(AdapterRef.parse(chosen.choice(names))))
        for _ in range(rounds // 5)
    ]
    yield Figure(
        f"resolve any of {adapters:,} adapters",
        f"median {1e6 * statistics.median(cold):.0f} µs, p99 {1e6 * percentile(cold, 99):.0f} µs",
    )


def lists(registry: LocalRegistry, adapters: int, rounds: int) -> Iterator[Figure]:
    """Pages of the list of adapters, anywhere in it."""
    chosen = random.Random(1)
    queries: dict[str, Callable[[], Query]] = {
        "by base": lambda: Query(base=chosen.choice(BASES).id, limit=PAGE),
        "by method, anywhere": lambda: Query(
            method=chosen.choice(METHODS), limit=PAGE, offset=chosen.randrange(adapters)
        ),
        "by base and method, by score": lambda: Query(
            base=chosen.choice(BASES).id,
            method=chosen.choice(METHODS),
            sort="metric.f1",
            limit=PAGE,
        ),
        "by method, last published first": lambda: Query(
            method=chosen.choice(METHODS), sort="published", limit=PAGE
        ),
    }
    for what, query in queries.items():
        times = [timed(partial(registry.newest, query())) for _ in range(rounds)]
        median = statistics.median(times)
        yield Figure(
            f"list {PAGE} of {adapters:,} adapters {what}",
            f"median {1e3 * median:.1f} ms, p99 {1e3 * percentile(times, 99):.1f} ms",
            "≤ 50 ms",
            median <= 50e-3,
        )


def publish_speed(folder: Path, rounds: int) -> Figure:
    """Publishing 20 MB beside `sha256sum` and `cp` of the same files, in turns."""
    registry = LocalRegistry.open(str(folder / "registry"))
    registry.init()
    taken = [publish_round(registry, folder / str(number), number) for number in range(rounds)]
    ratios = [(summing + copying) / ours for _, ours, summing, copying in taken]
    ratio, speed = statistics.median(ratios), statistics.median(n / ours for n, ours, *_ in taken)
    return Figure(
        f"publish {taken[0][0] / 1e6:.0f} MB, {rounds} rounds",
        f"{speed / 1e6:.0f} MB/s, {ratio:.2f} × sha256sum + cp "
        f"({min(ratios):.2f} to {max(ratios):.2f})",
        "≥ 0.7 ×",
        ratio >= 0.7,
    )


def publish_round(
    registry: LocalRegistry, folder: Path, seed: int
) -> tuple[int, float, float, float]:
    """The bytes of an adapter, and the seconds of publish, `sha256sum` and `cp`."""
    modules = [f"model.layers.{layer}.mlp.up_proj" for layer in range(38)]
    made = make_adapter(folder / "made", seed=seed, r=16, width=4096, modules=modules)
    files = [str(made.directory / file.path) for file in made.manifest.files]
    (folder / "copies").mkdir()
    deeds: list[Callable[[], object]] = [
        lambda: registry.publish("big", made),
        lambda: run("sha256sum", *files),
        lambda: run("cp", *files, str(folder / "copies")),
    ]
    seconds = {}
    for deed in random.Random(seed).sample(range(3), 3):
        os.sync()  # or else flushing one's file would wait for what others have written
        seconds[deed] = timed(deeds[deed])
    return made.manifest.size, seconds[0], seconds[1], seconds[2]


def measure(options: argparse.Namespace, folder: Path) -> Iterator[Figure]:
    python: Path | None = None
    if not options.without_mlflow:
        python = options.mlflow or mlflow_environment(folder / "environment")
    began = time.perf_counter()
    registry = fill(folder / "filled", options.adapters, options.versions)
    yield Figure(
        f"fill a catalogue with {options.adapters:,} × {options.versions} versions",
        f"{time.perf_counter() - began:.0f} s (in bulk, not by publishing)",
    )
    yield from lookups(registry, options.adapters, 5000)
    yield from lists(registry, options.adapters, 40)
    (folder / "speed").mkdir()
    yield publish_speed(folder / "speed", options.rounds)
    yield from crowd(folder, python, options.processes, options.each)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--adapters", type=int, default=10_000)
    parser.add_argument("--versions", type=int, default=10, help="of each adapter")
    parser.add_argument("--rounds", type=int, default=11, help="of publishing 20 MB")
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--each", type=int, default=20, help="versions that a process publishes")
    parser.add_argument("--mlflow", type=Path, metavar="PYTHON", help="where MLflow is installed")
    parser.add_argument("--without-mlflow", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        figures = measure(options, Path(folder))
        if options.json:
            print(json.dumps([asdict(figure) for figure in figures], indent=2, ensure_ascii=False))
            return
        print("| what | measured | bar | |\n|---|---|---|---|", flush=True)
        for figure in figures:
            mark = "" if figure.ok is None else "met" if figure.ok else "MISSED"
            print(f"| {figure.what} | {figure.measured} | {figure.bar} | {mark} |", flush=True)


if __name__ == "__main__":
    main()
