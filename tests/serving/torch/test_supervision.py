"""The engine's worker dies, fails, hangs or is flooded: nobody waits for ever; it comes back."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from time import monotonic

import httpx
import psutil
import pytest

from adaptery.errors import ConfigError, EngineError, NotReady, Overloaded
from adaptery.serving.engine import GenerationRequest, SamplingParams
from adaptery.serving.torch.engine import TorchEngine
from adaptery.serving.torch.process import Process, launch
from adaptery.serving.torch.runner import Runner
from tests.serving import models
from tests.serving.asking import ask, running, tokens
from tests.serving.running import running_server

pytestmark = pytest.mark.anyio
LONG = SamplingParams(250, temperature=0)


@pytest.fixture(scope="module")
async def distant(base, config) -> AsyncIterator[TorchEngine]:
    """An engine in a process of its own."""
    engine = TorchEngine(base, config, "process")
    await engine.start()
    yield engine
    await engine.close()


def process_of(engine: TorchEngine) -> int:
    host = engine._link.host
    assert isinstance(host, Process)
    return host.pid


async def healthy_again(engine: TorchEngine) -> None:
    async with asyncio.timeout(60):
        while not engine.healthy:
            await asyncio.sleep(0.02)


async def outcomes(*waiting) -> list[object]:
    """What became of them, within a second."""
    async with asyncio.timeout(1):
        return await asyncio.gather(*waiting, return_exceptions=True)


async def test_answers_of_another_process_are_the_same(distant, adapters, base_directory):
    await distant.load("wide", adapters["wide"])
    alone, adapted = await asyncio.gather(
        ask(distant, [9, 8, 7]), ask(distant, [9, 8, 7], adapter="wide")
    )
    assert tokens(alone) == models.truth(base_directory, None, [9, 8, 7], 20)
    assert tokens(adapted) == models.truth(base_directory, adapters["wide"], [9, 8, 7], 20)
    assert distant.max_context == 256
    assert distant.state["dtype"] == "float32"
    assert distant.state["threads"] == 1
    assert distant.state["kv_tokens"] >= 6 * 256


async def test_a_killed_worker_is_an_error_at_once_and_then_a_new_worker(
    distant, adapters, base_directory, tmp_path
):
    await healthy_again(distant)
    before = distant.restarts
    await distant.load("wide", adapters["wide"])
    await distant.pin(frozenset(["wide"]))
    os.mkfifo(tmp_path / "adapter_config.json")  # its reader waits for ever
    loading = asyncio.create_task(distant.load("stuck", tmp_path))
    asking = [asyncio.create_task(ask(distant, [i, 6], LONG)) for i in range(5, 15)]
    await asyncio.sleep(0.05)
    os.kill(process_of(distant), signal.SIGKILL)
    *errors, unloaded = await outcomes(*asking, loading)
    assert all(isinstance(e, EngineError) and "SIGKILL" in str(e) for e in errors)
    assert isinstance(unloaded, EngineError)
    assert not distant.healthy
    with pytest.raises(NotReady, match="SIGKILL"):
        await ask(distant, [5])
    await healthy_again(distant)
    assert distant.restarts == before + 1
    answer = tokens(await ask(distant, [9, 8, 7], adapter="wide"))
    assert answer == models.truth(base_directory, adapters["wide"], [9, 8, 7], 20)


async def test_signals_for_the_server_do_not_end_its_worker(distant):
    await healthy_again(distant)
    before = process_of(distant)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(before, number)
    assert len(await ask(distant, [5, 6])) == 20
    assert process_of(distant) == before


async def test_a_worker_that_stands_still_stalls_nobody_here(distant):
    await healthy_again(distant)
    asking = []
    os.kill(process_of(distant), signal.SIGSTOP)
    try:
        begin = monotonic()
        for _ in range(400):  # more than the sockets between us can hold
            prompt = [5] * 200
            asking.append(asyncio.create_task(ask(distant, prompt, SamplingParams(1))))
        await asyncio.sleep(0.05)
        assert monotonic() - begin < 2
    finally:
        os.kill(process_of(distant), signal.SIGCONT)
    async with asyncio.timeout(60):
        answers = await asyncio.gather(*asking)
    assert [len(answer) for answer in answers] == [1] * 400


async def test_errors_of_the_start_arrive_as_what_they_are(base, config):
    engine = TorchEngine(base, config.model_copy(update={"max_context": 4096}), "process")
    with pytest.raises(ConfigError, match="512"):
        await engine.start()
    assert not engine.healthy


async def test_an_abandoned_worker_ends_even_where_the_system_does_not_see_to_it():
    host, ours = launch("process")
    assert isinstance(host, Process)
    ours.close()
    async with asyncio.timeout(10):
        await asyncio.to_thread(psutil.Process(host.pid).wait)


async def test_a_step_that_fails_ends_all_requests_and_the_engine_starts_again(
    base, config, monkeypatch
):
    run, failures = Runner.run, iter([RuntimeError("device lost")])

    def fail_once(self, pieces):
        for error in failures:
            raise error
        return run(self, pieces)

    engine = TorchEngine(base, config, "thread", restarts=(0.1,))
    await engine.start()
    monkeypatch.setattr(Runner, "run", fail_once)
    asking = [asyncio.create_task(ask(engine, [i])) for i in range(5, 15)]
    errors = await outcomes(*asking)
    assert all(isinstance(e, EngineError) and "device lost" in str(e) for e in errors)
    await healthy_again(engine)
    assert len(await ask(engine, [5])) == 20
    assert engine.restarts == 1
    await engine.close()


async def test_an_engine_that_always_fails_is_given_up(base, config, monkeypatch, caplog):
    engine = TorchEngine(base, config, "thread", restarts=(0.0, 0.01))
    await engine.start()

    def fail(self, pieces):
        raise RuntimeError("device lost")

    monkeypatch.setattr(Runner, "run", fail)
    await outcomes(ask(engine, [5]))
    async with asyncio.timeout(10):
        while "is not started again" not in caplog.text:
            await asyncio.sleep(0.01)
    assert "3 times in a row" in caplog.text
    with pytest.raises(NotReady, match="device lost"):
        await ask(engine, [5])
    await engine.close()


async def test_a_request_that_cannot_even_begin_fails_alone(engine):
    others = [asyncio.create_task(ask(engine, [i, 6])) for i in range(5, 9)]
    with pytest.raises(EngineError):
        await ask(engine, [5], SamplingParams(5, temperature=1.0, stop=(7,)))  # no text
    assert [len(answer) for answer in await asyncio.gather(*others)] == [20] * 4
    assert engine.healthy


async def test_more_requests_than_may_wait_are_refused(base, config, registry):
    config = config.model_copy(update={"max_sequences": 1, "max_waiting": 2})
    async with running(base, config) as engine:
        asking = [asyncio.create_task(ask(engine, [i], LONG)) for i in range(5, 8)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="limit"):
            await ask(engine, [9])
        await asyncio.gather(*asking)
        assert len(await ask(engine, [9])) == 20
    with running_server(TorchEngine(base, config, "thread"), registry, config) as address:
        async with httpx.AsyncClient(base_url=address) as http:
            body = {"model": "tiny", "prompt": "b", "max_tokens": 100}
            answers = await asyncio.gather(
                *[http.post("/v1/completions", json=body) for _ in range(8)]
            )
    refused = [answer.json()["error"] for answer in answers if answer.status_code == 503]
    assert {error["code"] for error in refused} == {"overloaded"}
    assert 200 in {answer.status_code for answer in answers}


async def test_who_does_not_read_an_answer_keeps_nobody_waiting(engine):
    request = GenerationRequest((5,), LONG)
    async with aclosing(engine.generate(request)) as chunks:
        await anext(chunks)
        assert len(await ask(engine, [6], LONG)) == 250
        assert len([chunk async for chunk in chunks]) == 249


async def test_metrics_and_readiness_tell_of_the_engine(base, config, registry):
    engine = TorchEngine(base, config, "thread")
    with running_server(engine, registry, config) as address:
        state = httpx.get(f"{address}/ready").json()["engine"]
        text = httpx.get(f"{address}/metrics").text
    assert state["max_context"] == 256
    assert state["kv_bytes"] > 0
    assert f"adaptery_engine_kv_bytes {float(state['kv_bytes'])}" in text
    assert 'dtype="float32"' in text
    assert "adaptery_engine_restarts_total 0.0" in text
    assert "adaptery_ready 1.0" in text


@pytest.mark.parametrize("isolation", ["process", "thread"])
async def test_a_start_that_is_given_up_leaves_nothing_behind(base, config, isolation):
    before = psutil.Process().children()
    engine = TorchEngine(base, config, isolation)
    starting = asyncio.create_task(engine.start())
    await asyncio.sleep(0)
    starting.cancel()
    async with asyncio.timeout(20):
        with pytest.raises(asyncio.CancelledError):
            await starting
        await engine.close()
    assert not engine.healthy
    assert psutil.Process().children() == before
