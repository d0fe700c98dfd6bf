"""A process that serves: the port first, then the model, then requests until it is told to stop."""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import uvicorn

from adaptery.errors import AddressInUse
from adaptery.serving.api import create_app
from adaptery.serving.config import ServeConfig
from adaptery.serving.engine import Engine
from adaptery.serving.router import Router
from adaptery.types import VersionSource

log = logging.getLogger(__name__)


def serve(
    config: ServeConfig,
    registry: VersionSource,
    make_engine: Callable[[], Engine],
    router: Router | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; requests in flight are finished first.

    The engine is made when the port is ours: its base may have to be downloaded.

    Raises:
        AddressInUse: the port is taken; nothing was loaded.
        AdapteryError: the engine could not start.
    """
    with bind(config.host, config.port) as listener:
        asyncio.run(serve_on(listener, config, registry, make_engine(), router))


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises `AddressInUse`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise AddressInUse(
            f"{host}:{port} cannot be used: {error.strerror or error}. Choose another --port "
            "(0 takes a free one) or --host."
        ) from error


async def serve_on(
    listener: socket.socket,
    config: ServeConfig,
    registry: VersionSource,
    engine: Engine,
    router: Router | None = None,
) -> None:
    """Serve on a socket until told to stop. `/health` answers while the model is loading."""
    server = Server(
        uvicorn.Config(
            create_app(engine, registry, config, router),
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=config.drain_seconds,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    starting = asyncio.create_task(engine.start())
    try:
        await asyncio.wait({serving, starting}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            announce(listener, config)
        await serving
    finally:
        server.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)
        await asyncio.gather(starting, return_exceptions=True)
        await engine.close()


def announce(listener: socket.socket, config: ServeConfig) -> None:
    """Say where the server is, for people and for scripts that wait for it."""
    host, port = listener.getsockname()[:2]
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    name = config.served_name or config.base
    print(f"Serving {name} and its adapters at http://{where}/v1", file=sys.stderr, flush=True)
    if not config.api_keys and host not in ("127.0.0.1", "::1"):
        log.warning("Everyone who reaches %s can ask: there is no --api-key.", where)


class Server(uvicorn.Server):
    """Stops in order at the first signal and at once at the second, and then returns.

    uvicorn's own would raise the signal again after its shutdown, and so end the process before
    the engine is closed.
    """

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

    def stop(self) -> None:
        """Finish what is in flight; when asked again, do not."""
        self.force_exit = self.should_exit
        self.should_exit = True
