"""transformers + PEFT in bf16, in a process of its own: static batches of greedy requests.

    python -m benchmarks.serving.peft_peer WORK mixed|switch|base < batches.json

`mixed` runs each batch at once with `adapter_names`, a row for each request; `switch` takes the
requests of one adapter at a time, after `set_adapter`; `base` has no adapters at all. All generate
with a key-value cache, on all cores. Reads a list of batches of `{"model", "prompt", "tokens"}`,
the first of which only warms up, and prints the seconds of each other one and all answers.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.serving.load import CONCURRENT, Job
from benchmarks.serving.numbers import Load
from benchmarks.serving.servers import BASE, CORES, plain_environment

Batch = Sequence[dict[str, Any]]
WAYS = {
    "mixed": "PEFT, mixed batch (adapter_names)",
    "switch": "PEFT, one adapter at a time (set_adapter)",
    "base": "transformers, base only",
}
NOT_MEASURED = (float("nan"),) * 2


def run(work: Path, way: str, wanted: Sequence[Job]) -> tuple[list[Load], list[list[int]]]:
    """The loads of `wanted` in batches of 16, and the answer to each request."""
    asked = [{"model": job.model, "prompt": job.prompt, "tokens": job.tokens} for job in wanted]
    batches = [asked[at : at + CONCURRENT] for at in range(0, len(asked), CONCURRENT)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving.peft_peer", str(work), way],
        input=json.dumps([[one | {"tokens": 8} for one in batches[0]], *batches]),
        capture_output=True,
        text=True,
        env=plain_environment(),
    )
    if done.returncode:
        raise SystemExit(f"{WAYS[way]} failed:\n{done.stderr[-2000:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    loads = []
    for at, seconds in zip(range(0, len(wanted), CONCURRENT), told["seconds"], strict=True):
        batch = wanted[at : at + CONCURRENT]
        speed = sum(job.tokens for job in batch) / seconds
        loads.append(Load(speed, NOT_MEASURED, NOT_MEASURED, len(batch)))
    return loads, told["answers"]


def main(work: Path, way: str, batches: Sequence[Batch]) -> dict[str, Any]:
    import torch

    torch.set_num_threads(CORES)
    model = load(work, way, batches)
    seconds, answers = [], []
    for batch in batches:
        began = time.perf_counter()
        if way == "switch":
            said = one_adapter_at_a_time(model, batch)
        else:
            names = [one["model"] for one in batch] if way == "mixed" else None
            said = generate(model, batch, names)
        seconds.append(time.perf_counter() - began)
        answers += said
    return {"seconds": seconds[1:], "answers": answers[len(batches[0]) :]}


def load(work: Path, way: str, batches: Sequence[Batch]) -> Any:
    """The base with all adapters of the batches in memory."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(work / "base", dtype=torch.bfloat16).eval()
    for name in sorted({one["model"] for batch in batches for one in batch} - {BASE}):
        folder = str(work / "adapters" / name)
        how = {"autocast_adapter_dtype": False, "low_cpu_mem_usage": True}
        if isinstance(model, PeftModel):
            model.load_adapter(folder, name, **how)
        else:
            model = PeftModel.from_pretrained(model, folder, name, **how)
    return model.eval()


def one_adapter_at_a_time(model: Any, batch: Batch) -> list[list[int]]:
    """Those of one adapter together; each answer at its request's place."""
    order = sorted(range(len(batch)), key=lambda number: str(batch[number]["model"]))
    said: dict[int, list[int]] = {}
    for name, group in groupby(order, key=lambda number: str(batch[number]["model"])):
        numbers = list(group)
        model.set_adapter(name)
        answers = generate(model, [batch[number] for number in numbers], None)
        said |= dict(zip(numbers, answers, strict=True))
    return [said[number] for number in range(len(batch))]


def generate(model: Any, batch: Batch, adapters: list[str] | None) -> list[list[int]]:
    """Greedy answers to prompts of equal length."""
    import torch

    ids = torch.tensor([one["prompt"] for one in batch])
    extra = {"adapter_names": adapters} if adapters else {}
    with torch.inference_mode():
        answers = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=batch[0]["tokens"],
            **extra,
        )
    new: list[list[int]] = answers[:, ids.shape[1] :].tolist()
    return new


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], json.load(sys.stdin))))
