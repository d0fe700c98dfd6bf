"""One adapter's line of versions, and what may happen to it next: the rules without any storage.

Both backends read a `Line`, ask it for the next event, and write that event down.
"""

import getpass
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from adaptery.errors import Conflict, InvalidName, ReferenceNotFound, join, suggest
from adaptery.types import LATEST, LIVE, AdapterRef, Alias, Event, EventKind


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

    def held(self, digest: str) -> int | None:
        """The number of the version with this manifest digest, if there is one."""
        return next((number for number, held in self.digests.items() if held == digest), None)

    def find(self, ref: AdapterRef) -> int:
        """The number of the version that `ref` means.

        Raises:
            ReferenceNotFound: none, or a digest prefix that several have.
        """
        if ref.number is not None:
            return self._number(ref.number)
        if ref.digest is not None:
            return self._by_digest(ref)
        if ref.alias == LATEST and self.digests:
            return max(self.digests)
        return self.alias(ref.alias or LIVE).number

    def alias(self, alias: str) -> Alias:
        """Where `alias` points. Raises `ReferenceNotFound` if there is no such alias."""
        aliases = self.aliases
        if alias not in aliases:
            missing = f"{self.name} has no alias {alias!r}."
            raise ReferenceNotFound(join(missing, suggest(alias, aliases), self._has()))
        return aliases[alias]

    def publication(
        self, digest: str, number: int | None, reason: str, objections: Sequence[str]
    ) -> Event:
        """The event that adds a version. The first one also becomes `live`, unless hooks object.

        Raises:
            InvalidName: `number` is not positive.
            Conflict: `number` is another version.
        """
        if number is not None and number < 1:
            raise InvalidName(f"{number} cannot be a version of {self.name}: they count from 1.")
        if number is not None and number in self.digests:
            raise Conflict(
                f"{self.name}@{number} is already another version, "
                f"sha256:{self.digests[number][:12]}."
            )
        number = number or max(self.digests, default=0) + 1
        if self.digests:
            return self._event(EventKind.PUBLISHED, number, reason)
        if objections:
            kept_back = join(f"Not made {LIVE}:", *objections)
            return self._event(EventKind.PUBLISHED, number, join(reason, kept_back))
        return self._event(EventKind.PUBLISHED, number, reason, LIVE)

    def promotion(self, number: int, alias: str, expect: int | None, reason: str) -> Event:
        """The event that lets `alias` mean version `number`.

        Raises:
            Conflict: `alias` does not point to `expect`.
        """
        current = self.aliases.get(alias)
        if expect is not None and (current is None or current.number != expect):
            found = f"points to {self.name}@{current.number}" if current else "does not exist yet"
            raise Conflict(
                f"The alias {alias!r} of {self.name} {found}, not to {self.name}@{expect}. "
                f"See `adapters history {self.name}`."
            )
        return self._event(EventKind.PROMOTED, number, reason, alias)

    def rollback(self, alias: str, to: int | None, reason: str) -> Event:
        """The event that lets `alias` mean what it meant before, or version `to`.

        Raises:
            ReferenceNotFound: no such alias or version, or nothing earlier.
        """
        current = self.alias(alias)
        if to is not None:
            return self._event(EventKind.ROLLED_BACK, self._number(to), reason, alias)
        meanings = self.meanings(alias)
        if len(meanings) < 2:
            raise ReferenceNotFound(
                f"The alias {alias!r} of {self.name} points to {self.name}@{current.number} and "
                f"there is nothing earlier to go back to. Name a version with --to. {self._has()}"
            )
        return self._event(EventKind.ROLLED_BACK, meanings[-2], reason, alias)

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

    def _number(self, number: int) -> int:
        if number not in self.digests:
            raise ReferenceNotFound(f"There is no {self.name}@{number}. {self._has()}")
        return number

    def _by_digest(self, ref: AdapterRef) -> int:
        prefix = ref.digest or ""
        matching = [number for number, held in self.digests.items() if held.startswith(prefix)]
        if len(matching) > 1:
            raise ReferenceNotFound(
                f"{ref} could be version {' or '.join(map(str, matching))}: give more digits."
            )
        if not matching:
            raise ReferenceNotFound(f"No version of {self.name} is {ref}. {self._has()}")
        return matching[0]

    def _has(self) -> str:
        """The sentence that lists the versions."""
        return f"Versions of {self.name}: {ranges(self.digests)}."

    def _event(self, kind: EventKind, number: int, reason: str, alias: str | None = None) -> Event:
        """The next event. With an `alias`, that moves."""
        current = self.aliases.get(alias) if alias else None
        return Event(
            id=len(self.events) + 1,
            adapter=self.name,
            kind=kind,
            number=number,
            alias=alias,
            previous=current.number if current else None,
            generation=(current.generation if current else 0) + 1 if alias else None,
            actor=actor(),
            at=datetime.now(UTC),
            reason=reason,
        )


# What a backend asks, with the line as it is at the moment of writing: the event to write next, or
# None if there is nothing to do.
Decide = Callable[[Line], Event | None]


def actor() -> str:
    """Who is doing this, for the history: $ADAPTERS_ACTOR, else the user's login name."""
    try:
        return os.environ.get("ADAPTERS_ACTOR") or getpass.getuser()
    except (KeyError, OSError):  # A container's user need not have a name.
        return f"uid {os.getuid()}"


def ranges(numbers: Mapping[int, str]) -> str:
    """Numbers as people write them.

    >>> ranges({1: "", 2: "", 3: "", 7: ""})
    '1–3, 7'
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
