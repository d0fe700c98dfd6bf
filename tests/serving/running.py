"""A server on a loopback port, in a thread of its own."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import openai
import uvicorn

from adaptery.serving.api import create_app
from adaptery.serving.config import ServeConfig
from adaptery.serving.engine import Engine
from adaptery.serving.router import Router
from adaptery.types import VersionSource


@contextmanager
def running_server(
    engine: Engine, registry: VersionSource, config: ServeConfig, router: Router | None = None
) -> Iterator[str]:
    """Serve meanwhile; gives the address."""
    app = create_app(engine, registry, config, router)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        async def serve() -> None:
            await engine.start()
            await app.state.service.pins.start()
            await server.serve(sockets=[listener])
            await engine.close()

        thread = threading.Thread(target=asyncio.run, args=[serve()])
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def client(address: str, key: str = "none") -> openai.OpenAI:
    """The official client."""
    return openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0, timeout=30)
