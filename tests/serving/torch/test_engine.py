"""How requests share the engine, and how they end."""

import asyncio
import random
from contextlib import aclosing

import pytest

from adaptery.base_model import open_base
from adaptery.errors import DoesNotFit, EngineError
from adaptery.serving.engine import GenerationRequest, SamplingParams
from adaptery.serving.torch.engine import TorchEngine
from adaptery.serving.torch.runner import Runner
from tests.serving import models
from tests.serving.asking import ask, random_prompt, running, tokens

pytestmark = pytest.mark.anyio


async def test_a_long_prompt_does_not_stall_those_who_are_answering(base, config):
    async with running(base, config, step_tokens=8) as engine:
        order = []

        async def follow(name: str, prompt: list[int], count: int) -> None:
            request = GenerationRequest(tuple(prompt), SamplingParams(count, temperature=0))
            async for _ in engine.generate(request):
                order.append(name)

        first = asyncio.create_task(follow("short", [5, 6], 40))
        while not order:
            await asyncio.sleep(0.001)
        await follow("long", [7] * 200, 1)
        await first
    assert order.index("long") > 20  # 200 tokens at 7 a step beside the short one


async def test_a_seed_repeats_an_answer_whoever_else_is_in_the_batch(engine, adapters):
    await engine.load("wide", adapters["wide"])
    sampling = SamplingParams(25, temperature=1.0, top_p=0.95, seed=11)
    alone = tokens(await ask(engine, [4, 5, 6], sampling, "wide"))
    mates = [ask(engine, [i, i + 1], SamplingParams(30, temperature=1.5)) for i in range(5, 10)]
    _, *_, crowded = await asyncio.gather(*mates, ask(engine, [4, 5, 6], sampling, "wide"))
    assert tokens(crowded) == alone
    other = SamplingParams(25, temperature=1.0, top_p=0.95, seed=12)
    assert tokens(await ask(engine, [4, 5, 6], other, "wide")) != alone


async def test_an_answer_ends_at_the_end_token_which_has_no_text(tmp_path, config):
    directory = models.write_qwen2(tmp_path / "base")
    whole = models.truth(directory, None, [5], 9)
    model = models.load_base(directory)
    model.generation_config.eos_token_id = [0, whole[4]]
    model.save_pretrained(directory)
    end = whole.index(whole[4])
    async with running(open_base(str(directory)), config) as engine:
        *chunks, last = await ask(engine, [5], SamplingParams(9, temperature=0))
    assert tokens(chunks) == whole[:end]
    assert all(chunk.text and chunk.finish_reason is None for chunk in chunks)
    assert (last.token, last.text, last.finish_reason) == (whole[end], "", "stop")


async def test_a_stop_string_ends_the_answer_before_it(engine, base):
    whole = "".join(chunk.text for chunk in await ask(engine, [9, 8, 7]))
    stop = whole[7:10]
    chunks = await ask(engine, [9, 8, 7], SamplingParams(20, temperature=0, stop=("zzz", stop)))
    assert "".join(chunk.text for chunk in chunks) == whole[: whole.index(stop)]
    assert [chunk.finish_reason for chunk in chunks][-1] == "stop"


async def test_an_adapter_that_overflows_fails_its_own_request_only(
    base, config, tmp_path, base_directory
):
    async with running(base, config, max_sequences=4) as engine, asyncio.timeout(60):
        await check_overflow(engine, tmp_path, base_directory)


async def check_overflow(engine, tmp_path, base_directory):
    adapter = models.write_overflowing_adapter(tmp_path, base_directory)
    await engine.load("huge", adapter)
    rng = random.Random(2)
    prompts = [random_prompt(rng) for _ in range(4)]
    failing = asyncio.gather(
        *[ask(engine, prompt, adapter="huge") for prompt in prompts], return_exceptions=True
    )
    answers = await asyncio.gather(*[ask(engine, prompt) for prompt in prompts])
    errors = await failing
    assert all(isinstance(e, EngineError) and "not finite" in str(e) for e in errors)
    for _ in range(2):  # the second time in the slots that the failed ones had
        for prompt, answer in zip(prompts, answers, strict=True):
            assert tokens(answer) == models.truth(base_directory, None, prompt, 20)
        answers = await asyncio.gather(*[ask(engine, prompt) for prompt in prompts])


async def test_a_cancelled_request_gives_its_slot_to_the_next(base, config, monkeypatch):
    steps, run = [], Runner.run

    def count(self, pieces):
        steps.append(pieces[0].sequence)
        return run(self, pieces)

    monkeypatch.setattr(Runner, "run", count)
    async with running(base, config, max_sequences=1, max_context=512) as engine:
        long = GenerationRequest((5,), SamplingParams(500, temperature=0))
        async with aclosing(engine.generate(long)) as chunks:
            await anext(chunks)
        cancelled = steps[-1]
        assert len(await ask(engine, [6], SamplingParams(3, temperature=0))) == 3
    assert steps.count(cancelled) < 400
    assert steps[-1] is not cancelled


async def test_requests_beyond_the_slots_are_answered_in_order(base, config):
    async with running(base, config, max_sequences=2) as engine:
        done = []

        async def one(number: int) -> None:
            await ask(engine, [number + 5], SamplingParams(4, temperature=1.0, seed=number))
            done.append(number)

        await asyncio.gather(*[one(number) for number in range(8)])
    assert sorted(done) == list(range(8))
    assert [number // 2 for number in done] == [0, 0, 1, 1, 2, 2, 3, 3]


async def test_a_request_in_flight_keeps_its_version_and_unload_waits_for_it(
    engine, adapters, base_directory
):
    await engine.load("wide", adapters["wide"])
    request = GenerationRequest((9, 8, 7), SamplingParams(60, temperature=0), "wide")
    async with aclosing(engine.generate(request)) as chunks:
        begun = [await anext(chunks)]
        unloading = asyncio.create_task(engine.unload("wide"))
        await asyncio.sleep(0)
        assert "wide" not in engine.loaded()
        with pytest.raises(EngineError, match="not loaded"):
            await ask(engine, [5], adapter="wide")
        assert not unloading.done()
        begun += [chunk async for chunk in chunks]
    await unloading
    assert tokens(begun) == models.truth(base_directory, adapters["wide"], [9, 8, 7], 60)


async def test_a_version_loaded_again_answers_as_before(engine, adapters):
    await engine.load("wide", adapters["wide"])
    before = tokens(await ask(engine, [9, 8, 7], adapter="wide"))
    await engine.unload("wide")
    await engine.load("wide", adapters["wide"])
    assert tokens(await ask(engine, [9, 8, 7], adapter="wide")) == before


async def test_when_a_step_fails_all_requests_end_and_the_engine_is_not_healthy(
    engine, monkeypatch
):
    def fail(self, pieces):
        raise RuntimeError("device lost")

    assert engine.healthy
    monkeypatch.setattr(Runner, "run", fail)
    waiting = [ask(engine, [i]) for i in range(5, 15)]
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(error, EngineError) for error in errors)
    assert not engine.healthy
    with pytest.raises(EngineError, match="device lost"):
        await ask(engine, [5])


async def test_closing_ends_requests_in_flight_with_an_error(base, config):
    engine = TorchEngine(base, config, "thread")
    await engine.start()
    asking = asyncio.create_task(ask(engine, [5], SamplingParams(240, temperature=1.0, seed=1)))
    await asyncio.sleep(0.05)
    await engine.close()
    with pytest.raises(EngineError, match="stopped"):
        await asking
    assert not engine.healthy


async def test_more_than_the_context_is_refused(engine):
    with pytest.raises(DoesNotFit, match="256"):
        await ask(engine, [5] * 250, SamplingParams(7))
    assert len(await ask(engine, [5] * 250, SamplingParams(6, temperature=1.5, seed=1))) <= 6
