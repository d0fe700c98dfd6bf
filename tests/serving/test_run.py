"""The serving process: the port first, a word when it is ready, an orderly end."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep

import httpx
import openai
import psutil
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
    engine = TorchEngine(base, config, "thread")
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
    engine = TorchEngine(base, config.model_copy(update={"max_context": 4096}), "thread")
    with bind("127.0.0.1", 0) as listener, pytest.raises(ConfigError, match="512"):
        await serve_on(listener, config, lambda: registry, engine)


@pytest.fixture
def command(base_directory, tmp_path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`adapters serve` in a process group of its own, and its address, once it answers."""
    arguments = ["--base", base_directory, "--port", "0", "--registry", tmp_path, "--threads", "1"]
    serving = subprocess.Popen(
        [sys.executable, "-m", "adaptery.cli", "serve", *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert serving.stderr is not None
    for line in serving.stderr:
        if line.startswith("Serving"):
            break
    yield serving, line.split()[-1]
    with suppress(ProcessLookupError):
        os.killpg(serving.pid, signal.SIGKILL)
    serving.communicate()


def test_ctrl_c_in_a_terminal_lets_requests_finish(command):
    serving, address = command
    (worker,) = psutil.Process(serving.pid).children()
    with openai.OpenAI(base_url=address, api_key="-") as ask:
        (model,) = ask.models.list().data
        stream = ask.completions.create(
            model=model.id, prompt="b", max_tokens=400, temperature=0, stream=True
        )
        chunks = [next(stream)]
        os.killpg(serving.pid, signal.SIGINT)  # as a terminal does, to the worker too
        chunks += stream
    assert chunks[-1].choices[0].finish_reason == "length"
    assert serving.wait(10) == 0
    assert not worker.is_running()


def test_the_server_does_without_torch_and_killed_takes_its_worker_along(command):
    serving, _ = command
    if (mapped := Path(f"/proc/{serving.pid}/maps")).exists():
        assert "libtorch" not in mapped.read_text()
    (worker,) = psutil.Process(serving.pid).children()
    serving.kill()
    deadline = monotonic() + 5
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
        assert monotonic() < deadline
        sleep(0.01)
