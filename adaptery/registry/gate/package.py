"""The gate: what is checked of an adapter before a registry keeps it.

An adapter that cannot be applied in full is refused here, with the file and tensor named, and
nothing of it is written, opened by a pickle's rules or run. What depends on the base model is
checked where the base is known: `fit.py`, for trainers' and others' adapters alike by engines.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from adaptery.errors import CorruptFile, InvalidAdapter
from adaptery.registry.files.digests import mismatch, sha256
from adaptery.registry.gate.config import CONFIG, check_config, declaration, read_config
from adaptery.registry.gate.lora import WEIGHTS, check_pairs
from adaptery.registry.gate.manifest import check_manifest
from adaptery.registry.gate.tensorfile import check_finite, read_header
from adaptery.registry.gate.text import is_plain_file, listed, read_text
from adaptery.types import AdapterPackage, FileEntry

TEMPLATE = "chat_template.jinja"
REQUIRED = frozenset({CONFIG, WEIGHTS})


def check_package(package: AdapterPackage) -> None:
    """Check that the directory holds exactly the manifest's files, and that they are an adapter.

    What can be told from the headers is checked first, so that a file that claims to be huge is
    refused before its bytes are read.

    Raises:
        CorruptFile: a file is missing or its bytes are not those that the manifest names.
        InvalidAdapter: there is another file, one that is not allowed, or what the files hold
            cannot be applied in full.
    """
    check_manifest(package.manifest)
    files = package.manifest.files
    names = [file.path for file in files]
    check_names(names)
    try:
        for file in files:
            _check_size(package.directory / file.path, file.size)
        _check_nothing_else(package.directory, names)
        check_contents(package.directory, names)
        for file in files:
            _check_digest(package.directory / file.path, file.sha256)
        check_finite(package.directory / WEIGHTS, read_header(package.directory / WEIGHTS))
    except OSError as error:
        raise InvalidAdapter(f"{package.directory} cannot be read: {error}.") from error


def check_contents(directory: Path, names: Sequence[str]) -> None:
    """Raises `InvalidAdapter` unless the files `names` are an adapter, by all but their values."""
    for name in names:
        ALLOWED_FILES[name](directory)


def build_files(directory: Path) -> tuple[FileEntry, ...]:
    """The manifest's entries for the adapter files in `directory`, in order of their names.

    Raises:
        InvalidAdapter: one that every adapter needs is missing, or one is no plain file.
    """
    names = [name for name in sorted(ALLOWED_FILES) if (directory / name).exists()]
    check_names(names)
    for name in names:
        if not is_plain_file(directory / name):
            raise InvalidAdapter(
                f"{directory / name} is not a plain file (links are not followed)."
            )
    return tuple(
        FileEntry(
            path=name, size=(directory / name).stat().st_size, sha256=sha256(directory / name)
        )
        for name in names
    )


def check_file(path: Path, entry: FileEntry) -> None:
    """Raises `CorruptFile` unless the file at `path` is there and holds the bytes of `entry`."""
    _check_size(path, entry.size)
    _check_digest(path, entry.sha256)


def _check_size(path: Path, size: int) -> None:
    try:
        plain, actual = is_plain_file(path), path.lstat().st_size
    except FileNotFoundError as error:
        raise CorruptFile(f"{path} is missing; the manifest names it.") from error
    if not plain:
        raise CorruptFile(f"{path} is not a plain file (links are not followed).")
    if actual != size:
        raise CorruptFile(f"{path} has {actual} bytes; the manifest says {size}.")


def _check_digest(path: Path, digest: str) -> None:
    actual = sha256(path)
    if actual != digest:
        raise CorruptFile(mismatch(path, digest, actual))


def check_names(names: Sequence[str]) -> None:
    """Raises `InvalidAdapter` unless `names` are files that an adapter may have, all it needs."""
    strange = set(names) - ALLOWED_FILES.keys()
    if strange:
        raise InvalidAdapter(
            f"{listed(strange)} cannot be part of an adapter. Allowed: {', '.join(ALLOWED_FILES)}."
        )
    if len(set(names)) < len(names):
        raise InvalidAdapter("The manifest names a file twice.")
    missing = sorted(REQUIRED - set(names))
    if missing:
        raise InvalidAdapter(f"The adapter has no {' and no '.join(missing)}.")


def _check_nothing_else(directory: Path, names: Sequence[str]) -> None:
    extra = {entry.name for entry in directory.iterdir()} - set(names)
    if extra:
        raise InvalidAdapter(
            f"{directory} also holds {listed(extra)}, which the manifest does not name. Move what "
            "does not belong to the adapter elsewhere, or use `adapters import`, which leaves it."
        )


def _check_weights(directory: Path) -> None:
    tensors = read_header(directory / WEIGHTS)
    config = read_config(directory)
    if config.get("peft_type") == "LORA":
        check_pairs(tensors, declaration(config))
    if not tensors:
        raise InvalidAdapter(f"{WEIGHTS} holds no tensors.")


def _check_template(directory: Path) -> None:
    try:
        read_text(directory / TEMPLATE).decode()
    except UnicodeDecodeError as error:
        raise InvalidAdapter(f"{TEMPLATE} is not UTF-8: {error}.") from error


# Which files an adapter may have, each with its check of the directory. To allow another, add it.
ALLOWED_FILES: Mapping[str, Callable[[Path], None]] = {
    CONFIG: check_config,
    WEIGHTS: _check_weights,
    TEMPLATE: _check_template,
}
