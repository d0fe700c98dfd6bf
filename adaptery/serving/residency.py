"""Which versions the engine holds: loaded when first asked for, the least recently used goes.

A version is proven by its probe before it first answers. One that fails is refused for as long as
the process runs; nothing else ever answers in its place.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from adaptery.errors import InvalidAdapter, ProbeMismatch
from adaptery.serving.engine import Engine
from adaptery.serving.leasing import lease
from adaptery.serving.probe import replay
from adaptery.types import Version, VersionSource

log = logging.getLogger(__name__)

Refusal = InvalidAdapter | ProbeMismatch  # will be the same however often it is tried


@dataclass(eq=False)
class Resident:
    """A version in the engine, or on its way there; `arrival` gives the directory of its files."""

    version: Version
    arrival: "asyncio.Task[Path]"
    users: int = 0
    lease: "asyncio.Task[None] | None" = None

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
        self._residents: OrderedDict[str, Resident] = OrderedDict()  # by engine name, oldest first
        self._refused: dict[str, Refusal] = {}  # by digest
        self._proven: set[str] = set()  # digests
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
        """The version's resident, with one user more; loading begins if there is none."""
        if refusal := self._refused.get(version.digest):
            raise type(refusal)(str(refusal))
        name = version.engine_name
        if name not in self._residents:
            async with self._moving_in:
                if name not in self._residents:
                    await self._make_room()
                    arrival = asyncio.create_task(self._load(version))
                    self._residents[name] = Resident(version, arrival)
                return self._use(name)
        return self._use(name)

    def _use(self, name: str) -> Resident:
        resident = self._residents[name]
        resident.users += 1
        self._residents.move_to_end(name)
        return resident

    async def _make_room(self) -> None:
        """Let the least recently used idle version go if there is no room, or wait for one."""
        while len(self._residents) >= self._limit:
            self._changed.clear()
            idle = next((r for r in self._residents.values() if r.idle), None)
            if idle is None:
                await self._changed.wait()
                continue
            await self._leave(self._residents.pop(idle.version.engine_name))

    async def _load(self, version: Version) -> Path:
        """Bring the version into the engine and prove it. Forgets it again if that fails."""
        try:
            resident = self._residents[version.engine_name]
            resident.lease = await lease(self._source, version)
            directory = await asyncio.to_thread(self._source.materialize, version)
            await self._engine.load(version.engine_name, directory)
            await self._prove(version)
            return directory
        except BaseException as error:
            if isinstance(error, Refusal):
                self._refused[version.digest] = error
            await self._leave(self._residents[version.engine_name])
            del self._residents[version.engine_name]
            self._changed.set()
            raise

    async def _leave(self, resident: Resident) -> None:
        """The engine forgets the version; then its files may go too."""
        await self._engine.unload(resident.version.engine_name)
        if resident.lease is not None:
            resident.lease.cancel()

    async def _prove(self, version: Version) -> None:
        if version.digest not in self._proven:
            await replay(self._engine, version)
            self._proven.add(version.digest)
            log.info("%s answers here as it was trained to.", version)
