"""What a server takes: seconds until it is ready, and memory; and what the machine would allow."""

import asyncio
import json
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.figures import Figure
from benchmarks.serving.floor import Floor, Machine
from benchmarks.serving.load import closed_loop, jobs
from benchmarks.serving.material import mixed
from benchmarks.serving.rows_speed import LOADS, Setting
from benchmarks.serving.servers import BASE, SEQUENCES, Server, adaptery, plain_environment

KV, ADAPTERS = 256 << 20, 256 << 20  # bytes of the budgets that the measured server gets
PROMPT, CONTEXT = 1024, 1280  # tokens; 16 such prompts fill 200 MB of keys and values
STARTS, START_S, ABOVE = 3, 5.0, 500e6


def start(setting: Setting) -> Iterator[Figure]:
    """From the start of the process to the first 200 of /ready; files are in the system's cache."""
    seconds = []
    for _ in range(STARTS):
        with adaptery(setting.work) as server:
            seconds.append(server.ready_s)
    yield Figure(
        f"start to ready, {STARTS} starts",
        f"median {statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f})",
        f"≤ {START_S:.0f} s",
        statistics.median(seconds) <= START_S,
    )


def memory(setting: Setting) -> Iterator[Figure]:
    """The most that is held while 16 long prompts to eight adapters are answered."""
    weights = sum(file.stat().st_size for file in (setting.work / "base").glob("*.safetensors"))
    budgets: dict[str, object] = {
        "kv_memory": KV,
        "adapter_memory": ADAPTERS,
        "max_context": CONTEXT,
    }
    with adaptery(setting.work, "registry", **budgets) as server:
        idle = server.memory()
        with watching(server) as seen:
            asyncio.run(closed_loop(server.url, jobs(mixed(8), SEQUENCES, 3, prompt=PROMPT)))
    held = max(seen)
    above = held - weights - KV - ADAPTERS
    yield Figure(
        "resident memory over weights and stated budgets, at most",
        f"{above / 1e6:.0f} MB: {held / 1e6:,.0f} held − {weights / 1e6:,.0f} of weights − "
        f"{KV / 1e6:.0f} for keys and values − {ADAPTERS / 1e6:.0f} for adapters; "
        f"{idle / 1e6:,.0f} when it was ready",
        f"≤ {ABOVE / 1e6:.0f} MB",
        above <= ABOVE,
    )


@contextmanager
def watching(server: Server, every_s: float = 0.3) -> Iterator[list[int]]:
    """The server's memory (bytes) again and again meanwhile, and once at the end."""
    seen: list[int] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(every_s):
            seen.append(server.memory())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
        seen.append(server.memory())


def floor(setting: Setting) -> Iterator[Figure]:
    """What the machine's memory and arithmetic would allow, and how far from it the loads are."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving.floor"],
        capture_output=True,
        text=True,
        check=True,
        env=plain_environment(),
    )
    machine = Machine(**json.loads(done.stdout.splitlines()[-1]))
    yield Figure(
        "the machine",
        f"{machine.bandwidth / 1e9:.1f} GB/s read by all cores; bf16 products "
        f"{machine.prefill / 1e12:.2f} TFLOP/s at 512 rows, {machine.decode / 1e12:.2f} at 16",
    )
    for name, models in LOADS.items():
        limit = Floor.of(machine, [] if models == [BASE] else models)
        ours = setting.scores.get(f"adaptery, {name}")
        reached = f"; reached {ours.speed / limit.speed:.0%}" if ours and not ours.wrong else ""
        yield Figure(
            f"floor, {name}",
            f"a step of 16 takes {limit.step * 1e3:.1f} ms ({limit.moved / 1e6:,.0f} MB moved in "
            f"{limit.memory_s * 1e3:.1f} ms, {limit.flops / 1e9:.1f} GFLOP in "
            f"{limit.compute_s * 1e3:.1f} ms), a prompt {limit.prompt * 1e3:.0f} ms: "
            f"{limit.speed:.0f} tokens/s{reached}",
        )
