"""One adapter's line of versions, read from its history: the rules without any storage.

Every backend reads a `Line`, asks `steps` for the next event, and writes that event down.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from adaptery.errors import ReferenceNotFound, join, suggest
from adaptery.types import (
    LATEST,
    LIVE,
    AdapterRef,
    Alias,
    Event,
    EventKind,
    Standing,
    canonical_json,
    sha256_of,
)


@dataclass(frozen=True, slots=True)
class Line:
    """The versions of an adapter (number → manifest digest) and its history, oldest first."""

    name: str
    digests: Mapping[int, str] = field(default_factory=dict)
    events: Sequence[Event] = ()

    @property
    def aliases(self) -> dict[str, Alias]:
        """Where each alias points: where the last event that names it put it."""
        return {
            event.alias: Alias(self.name, event.alias, event.number, event.generation)
            for event in self.events
            if event.alias is not None and event.generation is not None
        }

    @property
    def yanked(self) -> dict[int, str]:
        """Version number → reason, of the versions that are yanked now."""
        found: dict[int, str] = {}
        for event in self.events:
            if event.kind is EventKind.YANKED:
                found[event.number] = event.reason
            elif event.kind is EventKind.UNYANKED:
                found.pop(event.number, None)
        return found

    def standing(self, number: int) -> Standing:
        """What has been said of a version since it was published."""
        own = [event for event in self.events if event.number == number]
        tags: dict[str, str] = {}
        for event in own:
            if event.kind is EventKind.TAGGED:
                tags |= event.data
        pointing = (name for name, alias in self.aliases.items() if alias.number == number)
        return Standing(
            aliases=tuple(sorted(pointing)),
            yanked=self.yanked.get(number),
            tags={key: tags[key] for key in sorted(tags) if tags[key]},
            notes=tuple(event.reason for event in own if event.kind is EventKind.NOTED),
            signatures=tuple(
                event.data["signature"] for event in own if event.kind is EventKind.SIGNED
            ),
        )

    def held(self, digest: str) -> int | None:
        """The number of the version with this manifest digest, if there is one."""
        return next((number for number, held in self.digests.items() if held == digest), None)

    def find(self, ref: AdapterRef) -> int:
        """The number of the version that `ref` means. `latest` passes yanked versions over.

        Raises:
            ReferenceNotFound: none, or a digest prefix that several have.
        """
        if ref.number is not None:
            return self.number(ref.number)
        if ref.digest is not None:
            return self._by_digest(ref)
        if ref.alias == LATEST:
            return self._latest()
        return self.alias(ref.alias or LIVE).number

    def alias(self, alias: str) -> Alias:
        """Where `alias` points. Raises `ReferenceNotFound` if there is no such alias."""
        aliases = self.aliases
        if alias not in aliases:
            missing = f"{self.name} has no alias {alias!r}."
            raise ReferenceNotFound(join(missing, suggest(alias, aliases), self.has()))
        return aliases[alias]

    def number(self, number: int) -> int:
        """`number`, if there is such a version. Raises `ReferenceNotFound` if not."""
        if number not in self.digests:
            raise ReferenceNotFound(f"There is no {self.name}@{number}. {self.has()}")
        return number

    def meanings(self, alias: str) -> list[int]:
        """What `alias` has meant, oldest first, without what was rolled back. The last is now.

        A promotion adds a meaning. A rollback takes meanings away until the one that it names is
        the last, so that the next one walks further back; if it names a version that `alias`
        never meant, that takes the place of the last.
        """
        meanings: list[int] = []
        for event in self.events:
            if event.alias != alias:
                continue
            if event.kind is EventKind.ROLLED_BACK:
                earlier = meanings[:-1]
                while earlier and earlier[-1] != event.number:
                    earlier.pop()
                meanings = earlier or [*meanings[:-1], event.number]
            elif meanings[-1:] != [event.number]:
                meanings.append(event.number)
        return meanings

    def has(self) -> str:
        """The sentence that lists the versions."""
        return f"Versions of {self.name}: {ranges(self.digests)}."

    def _latest(self) -> int:
        standing = self.digests.keys() - self.yanked.keys()
        if not standing:
            raise ReferenceNotFound(
                f"Every version of {self.name} was yanked, so none is the latest. {self.has()}"
            )
        return max(standing)

    def _by_digest(self, ref: AdapterRef) -> int:
        prefix = ref.digest or ""
        matching = [number for number, held in self.digests.items() if held.startswith(prefix)]
        if len(matching) > 1:
            raise ReferenceNotFound(
                f"{ref} could be version {' or '.join(map(str, matching))}: give more digits."
            )
        if not matching:
            raise ReferenceNotFound(f"No version of {self.name} is {ref}. {self.has()}")
        return matching[0]


def published_digests(events: Iterable[Event]) -> dict[int, str]:
    """Number → manifest digest, of the versions that a history published."""
    return {e.number: e.data["digest"] for e in events if e.kind is EventKind.PUBLISHED}


def chained(previous: str, event: Event) -> str:
    """The digest of a history that ends with `event`, given that of the history before it ("").

    Whoever changes, removes or inserts an event changes the digest of all that follow.
    """
    moved = (event.alias, event.previous, event.generation)
    who = (event.actor, event.at.isoformat(), event.reason, dict(event.data))
    what = (event.id, event.adapter, event.kind.value, event.number, *moved, *who)
    return sha256_of(canonical_json([previous, *what]))


def history_digest(events: Iterable[Event]) -> str:
    """The digest of a whole history; equal wherever the history is the same."""
    digest = ""
    for event in events:
        digest = chained(digest, event)
    return digest


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as people write them.

    >>> ranges([1, 2, 3, 7])
    '1–3, 7'
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
