"""A process that serves: the port first, then the model, then requests until it is told to stop."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

from adaptery.errors import AddressInUse
from adaptery.serving.config import ServeConfig
from adaptery.serving.engine import Engine
from adaptery.serving.router import Router
from adaptery.types import VersionSource


def serve(
    config: ServeConfig,
    open_registry: Callable[[], VersionSource],
    make_engine: Callable[[], Engine],
    router: Router | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; requests in flight are finished first.

    The engine is made when the port is ours: its base may have to be downloaded.

    Raises:
        AddressInUse: the port is taken; nothing was loaded.
        AdapteryError: the engine could not start, or there is no such registry.
    """
    with bind(config.host, config.port) as listener:
        asyncio.run(serve_on(listener, config, open_registry, make_engine(), router))


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
    open_registry: Callable[[], VersionSource],
    engine: Engine,
    router: Router | None = None,
) -> None:
    """Serve on a socket until told to stop. `/health` answers while the model is loading."""
    tasks = [asyncio.create_task(engine.start())]
    try:
        await asyncio.sleep(0)  # the engine begins; the rest is imported beside it
        from adaptery.serving.api import create_app
        from adaptery.serving.server import Server, announce

        app = create_app(engine, open_registry(), config, router)
        tasks.append(asyncio.create_task(after(tasks[0], app.state.service.pins.start)))
        async with Server(app, config).running(listener) as serving:
            await asyncio.wait({serving, tasks[1]}, return_when=asyncio.FIRST_COMPLETED)
            if tasks[1].done():
                tasks[1].result()
                announce(listener, config, engine)
            await serving
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await engine.close()


async def after(first: Awaitable[None], then: Callable[[], Awaitable[None]]) -> None:
    """Both, one after the other."""
    await first
    await then()
