"""Tokens a second: ours alone, beside vLLM, beside transformers + PEFT; and many registered."""

import asyncio
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.serving import peft_peer
from benchmarks.serving.answers import Said, check_server, judge
from benchmarks.serving.load import CONCURRENT, closed_loop, jobs, open_loop, zipf
from benchmarks.serving.material import R8, R16, mixed
from benchmarks.serving.numbers import WRONG, Load, Score, ratio
from benchmarks.serving.servers import BASE, Server, adaptery, vllm

EIGHT = R8[:8]
LOADS = {  # asked in turn by 16 clients
    "base only": [BASE],
    "1 adapter, r=16": R16[:1],
    "8 adapters, r=8": EIGHT,
    "8 adapters, r=8 and 16": mixed(8),
    "16 adapters, r=8 and 16": mixed(16),
}


@dataclass
class Setting:
    """How much is measured, where, and with whom; `scores` collects the lines of the load table."""

    work: Path
    rounds: int
    requests: int
    """Of a load in one turn; a multiple of 16, so that all clients end together."""
    vllm_home: Path
    scores: dict[str, Score]


def turns(
    setting: Setting, servers: Mapping[str, tuple[Server, Sequence[str]]], wrong: Mapping[str, str]
) -> dict[str, Score]:
    """Loads (server and models) in turns A B C, C B A …, after one of each to warm up."""
    loads: dict[str, list[Load]] = {name: [] for name in servers}
    for turn in range(setting.rounds + 1):
        names = list(servers)[:: 1 if turn % 2 else -1]
        for name in names:
            server, models = servers[name]
            count = setting.requests if turn else CONCURRENT
            work = jobs(models, count, seed=1000 * turn + names.index(name))
            load = Load.of(asyncio.run(closed_loop(server.url, work)))
            if turn:
                loads[name].append(load)
            print(f"turn {turn}, {name}: {load.speed:.0f} tokens/s", file=sys.stderr)
    found = {name: Score(done, wrong.get(name, "")) for name, done in loads.items()}
    setting.scores |= found
    return found


def own(setting: Setting) -> Iterator[Figure]:
    """Our loads in turns on one running server, each against the base's."""
    with adaptery(setting.work) as server:
        checked = check_server(server.url, setting.work, [BASE, *mixed(8)])
        yield Figure(
            "base and 8 adapters in one full batch, against transformers + PEFT in fp32",
            checked.wrong or f"right: {checked.told}",
            "all right",
            not checked.wrong,
        )
        wrong = {f"adaptery, {name}": checked.wrong for name in LOADS}
        loads = {f"adaptery, {name}": (server, models) for name, models in LOADS.items()}
        scores = turns(setting, loads, wrong)
    base = scores["adaptery, base only"]
    for name, bar in zip(list(LOADS)[1:], (0.93, 0.85, 0.85, 0.75), strict=True):
        yield ratio(f"{name}, against own base only", scores[f"adaptery, {name}"], base, bar)


def beside_vllm(setting: Setting) -> Iterator[Figure]:
    """vLLM's base-only server, and servers whose largest rank is that of their adapters."""
    if not (setting.vllm_home / "bin" / "vllm").exists():
        yield Figure("against vLLM on the CPU", "skipped: run make vllm-env")
        return
    for compiled in (False, True):  # which is faster depends on the machine; with LoRA all is eager
        peer = f"vLLM on the CPU, {'compiled' if compiled else 'eager'}"
        with vllm(setting.work, setting.vllm_home, compiled=compiled) as server:
            yield from against(setting, server, "base only", [BASE], 1.0, peer)
    for rank, name in ((8, "8 adapters, r=8"), (16, "8 adapters, r=8 and 16")):
        models = LOADS[name]
        with vllm(setting.work, setting.vllm_home, models, rank) as server:
            yield from against(setting, server, name, models, 3.0, "vLLM on the CPU with LoRA")
            checked = check_server(server.url, setting.work, [BASE, *models])
            yield Figure(
                f"vLLM, --max-lora-rank {rank}: base among 8 adapters, one full batch",
                f"{WRONG}: {checked.wrong}" if checked.wrong else f"right: {checked.told}",
            )


def against(
    setting: Setting, server: Server, name: str, models: Sequence[str], bar: float, peer: str
) -> Iterator[Figure]:
    """A peer's load, and ours of the same name against it, if ours was measured in this run."""
    checked = check_server(server.url, setting.work, models)
    line = f"{peer}, {name}"
    theirs = turns(setting, {line: (server, models)}, {line: checked.wrong})[line]
    yield from compare(setting, name, theirs, bar, peer)


def compare(
    setting: Setting, name: str, theirs: Score, bar: float | None, peer: str
) -> Iterator[Figure]:
    ours = setting.scores.get(f"adaptery, {name}")
    if ours is not None:
        figure = ratio(f"{name}, against {peer}", ours, theirs, bar or 0.0)
        yield figure if bar else Figure(figure.what, figure.measured)


def beside_peft(setting: Setting) -> Iterator[Figure]:
    """transformers + PEFT: a mixed batch, one adapter at a time, and no adapters."""
    name = "8 adapters, r=8 and 16"
    cases = (("mixed", name, 4.0), ("switch", name, None), ("base", "base only", None))
    for way, load, bar in cases:
        # A batch of one adapter at a time takes as long as eight mixed ones.
        count = CONCURRENT if way == "switch" else CONCURRENT * setting.rounds
        wanted = jobs(LOADS[load], count, seed=7)
        loads, said = peft_peer.run(setting.work, way, wanted)
        first = [Said(answer[:24], []) for answer in said[:CONCURRENT]]
        checked = judge(setting.work, wanted[:CONCURRENT], first)
        peer = peft_peer.WAYS[way]
        setting.scores[f"{peer}: {load}"] = theirs = Score(loads, checked.wrong)
        yield from compare(setting, load, theirs, bar, peer)


def thousand(setting: Setting) -> Iterator[Figure]:
    """The same eight adapters, in turns, where 1,000 and where only they are registered."""
    with ExitStack() as running:
        many = running.enter_context(adaptery(setting.work, "registry"))
        few = running.enter_context(adaptery(setting.work, "registry-8"))
        loads = {
            "adaptery, 8 active of 1,000 registered": (many, mixed(8)),
            "adaptery, 8 active of 8 registered": (few, mixed(8)),
        }
        ours, other = turns(setting, loads, {}).values()
    yield ratio("1,000 registered, 8 active, against 8 registered", ours, other, 0.97)


def arrivals(setting: Setting) -> Iterator[Figure]:
    """Requests that come as they please, to 32 adapters, some far more popular than others."""
    with adaptery(setting.work) as server:
        for rate in (1.0, 2.0, 3.0):
            work = zipf(R8, int(20 * rate) * min(setting.rounds, 3), seed=int(10 * rate))
            load = Load.of(asyncio.run(open_loop(server.url, work, rate, seed=5)))
            line = f"adaptery, Zipf over 32 adapters, {rate:.0f} requests/s"
            setting.scores[line] = Score([load])
            print(f"{rate} requests/s: {load.first[0]:.2f} s to the first", file=sys.stderr)
    yield from ()
