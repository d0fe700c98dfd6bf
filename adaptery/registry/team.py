"""A team's registry: the catalogue in PostgreSQL, files in object storage.

::

    postgresql://user:password@host/database?blobs=s3://bucket/prefix

`blobs` is any URL that fsspec knows, or a directory that all machines see. Other parameters are
libpq's, such as `sslmode`. Each machine keeps a checked copy of what it has read in its cache.
"""

import hashlib
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Self
from urllib.parse import quote, urlencode

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from adaptery.config import cache_directory
from adaptery.errors import CorruptFile, InvalidName
from adaptery.registry.files.base import Blobs
from adaptery.registry.files.blobs import BlobStore
from adaptery.registry.files.cache import sweep_cache
from adaptery.registry.files.objects import ObjectBlobs, without_password
from adaptery.registry.reports import Leftovers
from adaptery.registry.sql.database import Database
from adaptery.registry.sql.postgres import PostgresDatabase
from adaptery.registry.sql.registry import SqlRegistry
from adaptery.types import AdapterPackage, FileEntry, LifecycleHooks, Version

_ATTEMPTS = 10  # to read files that collection takes out of the cache meanwhile
_SECRETS = frozenset({"password", "sslpassword", "passfile"})


class TeamRegistry(SqlRegistry):
    """Versions of adapters that many machines share. The catalogue is made on the first publish."""

    backend: ClassVar[str] = "PostgreSQL and a store of blobs"

    def __init__(
        self, url: str, database: Database, blobs: Blobs, hooks: LifecycleHooks | None = None
    ) -> None:
        """`url` is what the registry is called; it holds no password."""
        address = hashlib.sha256(url.encode()).hexdigest()[:16]
        super().__init__(url, blobs, BlobStore(cache_directory() / "team" / address), hooks)
        self._postgres = database
        self._is_made = False

    @classmethod
    def open(cls, url: str, hooks: LifecycleHooks | None = None) -> Self:
        """Open `postgresql://…?blobs=URL`. Nothing is connected to yet.

        Raises:
            InvalidName: `url` is not of this form.
            RegistryError: a library for it is missing.
        """
        where, blobs = _parse(url)
        name = _display(where, blobs)
        database = PostgresDatabase(where, _display(where))
        return cls(name, database, _blobs(blobs), hooks)

    def materialize(self, version: Version) -> Path:
        for _ in range(_ATTEMPTS):
            self._fetch(version)
            # It may be that collection takes a file out of the cache just now.
            with suppress(CorruptFile):
                return super().materialize(version)
        return super().materialize(version)

    def _fetch(self, version: Version) -> None:
        """Have the version's files in the cache, each with the digest that it must have."""
        for file in version.manifest.files:
            if not self._cache.has(file.sha256):
                with self._cache.staging() as staging:
                    fetched = self._blobs.fetch(file.sha256, staging)
                    self._cache.add(fetched, file.sha256, what=f"{file.path} in {self.url}")

    def _keep(self, package: AdapterPackage, files: Iterable[FileEntry]) -> None:
        # What is uploaded is a copy that nobody can change between its check and its upload.
        with self._cache.staging() as staging:
            for file in files:
                copy, source = staging / file.sha256, package.directory / file.path
                shutil.copyfile(source, copy)
                self._blobs.add(copy, file.sha256, what=str(source))

    def _sweep(self, grace: float, dry_run: bool) -> Leftovers:
        return sweep_cache(self._cache, grace, dry_run=dry_run)

    def _database(self) -> Database | None:
        if not self._is_made:
            self._is_made = self._postgres.revision() is not None
        return self._postgres if self._is_made else None

    def _make(self) -> bool:
        return self._postgres.create()


def _parse(url: str) -> tuple[URL, str]:
    """The database's address, and that of the blobs."""
    form = "postgresql://user:password@host/database?blobs=s3://bucket/prefix"
    try:
        where = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise InvalidName(f"This is no address of a PostgreSQL database: write {form}.") from error
    blobs = where.query.get("blobs")
    if not isinstance(blobs, str) or not blobs:
        raise InvalidName(
            f"{_display(where)} does not say, once, where the files are: add ?blobs= and a URL or "
            f"a directory, as in {form}."
        )
    return where.difference_update_query(["blobs"]), blobs


def _display(where: URL, blobs: str | None = None) -> str:
    """The address as people may see it: no password."""
    public = {key: value for key, value in sorted(where.query.items()) if key not in _SECRETS}
    if blobs is not None:
        public["blobs"] = without_password(blobs)
    bare = URL.create("postgresql", where.username, None, where.host, where.port, where.database)
    query = urlencode(public, doseq=True, safe="/:@", quote_via=quote)
    return bare.render_as_string() + (f"?{query}" if query else "")


def _blobs(url: str) -> Blobs:
    """Where the files are kept. In a directory they are written more carefully than by fsspec."""
    protocol, _, path = url.rpartition("://")
    if protocol in ("", "file", "local"):
        return BlobStore(Path(path).expanduser().absolute())
    return ObjectBlobs(url)
