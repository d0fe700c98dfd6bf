"""Which versions the engine knows: told of when first asked for, the least recently used goes.

What it keeps in memory of them is the engine's own business. Here it is about their files, which
are leased as long as the engine may read them, and about their probe: a version is proven before
it first answers. One that fails is refused for as long as the process runs; nothing else ever
answers in its place. No version waits for another's files.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from adaptery.errors import InvalidAdapter, ProbeMismatch
from adaptery.serving.engine import Engine
from adaptery.serving.leasing import lease
from adaptery.serving.probe import replay
from adaptery.serving.proofs import Proofs
from adaptery.types import Version, VersionSource

log = logging.getLogger(__name__)

Refusal = InvalidAdapter | ProbeMismatch  # will be the same however often it is tried

KNOWN = 4096  # versions; each keeps its files from collection
FETCHERS = 4  # versions whose files are fetched and verified at the same time
PROBES = 2  # replayed at the same time: those who answer already should hardly notice


@dataclass(eq=False)
class Resident:
    """A version that the engine knows, or will; `arrival` gives the directory of its files."""

    version: Version
    arrival: "asyncio.Task[Path]"
    users: int = 0
    lease: "asyncio.Task[None] | None" = None

    @property
    def idle(self) -> bool:
        """Whether it can go."""
        return not self.users and self.arrival.done()


class Residency:
    """Lets the engine know `limit` versions, and more only as long as all of them are asked for."""

    def __init__(
        self,
        engine: Engine,
        source: VersionSource,
        limit: int = KNOWN,
        proofs: Proofs | None = None,
    ) -> None:
        self._engine = engine
        self._source = source
        self._limit = limit
        self._proofs = proofs
        self._residents: OrderedDict[str, Resident] = OrderedDict()  # by engine name, oldest first
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._refused: dict[str, Refusal] = {}  # by digest
        self._proven: set[str] = set()  # digests
        self._probing = asyncio.Semaphore(PROBES)
        self._fetchers = ThreadPoolExecutor(FETCHERS, thread_name_prefix="adaptery-fetch")

    def versions(self) -> list[Version]:
        """The versions that are known or on their way, least recently used first."""
        return [resident.version for resident in self._residents.values()]

    @asynccontextmanager
    async def hold(self, version: Version) -> AsyncIterator[Path]:
        """Let the engine know `version` meanwhile; gives the directory of its files.

        Raises:
            InvalidAdapter: it cannot be applied in full on this base.
            ProbeMismatch: it does not answer as it was trained to.
            AdapteryError: its files could not be had, or the engine failed.
        """
        resident = self._enter(version)
        try:
            yield await asyncio.shield(resident.arrival)
        finally:
            resident.users -= 1
            self._make_room()

    def _enter(self, version: Version) -> Resident:
        """The version's resident, with one user more; loading begins if there is none."""
        if refusal := self._refused.get(version.digest):
            raise type(refusal)(str(refusal))
        name = version.engine_name
        if name not in self._residents:
            arrival = asyncio.create_task(self._load(version))
            self._residents[name] = Resident(version, arrival)
        resident = self._residents[name]
        resident.users += 1
        self._residents.move_to_end(name)
        self._make_room()
        return resident

    def _make_room(self) -> None:
        """Let the least recently used idle versions go while there are too many."""
        excess = len(self._residents) - self._limit
        if excess > 0:
            idle = [name for name, resident in self._residents.items() if resident.idle]
            for name in idle[:excess]:
                resident = self._residents.pop(name)
                self._leaving[name] = asyncio.create_task(self._leave(resident))

    async def _load(self, version: Version) -> Path:
        """Let the engine know the version, and prove it. Forgets it again if that fails."""
        name = version.engine_name
        resident = self._residents[name]
        try:
            if leaving := self._leaving.get(name):
                await leaving
            resident.lease = await lease(self._source, version)
            loop = asyncio.get_running_loop()
            directory = await loop.run_in_executor(
                self._fetchers, self._source.materialize, version
            )
            await self._engine.load(name, directory)
            await self._prove(version)
            return directory
        except BaseException as error:
            if isinstance(error, Refusal):
                self._refused[version.digest] = error
            await self._leave(resident)
            del self._residents[name]
            raise

    async def _leave(self, resident: Resident) -> None:
        """The engine forgets the version; then its files may go too."""
        try:
            await self._engine.unload(resident.version.engine_name)
        finally:
            self._leaving.pop(resident.version.engine_name, None)
            if resident.lease is not None:
                resident.lease.cancel()

    async def _prove(self, version: Version) -> None:
        """Replay the probe, unless the version is known to have passed it."""
        digest = version.digest
        if digest in self._proven:
            return
        if self._proofs is None or not await asyncio.to_thread(self._proofs.__contains__, digest):
            async with self._probing:
                await replay(self._engine, version)
            log.info("%s answers here as it was trained to.", version)
            if self._proofs is not None:
                await asyncio.to_thread(self._proofs.add, digest)
        self._proven.add(digest)
