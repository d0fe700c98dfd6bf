"""Which versions the engine holds: loaded when first asked for, the least recently used goes.

A version is proven by its probe before it first answers. One that fails is refused for as long as
the process runs; nothing else ever answers in its place.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from adaptery.errors import AdapteryError, InvalidAdapter, ProbeMismatch
from adaptery.serving.engine import Engine
from adaptery.serving.probe import replay
from adaptery.types import Version, VersionSource

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Resident:
    """A version in the engine, or on its way there; `directory` holds its files."""

    version: Version
    arrival: "asyncio.Task[Path]"
    users: int = field(default=0)

    @property
    def idle(self) -> bool:
        """Whether it can go."""
        return not self.users and self.arrival.done()


class Residency:
    """Keeps at most `limit` versions in the engine. Those that are answering stay."""

    def __init__(self, engine: Engine, source: VersionSource, limit: int) -> None:
        self._engine = engine
        self._source = source
        self._limit = limit
        self._residents: OrderedDict[str, Resident] = OrderedDict()  # least recently used first
        self._refused: dict[str, str] = {}
        self._proven: set[str] = set()
        self._moving_in = asyncio.Lock()
        self._changed = asyncio.Event()

    def versions(self) -> list[Version]:
        """The versions that are loaded or being loaded, least recently used first."""
        return [resident.version for resident in self._residents.values()]

    @asynccontextmanager
    async def hold(self, version: Version) -> AsyncIterator[Path]:
        """Keep `version` in the engine meanwhile; gives the directory of its files.

        Raises:
            InvalidAdapter: it cannot be applied in full on this base.
            ProbeMismatch: it does not answer as it was trained to.
            AdapteryError: its files could not be had, or the engine failed.
        """
        resident = await self._enter(version)
        try:
            yield await asyncio.shield(resident.arrival)
        finally:
            resident.users -= 1
            self._changed.set()

    async def _enter(self, version: Version) -> Resident:
        """The version's resident, with one user more."""
        if version.digest not in self._residents:
            async with self._moving_in:
                if version.digest not in self._residents:
                    await self._make_room()
                    arrival = asyncio.create_task(self._load(version))
                    self._residents[version.digest] = Resident(version, arrival)
                    self._residents[version.digest].users += 1
                    return self._residents[version.digest]
        resident = self._residents[version.digest]
        resident.users += 1
        self._residents.move_to_end(version.digest)
        return resident

    async def _make_room(self) -> None:
        """Let the least recently used idle version go if there is no room; wait for one if need be."""
        while len(self._residents) >= self._limit:
            self._changed.clear()
            idle = next((r for r in self._residents.values() if r.idle), None)
            if idle is None:
                await self._changed.wait()
                continue
            del self._residents[idle.version.digest]
            await self._engine.unload(idle.version.engine_name)

    async def _load(self, version: Version) -> Path:
        """Bring the version into the engine and prove it. Forgets it again if that fails."""
        try:
            if version.digest in self._refused:
                raise ProbeMismatch(self._refused[version.digest])
            directory = await asyncio.to_thread(self._source.materialize, version)
            await self._engine.load(version.engine_name, directory)
            await self._prove(version)
            return directory
        except BaseException as error:
            if isinstance(error, InvalidAdapter | ProbeMismatch):
                self._refused[version.digest] = str(error)
            del self._residents[version.digest]
            await self._engine.unload(version.engine_name)
            self._changed.set()
            raise

    async def _prove(self, version: Version) -> None:
        if version.digest not in self._proven:
            await replay(self._engine, version)
            self._proven.add(version.digest)
            log.info("%s answers here as it was trained to.", version)
