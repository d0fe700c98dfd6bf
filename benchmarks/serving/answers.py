"""Are the answers right? Each is compared with transformers + PEFT, asked one by one in fp32.

In bf16 a close call may tip either way, and from there on two right answers differ; so the
reference is asked about the answer's own tokens, not for an answer. The rule: after the prompt and
the answer so far, every token must be within `SHORTFALL` nats of the reference's most likely one,
and the log-probabilities that the server gives within `APART` nats of the reference's on average.
Rounding stays well below both; another adapter's answers fall short by 10 nats and more.

    python -m benchmarks.serving.answers WORK < requests.json

reads `[{"model", "prompt", "answer", "scores"}, …]` and prints both numbers for each.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from benchmarks.serving.load import Job, client, jobs
from benchmarks.serving.material import words
from benchmarks.serving.servers import BASE

if TYPE_CHECKING:
    import torch

SHORTFALL, APART = 1.0, 0.15  # nats


@dataclass(frozen=True)
class Said:
    """The tokens of an answer, and the log-probabilities that came with them, if any did."""

    tokens: list[int]
    scores: list[float]


@dataclass(frozen=True)
class Checked:
    """The verdict on some answers: of each model's the largest of both numbers (nats)."""

    worst: dict[str, tuple[float, float]]

    @property
    def wrong(self) -> str:
        """Which models answer wrongly, in words; empty if none does."""
        bad = {
            model: max(short, apart)
            for model, (short, apart) in self.worst.items()
            if not (short <= SHORTFALL and apart <= APART)
        }
        told = ", ".join(f"{model} by {nats:.1f} nats" for model, nats in sorted(bad.items()))
        return f"{len(bad)} of {len(self.worst)} models ({told})" if bad else ""

    @property
    def told(self) -> str:
        """The largest numbers, in words."""
        short, apart = (max(side) for side in zip(*self.worst.values(), strict=True))
        return f"tokens fall short by {short:.2f} nats at most, log-probabilities by {apart:.2f}"


def check_server(url: str, work: Path, models: Sequence[str], seed: int = 99) -> Checked:
    """Ask all `models` twice in one batch, and judge what they say."""
    wanted = jobs(models, 2 * len(models), seed, tokens=24)
    return judge(work, wanted, asyncio.run(say_all(url, wanted)))


async def say_all(url: str, wanted: Sequence[Job]) -> list[Said]:
    async with client(url) as server:
        return list(await asyncio.gather(*(say(server, job) for job in wanted)))


async def say(server: httpx.AsyncClient, job: Job) -> Said:
    """A greedy answer; the texts of its tokens come with the log-probabilities."""
    body = {"model": job.model, "prompt": list(job.prompt), "max_tokens": job.tokens}
    response = await server.post("/v1/completions", json=body | {"temperature": 0, "logprobs": 1})
    if response.status_code != 200:
        raise SystemExit(f"{job.model} was not answered: {response.text[:300]}")
    told = response.json()["choices"][0]["logprobs"]
    return Said(tokens_of(told["tokens"]), told["token_logprobs"])


def tokens_of(texts: Sequence[str]) -> list[int]:
    """The numbers of tokens that are given by their texts; no two have the same."""
    numbers = {text.replace("Ġ", " "): number for number, text in enumerate(words()[0])}
    return [numbers[text] for text in texts]


def judge(work: Path, wanted: Sequence[Job], said: Sequence[Said]) -> Checked:
    """Ask the reference, in a process of its own, about what was said."""
    cases = [
        {"model": job.model, "prompt": job.prompt, "answer": one.tokens, "scores": one.scores}
        for job, one in zip(wanted, said, strict=True)
    ]
    command = [sys.executable, "-m", "benchmarks.serving.answers", str(work)]
    done = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"The reference failed:\n{done.stderr[-2000:]}")
    worst: dict[str, tuple[float, float]] = {}
    for job, (short, apart) in zip(wanted, json.loads(done.stdout.splitlines()[-1]), strict=True):
        before = worst.get(job.model, (0.0, 0.0))
        worst[job.model] = (max(short, before[0]), max(apart, before[1]))
    return Checked(worst)


def reference(work: Path, cases: Sequence[dict[str, Any]]) -> list[tuple[float, float]]:
    """`judged` for each case, by transformers + PEFT in fp32."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(work / "base", dtype=torch.float32)
    found: dict[int, tuple[float, float]] = {}
    loaded = ""
    # The base's own first, before there is any adapter.
    for number, case in sorted(enumerate(cases), key=lambda c: (c[1]["model"] != BASE, c[0])):
        name = case["model"]
        if name not in (BASE, loaded):
            folder = str(work / "adapters" / name)
            if not loaded:
                model = PeftModel.from_pretrained(model, folder, name, low_cpu_mem_usage=True)
            elif name not in model.peft_config:
                model.load_adapter(folder, name, low_cpu_mem_usage=True)
            model.set_adapter(name)
            loaded = name
        found[number] = judged(model.eval(), case)
    return [found[number] for number in range(len(cases))]


def judged(model: "torch.nn.Module", case: dict[str, Any]) -> tuple[float, float]:
    """By how much the answer's tokens fall short of the most likely ones, at most, and by how much
    its own log-probabilities differ, on average (nats; 0 where it gives none)."""
    import torch

    prompt, answer, scores = case["prompt"], case["answer"], case["scores"]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0]
    rows = logits[len(prompt) - 1 : -1].log_softmax(dim=1)  # each is of the token after it
    chosen = rows.gather(1, torch.tensor(answer)[:, None])[:, 0]
    shortfall = float((rows.max(dim=1).values - chosen).max())
    apart = float((torch.tensor(scores) - chosen).abs().mean()) if scores else 0.0
    return shortfall, apart


if __name__ == "__main__":
    print(json.dumps(reference(Path(sys.argv[1]), json.load(sys.stdin))))
