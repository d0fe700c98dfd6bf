"""The engine against the truth: transformers and PEFT, one request at a time, in float32."""

import asyncio
import random
from pathlib import Path

import pytest

from adaptery.serving.engine import Chunk, GenerationRequest, SamplingParams
from adaptery.serving.torch.engine import TorchEngine
from tests.serving import models

pytestmark = pytest.mark.anyio


async def answer(engine: TorchEngine, request: GenerationRequest) -> list[Chunk]:
    return [chunk async for chunk in engine.generate(request)]


async def test_a_mixed_batch_answers_as_each_adapter_alone(
    engine: TorchEngine, base_directory: Path, adapters: dict[str, Path]
):
    for name, directory in adapters.items():
        await engine.load(name, directory)
    rng = random.Random(5)

    async def one(adapter: str | None) -> None:
        prompt = [rng.randrange(3, models.VOCABULARY) for _ in range(rng.randrange(1, 60))]
        tokens = rng.randrange(1, 30)
        await asyncio.sleep(rng.random() * 0.2)
        sampling = SamplingParams(tokens, temperature=0)
        chunks = await answer(engine, GenerationRequest(tuple(prompt), sampling, adapter))
        expected = models.truth(base_directory, adapters.get(adapter or ""), prompt, tokens)
        assert [chunk.token for chunk in chunks] == expected, adapter

    async with asyncio.TaskGroup() as group:
        for adapter in [None, *adapters] * 5:
            group.create_task(one(adapter))
