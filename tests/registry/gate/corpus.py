"""Malicious adapters, made on the fly: each kind spoils a valid one in one way.

A kind's builder gets the directory of a valid adapter and the path of a canary: a file that comes
into being if anything of the adapter is executed. Nothing harmful is kept in the repository.
"""

import json
import os
import shlex
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from adaptery.registry.gate.package import ALLOWED_FILES, CONFIG, WEIGHTS
from adaptery.types import AdapterPackage, BaseIdentity, FileEntry, Manifest, sha256_of
from tests.adapters import MODULES, lora_tensors, make_adapter, write_config

Q, V = (f"base_model.model.{module}" for module in MODULES)
WIDTH, RANK = 16, 4
SMALL = 1 << 22  # bytes; a claim about a larger file is made without reading it

Build = Callable[[Path, Path], object]


@dataclass(frozen=True)
class Kind:
    """`publish` and `imports` are what the refusal says, as patterns; None if that way lets it by:
    an import leaves behind what no adapter has."""

    name: str
    build: Build
    publish: str | None
    imports: str | None


def kind(publish: str | None, imports: str | None = "same") -> Callable[[Build], Kind]:
    """Makes a `Kind` of the builder below; `imports` refuses with the same words if not given."""

    def named(build: Build) -> Kind:
        name = build.__name__.removeprefix("build_")
        return Kind(name, build, publish, publish if imports == "same" else imports)

    return named


def configured(name: str, says: str, /, **config: object) -> Kind:
    """A kind whose configuration says something in particular."""
    return Kind(name, lambda at, _: reconfigure(at, **config), says, says)


def headed(name: str, says: str, header: object, data: bytes = b"") -> Kind:
    """A kind whose weights have this header."""
    return Kind(name, lambda at, _: write_raw(at, header, data), says, says)


def valid_adapter(directory: Path, base: Path) -> Path:
    """What each kind begins with: it fits `base`, and would be let through."""
    make_adapter(directory, r=RANK, width=WIDTH, base_model_name_or_path=str(base))
    return directory


def small_base(directory: Path) -> Path:
    """A base of one layer, without tokenizer or anything to run."""
    directory.mkdir(parents=True)
    shapes = {f"{module}.weight": (WIDTH, WIDTH) for module in MODULES}
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text('{"model_type": "small"}')
    return directory


def reconfigure(directory: Path, **changes: object) -> None:
    """The configuration with other values for some fields."""
    config = json.loads((directory / CONFIG).read_text())
    write_config(directory, **{**config, **changes})


def write_raw(directory: Path, header: object, data: bytes = b"") -> None:
    """A weights file with any header, however wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (directory / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data)


def entry(start: object = 0, end: object = 16, dtype: object = "F32", shape: object = (2, 2)):
    """A tensor in a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def reweigh(directory: Path, changes: dict[str, np.ndarray | None]) -> None:
    """The weights with other tensors, or without those that are None."""
    tensors = {**lora_tensors(MODULES, RANK, WIDTH), **changes}
    save_file({n: t for n, t in tensors.items() if t is not None}, directory / WEIGHTS)


class Bomb:
    """Unpickled, it makes the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {shlex.quote(str(self.canary))}",)


def claim(directory: Path, base: BaseIdentity) -> AdapterPackage:
    """What somebody who publishes the directory would claim of it."""
    files = [
        claimed(directory / name) for name in ALLOWED_FILES if os.path.lexists(directory / name)
    ]
    return AdapterPackage(directory, Manifest(files=tuple(files), base=base, method="lora"))


def claimed(path: Path) -> FileEntry:
    size = path.lstat().st_size
    digest = sha256_of(path.read_bytes()) if path.is_file() and size < SMALL else "0" * 64
    return FileEntry(path=path.name, size=size, sha256=digest)
