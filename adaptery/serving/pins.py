"""Models that are at hand from the start: their versions are known and stay in memory.

A pin names a model, not a version: where its alias moves, so does the pin, with the next request.
"""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import AsyncExitStack

from adaptery.errors import AdapteryError, UsageError
from adaptery.serving.engine import Engine
from adaptery.serving.residency import Residency
from adaptery.serving.resolver import Resolver
from adaptery.types import Version

log = logging.getLogger(__name__)


class Pins:
    """Holds the versions that `models` mean, one for each."""

    def __init__(
        self, models: Iterable[str], resolver: Resolver, residency: Residency, engine: Engine
    ) -> None:
        self._models = tuple(dict.fromkeys(models))
        self._resolver = resolver
        self._residency = residency
        self._engine = engine
        self._held: dict[str, tuple[Version, AsyncExitStack]] = {}
        self._moves: dict[str, asyncio.Task[None]] = {}
        self.ready = not self._models

    async def start(self) -> None:
        """Load them all.

        Raises:
            UsageError: one is the base itself.
            AdapteryError: one is no model, or cannot be served; the message says why.
        """
        for model in self._models:
            version = await self._resolver.resolve(model)
            if version is None:
                raise UsageError(f"--pin {model} is the base, which always stays in memory.")
            await self._hold(model, version)
        self.ready = True

    def saw(self, model: str, version: Version | None) -> None:
        """Note that a request for `model` got `version`; its pin follows if that is a new one."""
        if version is None or model not in self._held or model in self._moves:
            return
        if self._held[model][0] != version:
            self._moves[model] = asyncio.create_task(self._move(model, version))

    async def _move(self, model: str, version: Version) -> None:
        try:
            await self._hold(model, version)
        except AdapteryError as error:
            log.warning("%s cannot be pinned as %s: %s", version, model, error)
        finally:
            del self._moves[model]

    async def _hold(self, model: str, version: Version) -> None:
        """Hold `version` for `model` instead of what is held for it."""
        holding = AsyncExitStack()
        await holding.enter_async_context(self._residency.hold(version))
        before = self._held.get(model)
        self._held[model] = version, holding
        names = frozenset(held.engine_name for held, _ in self._held.values())
        await self._engine.pin(names)
        if before is not None:
            await before[1].aclose()
