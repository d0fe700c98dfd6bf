"""Adapters on the Hugging Face Hub: `hf://org`, where the adapter NAME is the repository org/NAME.

A version is one commit with its files, `manifest.json` and a model card, tagged `v<N>`. Versions,
aliases and their history are `.adapters/registry.json` on `main`, changed by commits that name
their parent: whoever reads an old state cannot overwrite a newer one. If an answer gets lost, the
state is read again before anything is repeated, so that a retry never publishes twice.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

from adaptery.errors import Conflict, CorruptFile, InvalidName, ReferenceNotFound, RemoteError, join
from adaptery.registry.files.blobs import BlobStore
from adaptery.registry.files.cache import cache_directory, sweep_cache
from adaptery.registry.gate.package import ALLOWED_FILES
from adaptery.registry.hub.card import TAG, model_card
from adaptery.registry.hub.checks import check_commits, check_manifest
from adaptery.registry.hub.client import HubClient, Snapshot, Unsettled
from adaptery.registry.hub.ledger import LEDGER, write_ledger
from adaptery.registry.hub.patience import Tries
from adaptery.registry.hub.reading import MANIFEST, HubReader, publish_title
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
    Version,
)

CARD = "README.md"


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
        self._private = private
        self._client = client
        self._blobs = BlobStore(cache)
        self._reader = HubReader(org, client, self._blobs, cache)

    @classmethod
    def open(cls, url: str, hooks: LifecycleHooks | None = None, *, private: bool = False) -> Self:
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
        event, line = self._settle(name, decide, package)
        if package is not None:
            self._ensure_tag(line, package.manifest.digest)
        return event

    def _settle(
        self, name: str, decide: Decide, package: AdapterPackage | None
    ) -> tuple[Event | None, Line]:
        """Commit what `decide` wants, and look again until it is known to be there."""
        attempted: list[Event] = []
        tries = Tries()
        while True:
            # Tags first: then a tag that the line does not know cannot be a newer version's.
            tags = self._client.tags(self._reader.repo(name)) if package else {}
            state = self._reader.state(name)
            if state.head is None:
                tries.again(None, self._make(name, package))
                continue
            if written := _written(attempted, state.line, package):
                return written, state.line
            event = decide(state.line)
            if event is None:
                return None, state.line
            self._refuse_foreign_tag(state.line, event, tags)
            outcome = self._write(state.head, state.line, event, package)
            if isinstance(outcome, Line):
                return event, outcome
            attempted.append(event)
            tries.again(state.head.commit, outcome.error, outcome.pause)

    def _make(self, name: str, package: AdapterPackage | None) -> RemoteError:
        """Make the repository. Returns what to say if it cannot be seen after that."""
        repo = self._reader.repo(name)
        if package is None:
            raise RemoteError(f"{repo} was there a moment ago and is gone from the Hub.")
        self._client.create(repo, private=self._private)
        return RemoteError(f"{repo} cannot be read, although it was made just now.")

    def _write(
        self, head: Snapshot, line: Line, event: Event, package: AdapterPackage | None
    ) -> Line | Unsettled:
        """One commit with the new ledger and, for a publication, everything of the version.

        Returns the line as it is now.
        """
        repo = self._reader.repo(line.name)
        digests, files, title = dict(line.digests), {}, _title(event)
        stale: set[str] = set()
        if package is not None:
            self._refuse_public(repo, head)
            version = published(event, package.manifest)
            digests[event.number] = version.digest
            title = publish_title(line.name, event.number, version.digest)
            files = _files(repo, version, package.directory)
            stale = (head.files.keys() & ALLOWED_FILES.keys()) - files.keys()
        after = Line(line.name, digests, (*line.events, event))
        files[LEDGER] = write_ledger(digests, after.events, f"{LEDGER} in {repo}")
        outcome = self._client.commit(repo, head.commit, title, event.reason, files, sorted(stale))
        if isinstance(outcome, Unsettled):
            return outcome
        if package is not None:
            self._reader.made_by(line.name, digests[event.number], outcome)
        self._reader.advance(line.name, outcome, after)
        return after

    def _refuse_public(self, repo: str, head: Snapshot) -> None:
        if self._private and not head.private:
            raise Conflict(
                f"{repo} is there already and everybody can read it. Make it private on the Hub, "
                "or publish without asking for that."
            )

    def _refuse_foreign_tag(self, line: Line, event: Event, tags: Mapping[str, str]) -> None:
        """A tag without a version would silently give the new version another's files."""
        tag = f"v{event.number}"
        if tag in tags and event.number not in line.digests:
            raise Conflict(
                f"{self._reader.repo(line.name)} has a tag {tag} that is no version of this "
                "registry. Delete or rename that tag on the Hub, then publish again."
            )

    def _ensure_tag(self, line: Line, digest: str) -> None:
        """Tag the version, now or in place of an earlier publish that did not come so far."""
        number = line.held(digest)
        if number is None:
            return
        repo, tag = self._reader.repo(line.name), f"v{number}"
        commit = self._reader.commit_of(line.name, number, digest)
        try:
            named = self._client.tag(repo, tag, commit)
        except RemoteError as error:
            raise RemoteError(
                f"{line.name}@{number} is published, but without its tag: {error} Publish it "
                "again, or run `adapters fsck --repair`, to make the tag."
            ) from error
        if named != commit:
            raise Conflict(
                f"{line.name}@{number} is published as commit {commit}, but the tag {tag} of "
                f"{repo} names {named}. Delete that tag on the Hub, then publish again."
            )


def _written(
    attempted: Iterable[Event], line: Line, package: AdapterPackage | None
) -> Event | None:
    """The event of an earlier try that is in the line after all."""
    for event in attempted:
        digest = package.manifest.digest if package else line.digests.get(event.number)
        if event in line.events and line.digests.get(event.number) == digest:
            return event
    return None


def _files(repo: str, version: Version, directory: Path) -> dict[str, Path | bytes]:
    """What the commit of a version holds beside the ledger."""
    return {
        **{file.path: directory / file.path for file in version.manifest.files},
        MANIFEST: version.manifest.canonical(),
        CARD: model_card(repo, version).encode(),
    }


def _title(event: Event) -> str:
    """The title of the commit of an event that publishes nothing."""
    subject = f"{event.adapter}@{event.number}"
    said = f"{event.alias} is {subject}" if event.alias else subject
    return f"{event.kind.value.capitalize()}: {said}"
