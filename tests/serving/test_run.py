"""The serving process: the port first, a word when it is ready, an orderly end."""

import asyncio
import os
import signal
import socket

import httpx
import openai
import pytest

from adaptery.errors import AddressInUse, ConfigError
from adaptery.serving.run import bind, serve, serve_on
from adaptery.serving.torch.engine import TorchEngine

pytestmark = pytest.mark.anyio


def test_a_port_in_use_is_refused_before_the_model_is_loaded(base, config, registry):
    engine = TorchEngine(base, config, "thread")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressInUse, match=str(port)):
            serve(config.model_copy(update={"port": port}), lambda: registry, lambda: engine)
    assert not engine.healthy


async def ready(address: str) -> None:
    async with httpx.AsyncClient(base_url=address) as http, asyncio.timeout(20):
        while (await http.get("/ready")).status_code != 200:
            await asyncio.sleep(0.02)


async def test_a_signal_lets_requests_finish_and_then_ends_the_server(
    base, config, registry, capsys
):
    engine = TorchEngine(base, config)
    with bind("127.0.0.1", 0) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        serving = asyncio.create_task(serve_on(listener, config, lambda: registry, engine))
        await ready(address)
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="-") as ask:
            stream = await ask.completions.create(
                model="support", prompt="b", max_tokens=200, seed=4, stream=True
            )
            chunks = [await anext(stream)]
            os.kill(os.getpid(), signal.SIGTERM)
            chunks += [chunk async for chunk in stream]
    await serving
    assert chunks[-1].choices[0].finish_reason
    assert not engine.healthy
    assert f"Serving tiny and its adapters at {address}/v1" in capsys.readouterr().err


async def test_an_engine_that_cannot_start_ends_the_server_with_its_error(base, config, registry):
    engine = TorchEngine(base, config.model_copy(update={"max_context": 4096}))
    with bind("127.0.0.1", 0) as listener, pytest.raises(ConfigError, match="512"):
        await serve_on(listener, config, lambda: registry, engine)
