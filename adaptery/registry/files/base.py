"""What every store of blobs does: `blobs.py` is one in a directory, `objects.py` one behind fsspec.

A blob is bytes under their SHA-256. It is there as a whole or not at all, and never changes.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Stored:
    """A blob that is there: its digest, its bytes, and when it was written (s since 1970)."""

    digest: str
    size: int
    modified: float


class Blobs(ABC):
    """Where the truth about a registry's files is kept."""

    @abstractmethod
    def add(self, source: Path, digest: str, what: str | None = None) -> None:
        """Keep a copy of `source` under `digest`, for good when this returns.

        If the blob is there and intact, nothing is written; if it is there but damaged, it is
        replaced. Errors call the source `what`.

        Raises:
            CorruptFile: the bytes of `source` do not have this SHA-256; nothing is kept.
        """

    @abstractmethod
    def exists(self, digest: str) -> bool:
        """Whether there is a blob under this SHA-256; it is not read."""

    @abstractmethod
    def rehash(self, digest: str) -> str | None:
        """The SHA-256 that the blob has now, read from where it is kept; None if it is gone."""

    @abstractmethod
    def fetch(self, digest: str, directory: Path) -> Path:
        """A file with the blob's bytes, unchecked: in `directory`, or where the blob is kept.

        Raises:
            CorruptFile: it is gone.
        """

    @abstractmethod
    def stored(self) -> Iterator[Stored]:
        """Every blob that is there, in order of digests."""

    @abstractmethod
    def remove(self, digest: str) -> None:
        """Remove a blob; gone already is as well."""

    @abstractmethod
    def set_aside(self, digest: str) -> str:
        """Move a damaged blob out of the way. Returns where it is now."""
