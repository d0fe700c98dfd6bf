"""What a manifest may say, and how one from elsewhere is read."""

import json

from pydantic import ValidationError

from adaptery.errors import InvalidAdapter, brief
from adaptery.registry.gate.text import strict_json
from adaptery.types import Manifest

MAX_MANIFEST = 4 * 2**20  # bytes
_MAX_LINE = 1024  # characters


def read_manifest(data: bytes, what: str) -> Manifest:
    """The manifest that `data` is the JSON of; `what` names it in errors.

    Raises:
        InvalidAdapter: it is none, or says what no manifest may say.
    """
    if len(data) > MAX_MANIFEST:
        raise InvalidAdapter(
            f"{what} has {len(data)} bytes; a manifest has at most {MAX_MANIFEST}."
        )
    try:
        manifest = Manifest.model_validate(strict_json(data, what))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = brief(".".join(map(str, first["loc"])), quote=False)
        raise InvalidAdapter(f"{what} is not a manifest: {field}: {first['msg']}.") from error
    check_manifest(manifest)
    return manifest


def check_manifest(manifest: Manifest) -> None:
    """Check that a manifest can be kept and shown.

    Raises:
        InvalidAdapter: it is too large, or holds a text that no file or terminal may be given.
    """
    lines = [
        ("base.id", manifest.base.id),
        ("base.revision", manifest.base.revision or ""),
        ("method", manifest.method),
        *(("packages", word) for item in manifest.packages.items() for word in item),
        *(("metrics", name) for name in manifest.metrics),
    ]
    for field, line in lines:
        if not line.isprintable() or len(line) > _MAX_LINE:
            raise InvalidAdapter(
                f"The manifest's {field} has {brief(line)}, which is not one line of printable "
                f"text of at most {_MAX_LINE} characters."
            )
    _check_keepable(manifest)


def _check_keepable(manifest: Manifest) -> None:
    try:
        size = len(manifest.canonical())
        strict_json(json.dumps(manifest.config).encode(), "The manifest's config")
    except (ValueError, RecursionError) as error:
        raise InvalidAdapter(f"The manifest cannot be written as JSON: {error}.") from error
    if size > MAX_MANIFEST:
        raise InvalidAdapter(f"The manifest has {size} bytes; at most {MAX_MANIFEST} are kept.")
