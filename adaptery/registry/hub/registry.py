"""Adapters on the Hugging Face Hub: `hf://org`, where the adapter NAME is the repository org/NAME.

A version is one commit with its files, `manifest.json` and a model card, tagged `v<N>`. Versions,
aliases and their history are `.adapters/registry.json` on `main`. How they are read: `reading`;
how written: `writing`.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Self

from adaptery.config import cache_directory
from adaptery.errors import CorruptFile, InvalidName, ReferenceNotFound, join
from adaptery.registry.files.blobs import BlobStore
from adaptery.registry.files.cache import sweep_cache
from adaptery.registry.hub.card import TAG
from adaptery.registry.hub.checks import check_commits, check_manifest
from adaptery.registry.hub.client import HubClient
from adaptery.registry.hub.reading import HubReader
from adaptery.registry.hub.writing import HubWriter
from adaptery.registry.line import Line
from adaptery.registry.line_registry import LineRegistry, published
from adaptery.registry.reports import Finding, Leftovers
from adaptery.registry.steps import Decide
from adaptery.types import (
    HUB_OWNER,
    NAME,
    AdapterPackage,
    Alias,
    Event,
    EventKind,
    FileEntry,
    LifecycleHooks,
    Version,
)


class HubRegistry(LineRegistry):
    """An organisation's or a user's adapters on the Hub, and a verified cache of them here."""

    backend: ClassVar[str] = "the Hugging Face Hub"

    def __init__(
        self,
        org: str,
        client: HubClient,
        cache: Path,
        hooks: LifecycleHooks | None = None,
        *,
        private: bool = False,
    ) -> None:
        super().__init__(f"hf://{org}", hooks)
        self._org = org
        self._client = client
        self._blobs = BlobStore(cache)
        self._reader = HubReader(org, client, self._blobs, cache)
        self._writer = HubWriter(client, self._reader, self._blobs, private=private)

    @classmethod
    def open(cls, url: str, hooks: LifecycleHooks | None = None, *, private: bool = False) -> Self:
        """Open `hf://ORG` on the Hub at $HF_ENDPOINT, caching under $ADAPTERS_CACHE.

        Args:
            private: what is published here must be private: repositories are made so, and one
                that everybody can read is refused.

        Raises:
            InvalidName: `url` is not of this form.
        """
        match = re.fullmatch(rf"hf://({HUB_OWNER.pattern})", url)
        if not match:
            raise InvalidName(f"{url!r} is not a registry on the Hub: write hf://ORG.")
        return cls(match[1], HubClient(), cache_directory() / "hub", hooks, private=private)

    def lease(self, version: Version, holder: str, seconds: float) -> None:
        self._blobs.leases.take(version.digest, holder, seconds)

    def release(self, version: Version, holder: str) -> None:
        self._blobs.leases.drop(version.digest, holder)

    def versions(self, name: str | None = None) -> Sequence[Version]:
        return [
            self._version(line, number)
            for line in self._lines(name)
            for number in sorted(line.digests)
        ]

    def aliases(self, name: str | None = None) -> Sequence[Alias]:
        return [line.aliases[alias] for line in self._lines(name) for alias in sorted(line.aliases)]

    def materialize(self, version: Version) -> Path:
        files = version.manifest.files
        self._reader.fetch(version.name, version.number, version.digest, files)
        try:
            return self._blobs.checkout(version.digest, files)
        except CorruptFile:  # A collector took a blob that nobody had used for long.
            self._reader.fetch(version.name, version.number, version.digest, files)
            return self._blobs.checkout(version.digest, files)

    def gc(self, *, grace: float = 86400.0, dry_run: bool = False) -> Leftovers:
        return sweep_cache(self._blobs, grace, dry_run=dry_run)

    def _examine(self, repair: bool) -> Iterator[Finding]:
        for name in self._names():
            try:
                line = self._line(name)
            except CorruptFile:
                continue  # `_verify_all` says so.
            yield from check_commits(self._client, self._reader, line, repair=repair)

    def _verify(self, line: Line, number: int, repair: bool = False) -> Iterator[Finding]:
        yield from check_manifest(self._reader, line, number)
        yield from super()._verify(line, number, repair)

    def _rehash(self, version: Version, file: FileEntry) -> str | None:
        return self._reader.rehash(
            version.name, version.number, version.digest, file.path, file.size
        )

    def _set_aside(self, version: Version, file: FileEntry) -> str | None:
        return None  # A commit on the Hub is not ours to change.

    def _forget(self) -> None:
        self._reader.forget()

    def _lines(self, name: str | None) -> list[Line]:
        return [self._line(name) for name in (self._names() if name is None else [name])]

    def _names(self) -> Sequence[str]:
        listed = {n for n in self._client.repositories(self._org, TAG) if NAME.fullmatch(n)}
        return sorted(listed | self._reader.seen())

    def _line(self, name: str) -> Line:
        return self._reader.state(name).line

    def _known(self, name: str) -> Line:
        try:
            return super()._known(name)
        except ReferenceNotFound as error:
            hint = "A private one shows only after `hf auth login`." * self._client.anonymous
            raise ReferenceNotFound(join(str(error), hint)) from error

    def _version(self, line: Line, number: int) -> Version:
        manifest = self._reader.manifest(line, number)
        event = next(
            event
            for event in line.events
            if event.kind is EventKind.PUBLISHED and event.number == number
        )
        return published(event, manifest)

    def _commit(
        self, name: str, decide: Decide, package: AdapterPackage | None = None
    ) -> Event | None:
        event, line = self._writer.settle(name, decide, package)
        if package is not None:
            self._writer.ensure_tag(line, package.manifest.digest)
        return event
