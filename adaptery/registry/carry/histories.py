"""Whole histories from one registry to another: `adapters registry copy` and `adapters sync`.

They are copied verbatim, event by event: who, when and why are then the same in both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from adaptery.errors import Conflict, ReferenceNotFound, join, suggest
from adaptery.registry.base import Registry
from adaptery.registry.carry.transfer import alias_numbers, checked_out, copy_version
from adaptery.registry.line import Line
from adaptery.types import AdapterRef, Event, EventKind, check_name

Progress = Callable[[int, int, Event], None]
"""Told after each event: how many are done, how many there are, and which it was."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What `copy_registry` did: `present` events were in the target already."""

    adapters: int
    versions: int
    events: int
    present: int


@dataclass(frozen=True, slots=True)
class Synced:
    """What `sync` did: the numbers of the versions that were sent and received.

    `events_sent` and `events_received` count what went over verbatim. If the histories had
    diverged, that is none, and `aliases` says where they differ: alias → number (here, there),
    None if there is no such alias. `yanked` are versions that only one side has yanked.
    """

    name: str
    sent: tuple[int, ...] = ()
    received: tuple[int, ...] = ()
    events_sent: int = 0
    events_received: int = 0
    aliases: Mapping[str, tuple[int | None, int | None]] | None = None
    yanked: tuple[int, ...] = ()


def copy_registry(
    source: Registry, target: Registry, on_progress: Progress | None = None
) -> Copied:
    """Copy the history of every adapter, verbatim, with all versions. Copy again to continue.

    Raises:
        Conflict: the target holds an adapter of the same name with another history; nothing was
            written.
        CorruptFile, InvalidAdapter: a version cannot be copied; what came before it was.
    """
    names = source.names()
    plans = [_missing(source, target, name) for name in names]
    total = sum(len(line.events) for line, _ in plans)
    done = 0
    versions = events = 0
    for line, present in plans:
        done += present
        for event in line.events[present:]:
            new = _append(source, event, target)
            events += new
            versions += new and event.kind is EventKind.PUBLISHED
            done += 1
            if on_progress is not None:
                on_progress(done, total, event)
    return Copied(len(names), versions, events, total - events)


def sync(local: Registry, remote: Registry, name: str) -> Synced:
    """Give each side the versions of an adapter that only the other has.

    If one history continues the other, the missing events go over verbatim, so that both are the
    same afterwards. If they have diverged, the versions are copied under their own numbers, and
    aliases, yanks, tags, notes and signatures stay as they are on each side.

    Raises:
        ReferenceNotFound: neither side has the adapter.
        Conflict: a number is one version here and another there; nothing was written.
    """
    check_name(name)
    ours, theirs = _line(local, name), _line(remote, name)
    if not ours.events and not theirs.events:
        missing = f"There is no adapter {name!r} in {local.url} or {remote.url}."
        raise ReferenceNotFound(join(missing, suggest(name, local.names())))
    common = _common(ours, theirs)
    if common == len(theirs.events):
        sent = _append_all(local, ours.events[common:], remote)
        return Synced(name, sent=sent, events_sent=len(ours.events) - common)
    if common == len(ours.events):
        received = _append_all(remote, theirs.events[common:], local)
        return Synced(name, received=received, events_received=len(theirs.events) - common)
    return _exchange(local, ours, remote, theirs)


def _exchange(local: Registry, ours: Line, remote: Registry, theirs: Line) -> Synced:
    """Copy over the versions that one of two diverged histories lacks."""
    name = ours.name
    to_send, to_receive = _lacking(theirs, ours), _lacking(ours, theirs)
    taken = [n for n in ours.digests if theirs.digests.get(n, ours.digests[n]) != ours.digests[n]]
    if taken:
        one = f"{name}@{taken[0]}"
        raise Conflict(
            f"{one} is sha256:{ours.digests[taken[0]][:12]} in {local.url}, but "
            f"sha256:{theirs.digests[taken[0]][:12]} in {remote.url}; nothing was copied. Keep "
            f"theirs under another name first: `adapters pull {remote.url}/{one} --name "
            f"{name}-theirs`."
        )
    for number in to_send:
        copy_version(local, AdapterRef(name, number=number), remote)
    for number in to_receive:
        copy_version(remote, AdapterRef(name, number=number), local)
    here, there = alias_numbers(local, name), alias_numbers(remote, name)
    differing = {
        alias: (here.get(alias), there.get(alias))
        for alias in sorted(here.keys() | there.keys())
        if here.get(alias) != there.get(alias)
    }
    yanked = tuple(sorted(ours.yanked.keys() ^ theirs.yanked.keys()))
    return Synced(name, to_send, to_receive, aliases=differing, yanked=yanked)


def _lacking(line: Line, other: Line) -> tuple[int, ...]:
    """The numbers of the versions of `other` that `line` does not hold, under any number."""
    held = set(line.digests.values())
    return tuple(number for number in sorted(other.digests) if other.digests[number] not in held)


def _missing(source: Registry, target: Registry, name: str) -> tuple[Line, int]:
    """The line in `source`, and how many of its events are in `target` already.

    Raises:
        Conflict: the history in `target` is not the beginning of that in `source`.
    """
    line, held = _line(source, name), _line(target, name)
    common = _common(line, held)
    if common < len(held.events):
        raise Conflict(
            f"The history of {name} in {target.url} is another than that in {source.url} from "
            f"event {common + 1} on, so it cannot be continued; nothing was copied."
        )
    return line, common


def _common(one: Line, other: Line) -> int:
    """How many events both histories begin with."""
    common = 0
    for ours, theirs in zip(one.events, other.events, strict=False):
        if ours != theirs:
            break
        common += 1
    return common


def _line(registry: Registry, name: str) -> Line:
    """The adapter's line in any registry; an empty one if there is no such adapter."""
    try:
        events = registry.history(name)
    except ReferenceNotFound:
        return Line(name)
    digests = {version.number: version.digest for version in registry.versions(name)}
    return Line(name, digests, events)


def _append_all(source: Registry, events: Sequence[Event], target: Registry) -> tuple[int, ...]:
    """Append all; returns the numbers of the versions that came with them."""
    for event in events:
        _append(source, event, target)
    return tuple(event.number for event in events if event.kind is EventKind.PUBLISHED)


def _append(source: Registry, event: Event, target: Registry) -> bool:
    if event.kind is not EventKind.PUBLISHED:
        return target.append(event)
    version = source.resolve(AdapterRef(event.adapter, number=event.number))
    with checked_out(source, version) as package:
        return target.append(event, package)
