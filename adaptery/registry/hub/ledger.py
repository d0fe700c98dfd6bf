"""`.adapters/registry.json`: an adapter's line, written down in its repository.

Whoever may write to the repository may have written it, so nothing in it is believed before it
was checked: its grammar, its texts, and that it tells a history that can have happened.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    FailFast,
    Field,
    ValidationError,
    model_validator,
)

from adaptery.errors import CorruptFile, InvalidAdapter, RegistryError, brief
from adaptery.registry.gate.text import strict_json
from adaptery.registry.line import Line
from adaptery.types import (
    Alias,
    Event,
    EventKind,
    Sha256,
    Value,
    check_alias,
    check_name,
    check_tags,
    check_text,
)

LEDGER = ".adapters/registry.json"
MAX_LEDGER = 8 * 2**20  # bytes: some 20,000 events; as nothing but brackets, 350 MB of memory
_SCHEMA = 2
_MAX_DATA = 256  # entries of one event's data
_MOVES = (EventKind.PROMOTED, EventKind.ROLLED_BACK)

Text = Annotated[str, AfterValidator(lambda text: check_text(text, "It"))]
Name = Annotated[str, AfterValidator(check_name)]
AliasName = Annotated[str, AfterValidator(check_alias)]
Count = Annotated[int, Field(ge=1, lt=10**9)]
Moment = Annotated[AwareDatetime, AfterValidator(lambda moment: moment.astimezone(UTC))]


class Row(Value):
    """An event as the ledger writes it. Version 1 had no `data`: digests stood in `versions`."""

    id: Count
    adapter: Name
    kind: EventKind
    number: Count
    alias: AliasName | None
    previous: Count | None
    generation: Count | None
    actor: Text
    at: Moment
    reason: Text
    data: dict[str, str] = Field(default_factory=dict, max_length=_MAX_DATA)

    def event(self, digests: Mapping[int, str]) -> Event:
        event = Event(**dict(self))
        if self.kind is EventKind.PUBLISHED:
            return replace(event, data={"digest": digests[self.number]})
        return event


_REQUIRED = Row.model_fields.keys() - {"data"}


class Ledger(Value):
    """The ledger's JSON."""

    schema_version: Literal[1, 2] = 2
    versions: dict[Count, Sha256]
    events: Annotated[tuple[Row, ...], FailFast()]

    @model_validator(mode="after")
    def _tells_a_history(self) -> Self:
        if len(set(self.versions.values())) < len(self.versions):
            raise ValueError("two of its versions are the same")
        published: set[int] = set()
        aliases: dict[str, Alias] = {}
        for place, row in enumerate(self.events, 1):
            try:
                _check_place(row, place, self.events[0].adapter)
                _check_number(row, published)
                _check_move(row, aliases)
                _check_data(row, self.versions if self.schema_version > 1 else {})
            except ValueError as error:
                raise ValueError(f"its event {place} {error}") from error
        return self._every_version_was_published(published)

    def _every_version_was_published(self, published: set[int]) -> Self:
        if published != self.versions.keys():
            raise ValueError("its versions are not those that its history says were published")
        return self


def read_ledger(data: bytes, name: str, what: str) -> Line:
    """The line of the adapter `name` that the ledger `data` holds; errors call it `what`.

    Raises:
        CorruptFile: it is no ledger, or that of another adapter.
        RegistryError: a newer adaptery wrote it.
    """
    try:
        value = strict_json(data, what)
        _check_schema(value, what)
        _check_shape(value)
        ledger = Ledger.model_validate(value)
    except InvalidAdapter as error:
        raise CorruptFile(f"{what} cannot be read: {error}") from error
    except ValidationError as error:
        raise CorruptFile(f"{what} cannot be read: {_first(error)}.") from error
    except ValueError as error:
        raise CorruptFile(f"{what} cannot be read: {error}.") from error
    line = Line(name, ledger.versions, tuple(row.event(ledger.versions) for row in ledger.events))
    if line.events and line.events[0].adapter != name:
        raise CorruptFile(
            f"{what} cannot be read: it is the history of {line.events[0].adapter!r}."
        )
    return line


def write_ledger(digests: Mapping[int, str], events: Sequence[Event], what: str) -> bytes:
    """The ledger's bytes, in the newest schema.

    Raises:
        RegistryError: the history has grown larger than a ledger may be, or cannot be told by one.
    """
    try:
        rows = tuple(Row(**asdict(event)) for event in events)
        ledger = Ledger(versions=dict(digests), events=rows)
    except ValidationError as error:
        raise RegistryError(f"{what} cannot keep this: {_first(error)}.") from error
    data = ledger.model_dump_json(indent=1).encode()
    if len(data) > MAX_LEDGER:
        raise RegistryError(
            f"{what} would have {len(data)} bytes; at most {MAX_LEDGER} are kept. Go on under "
            "another name."
        )
    return data


def _check_schema(value: Any, what: str) -> None:
    schema = value.get("schema_version") if isinstance(value, dict) else None
    if type(schema) is not int:  # True is an int, and 1
        raise CorruptFile(f"{what} cannot be read: it is no object with a schema_version.")
    if schema > _SCHEMA:
        raise RegistryError(
            f"{what} was written by a newer adaptery: it has schema {brief(schema)}, and this one "
            f"reads up to {_SCHEMA}. Update adaptery."
        )


def _check_shape(ledger: dict[str, Any]) -> None:
    """Before a validator is asked, which would write a report on each of a million wrong items."""
    versions, events = ledger.get("versions"), ledger.get("events")
    if not isinstance(versions, dict) or not isinstance(events, list) or len(ledger) > 3:
        raise ValueError("it must have a schema_version, versions and events, and nothing else")
    for place, event in enumerate(events, 1):
        if not isinstance(event, dict) or not _REQUIRED <= event.keys() <= Row.model_fields.keys():
            fields = ", ".join(Row.model_fields)
            raise ValueError(f"its event {place} must have the fields {fields}, and no other")
        if isinstance(data := event.get("data"), dict) and len(data) > _MAX_DATA:
            raise ValueError(f"its event {place} has more than {_MAX_DATA} entries of data")
    if len(versions) > len(events):
        raise ValueError("it lists more versions than its history can have published")


def _check_place(row: Row, place: int, adapter: str) -> None:
    if row.id != place:
        raise ValueError(f"has the id {row.id}")
    if row.adapter != adapter:
        raise ValueError(f"is one of {row.adapter!r}, not of {adapter!r}")


def _check_number(row: Row, published: set[int]) -> None:
    if row.kind is not EventKind.PUBLISHED and row.number not in published:
        raise ValueError(f"is about version {row.number}, which was not published before")
    if row.kind is EventKind.PUBLISHED and row.number in published:
        raise ValueError(f"publishes version {row.number} again")
    published.add(row.number)


def _check_move(row: Row, aliases: dict[str, Alias]) -> None:
    """An alias moves from where it was, one generation at a time."""
    if row.alias is None:
        if row.kind in _MOVES or row.previous is not None or row.generation is not None:
            raise ValueError("moves no alias")
        return
    if row.kind not in (EventKind.PUBLISHED, *_MOVES):
        raise ValueError(f"moves an alias, although it is {row.kind.value!r}")
    before = aliases.get(row.alias)
    expected = (before.number, before.generation + 1) if before else (None, 1)
    if (row.previous, row.generation) != expected:
        raise ValueError(f"moves the alias {row.alias!r} from where it was not")
    aliases[row.alias] = Alias(row.adapter, row.alias, row.number, expected[1])


def _check_data(row: Row, digests: Mapping[int, str]) -> None:
    if row.kind is EventKind.TAGGED:
        check_tags(row.data)
    elif row.kind is EventKind.SIGNED:
        if row.data.keys() != {"signature"}:
            raise ValueError("has no signature")
    elif row.kind is EventKind.PUBLISHED:
        if row.data.get("digest") != digests.get(row.number) or len(row.data) > 1:
            raise ValueError(f"does not publish what version {row.number} is")
    elif row.data:
        raise ValueError(f"has data, although it is {row.kind.value!r}")


def _first(error: ValidationError) -> str:
    """The first thing that is wrong, in one line."""
    first = error.errors(include_url=False)[0]
    where = brief(".".join(map(str, first["loc"])), quote=False)
    said = brief(" ".join(first["msg"].split()), quote=False).rstrip(".")
    return f"{where}: {said}" if where else said
