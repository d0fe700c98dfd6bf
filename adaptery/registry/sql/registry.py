"""A registry of a SQL catalogue and a store of blobs: what `local.py` and `team.py` share.

Publishing keeps every file first and then commits one transaction; that commit is the publish.
Killed before it, a process leaves files that nothing refers to, and no version. Collection takes
files only inside a transaction that keeps new versions out, so once a publish has written its
version it looks whether its files are still there, and keeps again what was taken meanwhile.
"""

import time
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

from sqlalchemy import func, select

from adaptery.errors import RegistryError
from adaptery.registry.files.base import Blobs, Stored
from adaptery.registry.files.blobs import BlobStore
from adaptery.registry.line import Line
from adaptery.registry.line_registry import LineRegistry
from adaptery.registry.listing import Listed, Query
from adaptery.registry.reports import Finding, Leftovers, RegistryInfo
from adaptery.registry.sql.catalogue import Catalogue
from adaptery.registry.sql.database import Database
from adaptery.registry.sql.revisions import require_head
from adaptery.registry.sql.schema import adapters, aliases, events, versions
from adaptery.registry.steps import Decide
from adaptery.types import (
    AdapterPackage,
    AdapterRef,
    Alias,
    Event,
    FileEntry,
    LifecycleHooks,
    Version,
)

_BATCH = 100  # blobs that collection looks at in one transaction


class SqlRegistry(LineRegistry):
    """Versions in a catalogue, files in `blobs`, and directories of files in `cache`.

    `blobs` and `cache` are the same where blobs are kept in a directory of this machine.
    """

    def __init__(
        self, url: str, blobs: Blobs, cache: BlobStore, hooks: LifecycleHooks | None
    ) -> None:
        super().__init__(url, hooks)
        self._blobs = blobs
        self._cache = cache
        self._opened: Catalogue | None = None

    @abstractmethod
    def _database(self) -> Database | None:
        """The database, whatever its schema; None if nobody has made it yet."""

    @abstractmethod
    def _make(self) -> bool:
        """Make an empty catalogue, if there is none. Returns whether it made one."""

    def init(self) -> bool:
        made = self._make()
        self._made_catalogue()
        return made

    def migrate(self) -> str | None:
        database = self._database()
        if database is None:
            raise RegistryError(
                f"There is no registry at {self.url}. `adapters registry init` makes one."
            )
        return database.migrate()

    def info(self) -> RegistryInfo:
        database, catalogue = self._database(), self._catalogue()
        blobs = list(self._blobs.stored())
        return RegistryInfo(
            url=self.url,
            backend=self.backend,
            blobs=len(blobs),
            bytes=sum(blob.size for blob in blobs),
            revision=database.revision() if database else None,
            **(_counts(database) if database and catalogue else {}),
        )

    def resolve(self, ref: AdapterRef) -> Version:
        catalogue = self._catalogue()
        version = catalogue.resolve(ref) if catalogue else None
        # The long way finds nothing either, but says what there is.
        return version or super().resolve(ref)

    def materialize(self, version: Version) -> Path:
        return self._cache.checkout(version.digest, version.manifest.files)

    def lease(self, version: Version, holder: str, seconds: float) -> None:
        self._cache.leases.take(version.digest, holder, seconds)

    def release(self, version: Version, holder: str) -> None:
        self._cache.leases.drop(version.digest, holder)

    def versions(self, name: str | None = None) -> Sequence[Version]:
        catalogue = self._catalogue()
        return catalogue.versions(name) if catalogue else ()

    def newest(self, query: Query | None = None) -> Sequence[Listed]:
        catalogue = self._catalogue()
        return catalogue.newest(query or Query()) if catalogue else ()

    def aliases(self, name: str | None = None) -> Sequence[Alias]:
        catalogue = self._catalogue()
        return catalogue.aliases(name) if catalogue else ()

    def gc(self, *, grace: float = 86400.0, dry_run: bool = False) -> Leftovers:
        swept = self._sweep(grace, dry_run)
        catalogue = self._catalogue()
        old = [b for b in self._blobs.stored() if b.modified <= time.time() - grace]
        for start in range(0, len(old) if catalogue else 0, _BATCH):
            swept += self._collect(self._made_catalogue(), old[start : start + _BATCH], dry_run)
        return swept

    def _sweep(self, grace: float, dry_run: bool) -> Leftovers:
        """Take away what is out of use beside the blobs."""
        return self._cache.sweep(grace, dry_run=dry_run)

    def _collect(self, catalogue: Catalogue, blobs: Sequence[Stored], dry_run: bool) -> Leftovers:
        swept = Leftovers()
        with catalogue.collecting([blob.digest for blob in blobs]) as orphans:
            for blob in blobs:
                if blob.digest in orphans:
                    swept += Leftovers(blobs=1, bytes=blob.size)
                    if not dry_run:
                        self._blobs.remove(blob.digest)
        return swept

    def _examine(self, repair: bool) -> Iterable[Finding]:
        catalogue = self._catalogue()
        return catalogue.check(repair=repair) if catalogue else ()

    def _set_aside(self, version: Version, file: FileEntry) -> str:
        self._cache.undo_checkout(version.digest)
        kept = self._blobs.set_aside(file.sha256)
        return f"Moved to {kept}; publish or pull {version} again to bring it back."

    def _rehash(self, version: Version, file: FileEntry) -> str | None:
        return self._blobs.rehash(file.sha256)

    def _forget(self) -> None:
        if catalogue := self._catalogue():
            catalogue.forget()

    def _names(self) -> Sequence[str]:
        catalogue = self._catalogue()
        return catalogue.names() if catalogue else ()

    def _line(self, name: str) -> Line:
        catalogue = self._catalogue()
        return catalogue.line(name) if catalogue else Line(name)

    def _version(self, line: Line, number: int) -> Version:
        return self._made_catalogue().version(line.name, number)

    def _commit(
        self, name: str, decide: Decide, package: AdapterPackage | None = None
    ) -> Event | None:
        catalogue = self._made_catalogue()  # first: where none can be, no file is kept either
        if package is None:
            return catalogue.commit(name, decide, None)
        self._keep(package, package.manifest.files)
        return catalogue.commit(name, decide, package.manifest, lambda: self._keep_again(package))

    def _keep_again(self, package: AdapterPackage) -> None:
        """Keep what collection took; called when it can take nothing of the version any more."""
        files = package.manifest.files
        self._keep(package, [file for file in files if not self._blobs.exists(file.sha256)])

    def _keep(self, package: AdapterPackage, files: Iterable[FileEntry]) -> None:
        for file in files:
            self._blobs.add(package.directory / file.path, file.sha256)

    def _catalogue(self) -> Catalogue | None:
        """The catalogue, if somebody has made it by now.

        Raises:
            RegistryError: an older or a newer adaptery wrote it.
        """
        if self._opened is None and (database := self._database()):
            require_head(database.revision(), database.name)
            self._opened = Catalogue(database)
        return self._opened

    def _made_catalogue(self) -> Catalogue:
        """The catalogue, made now if there is none."""
        if self._catalogue() is None:
            self._make()
        catalogue = self._catalogue()
        assert catalogue is not None, "it was made just now"
        return catalogue


def _counts(database: Database) -> dict[str, int]:
    counted = {
        "adapters": select(func.count()).select_from(adapters).where(adapters.c.events > 0),
        "versions": select(func.count()).select_from(versions),
        "aliases": select(func.count()).select_from(aliases),
        "events": select(func.count()).select_from(events),
    }
    with database.snapshot() as connection:
        return {what: connection.scalar(count) or 0 for what, count in counted.items()}
