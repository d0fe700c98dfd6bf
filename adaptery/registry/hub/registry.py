"""Adapters on the Hugging Face Hub: `hf://org`, where the adapter NAME is the repository org/NAME.

A version is one commit with its files, `manifest.json` and a model card, tagged `v<N>`. Versions,
aliases and their history are `.adapters/registry.json` on `main`, changed by commits that name
their parent: whoever reads an old state cannot overwrite a newer one. If an answer gets lost, the
state is read again before anything is repeated, so that a retry never publishes twice.
"""

import os
import random
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import ValidationError, model_validator

from adaptery.errors import Conflict, CorruptFile, InvalidName, RegistryError, RemoteError
from adaptery.registry.files.blobs import BlobStore
from adaptery.registry.gate.package import ALLOWED_FILES
from adaptery.registry.hub.card import TAG, model_card
from adaptery.registry.hub.client import Head, HubClient
from adaptery.registry.line import Line
from adaptery.registry.line_registry import LineRegistry, published
from adaptery.registry.reports import Finding, Leftovers
from adaptery.registry.steps import Decide
from adaptery.types import (
    NAME,
    AdapterPackage,
    Alias,
    Event,
    EventKind,
    FileEntry,
    LifecycleHooks,
    Manifest,
    Sha256,
    Value,
    Version,
)

LEDGER, MANIFEST, CARD = ".adapters/registry.json", "manifest.json", "README.md"
_ATTEMPTS = 10


class Ledger(Value):
    """`.adapters/registry.json`: a line, written down."""

    schema_version: Literal[1] = 1
    versions: dict[int, Sha256]
    events: tuple[Event, ...]

    @model_validator(mode="after")
    def _every_version_was_published(self) -> Self:
        published = {event.number for event in self.events if event.kind is EventKind.PUBLISHED}
        if published != self.versions.keys():
            raise ValueError("its versions are not those that its history says were published")
        return self

    def line(self, name: str) -> Line:
        return Line(name, self.versions, self.events)


class HubRegistry(LineRegistry):
    """An organisation's or a user's adapters on the Hub, and a verified cache of them here."""

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
        self._private = private
        self._client = client
        self._blobs = BlobStore(cache)

    @classmethod
    def open(
        cls, url: str, hooks: LifecycleHooks | None = None, *, private: bool = False
    ) -> Self:
        """Open `hf://ORG` on the Hub at $HF_ENDPOINT, caching under $ADAPTERS_CACHE.

        Args:
            private: what is published here must be private: repositories are made so, and one
                that everybody can read is refused.

        Raises:
            InvalidName: `url` is not of this form.
        """
        match = re.fullmatch(r"hf://([A-Za-z0-9][A-Za-z0-9._-]*)", url)
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
        missing = [f for f in version.manifest.files if not self._blobs.has(f.sha256)]
        if missing:
            commit = self._commit_of(version.name, version.number, version.digest)
            for file in missing:
                self._fetch(version.name, commit, file.path, file.sha256)
        return self._blobs.checkout(version.digest, version.manifest.files)

    def gc(self, *, grace: float = 86400.0, dry_run: bool = False) -> Leftovers:
        return self._blobs.sweep(grace, dry_run=dry_run)

    def _examine(self, repair: bool) -> Iterable[Finding]:
        return ()

    def _rehash(self, version: Version, file: FileEntry) -> str | None:
        return self._blobs.rehash(file.sha256)

    def _set_aside(self, version: Version, file: FileEntry) -> str | None:
        return None

    def _forget(self) -> None:
        return None

    def _lines(self, name: str | None) -> list[Line]:
        return [self._line(name) for name in (self._names() if name is None else [name])]

    def _names(self) -> Sequence[str]:
        found = self._client.repositories(self._org, TAG)
        return sorted(name for name in found if NAME.fullmatch(name))

    def _line(self, name: str) -> Line:
        return self._read(name)[1]

    def _read(self, name: str) -> tuple[Head | None, Line]:
        """The repository's `main` and the line that it holds there."""
        repo = self._repo(name)
        head = self._client.head(repo)
        if head is None or LEDGER not in head.files:
            return head, Line(name)
        try:
            ledger = Ledger.model_validate_json(self._client.read(repo, head.commit, LEDGER))
        except ValidationError as error:
            reason = error.errors(include_url=False)[0]["msg"]
            raise RegistryError(f"{LEDGER} in {repo} cannot be read: {reason}.") from error
        return head, ledger.line(name)

    def _version(self, line: Line, number: int) -> Version:
        digest = line.digests[number]
        if not self._blobs.has(digest):
            commit = self._commit_of(line.name, number, digest)
            self._fetch(line.name, commit, MANIFEST, digest, quiet=True)
        # The manifest's digest is that of its canonical bytes, so it is kept like any other blob.
        manifest = Manifest.model_validate_json(self._blobs.path(digest).read_bytes())
        event = next(
            event
            for event in line.events
            if event.kind is EventKind.PUBLISHED and event.number == number
        )
        return published(event, manifest)

    def _fetch(
        self, name: str, commit: str, path: str, digest: str, *, quiet: bool = False
    ) -> None:
        """Download a file into the cache. Raises `CorruptFile` if it is not what it must be."""
        with self._blobs.staging() as staging:
            file = self._client.download(self._repo(name), commit, path, staging, quiet=quiet)
            self._blobs.add(file, digest, what=f"{self.url}/{name}: {path} at commit {commit}")

    def _commit(
        self, name: str, decide: Decide, package: AdapterPackage | None = None
    ) -> Event | None:
        if package is not None:
            self._client.create(self._repo(name), private=self._private)
        event = self._settle(name, decide, package)
        if package is not None:
            self._ensure_tag(name, package.manifest.digest)
        return event

    def _settle(self, name: str, decide: Decide, package: AdapterPackage | None) -> Event | None:
        """Commit what `decide` wants, and look again until it is known to be there."""
        attempted: list[Event] = []
        while True:
            # Tags first: then a tag that the line does not know cannot be a newer version's.
            tags = self._client.tags(self._repo(name)) if package else {}
            head, line = self._read(name)
            written = [event for event in attempted if event in line.events]
            if written:
                return written[0]
            event = decide(line)
            if event is None:
                return None
            self._refuse_foreign_tag(line, event, tags)
            failure = self._write(name, head, line, event, package)
            if failure is None:
                return event
            attempted.append(event)
            if len(attempted) == _ATTEMPTS:
                raise failure
            time.sleep(random.uniform(0, min(2.0, 0.05 * 2 ** len(attempted))))

    def _write(
        self, name: str, head: Head | None, line: Line, event: Event, package: AdapterPackage | None
    ) -> RemoteError | None:
        """One commit with the new ledger and, for a publication, everything of the version."""
        repo = self._repo(name)
        if head is None:
            raise RemoteError(f"{repo} cannot be read, although it was made just now.")
        digests, files, title = dict(line.digests), {}, _title(event)
        stale: frozenset[str] = frozenset()
        if package is not None:
            version = published(event, package.manifest)
            digests[event.number] = version.digest
            title = f"Publish {version} ({_publish_id(version.digest)})"
            files = _files(repo, version, package.directory)
            stale = (head.files & ALLOWED_FILES.keys()) - files.keys()
        ledger = Ledger(versions=digests, events=(*line.events, event))
        files[LEDGER] = ledger.model_dump_json(indent=1).encode()
        return self._client.commit(repo, head, title, event.reason, files, sorted(stale))

    def _refuse_foreign_tag(self, line: Line, event: Event, tags: Mapping[str, str]) -> None:
        """A tag without a version would silently give the new version another's files."""
        tag = f"v{event.number}"
        if tag in tags and event.number not in line.digests:
            raise Conflict(
                f"{self._repo(line.name)} has a tag {tag} that is no version of this registry. "
                "Delete or rename that tag on the Hub, then publish again."
            )

    def _ensure_tag(self, name: str, digest: str) -> None:
        """Tag the version, now or in place of an earlier publish that did not come so far."""
        number = self._line(name).held(digest)
        if number is not None:
            commit = self._commit_of(name, number, digest)
            self._client.tag(self._repo(name), f"v{number}", commit)

    def _commit_of(self, name: str, number: int, digest: str) -> str:
        """The commit that holds a version: the tag's, else the one with the publish id."""
        repo = self._repo(name)
        commit = self._client.tags(repo).get(f"v{number}")
        commit = commit or self._client.find_commit(repo, _publish_id(digest))
        if commit is None:
            raise CorruptFile(
                f"{LEDGER} in {repo} lists version {number}, but there is neither the tag "
                f"v{number} nor a commit with the {_publish_id(digest)}."
            )
        return commit

    def _repo(self, name: str) -> str:
        return f"{self._org}/{name}"


def cache_directory() -> Path:
    """Where downloads are kept: $ADAPTERS_CACHE, else `adaptery` in the user's cache directory."""
    chosen = os.environ.get("ADAPTERS_CACHE")
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(chosen or f"{caches}/adaptery").expanduser()


def _files(repo: str, version: Version, directory: Path) -> dict[str, Path | bytes]:
    """What the commit of a version holds beside the ledger."""
    return {
        **{file.path: directory / file.path for file in version.manifest.files},
        MANIFEST: version.manifest.canonical(),
        CARD: model_card(repo, version).encode(),
    }


def _publish_id(digest: str) -> str:
    """What marks the commit of a version, whoever looks for it later."""
    return f"publish id {digest[:16]}"


def _title(event: Event) -> str:
    return f"{event.kind.value.capitalize()}: {event.alias} is {event.adapter}@{event.number}"
