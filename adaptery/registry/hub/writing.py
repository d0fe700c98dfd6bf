"""Changes of a repository: one commit each, which names its parent.

Whoever has read an old state cannot overwrite a newer one. If an answer gets lost, the state is
read again before anything is repeated, so that a retry never publishes twice.
"""

from collections.abc import Mapping, Sequence

from adaptery.errors import Conflict, RemoteError
from adaptery.registry.files.blobs import BlobStore
from adaptery.registry.gate.package import ALLOWED_FILES
from adaptery.registry.hub.card import model_card
from adaptery.registry.hub.client import HubClient
from adaptery.registry.hub.commits import Addition, Snapshot, Unsettled
from adaptery.registry.hub.ledger import LEDGER, write_ledger
from adaptery.registry.hub.patience import Tries
from adaptery.registry.hub.reading import MANIFEST, HubReader, publish_title
from adaptery.registry.line import Line
from adaptery.registry.line_registry import published
from adaptery.registry.steps import Decide
from adaptery.types import AdapterPackage, Event, Version

CARD = "README.md"


class HubWriter:
    """Writes what `reader` reads. With `private`, nothing into a repository that all can read."""

    def __init__(
        self, client: HubClient, reader: HubReader, blobs: BlobStore, *, private: bool
    ) -> None:
        self._client = client
        self._reader = reader
        self._blobs = blobs
        self._private = private

    def settle(
        self, name: str, decide: Decide, package: AdapterPackage | None
    ) -> tuple[Event | None, Line]:
        """Commit what `decide` wants, and look again until it is known to be there.

        Returns the event, None if nothing was wanted, and the line that has it.
        """
        attempted: list[Event] = []
        uploads = self._uploads(package) if package else []
        tries = Tries()
        while True:
            # Tags first: then a tag that the line does not know cannot be a newer version's.
            tags = self._client.tags(self._reader.repo(name)) if package else {}
            state = self._reader.state(name)
            if state.head is None:
                tries.again(None, self._make(name, package))
                continue
            if written := next((e for e in attempted if e in state.line.events), None):
                return written, state.line
            event = decide(state.line)
            if event is None:
                return None, state.line
            self._refuse_foreign_tag(state.line, event, tags)
            outcome = self._write(state.head, state.line, event, package, uploads)
            if isinstance(outcome, Line):
                return event, outcome
            attempted.append(event)
            tries.again(state.head.commit, outcome.error, outcome.pause)

    def _uploads(self, package: AdapterPackage) -> list[Addition]:
        """The version's files, as they were when their digests were checked: a copy of our own."""
        files = package.manifest.files
        for file in files:
            self._blobs.add(package.directory / file.path, file.sha256)
        checked = self._blobs.checkout(package.manifest.digest, files)
        return [Addition(file.path, checked / file.path) for file in files]

    def _make(self, name: str, package: AdapterPackage | None) -> RemoteError:
        """Make the repository. Returns what to say if it cannot be seen after that."""
        repo = self._reader.repo(name)
        if package is None:
            raise RemoteError(f"{repo} was there a moment ago and is gone from the Hub.")
        self._client.create(repo, private=self._private)
        return RemoteError(f"{repo} cannot be read, although it was made just now.")

    def _write(
        self,
        head: Snapshot,
        line: Line,
        event: Event,
        package: AdapterPackage | None,
        uploads: Sequence[Addition],
    ) -> Line | Unsettled:
        """One commit with the new ledger and, for a publication, everything of the version.

        Returns the line as it is now.
        """
        repo = self._reader.repo(line.name)
        digests, files, title = dict(line.digests), [*uploads], _title(event)
        stale: set[str] = set()
        if package is not None:
            self._refuse_public(repo, head)
            version = published(event, package.manifest)
            digests[event.number] = version.digest
            title = publish_title(line.name, event.number, version.digest)
            files += _described(repo, version)
            stale = (head.files.keys() & ALLOWED_FILES.keys()) - {f.path_in_repo for f in files}
        after = Line(line.name, digests, (*line.events, event))
        ledger = write_ledger(digests, after.events, f"{LEDGER} in {repo}")
        files.append(Addition(LEDGER, ledger))
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

    def ensure_tag(self, line: Line, digest: str) -> None:
        """Tag the version, now or in place of an earlier publish that did not come so far.

        Raises:
            Conflict: the tag is there and names another commit.
            RemoteError: the Hub makes no tag; the version is published all the same.
        """
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


def _described(repo: str, version: Version) -> list[Addition]:
    """What the commit of a version says of it, beside the ledger."""
    card = model_card(repo, version).encode()
    return [Addition(MANIFEST, version.manifest.canonical()), Addition(CARD, card)]


def _title(event: Event) -> str:
    """The title of the commit of an event that publishes nothing."""
    subject = f"{event.adapter}@{event.number}"
    said = f"{event.alias} is {subject}" if event.alias else subject
    return f"{event.kind.value.capitalize()}: {said}"
