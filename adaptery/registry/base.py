"""What every registry backend does. `local.py` and `hub.py` are the built-in ones."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from adaptery.types import (
    LIVE,
    AdapterPackage,
    AdapterRef,
    Alias,
    Event,
    LifecycleHooks,
    Version,
)


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
    def versions(self, name: str | None = None) -> Sequence[Version]:
        """All versions, of one adapter or of all, in order of name and number."""

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
