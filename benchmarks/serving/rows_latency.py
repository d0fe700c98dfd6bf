"""What one request does to others: first use of an adapter, too many adapters, a long prompt."""

import asyncio
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path

import httpx

from adaptery.registry.local import LocalRegistry
from adaptery.types import AdapterRef
from benchmarks.figures import Figure, timed
from benchmarks.serving.answers import check_server
from benchmarks.serving.load import Answer, Job, ask, client, closed_loop, jobs
from benchmarks.serving.material import R8, mixed
from benchmarks.serving.numbers import WRONG, Load, Score
from benchmarks.serving.rows_speed import Setting
from benchmarks.serving.servers import BASE, adaptery

LONG = 2048  # tokens of a prompt
STREAM = 2000  # tokens that a stream would answer if it were let; nobody waits for its end
SETTLE_S, PAUSE_S = 2.0, 0.5


@asynccontextmanager
async def streams(
    server: httpx.AsyncClient, models: Sequence[str], count: int
) -> AsyncIterator[list[Answer]]:
    """`count` answers being decoded meanwhile, all well under way; gives them as they grow."""
    growing: list[Answer] = []
    work = jobs(models, count, seed=31, tokens=STREAM)
    tasks = [asyncio.create_task(ask(server, job, growing)) for job in work]
    try:
        while len(growing) < count or min(len(answer.times) for answer in growing) < 4:
            for task in tasks:
                if task.done():
                    raise SystemExit(f"A stream ended before its time: {task.result().failure}")
            await asyncio.sleep(0.05)
        yield growing
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def gaps(answers: Sequence[Answer], begin: float, end: float) -> list[float]:
    """Seconds between tokens of each stream, of all pairs that reach into the window."""
    pairs = (pair for answer in answers for pair in pairwise(answer.times))
    return [after - before for before, after in pairs if after > begin and before < end]


async def one(server: httpx.AsyncClient, job: Job) -> Answer:
    """The answer to a request without which there is nothing to measure."""
    answer = await ask(server, job)
    if answer.failure:
        raise SystemExit(f"{job.model} failed: {answer.failure}")
    return answer


async def disturbed(
    server: httpx.AsyncClient, growing: Sequence[Answer], model: str, prompt: int, seed: int
) -> tuple[Answer, list[float]]:
    """One request for a single token among the streams, and the gaps of those until it came."""
    [job] = jobs([model], 1, seed, prompt, tokens=1)
    answer = await one(server, job)
    await asyncio.sleep(PAUSE_S)
    return answer, gaps(growing, answer.sent, answer.times[0])


def first_use(setting: Setting) -> Iterator[Figure]:
    """An adapter nobody asked for before: what it costs its own request, and the others."""
    count = 12 if setting.rounds > 1 else 4
    fresh = R8[8:]
    with adaptery(setting.work) as server:
        alone = asyncio.run(cold_and_hot(server.url, setting.work, fresh[:count]))
        calm, cold, hot = asyncio.run(
            among_streams(server.url, setting.work, fresh[count : 2 * count])
        )
    added = statistics.median(c - h for c, h, _ in alone)
    reading = statistics.median(r for *_, r in alone)
    yield Figure(
        f"first use of an adapter on disk (9 MB), added to the first token, {count} adapters",
        f"{added * 1e3:.1f} ms, {added / reading:.2f} × reading and copying "
        f"({reading * 1e3:.1f} ms); a first token otherwise takes "
        f"{statistics.median(h for _, h, _ in alone) * 1e3:.0f} ms",
        "≤ 1.30 ×",
        added <= 1.3 * reading,
    )
    step = statistics.median(calm)
    lost = max(cold) - max(hot)
    yield Figure(
        f"the same among 8 streams: what a stream loses at worst, {len(fresh[:count])} adapters",
        f"{lost * 1e3:.0f} ms, {lost / step:.2f} steps of {step * 1e3:.0f} ms (longest wait "
        f"{max(cold) * 1e3:.0f} ms, for a resident adapter {max(hot) * 1e3:.0f} ms)",
        "≤ 1 step",
        lost <= step,
    )


async def cold_and_hot(
    url: str, work: Path, fresh: Sequence[str]
) -> list[tuple[float, float, float]]:
    """For each adapter: first token of its first use, of later ones, and reading and copying."""
    found = []
    async with client(url) as server:
        for seed, model in enumerate([R8[0], *fresh]):  # the first warms up
            file = weights_file(work, model)
            forget(file)
            reading = timed(lambda file=file: bytearray(file.read_bytes()))  # type: ignore[misc]
            forget(file)
            first, *later = [
                (await one(server, job)).first
                for job in jobs([model], 4, seed=700 + seed, tokens=1)
            ]
            found.append((first, statistics.median(later), reading))
    return found[1:]


async def among_streams(
    url: str, work: Path, fresh: Sequence[str]
) -> tuple[list[float], list[float], list[float]]:
    """Gaps of eight streams when calm, at first uses, and at uses of adapters that are resident."""
    cold: list[float] = []
    hot: list[float] = []
    async with client(url) as server, streams(server, mixed(8), 8) as growing:
        begun = time.perf_counter()
        await asyncio.sleep(SETTLE_S)
        calm = gaps(growing, begun, time.perf_counter())
        for seed, model in enumerate(fresh):
            forget(weights_file(work, model))
            cold += (await disturbed(server, growing, model, 64, 800 + seed))[1]
            hot += (await disturbed(server, growing, model, 64, 900 + seed))[1]
    return calm, cold, hot


def weights_file(work: Path, name: str) -> Path:
    """Where the registry keeps an adapter's weights."""
    version = LocalRegistry.open(str(work / "registry")).resolve(AdapterRef.parse(name))
    digest = max(version.manifest.files, key=lambda file: file.size).sha256
    return next((work / "registry" / "blobs").rglob(f"{digest}*"))


def forget(file: Path) -> None:
    """Have the system drop its copy of a file, so that the next to read it reads the disk."""
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def round_robin(setting: Setting) -> Iterator[Figure]:
    """32 adapters in turn: where eight may be resident, and where all may."""
    answers: dict[str, list[Answer]] = {"8 resident": [], "all resident": []}
    with ExitStack() as running:
        servers = {
            "8 resident": running.enter_context(adaptery(setting.work, max_adapters=8)),
            "all resident": running.enter_context(adaptery(setting.work)),
        }
        for turn in range(min(setting.rounds, 3) + 1):
            for name, server in servers.items():
                work = jobs(R8, 64 if turn else 32, seed=50 + turn)
                done = asyncio.run(closed_loop(server.url, work))
                answers[name] += done if turn else []
                print(f"turn {turn}, {name}: {Load.of(done).first}", file=sys.stderr)
        checked = check_server(servers["8 resident"].url, setting.work, R8[:12])
    loads = {name: Load.of(done) for name, done in answers.items()}
    for name, load in loads.items():
        setting.scores[f"adaptery, 32 adapters in turn, {name}"] = Score([load])
    few, every = loads["8 resident"], loads["all resident"]
    yield Figure(
        "32 adapters in turn over 8 resident: 99th percentile to the first token",
        f"{few.first[1]:.2f} s, {few.first[1] / every.first[1]:.2f} × all resident "
        f"({every.first[1]:.2f} s); {len(few.failures)} of {few.requests} starved or failed; "
        + (f"{WRONG}: {checked.wrong}" if checked.wrong else "answers right"),
        "≤ 4.00 ×, none",
        few.first[1] <= 4 * every.first[1] and not few.failures and not checked.wrong,
    )


def long_prompt(setting: Setting) -> Iterator[Figure]:
    """A prompt of 2,048 tokens arrives among 15 streams that decode."""
    with adaptery(setting.work) as server:
        rounds = [asyncio.run(one_long_prompt(server.url, seed)) for seed in range(setting.rounds)]
    ratios = [during / before for before, during, _ in rounds]
    before, during, took = (statistics.median(side) for side in zip(*rounds, strict=True))
    value = statistics.median(ratios)
    yield Figure(
        f"a prompt of {LONG:,} tokens among 15 streams: their time per token meanwhile",
        f"{value:.2f} × ({min(ratios):.2f} to {max(ratios):.2f}): {during * 1e3:.0f} ms against "
        f"{before * 1e3:.0f} ms; its own first token after {took:.1f} s",
        "≤ 1.50 ×",
        value <= 1.5,
    )


async def one_long_prompt(url: str, seed: int) -> tuple[float, float, float]:
    """Mean time per token of the streams before and during the prompt, and how long that took."""
    async with client(url) as server, streams(server, [BASE, *mixed(4)], 15) as growing:
        begun = time.perf_counter()
        await asyncio.sleep(SETTLE_S)
        calm = gaps(growing, begun, time.perf_counter())
        answer, waits = await disturbed(server, growing, BASE, LONG, seed)
    return statistics.fmean(calm), statistics.fmean(waits), answer.first
