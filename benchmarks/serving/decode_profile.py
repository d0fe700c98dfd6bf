"""Where the time of a decode step goes: torch's profiler over steps of 16 requests.

    python -m benchmarks.serving.decode_profile --work /tmp/bench [--adapters 8] [--trace step.json]

No server is in it: what is measured is one step of the torch engine, from tokens to scores, by kind
of operation. `--trace` writes every operation for chrome://tracing or Perfetto, which draws the
flame graph.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from adaptery.base_model import open_base
from adaptery.serving.torch.assembly import leave_file
from adaptery.serving.torch.kernels.calls import Kernels
from adaptery.serving.torch.lora import Adapter
from adaptery.serving.torch.model import choose_dtype, load_model, stored_dtype
from adaptery.serving.torch.runner import Runner
from adaptery.serving.torch.sequence import Piece, Sequence
from adaptery.serving.torch.trial import try_out
from adaptery.serving.torch.weights import AdapterReader
from benchmarks.serving import material
from benchmarks.serving.servers import CORES, SEQUENCES

BLOCKS = 16  # of each request
LENGTH = 96  # tokens of each request: half of its answer is there
STEPS = 20
KINDS = {
    "base's products": ("linear", "mkldnn::_linear_pointwise", "aten::linear"),
    "adapters": ("update",),
    "attention": ("attend",),
    "output layer": ("plain_linear", "aten::mm"),
    "norms, rotary, activation": ("rms_norm", "rotate", "gated"),
}


class Recorded(Kernels):
    """Kernels that the profiler sees, when it looks."""

    def _function(self, name: str) -> Callable[..., None]:
        function = super()._function(name)

        def recorded(*arguments: object) -> None:
            if not torch.autograd.profiler._is_profiler_enabled:
                return function(*arguments)
            with record_function(name):
                return function(*arguments)

        return recorded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="as of benchmarks.serve")
    parser.add_argument("--adapters", type=int, nargs="+", default=[0, 1, 8, 16])
    parser.add_argument("--trace", type=Path, help="of the last of --adapters")
    options = parser.parse_args()
    torch.set_num_threads(CORES)
    material.make(options.work)
    runner, load = prepare(options.work)
    print("| adapters | step | " + " | ".join([*KINDS, "other operations", "Python"]) + " |")
    print("|---" * (len(KINDS) + 4) + "|")
    for count in options.adapters:
        adapters = [load(name) for name in material.mixed(count)]
        step = stepper(runner, adapters)
        alone = median(timed(step) for _ in range(STEPS))
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            took = sum(timed(step) for _ in range(STEPS)) / STEPS
        if options.trace and count == options.adapters[-1]:
            profiled.export_chrome_trace(str(options.trace))
        cells = [f"{1e3 * seconds:.1f} ms" for seconds in shares(profiled, took)]
        print(f"| {count} | {1e3 * alone:.1f} ms | {' | '.join(cells)} |", flush=True)


def prepare(work: Path) -> tuple[Runner, Callable[[str], Adapter]]:
    """An engine without its loop, and what reads adapters for it."""
    base, device = open_base(str(work / "base")), torch.device("cpu")
    model = load_model(base, device, choose_dtype("auto", device, stored_dtype(base)))
    kernels = Recorded(model.dtype, CORES)
    decoder, cache = try_out(model, base, kernels)
    leave_file(model)
    reader = AdapterReader(decoder.layers, decoder.dtype, decoder.device, decoder.active.prepared)
    runner = Runner(decoder, cache.resized(SEQUENCES * BLOCKS))
    return runner, lambda name: reader.open(name, work / "adapters" / name).read()


def stepper(runner: Runner, adapters: list[Adapter]) -> Callable[[], None]:
    """Takes a decode step of as many requests as are computed at once, the adapters in turn."""
    random = Random(0)
    sequences = []
    for number in range(SEQUENCES):
        ids = [random.randrange(material.FIRST, material.VOCABULARY) for _ in range(LENGTH)]
        table = list(range(number * BLOCKS, (number + 1) * BLOCKS))
        adapter = adapters[number % len(adapters)] if adapters else None
        sequences.append(Sequence(ids, adapter=adapter, table=table, computed=LENGTH - 1))

    def step() -> None:
        runner.run([Piece(sequence, 1) for sequence in sequences]).max(dim=-1)

    for _ in range(3):
        step()
    return step


def timed(call: Callable[[], None]) -> float:
    begin = perf_counter()
    call()
    return perf_counter() - begin


def shares(profiled: profile, took: float) -> list[float]:
    """Seconds of a step by kind; what no operation took is Python's."""
    spent: dict[str, float] = defaultdict(float)
    kinds = {name: kind for kind, names in KINDS.items() for name in names}
    for event in profiled.key_averages():
        spent[kinds.get(event.key, "other")] += event.self_cpu_time_total / 1e6 / STEPS
    return [*(spent[kind] for kind in KINDS), spent["other"], took - sum(spent.values())]


if __name__ == "__main__":
    main()
