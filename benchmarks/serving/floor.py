"""The physical floor: what must be moved and multiplied, over what this machine can.

    python -m benchmarks.serving.floor

measures rates on all cores and prints them: bytes of a large bf16 buffer read in a second, and
operations of bf16 products in a second at 16 rows (a decode step) and at 512 (prompts), each by the
fastest of several ways to do it and of many short tries, so that other processes hardly count.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from benchmarks.serving.load import IN, OUT
from benchmarks.serving.material import HIDDEN, KV_WIDTH, LAYERS, LINEAR, VOCABULARY
from benchmarks.serving.servers import CORES, SEQUENCES

BF16 = 2  # bytes
PER_LAYER = sum(width * out for width, out in LINEAR.values())
HEAD = VOCABULARY * HIDDEN
KV_TOKEN = 2 * LAYERS * KV_WIDTH * BF16  # bytes of a token's keys and values


@dataclass(frozen=True)
class Machine:
    """Bytes a second, and operations a second at 16 and at 512 rows."""

    bandwidth: float
    decode: float
    prefill: float


@dataclass(frozen=True)
class Floor:
    """The least time (seconds) of a decode step of 16 requests, and of a prompt."""

    moved: int
    flops: int
    memory_s: float
    compute_s: float
    prompt: float

    @classmethod
    def of(cls, machine: Machine, adapters: Sequence[str]) -> "Floor":
        """With `adapters`, named by their rank, in the batch.

        A step reads every weight, every active adapter and all keys and values once, and
        multiplies a row of each request by the weights and by its own adapter. Both may overlap.
        """
        ranks = [int(name[1:].partition("-")[0]) for name in adapters]
        adapter = LAYERS * sum(sum(pair) for pair in LINEAR.values())  # parameters of rank 1
        base = LAYERS * PER_LAYER + HEAD
        seen = SEQUENCES * (IN + OUT // 2)  # tokens whose keys and values are read
        own = adapter * sum(ranks) // max(1, len(ranks))  # of one request, on average
        moved = BF16 * (base + adapter * sum(ranks)) + KV_TOKEN * seen
        flops = 2 * SEQUENCES * (base + own)
        prompt = 2 * IN * (LAYERS * PER_LAYER + own) / machine.prefill
        return cls(moved, flops, moved / machine.bandwidth, flops / machine.decode, prompt)

    @property
    def step(self) -> float:
        return max(self.memory_s, self.compute_s)

    @property
    def speed(self) -> float:
        """Tokens a second: of each request its prompt, and its share of the steps."""
        return OUT / (self.prompt + OUT * self.step / SEQUENCES)


def measure() -> Machine:
    import torch

    torch.set_num_threads(CORES)
    with torch.inference_mode():
        return Machine(bandwidth(), gemm(16), gemm(512))


def bandwidth() -> float:
    """Bytes a second of reading a part of a buffer that is far larger than the caches."""
    import torch

    parts = torch.ones(8, 64 << 20, dtype=torch.bfloat16)
    vector = torch.ones(4096)

    def ways(part: torch.Tensor) -> Iterator[Callable[[], object]]:
        yield part.view(torch.int64).sum
        yield part.view(torch.int64).max
        yield partial(torch.mv, part.view(torch.float32).view(-1, 4096), vector)

    size: int = parts[0].nbytes
    return size / min(best(way, 1) for _ in range(10) for part in parts for way in ways(part))


def gemm(rows: int) -> float:
    """Operations a second of `rows` rows times a layer's widest matrix.

    The matrix stays in a cache: what reading it takes is the other rate. Plain, and packed as
    oneDNN likes it.
    """
    import torch

    width, out = LINEAR["mlp.up_proj"]
    x = torch.randn(rows, width).to(torch.bfloat16)
    weight = torch.randn(out, width).to(torch.bfloat16)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    plain = partial(torch.nn.functional.linear, x, weight)
    by_onednn = partial(torch.ops.mkldnn._linear_pointwise, x, packed, None, "none", [], "")
    return 2 * rows * width * out / min(best(plain, 200), best(by_onednn, 200))


def best(deed: Callable[[], object], tries: int) -> float:
    """Seconds of the fastest of several tries, after one to warm up."""

    def times() -> Iterator[float]:
        for _ in range(tries + 1):
            began = time.perf_counter()
            deed()
            yield time.perf_counter() - began

    return min(list(times())[1:])


if __name__ == "__main__":
    print(json.dumps(asdict(measure())))
