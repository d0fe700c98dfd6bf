"""The HTTP server: how it hears that it is to stop, and what it says when it is there."""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import uvicorn
from starlette.types import ASGIApp

from adaptery.serving.config import ServeConfig
from adaptery.serving.engine import Engine

log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """Stops in order at the first signal and at once at the second, and then returns.

    uvicorn's own would raise the signal again after its shutdown, and so end the process before
    the engine is closed.
    """

    def __init__(self, app: ASGIApp, config: ServeConfig) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=config.drain_seconds,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        with suppress(NotImplementedError, RuntimeError, ValueError):  # not in the main thread
            for number in signals:
                loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    @asynccontextmanager
    async def running(self, listener: socket.socket) -> "AsyncIterator[asyncio.Task[None]]":
        """Serve on that socket; ends in order when it is left."""
        serving = asyncio.create_task(self.serve(sockets=[listener]))
        try:
            yield serving
        finally:
            self.should_exit = True
            await asyncio.gather(serving, return_exceptions=True)

    def stop(self) -> None:
        """Finish what is in flight; when asked again, do not."""
        self.force_exit = self.should_exit
        self.should_exit = True


def announce(listener: socket.socket, config: ServeConfig, engine: Engine) -> None:
    """Say where the server is and what it runs with, for people and for scripts that wait."""
    host, port = listener.getsockname()[:2]
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    name = config.served_name or config.base
    facts = ", ".join(f"{key} {value}" for key, value in engine.state.items())
    print(f"The {config.engine} engine runs with {facts}.", file=sys.stderr)
    print(f"Serving {name} and its adapters at http://{where}/v1", file=sys.stderr, flush=True)
    if not config.api_keys and host not in ("127.0.0.1", "::1"):
        log.warning("Everyone who reaches %s can ask: there is no --api-key.", where)
