"""A repository at one commit, and what goes into a commit."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from huggingface_hub import CommitOperationAdd

from adaptery.errors import RegistryError


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in a commit: its bytes, and the digest of them that the Hub goes by.

    That is the SHA-256 for a file in large storage, else the id that git gives it (a SHA-1).
    """

    size: int
    sha256: str | None
    git_id: str | None

    @classmethod
    def of(cls, sibling: Any) -> Self:
        """What the client calls a sibling, when it was asked for metadata."""
        large = sibling.lfs
        return cls(sibling.size or 0, large.sha256 if large else None, sibling.blob_id)

    def is_of(self, data: bytes) -> bool:
        """Whether the file's bytes are `data`."""
        if self.sha256 is not None:
            return hashlib.sha256(data).hexdigest() == self.sha256
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == self.git_id


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A repository at one commit: path → file."""

    commit: str
    files: Mapping[str, Entry]
    private: bool


@dataclass(frozen=True, slots=True)
class Unsettled:
    """A commit that did not happen, or of which nobody knows whether it did.

    `error` is to be raised in case looking again does not help; `pause` is what the Hub asks for,
    in seconds.
    """

    error: RegistryError
    pause: float


class Addition(CommitOperationAdd):
    """A file that is in the commit whatever `main` held when the client asked.

    The client leaves out a file that it finds unchanged on `main`, or ignored by a `.gitignore`
    there. But that may be another state than the parent, and a version must be whole.
    """

    _remote_oid = property(lambda self: None, lambda self, value: None)
    _should_ignore = property(lambda self: False, lambda self, value: None)
