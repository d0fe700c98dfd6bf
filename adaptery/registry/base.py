"""What every registry backend does. `local.py` and `hub.py` are the built-in ones."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from adaptery.registry.listing import Listed, Query
from adaptery.registry.reports import Finding, Leftovers, RegistryInfo
from adaptery.types import (
    LIVE,
    AdapterPackage,
    AdapterRef,
    Alias,
    Event,
    LifecycleHooks,
    Standing,
    Version,
)

if TYPE_CHECKING:
    from adaptery.registry.carry.histories import Copied, Progress, Synced
    from adaptery.registry.carry.imports import Imported
    from adaptery.registry.compare.difference import Difference


class Registry(ABC):
    """A place that keeps versions of adapters unchanged for ever and lets names move.

    Every method either happens as a whole or not at all. References, see `AdapterRef`.
    `hooks` may object to a promotion and are told of every change.
    """

    url: str

    @classmethod
    @abstractmethod
    def open(cls, url: str, hooks: LifecycleHooks | None = None) -> Self:
        """Open the registry at `url`; a directory that is not there is made on first publish."""

    @abstractmethod
    def init(self) -> bool:
        """Make the registry now instead of on first publish. Returns whether it was not there."""

    @abstractmethod
    def info(self) -> RegistryInfo:
        """What the registry is and holds."""

    @abstractmethod
    def migrate(self) -> str | None:
        """Bring what an older adaptery wrote into our form, as a whole or not at all.

        Returns where the backup is that was made before; None if there was nothing to do.

        Raises:
            RegistryError: there is no registry, or a newer adaptery wrote it.
        """

    @abstractmethod
    def publish(
        self,
        name: str,
        package: AdapterPackage,
        *,
        number: int | None = None,
        reason: str = "",
    ) -> Version:
        """Keep `package` as the next version of `name`, or as `number` where it came with one.

        Publishing what `name` already holds (the same manifest digest) returns that version. The
        first version of a name also becomes `live`: its one `PUBLISHED` event carries the alias,
        unless a `before_promote` hook objects; then the event's reason says why it does not.

        Raises:
            InvalidName: `name` breaks the grammar.
            InvalidAdapter: the files are not an adapter that can be applied in full.
            CorruptFile: the files are not those that the manifest names.
            Conflict: `number` is taken by another version.
        """

    @abstractmethod
    def resolve(self, ref: AdapterRef) -> Version:
        """The version that `ref` means now.

        Raises:
            ReferenceNotFound: nothing answers to it; the message names what does.
        """

    @abstractmethod
    def materialize(self, version: Version) -> Path:
        """A directory that holds the version's files, every digest checked. Do not write to it.

        Raises:
            CorruptFile: a file no longer has its digest, or is gone.
        """

    @abstractmethod
    def lease(self, version: Version, holder: str, seconds: float) -> None:
        """Keep collection from the version's directory for so long; again to renew it.

        Who dies without giving it back holds it no longer than that.
        """

    @abstractmethod
    def release(self, version: Version, holder: str) -> None:
        """Give the lease back, if there is one."""

    @abstractmethod
    def names(self) -> Sequence[str]:
        """The adapters that there are, in order."""

    @abstractmethod
    def versions(self, name: str | None = None) -> Sequence[Version]:
        """All versions, of one adapter or of all, in order of name and number."""

    @abstractmethod
    def newest(self, query: Query | None = None) -> Sequence[Listed]:
        """A row per adapter: its newest version that fits the query, on the query's page.

        Raises:
            UnknownName: none of these versions has the metric to sort by.
        """

    @abstractmethod
    def aliases(self, name: str | None = None) -> Sequence[Alias]:
        """Where aliases point, of one adapter or of all."""

    @abstractmethod
    def history(self, name: str) -> Sequence[Event]:
        """Every event of one adapter, oldest first. Nothing is ever removed from it.

        Raises:
            ReferenceNotFound: there is no such adapter.
        """

    @abstractmethod
    def promote(
        self, ref: AdapterRef, alias: str = LIVE, *, expect: int | None = None, reason: str = ""
    ) -> Event:
        """Let `alias` mean the version that `ref` means.

        Args:
            expect: the version number that `alias` must point to now, else nothing happens.

        Raises:
            ReferenceNotFound: `ref` means nothing.
            PromotionRefused: a `before_promote` hook objects.
            Conflict: `alias` does not point to `expect`, or moved meanwhile.
        """

    @abstractmethod
    def rollback(
        self, name: str, alias: str = LIVE, *, to: int | None = None, reason: str = ""
    ) -> Event:
        """Let `alias` mean again what it meant before, or version `to`: a new event, not a delete.

        Repeated rollbacks walk further back through the promotions, not to and fro.

        Raises:
            ReferenceNotFound: no such adapter, alias or version, or nothing earlier to go back to.
            Conflict: the alias moved meanwhile.
        """

    @abstractmethod
    def yank(self, ref: AdapterRef, reason: str) -> Event:
        """Take a version out of use: no alias can mean it, and `latest` passes it over.

        It stays readable by number and digest, for ever.

        Raises:
            ReferenceNotFound: `ref` means nothing.
            UsageError: there is no reason.
            Conflict: an alias means it, or it is yanked already.
        """

    @abstractmethod
    def unyank(self, ref: AdapterRef, reason: str = "") -> Event:
        """Take a yank back. Raises `Conflict` if the version is not yanked."""

    @abstractmethod
    def tag(self, ref: AdapterRef, tags: Mapping[str, str]) -> Event:
        """Give a version tags: key → value; an empty value takes a tag away.

        Raises:
            InvalidName: there is none, or one breaks the grammar (`check_tags`).
        """

    @abstractmethod
    def note(self, ref: AdapterRef, text: str) -> Event:
        """Keep a note about a version. Raises `UsageError` if it is empty."""

    @abstractmethod
    def attach_signature(self, ref: AdapterRef, signature: str) -> Event:
        """Keep a signature with a version; `sign` makes one."""

    @abstractmethod
    def standing(self, name: str) -> Mapping[int, Standing]:
        """Number → aliases, yank, tags, notes and signatures, of every version of an adapter.

        Raises:
            ReferenceNotFound: there is no such adapter.
        """

    @abstractmethod
    def append(self, event: Event, package: AdapterPackage | None = None) -> bool:
        """Continue an adapter's history with an event of another registry, exactly as it was.

        With this a history is copied: `package` comes with a publication and only with one. It
        happened already, so hooks are told but not asked. Returns whether it was new here.

        Raises:
            Conflict: the history here goes on differently, or lacks what comes before.
            CorruptFile, InvalidAdapter: as `publish`.
        """

    @abstractmethod
    def verify(self, refs: Iterable[AdapterRef] | None = None) -> Sequence[Finding]:
        """Read every byte of the versions (all if None) where it is kept, and check its digest.

        Raises:
            ReferenceNotFound: one of `refs` means nothing.
        """

    @abstractmethod
    def fsck(self, *, repair: bool = False) -> Sequence[Finding]:
        """Check everything: the history's chain, what is derived from it, and every byte.

        With `repair`, what can be derived is made anew, and damaged files are moved aside, so that
        publishing or pulling the version again brings them back. Versions and events are never
        changed or removed.
        """

    @abstractmethod
    def gc(self, *, grace: float = 86400.0, dry_run: bool = False) -> Leftovers:
        """Take away what no version and no live lease refers to, and nobody used for `grace` s.

        With `dry_run`, only say what would go.
        """

    # What every backend does alike: comparing, carrying versions and histories, and signing them.

    def diff(self, before: AdapterRef, after: AdapterRef) -> "Difference":
        """How two versions differ, down to each module's weight; see `difference.diff`."""
        from adaptery.registry.compare.difference import diff

        return diff(self, before, after)

    def import_adapter(
        self,
        source: str,
        name: str,
        *,
        base: str | None = None,
        convert_pickle: bool = False,
        reason: str = "",
    ) -> "Imported":
        """Publish another tool's PEFT adapter: a directory or `hf://ORG/REPO`. See `imports`."""
        from adaptery.registry.carry import imports

        return imports.import_adapter(
            self, source, name, base=base, convert_pickle=convert_pickle, reason=reason
        )

    def bundle(self, ref: AdapterRef, file: Path, *, force: bool = False) -> Version:
        """Write a version to one file; see `bundle.bundle`."""
        from adaptery.registry.carry.bundle import bundle

        return bundle(self, ref, file, force=force)

    def unbundle(self, file: Path, name: str | None = None) -> Version:
        """Publish the version in a file under its own number; see `bundle.unbundle`."""
        from adaptery.registry.carry.bundle import unbundle

        return unbundle(self, file, name)

    def publish_to(
        self,
        target: "Registry",
        ref: AdapterRef,
        name: str | None = None,
        *,
        alias: str | None = None,
        reason: str = "",
    ) -> Version:
        """Publish a version in another registry, unchanged; see `transfer.publish_version`."""
        from adaptery.registry.carry.transfer import publish_version

        return publish_version(self, ref, target, name, alias=alias, reason=reason)

    def pull(self, source: "Registry", ref: AdapterRef, name: str | None = None) -> Version:
        """Publish here what `ref` means in `source`, unchanged; see `transfer.copy_version`."""
        from adaptery.registry.carry.transfer import copy_version

        return copy_version(source, ref, self, name)

    def copy_to(self, target: "Registry", on_progress: "Progress | None" = None) -> "Copied":
        """Copy every history to `target`, verbatim; see `histories.copy_registry`."""
        from adaptery.registry.carry.histories import copy_registry

        return copy_registry(self, target, on_progress)

    def sync(self, remote: "Registry", name: str) -> "Synced":
        """Give each side the versions that only the other has; see `histories.sync`."""
        from adaptery.registry.carry.histories import sync

        return sync(self, remote, name)

    def sign(self, ref: AdapterRef, key: Path, password: str | None = None) -> Event:
        """Sign a version's manifest and files; see `signing.sign`."""
        from adaptery.registry.carry.signing import sign

        return sign(self, ref, key, password)

    def verify_signature(self, ref: AdapterRef, public_key: Path) -> Event:
        """The event that signed a version with this key; see `signing.verify_signature`."""
        from adaptery.registry.carry.signing import verify_signature

        return verify_signature(self, ref, public_key)
