"""Asking an engine without a server."""

import random
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from adaptery.base_model import LocalBase
from adaptery.serving.config import ServeConfig
from adaptery.serving.engine import Chunk, GenerationRequest, SamplingParams
from adaptery.serving.torch.engine import TorchEngine
from tests.serving import models

GREEDY = SamplingParams(20, temperature=0)


@asynccontextmanager
async def running(base: LocalBase, config: ServeConfig, **changes) -> AsyncIterator[TorchEngine]:
    engine = TorchEngine(base, config.model_copy(update=changes), "thread")
    await engine.start()
    yield engine
    await engine.close()


async def ask(
    engine: TorchEngine, prompt: list[int], sampling=GREEDY, adapter: str | None = None
) -> list[Chunk]:
    request = GenerationRequest(tuple(prompt), sampling, adapter)
    async with aclosing(engine.generate(request)) as chunks:
        return [chunk async for chunk in chunks]


def tokens(chunks: list[Chunk]) -> list[int]:
    return [chunk.token for chunk in chunks]


def random_prompt(rng: random.Random, longest: int = 60) -> list[int]:
    return [rng.randrange(3, models.VOCABULARY) for _ in range(rng.randrange(1, longest))]
