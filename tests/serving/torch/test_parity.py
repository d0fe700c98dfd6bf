"""The engine against the truth: transformers and PEFT, one request at a time, in float32."""

import asyncio
import random

import pytest
import torch

from adaptery.base_model import open_base
from adaptery.serving.engine import SamplingParams
from tests.serving import models
from tests.serving.asking import ask, random_prompt, running, tokens

pytestmark = pytest.mark.anyio


async def test_a_mixed_batch_answers_as_each_adapter_alone(engine, base_directory, adapters):
    for name, directory in adapters.items():
        await engine.load(name, directory)
    rng = random.Random(5)
    asked = [(name, random_prompt(rng), rng.randrange(1, 30)) for name in [None, *adapters] * 5]
    rng.shuffle(asked)
    delays = [rng.random() * 0.3 for _ in asked]

    async def arrive(delay: float, name: str | None, prompt: list[int], count: int):
        await asyncio.sleep(delay)
        return tokens(await ask(engine, prompt, SamplingParams(count, temperature=0), name))

    waiting = [arrive(delay, *one) for delay, one in zip(delays, asked, strict=True)]
    answers = await asyncio.gather(*waiting)
    for answer, (name, prompt, count) in zip(answers, asked, strict=True):
        adapter = adapters[name] if name else None
        assert answer == models.truth(base_directory, adapter, prompt, count), name


async def test_adapters_change_the_answers_in_different_ways(engine, adapters):
    """Else the test above could pass with adapters that are not applied."""
    for name, directory in adapters.items():
        await engine.load(name, directory)
    answers = [tokens(await ask(engine, [9, 8, 7], adapter=name)) for name in [None, *adapters]]
    assert len({tuple(answer) for answer in answers}) == len(answers)


async def test_a_llama_answers_as_transformers_and_peft(tmp_path, config):
    directory = models.write_llama(tmp_path / "llama")
    adapter = models.write_adapter(
        tmp_path / "adapter", directory, 3, r=5, target_modules=["k_proj", "up_proj"]
    )
    prompt = random_prompt(random.Random(1))
    async with running(open_base(str(directory)), config) as engine:
        await engine.load("a", adapter)
        both = await asyncio.gather(ask(engine, prompt), ask(engine, prompt, adapter="a"))
    assert tokens(both[0]) == models.truth(directory, None, prompt, 20)
    assert tokens(both[1]) == models.truth(directory, adapter, prompt, 20)


async def test_a_prompt_in_pieces_answers_as_in_one(base, config, adapters):
    prompt = [i % 90 + 5 for i in range(150)]
    sampling = SamplingParams(5, temperature=0, logprobs=3)
    answers = []
    for step_tokens in (7, 512):
        async with running(base, config, step_tokens=step_tokens) as engine:
            await engine.load("wide", adapters["wide"])
            answers.append(await ask(engine, prompt, sampling, "wide"))
    assert tokens(answers[0]) == tokens(answers[1])
    for piecewise, whole in zip(*answers, strict=True):
        assert piecewise.logprob == pytest.approx(whole.logprob, abs=1e-4)


async def test_logprobs_are_the_models(engine, base_directory):
    prompt = [20, 30, 40]
    chunks = await ask(engine, prompt, SamplingParams(4, temperature=0.7, seed=1, logprobs=5))
    ids = torch.tensor([prompt + tokens(chunks)])
    with torch.inference_mode():
        logits = models.load_base(base_directory)(ids).logits[0]
    expected = logits.log_softmax(-1)
    for position, chunk in enumerate(chunks, start=len(prompt) - 1):
        assert chunk.logprob == pytest.approx(float(expected[position, chunk.token]), abs=1e-4)
        values, top = expected[position].topk(5)
        assert [token for token, _ in chunk.top_logprobs] == top.tolist()
        assert [value for _, value in chunk.top_logprobs] == pytest.approx(
            values.tolist(), abs=1e-4
        )


async def test_half_precision_differs_from_float32_by_rounding_only(base, config, adapters: dict):
    sampling = SamplingParams(1, temperature=0, logprobs=10)
    scores = {}
    for dtype in ("float32", "bfloat16"):
        async with running(base, config, dtype=dtype) as engine:
            await engine.load("wide", adapters["wide"])
            chunk = (await ask(engine, [9, 8, 7], sampling, "wide"))[0]
            scores[dtype] = dict(chunk.top_logprobs)
    assert scores["bfloat16"] != scores["float32"]
    for token in scores["float32"].keys() & scores["bfloat16"].keys():
        assert scores["bfloat16"][token] == pytest.approx(scores["float32"][token], abs=0.3)
