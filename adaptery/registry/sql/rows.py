"""Rows of the catalogue to values and back."""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from types import UnionType
from typing import Any

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Row

from adaptery.errors import CorruptFile
from adaptery.registry.files.digests import mismatch
from adaptery.types import Event, EventKind, Manifest, Version, canonical_json

_EVENT_FIELDS = ("adapter", "number", "alias", "previous", "generation", "actor", "reason")
_VERSION_TYPES = {"adapter": str, "number": int, "created_by": str}
_EVENT_TYPES: dict[str, type | UnionType] = {
    **{"adapter": str, "sequence": int, "number": int, "actor": str, "reason": str, "chain": str},
    **{"alias": str | None, "previous": int | None, "generation": int | None},
}


_TEXTS = TypeAdapter(dict[str, str])


def require_types(row: Any, types: Mapping[str, type | UnionType]) -> None:
    """Raises `CorruptFile` unless the row's columns are of these types.

    SQLite keeps any value in any column, so a flipped bit can make a text of a number.
    """
    for column, kind in types.items():
        value = row._mapping[column]
        if not isinstance(value, kind):
            raise CorruptFile(
                f"The catalogue is damaged: {value!r} stands in a column {column!r}, "
                f"which holds {getattr(kind, '__name__', kind)}."
            )


def to_version(row: Row[Any]) -> Version:
    """The version in a row of `versions`. Raises `CorruptFile` if it lost its digest."""
    require_types(row, _VERSION_TYPES)
    what = f"The manifest of {row.adapter}@{row.number}"
    try:
        found = hashlib.sha256(row.manifest.encode()).hexdigest()
        if found != row.digest:
            raise CorruptFile(mismatch(what, row.digest, found))
        return Version(
            name=row.adapter,
            number=row.number,
            manifest=Manifest.model_validate_json(row.manifest),
            digest=row.digest,
            created_at=datetime.fromisoformat(row.created_at),
            created_by=row.created_by,
        )
    except (AttributeError, TypeError, ValidationError, ValueError) as error:
        raise CorruptFile(f"{what} in the catalogue is damaged: {one_line(error)}.") from error


def to_event(row: Row[Any]) -> Event:
    """The event in a row of `events`. Raises `CorruptFile` if it cannot be read."""
    require_types(row, _EVENT_TYPES)
    try:
        event = Event(
            **{field: row._mapping[field] for field in _EVENT_FIELDS},
            id=row.sequence,
            kind=EventKind(row.kind),
            at=datetime.fromisoformat(row.at),
            data=_TEXTS.validate_json(row.data),
        )
        if event.kind is EventKind.PUBLISHED and "digest" not in event.data:
            raise ValueError("it does not say what it published")
        return event
    except (TypeError, ValueError) as error:
        raise CorruptFile(
            f"Event {row.sequence} of {row.adapter} in the catalogue is damaged: {one_line(error)}."
        ) from error


def from_version(event: Event, manifest: Manifest) -> dict[str, Any]:
    """The row of `versions` for a publication."""
    return {
        "adapter": event.adapter,
        "number": event.number,
        "digest": manifest.digest,
        "manifest": manifest.canonical().decode(),
        "created_at": event.at.isoformat(),
        "created_by": event.actor,
        **columns_of(manifest),
    }


def columns_of(manifest: Manifest) -> dict[str, str | int]:
    """What `versions` repeats of a manifest."""
    return {
        "method": manifest.method,
        "base_id": manifest.base.id,
        "base_digest": manifest.base.digest,
        "size": manifest.size,
    }


def from_event(event: Event, chain: str) -> dict[str, Any]:
    """The row of `events`; `chain` is the digest of the history that ends with it."""
    return {
        **{field: getattr(event, field) for field in _EVENT_FIELDS},
        "sequence": event.id,
        "kind": event.kind.value,
        "at": event.at.isoformat(),
        "data": canonical_json(dict(event.data)).decode(),
        "chain": chain,
    }


def publication_data(digest: str) -> str:
    """The `data` of the event that publishes the version with this manifest digest."""
    return canonical_json({"digest": digest}).decode()


def one_line(error: Exception) -> str:
    """An error's text in one line, without its last full stop."""
    return " ".join(str(error).split()).rstrip(".")
