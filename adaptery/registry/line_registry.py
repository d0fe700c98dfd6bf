"""What the built-in registries have in common: they read a `Line`, and write its next event."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import ClassVar

from adaptery.errors import (
    Conflict,
    CorruptFile,
    PromotionRefused,
    ReferenceNotFound,
    RegistryError,
    join,
    suggest,
)
from adaptery.registry import steps
from adaptery.registry.base import Registry
from adaptery.registry.files.digests import mismatch
from adaptery.registry.gate.package import check_package
from adaptery.registry.line import Line
from adaptery.registry.listing import Listed, Query, listed, page
from adaptery.registry.reports import Finding, RegistryInfo
from adaptery.registry.steps import Decide
from adaptery.types import (
    LIVE,
    AdapterPackage,
    AdapterRef,
    Event,
    EventKind,
    FileEntry,
    LifecycleHooks,
    Manifest,
    Standing,
    Version,
    check_alias,
    check_name,
)


class NoHooks:
    """Nobody objects, nobody is told."""

    def objections(self, version: Version, alias: str) -> Iterable[str]:
        return ()

    def notify(self, event: Event, version: Version) -> None:
        return None


class LineRegistry(Registry):
    """The life cycle over four things that a backend brings: names, lines, versions and commit.

    `backend` says in words where they are kept.
    """

    backend: ClassVar[str]

    def __init__(self, url: str, hooks: LifecycleHooks | None) -> None:
        self.url = url
        self._hooks: LifecycleHooks = NoHooks() if hooks is None else hooks

    @abstractmethod
    def _names(self) -> Sequence[str]:
        """The adapters that there are."""

    @abstractmethod
    def _line(self, name: str) -> Line:
        """The adapter's line as it is now; an empty one if there is no such adapter."""

    @abstractmethod
    def _version(self, line: Line, number: int) -> Version:
        """A version that `line` has. Raises `CorruptFile` if its manifest lost its digest."""

    @abstractmethod
    def _commit(
        self, name: str, decide: Decide, package: AdapterPackage | None = None
    ) -> Event | None:
        """Write the event that `decide` wants, and the package's version with it, as one change.

        `decide` is asked with the line as it is at that moment, and again if it changed under us.
        Returns what was written, None if `decide` wanted nothing.
        """

    @abstractmethod
    def _rehash(self, version: Version, file: FileEntry) -> str | None:
        """The SHA-256 of a file of the version as it is kept now; None if it is gone."""

    @abstractmethod
    def _set_aside(self, version: Version, file: FileEntry) -> str | None:
        """Move a damaged file out of everybody's way. Says what was done, None if nothing."""

    @abstractmethod
    def _examine(self, repair: bool) -> Iterable[Finding]:
        """What is wrong beside the versions' own bytes; `repair` makes anew what can be derived."""

    @abstractmethod
    def _forget(self) -> None:
        """Read everything afresh from now on."""

    def init(self) -> bool:
        return False  # Where nothing has to be made first, it is always there.

    def migrate(self) -> str | None:
        return None

    def info(self) -> RegistryInfo:
        lines = [self._line(name) for name in self._names()]
        kept = {
            file.sha256: file.size
            for line in lines
            for number in line.digests
            for file in self._version(line, number).manifest.files
        }
        return RegistryInfo(
            url=self.url,
            backend=self.backend,
            adapters=len(lines),
            versions=sum(len(line.digests) for line in lines),
            aliases=sum(len(line.aliases) for line in lines),
            events=sum(len(line.events) for line in lines),
            blobs=len(kept),
            bytes=sum(kept.values()),
        )

    def publish(
        self,
        name: str,
        package: AdapterPackage,
        *,
        number: int | None = None,
        reason: str = "",
    ) -> Version:
        check_name(name)
        check_package(package)
        digest = package.manifest.digest
        objections = self._objections_to_first(name, number, package.manifest)

        def decide(line: Line) -> Event | None:
            if line.held(digest) is not None:
                return None
            return steps.publication(line, digest, number, reason, objections)

        event = self._commit(name, decide, package)
        if event is None:
            return self.resolve(AdapterRef(name, digest=digest))
        version = published(event, package.manifest)
        self._hooks.notify(event, version)
        return version

    def resolve(self, ref: AdapterRef) -> Version:
        line = self._known(ref.name)
        return self._version(line, line.find(ref))

    def names(self) -> Sequence[str]:
        return sorted(self._names())

    def newest(self, query: Query | None = None) -> Sequence[Listed]:
        query = query or Query()
        lines = (self._line(name) for name in sorted(self._names()))
        rows = (listed(line, query, partial(self._version, line)) for line in lines)
        return page((row for row in rows if row is not None), query)

    def history(self, name: str) -> Sequence[Event]:
        return self._known(name).events

    def promote(
        self, ref: AdapterRef, alias: str = LIVE, *, expect: int | None = None, reason: str = ""
    ) -> Event:
        check_alias(alias)
        number = self._known(ref.name).find(ref)
        return self._move(
            ref.name, lambda line: steps.promotion(line, number, alias, expect, reason)
        )

    def rollback(
        self, name: str, alias: str = LIVE, *, to: int | None = None, reason: str = ""
    ) -> Event:
        check_alias(alias)
        return self._move(name, lambda line: steps.rollback(line, alias, to, reason))

    def yank(self, ref: AdapterRef, reason: str) -> Event:
        return self._say(ref, lambda line, number: steps.yanking(line, number, reason))

    def unyank(self, ref: AdapterRef, reason: str = "") -> Event:
        return self._say(ref, lambda line, number: steps.unyanking(line, number, reason))

    def tag(self, ref: AdapterRef, tags: Mapping[str, str]) -> Event:
        return self._say(ref, lambda line, number: steps.tagging(line, number, tags))

    def note(self, ref: AdapterRef, text: str) -> Event:
        return self._say(ref, lambda line, number: steps.noting(line, number, text))

    def attach_signature(self, ref: AdapterRef, signature: str) -> Event:
        return self._say(ref, lambda line, number: steps.signing(line, number, signature))

    def standing(self, name: str) -> Mapping[int, Standing]:
        line = self._known(name)
        return {number: line.standing(number) for number in sorted(line.digests)}

    def append(self, event: Event, package: AdapterPackage | None = None) -> bool:
        check_name(event.adapter)
        if (event.kind is EventKind.PUBLISHED) != (package is not None):
            raise ValueError("A version comes with the event that published it, and only so.")
        if package is not None:
            _require_digest(event, package.manifest)
            check_package(package)
        version = self._told_of(event, package)
        if self._commit(event.adapter, lambda line: steps.copying(line, event), package) is None:
            return False
        self._hooks.notify(event, version)
        return True

    def _told_of(self, event: Event, package: AdapterPackage | None) -> Version:
        """The version that an event of another registry is about, read before it is written."""
        if package is not None:
            return published(event, package.manifest)
        line = self._line(event.adapter)
        steps.copying(line, event)  # refuses what does not continue the history
        return self._version(line, line.number(event.number))

    def verify(self, refs: Iterable[AdapterRef] | None = None) -> Sequence[Finding]:
        self._forget()
        if refs is None:
            return list(self._verify_all(repair=False))
        chosen = [(line := self._known(ref.name), line.find(ref)) for ref in refs]
        return [found for line, number in chosen for found in self._verify(line, number)]

    def fsck(self, *, repair: bool = False) -> Sequence[Finding]:
        found: list[Finding] = []
        for check in (self._examine, self._verify_all):
            try:
                self._forget()
                found += check(repair)
            except (RegistryError, CorruptFile) as error:  # so damaged that it cannot go on
                found.append(Finding(self.url, str(error)))
        return list(dict.fromkeys(found))

    def _verify_all(self, repair: bool) -> Iterator[Finding]:
        for name in self._names():
            try:
                line = self._line(name)
            except CorruptFile as error:
                yield Finding(f"the history of {name}", str(error))
                continue
            for number in sorted(line.digests):
                yield from self._verify(line, number, repair)

    def _verify(self, line: Line, number: int, repair: bool = False) -> Iterator[Finding]:
        """What is wrong with a version's manifest and files; `repair` sets them aside."""
        try:
            version = self._version(line, number)
        except CorruptFile as error:
            yield Finding(f"{line.name}@{number}", str(error))
            return
        for file in version.manifest.files:
            found = self._rehash(version, file)
            if found is None:
                yield Finding(f"{version}: {file.path}", f"sha256:{file.sha256} is gone.")
            elif found != file.sha256:
                done = self._set_aside(version, file) if repair else None
                yield Finding(f"{version}: {file.path}", mismatch("It", file.sha256, found), done)

    def _say(self, ref: AdapterRef, next_event: Callable[[Line, int], Event]) -> Event:
        """Write an event about the version that `ref` means now.

        The version is read first: what can fail must not fail when it has happened.
        """
        line = self._known(ref.name)
        number = line.find(ref)
        version = self._version(line, number)
        event = self._commit(ref.name, lambda line: next_event(line, number))
        assert event is not None, "next_event always gives one"
        self._hooks.notify(event, version)
        return event

    def _move(self, name: str, next_event: Callable[[Line], Event]) -> Event:
        """Ask the hooks about the next event, then write it if the alias is still where it was."""
        line = self._known(name)
        planned = next_event(line)
        version = self._version(line, planned.number)
        if planned.kind is EventKind.PROMOTED:
            self._ask(version, planned.alias or LIVE)

        def decide(line: Line) -> Event:
            event = next_event(line)
            if event.generation != planned.generation:
                raise Conflict(
                    f"The alias {event.alias!r} of {name} moved to {name}@{event.previous} "
                    "meanwhile. Look again, and repeat the command if it still makes sense."
                )
            return event

        event = self._commit(name, decide)
        assert event is not None, "decide always wants an event"
        self._hooks.notify(event, version)
        return event

    def _ask(self, version: Version, alias: str) -> None:
        objections = list(self._hooks.objections(version, alias))
        if objections:
            raise PromotionRefused(join(f"{version} must not become {alias!r}:", *objections))

    def _objections_to_first(
        self, name: str, number: int | None, manifest: Manifest
    ) -> Sequence[str]:
        """Why the version must not become `live`, if it is the first and so would."""
        line = self._line(name)
        if line.digests:
            return ()
        event = steps.publication(line, manifest.digest, number, "", ())
        return tuple(self._hooks.objections(published(event, manifest), LIVE))

    def _known(self, name: str) -> Line:
        """The line of an adapter that must be there. Raises `ReferenceNotFound`."""
        line = self._line(name)
        if not line.digests:
            missing = f"There is no adapter {name!r} in {self.url}."
            raise ReferenceNotFound(join(missing, suggest(name, self._names())))
        return line


def _require_digest(event: Event, manifest: Manifest) -> None:
    """Raise `CorruptFile` unless this is the manifest that the event says was published."""
    said = event.data.get("digest", "none")
    if said != manifest.digest:
        raise CorruptFile(
            mismatch(f"The manifest of {event.adapter}@{event.number}", said, manifest.digest)
        )


def published(event: Event, manifest: Manifest) -> Version:
    """The version that a publication makes."""
    return Version(
        name=event.adapter,
        number=event.number,
        manifest=manifest,
        digest=manifest.digest,
        created_at=event.at,
        created_by=event.actor,
    )
