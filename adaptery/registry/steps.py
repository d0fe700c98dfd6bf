"""What may happen next to an adapter: each function gives the next event of a `Line`, or refuses.

Nothing is written here. A backend asks with the line as it is at the moment of writing.
"""

import getpass
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from adaptery.errors import (
    Conflict,
    InvalidName,
    PromotionRefused,
    ReferenceNotFound,
    UsageError,
    join,
)
from adaptery.registry.line import Line
from adaptery.types import LIVE, Event, EventKind, check_tags, check_text

# What a backend asks, with the line as it is at the moment of writing: the event to write next, or
# None if there is nothing to do.
Decide = Callable[[Line], Event | None]

_MAX_SIGNATURE = 65536  # characters


def publication(
    line: Line, digest: str, number: int | None, reason: str, objections: Sequence[str]
) -> Event:
    """The event that adds a version. The first one also becomes `live`, unless hooks object.

    Raises:
        InvalidName: `number` is not positive.
        Conflict: `number` is another version.
    """
    if number is not None and not 1 <= number < 10**9:
        raise InvalidName(
            f"{number} cannot be a version of {line.name}: they count from 1 to 999999999."
        )
    if number is not None and number in line.digests:
        raise Conflict(
            f"{line.name}@{number} is already another version, sha256:{line.digests[number][:12]}."
        )
    number = number or max(line.digests, default=0) + 1
    alias = None if line.digests or objections else LIVE
    if objections:
        reason = join(reason, f"Not made {LIVE}:", *objections)
    data = {"digest": digest}
    return next_event(line, EventKind.PUBLISHED, number, reason, alias, data=data)


def promotion(line: Line, number: int, alias: str, expect: int | None, reason: str) -> Event:
    """The event that lets `alias` mean version `number`.

    Raises:
        Conflict: `alias` does not point to `expect`.
        PromotionRefused: the version was yanked.
    """
    current = line.aliases.get(alias)
    if expect is not None and (current is None or current.number != expect):
        found = f"points to {line.name}@{current.number}" if current else "does not exist yet"
        raise Conflict(
            f"The alias {alias!r} of {line.name} {found}, not to {line.name}@{expect}. "
            f"See `adapters history {line.name}`."
        )
    _refuse_yanked(line, number)
    return next_event(line, EventKind.PROMOTED, number, reason, alias)


def rollback(line: Line, alias: str, to: int | None, reason: str) -> Event:
    """The event that lets `alias` mean what it meant before, or version `to`.

    Yanked versions are passed over.

    Raises:
        ReferenceNotFound: no such alias or version, or nothing earlier.
        PromotionRefused: `to` was yanked.
    """
    current = line.alias(alias)
    if to is not None:
        _refuse_yanked(line, line.number(to))
        return next_event(line, EventKind.ROLLED_BACK, to, reason, alias)
    earlier = [number for number in line.meanings(alias)[:-1] if number not in line.yanked]
    while earlier and earlier[-1] == current.number:
        earlier.pop()
    if not earlier:
        raise ReferenceNotFound(
            f"The alias {alias!r} of {line.name} points to {line.name}@{current.number} and "
            f"there is nothing earlier to go back to. Name a version with --to. {line.has()}"
        )
    return next_event(line, EventKind.ROLLED_BACK, earlier[-1], reason, alias)


def yanking(line: Line, number: int, reason: str) -> Event:
    """The event that takes a version out of use. It stays readable by number and digest.

    Raises:
        UsageError: there is no reason.
        Conflict: an alias means it, or it is yanked already.
    """
    if not reason.strip():
        raise UsageError(f"Say why {line.name}@{number} is yanked, with --reason.")
    if number in line.yanked:
        raise Conflict(f"{line.name}@{number} is yanked already: {line.yanked[number]}")
    pointing = line.standing(number).aliases
    if pointing:
        raise Conflict(
            f"{line.name}@{number} is what {' and '.join(map(repr, pointing))} means. Let that "
            f"mean another version first (`adapters rollback {line.name} --alias {pointing[0]}` or "
            "`adapters promote`), then yank."
        )
    return next_event(line, EventKind.YANKED, number, reason)


def unyanking(line: Line, number: int, reason: str) -> Event:
    """The event that takes a yank back. Raises `Conflict` if the version is not yanked."""
    if number not in line.yanked:
        raise Conflict(f"{line.name}@{number} is not yanked.")
    return next_event(line, EventKind.UNYANKED, number, reason)


def tagging(line: Line, number: int, tags: Mapping[str, str]) -> Event:
    """The event that gives a version tags; an empty value takes one away. Raises `InvalidName`."""
    return next_event(line, EventKind.TAGGED, number, "", data=check_tags(tags))


def noting(line: Line, number: int, text: str) -> Event:
    """The event that keeps a note. Raises `UsageError` if it is empty."""
    if not text.strip():
        raise UsageError("A note without text is none.")
    return next_event(line, EventKind.NOTED, number, text)


def signing(line: Line, number: int, signature: str) -> Event:
    """The event that keeps a signature of the version's files and manifest.

    Raises:
        UsageError: it is empty, or longer than any signature is.
    """
    if not 1 <= len(signature) <= _MAX_SIGNATURE:
        raise UsageError(
            f"A signature of {len(signature)} characters is none; it has 1 to {_MAX_SIGNATURE}."
        )
    return next_event(line, EventKind.SIGNED, number, "", data={"signature": signature})


def copying(line: Line, event: Event) -> Event | None:
    """An event of the same history in another registry, as it is; None if it is here already.

    Raises:
        Conflict: this history goes on differently.
    """
    if event.id <= len(line.events) and line.events[event.id - 1] == event:
        return None
    if event.id != len(line.events) + 1 or event.adapter != line.name:
        raise Conflict(
            f"The histories of {line.name} differ from event {min(event.id, len(line.events))} "
            "on, so one cannot continue the other."
        )
    return event


def next_event(
    line: Line,
    kind: EventKind,
    number: int,
    reason: str,
    alias: str | None = None,
    data: Mapping[str, str] | None = None,
) -> Event:
    """The next event of the line. With an `alias`, that moves."""
    current = line.aliases.get(alias) if alias else None
    return Event(
        id=len(line.events) + 1,
        adapter=line.name,
        kind=kind,
        number=number,
        alias=alias,
        previous=current.number if current else None,
        generation=(current.generation if current else 0) + 1 if alias else None,
        actor=actor(),
        at=datetime.now(UTC),
        reason=check_text(reason, "The reason" if kind is not EventKind.NOTED else "The note"),
        data=dict(data or {}),
    )


def actor() -> str:
    """Who is doing this, for the history: $ADAPTERS_ACTOR, else the user's login name."""
    try:
        name = os.environ.get("ADAPTERS_ACTOR") or getpass.getuser()
    except (KeyError, OSError):  # A container's user need not have a name.
        name = f"uid {os.getuid()}"
    return check_text(name, "The actor ($ADAPTERS_ACTOR)")


def _refuse_yanked(line: Line, number: int) -> None:
    if number in line.yanked:
        raise PromotionRefused(
            f"{line.name}@{number} was yanked: {line.yanked[number]} No alias can mean it; "
            f"`adapters unyank {line.name}@{number}` takes that back."
        )
