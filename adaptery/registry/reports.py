"""What a registry says of itself: what it holds, and how healthy it is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it must be. `repaired` says what was done about it, if anything."""

    subject: str
    problem: str
    repaired: str | None = None

    def __str__(self) -> str:
        done = f" {self.repaired}" if self.repaired else ""
        return f"{self.subject}: {self.problem}{done}"


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What collection took, or would take: things that no version and no lease refers to.

    `blobs` were kept for versions that never came to be, or for a cache; `checkouts` are
    directories that are made again when they are needed; `unfinished` were left by processes that
    died. `leased` counts the checkouts that somebody uses, which therefore stayed.
    """

    blobs: int = 0
    checkouts: int = 0
    unfinished: int = 0
    leased: int = 0
    bytes: int = 0

    def __add__(self, other: "Leftovers") -> "Leftovers":
        return Leftovers(
            self.blobs + other.blobs,
            self.checkouts + other.checkouts,
            self.unfinished + other.unfinished,
            self.leased + other.leased,
            self.bytes + other.bytes,
        )


@dataclass(frozen=True, slots=True)
class RegistryInfo:
    """What a registry is and holds. `url` shows no password; `bytes` are those of its blobs.

    `revision` is the schema of the catalogue, None where there is no catalogue (yet).
    """

    url: str
    backend: str
    adapters: int = 0
    versions: int = 0
    aliases: int = 0
    events: int = 0
    blobs: int = 0
    bytes: int = 0
    revision: str | None = None
