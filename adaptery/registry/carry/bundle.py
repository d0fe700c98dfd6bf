"""A version in one file, for places that no network reaches: `adapters bundle` and `unbundle`.

::

    manifest.json   the version's manifest, byte by byte what its digest is taken from
    bundle.json     what it was called: name, number, digest, and a seal over them
    …               the manifest's files, in its order

A plain tar archive in one exact form (`ustar.py`): the same version is always the same bytes.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, BinaryIO, Literal, Self

from pydantic import Field, ValidationError

from adaptery.errors import Conflict, CorruptFile, InvalidAdapter, RegistryError, UsageError
from adaptery.registry.base import Registry
from adaptery.registry.carry.transfer import checked_out
from adaptery.registry.carry.ustar import END, Reader, Writer, padded
from adaptery.registry.files.blobs import fsync
from adaptery.registry.files.digests import mismatch
from adaptery.registry.gate.manifest import MAX_MANIFEST, read_manifest
from adaptery.registry.gate.package import check_names
from adaptery.registry.gate.text import strict_json
from adaptery.types import (
    AdapterPackage,
    AdapterRef,
    Manifest,
    Sha256,
    Value,
    Version,
    canonical_json,
    check_name,
    sha256_of,
)

MANIFEST, LABEL = "manifest.json", "bundle.json"
_MAX_LABEL = 4096  # bytes


class Label(Value):
    """`bundle.json`: what the version was called where it comes from.

    `seal` is the digest of the rest: no other digest covers name and number.
    """

    schema_version: Literal[1] = 1
    name: str
    number: Annotated[int, Field(ge=1, lt=10**9)]
    digest: Sha256
    seal: Sha256

    @classmethod
    def of(cls, name: str, number: int, digest: str) -> Self:
        return cls(name=name, number=number, digest=digest, seal=_seal(name, number, digest))


def bundle(registry: Registry, ref: AdapterRef, file: Path, *, force: bool = False) -> Version:
    """Write the version that `ref` means to `file`, which is there as a whole or not at all.

    Args:
        force: replace a file that is there already.

    Raises:
        ReferenceNotFound: `ref` means nothing.
        UsageError: `file` is there already, or a directory.
        CorruptFile: a file of the version no longer has its digest.
    """
    if file.is_dir():
        raise UsageError(f"{file} is a directory: name the file to write in it.")
    if file.exists() and not force:
        raise UsageError(f"{file} is there already. Give --force to replace it.")
    version = registry.resolve(ref)
    with checked_out(registry, version) as package, _replacing(file) as target:
        _write(Writer(target), version, package)
    return version


def unbundle(registry: Registry, file: Path, name: str | None = None) -> Version:
    """Publish the version in `file` under the name and number that it had, with the same digest.

    Args:
        name: what to call it here instead.

    Raises:
        InvalidAdapter: `file` is not a bundle, or holds what cannot be applied in full.
        CorruptFile: it is cut off, or its bytes are not those that its manifest names.
        Conflict: the number is another version's here.
    """
    if name is not None:
        check_name(name)
    with _opened(file) as source, TemporaryDirectory(prefix="adaptery-unbundle-") as private:
        package, label = _read(Reader(source, str(file)), source, str(file), Path(private))
        try:
            reason = f"unbundled from {label.name}@{label.number}"
            chosen = name or label.name
            return registry.publish(chosen, package, number=label.number, reason=reason)
        except Conflict as error:
            raise Conflict(
                f"{registry.url} does not take {label.name}@{label.number} of {file}: {error} "
                "Use --name to keep it there under another name."
            ) from error


def _write(archive: Writer, version: Version, package: AdapterPackage) -> None:
    label = Label.of(version.name, version.number, version.digest)
    archive.text(MANIFEST, version.manifest.canonical())
    archive.text(LABEL, canonical_json(label.model_dump()))
    for entry in version.manifest.files:
        path = package.directory / entry.path
        with path.open("rb") as source:
            found = archive.copy(entry.path, entry.size, source)
        if found != entry.sha256:
            raise CorruptFile(mismatch(path, entry.sha256, found))
    archive.end()


def _read(
    archive: Reader, source: BinaryIO, what: str, directory: Path
) -> tuple[AdapterPackage, Label]:
    """Unpack a bundle into the empty `directory`, believing nothing before it is checked."""
    content = archive.text(MANIFEST, MAX_MANIFEST)
    manifest = read_manifest(content, f"{what}: {MANIFEST}")
    _check_canonical(manifest, content, f"{what}: {MANIFEST}")
    content = archive.text(LABEL, _MAX_LABEL)
    label = _read_label(content, f"{what}: {LABEL}")
    _check_canonical(label, content, f"{what}: {LABEL}")
    if label != Label.of(label.name, label.number, label.digest):
        raise CorruptFile(f"{what}: the name or number in {LABEL} was changed: its seal is broken.")
    check_name(label.name)
    if label.digest != manifest.digest:
        raise CorruptFile(mismatch(f"{what}: {MANIFEST}", label.digest, manifest.digest))
    check_names([entry.path for entry in manifest.files])
    _check_length(source, manifest, what)
    for entry in manifest.files:
        with (directory / entry.path).open("xb") as target:
            found = archive.copy(entry.path, entry.size, target)
        if found != entry.sha256:
            raise CorruptFile(mismatch(f"{what}: {entry.path}", entry.sha256, found))
    archive.end()
    return AdapterPackage(directory, manifest), label


def _seal(name: str, number: int, digest: str) -> str:
    return sha256_of(canonical_json([name, number, digest]))


def _read_label(content: bytes, what: str) -> Label:
    try:
        return Label.model_validate(strict_json(content, what))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidAdapter(f"{what}: {field or 'it'}: {first['msg']}.") from error


def _check_canonical(value: Label | Manifest, content: bytes, what: str) -> None:
    if canonical_json(value.model_dump(mode="json")) != content:
        raise InvalidAdapter(f"{what} is not canonical JSON, so its digest would mean nothing.")


def _check_length(source: BinaryIO, manifest: Manifest, what: str) -> None:
    """Before anything is unpacked: the archive is as long as the manifest makes it, to the byte."""
    found = os.fstat(source.fileno()).st_size
    due = source.tell() + sum(padded(entry.size) for entry in manifest.files) + len(END)
    if found < due:
        raise CorruptFile(f"{what} is cut off: it has {found} bytes, its manifest makes it {due}.")
    if found > due:
        raise InvalidAdapter(
            f"{what} holds more than the files of one version: it has {found} bytes, its manifest "
            f"makes it {due}."
        )


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    if not file.is_file():
        what = "is not a plain file" if file.exists() else "is not there"
        raise UsageError(f"{file} {what}: name a file that `adapters bundle` wrote.")
    try:
        with file.open("rb") as source:
            yield source
    except OSError as error:
        raise RegistryError(f"{file} cannot be unbundled: {error}.") from error


@contextmanager
def _replacing(file: Path) -> Iterator[BinaryIO]:
    """A file that becomes `file` at the end, durable and whole, unless something goes wrong."""
    unfinished = file.with_name(f".adapters-{secrets.token_hex(8)}")
    try:
        with unfinished.open("xb") as target:
            yield target
            target.flush()
            os.fsync(target.fileno())
        os.replace(unfinished, file)
        fsync(file.parent)
    except OSError as error:
        raise RegistryError(f"{file} cannot be written: {error}.") from error
    finally:
        unfinished.unlink(missing_ok=True)
