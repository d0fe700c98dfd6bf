"""What is read of an organisation's repositories, pinned to commits and checked by digest.

The Hub may answer from a machine that has not heard of the newest commit yet. A reader therefore
remembers the newest history that it has seen of each adapter and never goes back behind it.
"""

import hashlib
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptery.errors import CorruptFile, RemoteError
from adaptery.registry.files.blobs import BlobStore
from adaptery.registry.files.digests import sha256
from adaptery.registry.gate.manifest import read_manifest
from adaptery.registry.hub.client import HubClient
from adaptery.registry.hub.commits import Entry, Snapshot
from adaptery.registry.hub.ledger import LEDGER, MAX_LEDGER, read_ledger
from adaptery.registry.line import Line
from adaptery.types import FileEntry, Manifest

MANIFEST = "manifest.json"
_MAX_MANIFEST = 4 * 2**20  # bytes


@dataclass(frozen=True, slots=True)
class State:
    """An adapter as one commit on `main` has it; no `head` if there is no repository."""

    head: Snapshot | None
    line: Line


@dataclass(frozen=True, slots=True)
class _Seen:
    commit: str
    line: Line


class HubReader:
    """Reads ledgers, manifests and files of `org` into a cache, `blobs` and beside it."""

    def __init__(self, org: str, client: HubClient, blobs: BlobStore, cache: Path) -> None:
        self._org = org
        self._client = client
        self._blobs = blobs
        self._ledgers = cache / "ledgers"
        self._lock = threading.Lock()
        self._seen: dict[str, _Seen] = {}
        self._commits: dict[tuple[str, str], str] = {}
        self._trees: dict[str, Snapshot] = {}

    def forget(self) -> None:
        """Trust nothing that was read before, but for blobs, which prove themselves."""
        with self._lock:
            for memory in (self._seen, self._commits, self._trees):
                memory.clear()
            for ledger in self._ledgers.glob("*.json"):
                ledger.unlink(missing_ok=True)

    def repo(self, name: str) -> str:
        return f"{self._org}/{name}"

    def seen(self) -> set[str]:
        """The adapters that were read or written. The Hub may take a while to list a new one."""
        return {name for name, seen in self._seen.items() if seen.line.digests}

    def state(self, name: str) -> State:
        """The adapter as it is now, and never older than this reader has seen it.

        Raises:
            CorruptFile: the ledger is none, or not a continuation of what it was.
        """
        repo = self.repo(name)
        head, seen = self._client.snapshot(repo), self._seen.get(name)
        if head is None:
            return self._gone(name, seen)
        if seen is not None and seen.commit == head.commit:
            return State(head, seen.line)
        newest = self.advance(name, head.commit, self._line(name, head))
        if newest.commit != head.commit:
            return State(self._client.snapshot(repo, newest.commit), newest.line)
        return State(head, newest.line)

    def advance(self, name: str, commit: str, line: Line) -> _Seen:
        """Remember the line that `commit` has, unless a longer one was seen. Returns which holds.

        Raises:
            CorruptFile: neither continues the other.
        """
        with self._lock:
            seen = self._seen.get(name)
            if seen is not None:
                self._check_continues(name, seen.line, line)
                if len(line.events) < len(seen.line.events):
                    return seen
            self._seen[name] = found = _Seen(commit, line)
            return found

    def made_by(self, name: str, digest: str, commit: str) -> None:
        """Remember which commit a version is."""
        self._commits[name, digest] = commit

    def commit_of(self, name: str, number: int, digest: str) -> str:
        """The commit that holds a version: the tag's, else the one with the publish id.

        Raises:
            CorruptFile: there is neither.
        """
        if (name, digest) not in self._commits:
            commit = self._client.tags(self.repo(name)).get(f"v{number}")
            self._commits[name, digest] = commit or self._published_by(name, number, digest)
        return self._commits[name, digest]

    def manifest(self, line: Line, number: int) -> Manifest:
        """A version's manifest. Raises `CorruptFile` if it lost its digest."""
        digest = line.digests[number]
        if not self._blobs.has(digest):
            # The digest is that of its canonical bytes, so it is kept like any other blob.
            self._fetch(line.name, number, digest, MANIFEST, digest, None)
        what = f"{MANIFEST} of {line.name}@{number} in {self.repo(line.name)}"
        return read_manifest(self._blobs.path(digest).read_bytes(), what)

    def fetch(self, name: str, number: int, digest: str, files: Sequence[FileEntry]) -> None:
        """Have the version's files among the blobs. Raises `CorruptFile` if one is not itself."""
        for file in files:
            if not self._blobs.has(file.sha256):
                self._fetch(name, number, digest, file.path, file.sha256, file.size)

    def rehash(
        self, name: str, number: int, digest: str, path: str, size: int | None
    ) -> str | None:
        """The SHA-256 of a file of a version as the Hub serves it now; None if it does not."""
        try:
            commit = self.commit_of(name, number, digest)
            entry = self._entry(name, commit, path)
            if entry.size != size and entry.sha256 is not None:
                return entry.sha256  # No need to fetch what cannot be it, however large it is.
            with self._blobs.staging() as staging:
                return sha256(self._client.download(self.repo(name), commit, path, staging))
        except CorruptFile:
            return None

    def _gone(self, name: str, seen: _Seen | None) -> State:
        """No repository; but one that was made just now need not be known everywhere."""
        pinned = self._client.snapshot(self.repo(name), seen.commit) if seen else None
        if seen is None or pinned is None:
            self._seen.pop(name, None)
            return State(None, Line(name))
        return State(pinned, seen.line)

    def _check_continues(self, name: str, seen: Line, found: Line) -> None:
        common = min(len(seen.events), len(found.events))
        if seen.events[:common] != found.events[:common]:
            raise CorruptFile(
                f"The history of {self.repo(name)} was rewritten: {LEDGER} no longer says what it "
                "said before. Look at the commits on the Hub; if that was meant, start anew."
            )

    def _line(self, name: str, head: Snapshot) -> Line:
        if LEDGER not in head.files:
            return Line(name)
        what = f"{LEDGER} in {self.repo(name)}"
        return read_ledger(self._ledger(name, head, what), name, what)

    def _ledger(self, name: str, head: Snapshot, what: str) -> bytes:
        """The ledger's bytes as `head` has them, from the last download if they are the same."""
        cached = self._ledgers / f"{hashlib.sha256(self.repo(name).encode()).hexdigest()}.json"
        entry = head.files[LEDGER]
        if entry.size > MAX_LEDGER:
            raise CorruptFile(f"{what} has {entry.size} bytes; at most {MAX_LEDGER} are read.")
        with self._blobs.sentences():
            data = cached.read_bytes() if cached.is_file() else b""
            if entry.is_of(data):
                return data
            with self._blobs.staging() as staging:
                file = self._client.download(
                    self.repo(name), head.commit, LEDGER, staging, quiet=True
                )
                data = file.read_bytes()
                if not entry.is_of(data):
                    raise CorruptFile(f"{what} is not the file that commit {head.commit} has.")
                self._ledgers.mkdir(exist_ok=True)
                os.replace(file, cached)
        return data

    def _fetch(
        self, name: str, number: int, version: str, path: str, digest: str, size: int | None
    ) -> None:
        """Download a file into the cache. Raises `CorruptFile` if it is not what it must be."""
        commit = self.commit_of(name, number, version)
        what = f"hf://{self.repo(name)}: {path} at commit {commit}"
        try:
            entry = self._entry(name, commit, path)
            if entry.size != size if size is not None else entry.size > _MAX_MANIFEST:
                raise CorruptFile(f"{what} has {entry.size} bytes; it cannot be the right file.")
            with self._blobs.staging() as staging:
                quiet = path == MANIFEST
                file = self._client.download(self.repo(name), commit, path, staging, quiet=quiet)
                self._blobs.add(file, digest, what=what)
        except CorruptFile:
            self._commits.pop((name, version), None)  # A tag that was wrong may be put right.
            raise

    def _entry(self, name: str, commit: str, path: str) -> Entry:
        repo = self.repo(name)
        if commit not in self._trees:
            found = self._client.snapshot(repo, commit)
            if found is None:
                raise RemoteError(f"{repo} is gone from the Hub, or nobody here may see it.")
            self._trees[commit] = found
        if path not in self._trees[commit].files:
            raise CorruptFile(f"{repo} has no {path} in commit {commit}.")
        return self._trees[commit].files[path]

    def _published_by(self, name: str, number: int, digest: str) -> str:
        head = self.state(name).head
        if head is None:
            raise RemoteError(f"{self.repo(name)} is gone from the Hub, or nobody here may see it.")
        titles = self._client.titles(self.repo(name), head.commit)
        title = publish_title(name, number, digest)
        if title not in titles:
            raise CorruptFile(
                f"{LEDGER} in {self.repo(name)} lists version {number}, but there is neither the "
                f"tag v{number} nor a commit {title!r}."
            )
        return titles[title]


def publish_title(name: str, number: int, digest: str) -> str:
    """The title of the commit of a version, by which it is found if its tag is missing."""
    return f"Publish {name}@{number} (publish id {digest[:16]})"
