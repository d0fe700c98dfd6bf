"""Clients of any OpenAI-style server: prompts of token ids in, streamed answers out, times kept."""

import asyncio
import json
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

import httpx

from benchmarks.serving.material import FIRST, VOCABULARY

PATIENCE_S = 300.0
IN, OUT, CONCURRENT = 64, 64, 16  # tokens, tokens, requests: where a row does not say otherwise


@dataclass(frozen=True)
class Job:
    """One request: which model is to continue which prompt, by how many tokens."""

    model: str
    prompt: tuple[int, ...]
    tokens: int = OUT


@dataclass
class Answer:
    """What came back, and when (seconds on the clock of `time.perf_counter`)."""

    job: Job
    sent: float
    times: list[float] = field(default_factory=list)
    """When each piece of text came; a piece is a token, or several that came together."""
    tokens: int = 0
    failure: str = ""

    @property
    def first(self) -> float:
        """Seconds to the first token."""
        return self.times[0] - self.sent

    @property
    def each(self) -> float:
        """Seconds for each token after the first."""
        return (self.times[-1] - self.times[0]) / (self.tokens - 1)


def jobs(
    models: Sequence[str], count: int, seed: int, prompt: int = IN, tokens: int = OUT
) -> list[Job]:
    """`count` requests to `models` in turn, each with a random prompt that nobody else has."""
    draw = random.Random(seed)
    return [
        Job(model, tuple(draw.randrange(FIRST, VOCABULARY) for _ in range(prompt)), tokens)
        for model in islice(cycle(models), count)
    ]


def zipf(models: Sequence[str], count: int, seed: int) -> list[Job]:
    """`count` requests, the k-th of `models` asked 1/k times as often as the first."""
    weights = [1 / rank for rank in range(1, len(models) + 1)]
    chosen = random.Random(seed).choices(models, weights, k=count)
    plain = jobs(models, count, seed)
    return [Job(model, job.prompt) for model, job in zip(chosen, plain, strict=True)]


def client(url: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    return httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, limits=limits, trust_env=False)


async def ask(server: httpx.AsyncClient, job: Job, following: list[Answer] | None = None) -> Answer:
    """Send one request and follow its stream; `following` gets the answer before it is whole."""
    body = {"model": job.model, "prompt": list(job.prompt), "max_tokens": job.tokens}
    body |= {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    answer = Answer(job, time.perf_counter())
    if following is not None:
        following.append(answer)
    try:
        async with server.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != 200:
                answer.failure = f"{response.status_code} {(await response.aread())[:200]!r}"
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    read(json.loads(line[6:]), answer)
    except httpx.HTTPError as error:
        answer.failure = f"{type(error).__name__}: {error}"
    if not answer.failure and answer.tokens != job.tokens:
        answer.failure = f"{answer.tokens} tokens instead of {job.tokens}"
    return answer


def read(event: dict[str, Any], answer: Answer) -> None:
    """Take note of one event of a stream."""
    if "error" in event:
        answer.failure = str(event["error"])
    if any(choice["text"] for choice in event.get("choices", [])):
        answer.times.append(time.perf_counter())
    if event.get("usage"):
        answer.tokens = event["usage"]["completion_tokens"]


async def closed_loop(url: str, work: Iterable[Job], concurrent: int = CONCURRENT) -> list[Answer]:
    """`concurrent` clients, each of which sends its next request when it has its answer."""
    queue: Iterator[Job] = iter(work)
    answers = []

    async def one() -> None:
        for job in queue:
            answers.append(await ask(server, job))

    async with client(url) as server:
        await asyncio.gather(*(one() for _ in range(concurrent)))
    return answers


async def open_loop(url: str, work: Sequence[Job], rate: float, seed: int) -> list[Answer]:
    """Requests that arrive as they please, `rate` a second on average (Poisson)."""
    draw = random.Random(seed)
    async with client(url) as server, asyncio.TaskGroup() as group:
        sent = []
        for job in work:
            sent.append(group.create_task(ask(server, job)))
            await asyncio.sleep(draw.expovariate(rate))
        return list(await asyncio.gather(*sent))
