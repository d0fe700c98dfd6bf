"""The gate: what is checked of an adapter before a registry keeps it.

An adapter that cannot be applied in full is refused here, with the file and tensor named, and
nothing of it is written. What depends on the base model (do the target modules exist, do the
widths agree) is checked where the base is known: by trainers and engines.
"""

import re
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from adaptery.errors import CorruptFile, InvalidAdapter
from adaptery.registry.files.digests import mismatch, sha256
from adaptery.registry.gate.tensorfile import TensorInfo, check_finite, read_header, strict_json
from adaptery.types import AdapterPackage, FileEntry

CONFIG, WEIGHTS, TEMPLATE = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
)
REQUIRED = frozenset({CONFIG, WEIGHTS})
_MAX_TEXT = 1 << 20

# What PEFT calls its methods. All can be kept, because they can be merged; what an engine applies
# without merging is the engine's to say.
# fmt: off
_PEFT_TYPES = frozenset([
    "LORA", "ADALORA", "LOHA", "LOKR", "IA3", "OFT", "BOFT", "VERA", "FOURIERFT", "HRA",
    "VBLORA", "RANDLORA", "MISS", "C3A", "ROAD", "DELORA", "LN_TUNING", "PREFIX_TUNING",
    "PROMPT_TUNING", "P_TUNING", "TRAINABLE_TOKENS",
])
# fmt: on
_PAIRED = re.compile(r"(?P<module>.+)\.lora_(?:embedding_)?(?P<side>[AB])(?:\.weight)?")
_EXTRAS = ("use_dora", "lora_bias", "modules_to_save", "trainable_token_indices")

Rank = Annotated[int, Field(ge=1)]


class LoraDeclaration(BaseModel):
    """The part of `adapter_config.json` that says which ranks and scales the tensors have."""

    model_config = ConfigDict(strict=True, frozen=True)

    r: Rank
    lora_alpha: FiniteFloat
    rank_pattern: dict[str, Rank] | None = None
    alpha_pattern: dict[str, FiniteFloat] | None = None

    def rank(self, module: str) -> int:
        """The rank declared for `module`, matched as PEFT matches: a whole name or its end."""
        for pattern, rank in (self.rank_pattern or {}).items():
            try:
                matched = re.fullmatch(rf"(.*\.)?({pattern})", module)
            except re.error as error:
                raise InvalidAdapter(f"{CONFIG}: rank_pattern {pattern!r}: {error}.") from error
            if matched:
                return rank
        return self.r


def check_package(package: AdapterPackage) -> None:
    """Check that the directory holds exactly the manifest's files, and that they are an adapter.

    Raises:
        CorruptFile: a file is missing or its bytes are not those that the manifest names.
        InvalidAdapter: there is another file, one that is not allowed, or what the files hold
            cannot be applied in full.
    """
    names = [file.path for file in package.manifest.files]
    _check_names(names)
    for file in package.manifest.files:
        check_file(package.directory / file.path, file)
    extra = {entry.name for entry in package.directory.iterdir()} - set(names)
    if extra:
        raise InvalidAdapter(
            f"{package.directory} also holds {', '.join(sorted(extra))}, which the manifest does "
            "not name. Move what does not belong to the adapter elsewhere."
        )
    for name in names:
        ALLOWED_FILES[name](package.directory)


def build_files(directory: Path) -> tuple[FileEntry, ...]:
    """The manifest's entries for the adapter files in `directory`, in order of their names.

    Raises:
        InvalidAdapter: one that every adapter needs is missing.
    """
    names = [name for name in sorted(ALLOWED_FILES) if (directory / name).is_file()]
    _check_names(names)
    return tuple(
        FileEntry(
            path=name, size=(directory / name).stat().st_size, sha256=sha256(directory / name)
        )
        for name in names
    )


def check_file(path: Path, entry: FileEntry) -> None:
    """Raises `CorruptFile` unless the file at `path` is there and holds the bytes of `entry`."""
    try:
        status = path.lstat()
    except FileNotFoundError as error:
        raise CorruptFile(f"{path} is missing; the manifest names it.") from error
    if not stat.S_ISREG(status.st_mode):
        raise CorruptFile(f"{path} is not a plain file (links are not followed).")
    if status.st_size != entry.size:
        raise CorruptFile(f"{path} has {status.st_size} bytes; the manifest says {entry.size}.")
    actual = sha256(path)
    if actual != entry.sha256:
        raise CorruptFile(mismatch(path, entry.sha256, actual))


def _check_names(names: Sequence[str]) -> None:
    strange = sorted(set(names) - ALLOWED_FILES.keys())
    if strange:
        raise InvalidAdapter(
            f"{', '.join(strange)} cannot be part of an adapter. "
            f"Allowed: {', '.join(ALLOWED_FILES)}."
        )
    if len(set(names)) < len(names):
        raise InvalidAdapter("The manifest names a file twice.")
    missing = sorted(REQUIRED - set(names))
    if missing:
        raise InvalidAdapter(f"The adapter has no {' and no '.join(missing)}.")


def _read_text(path: Path) -> bytes:
    if path.stat().st_size > _MAX_TEXT:
        raise InvalidAdapter(f"{path.name} is larger than {_MAX_TEXT} bytes.")
    return path.read_bytes()


def _read_config(directory: Path) -> dict[str, object]:
    config = strict_json(_read_text(directory / CONFIG), CONFIG)
    if not isinstance(config, dict):
        raise InvalidAdapter(f"{CONFIG} is not a JSON object.")
    return config


def _check_config(directory: Path) -> None:
    config = _read_config(directory)
    if config.get("auto_map"):
        raise InvalidAdapter(f"{CONFIG} has an auto_map: adapters never bring code of their own.")
    if config.get("peft_type") not in _PEFT_TYPES:
        raise InvalidAdapter(
            f"{CONFIG}: the peft_type {config.get('peft_type')!r} is not known. "
            f"Known: {', '.join(sorted(_PEFT_TYPES))}."
        )
    if config["peft_type"] == "LORA":
        _declaration(config)


def _declaration(config: Mapping[str, object]) -> LoraDeclaration:
    try:
        return LoraDeclaration.model_validate(config)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidAdapter(f"{CONFIG}: {field}: {first['msg']}.") from error


def _check_weights(directory: Path) -> None:
    tensors = read_header(directory / WEIGHTS)
    config = _read_config(directory)
    if config.get("peft_type") == "LORA":
        _check_pairs(tensors, _declaration(config), extras=_declares_extras(config))
    check_finite(directory / WEIGHTS, tensors)


def _declares_extras(config: Mapping[str, object]) -> bool:
    """Whether the configuration says that there are tensors beside the A/B pairs."""
    return config.get("bias", "none") != "none" or any(config.get(key) for key in _EXTRAS)


def _check_pairs(tensors: Sequence[TensorInfo], declared: LoraDeclaration, extras: bool) -> None:
    """Every module has A (r, d_in) and B (d_out, r), r as declared, and there is nothing else."""
    modules: dict[str, dict[str, TensorInfo]] = {}
    for tensor in tensors:
        match = _PAIRED.fullmatch(tensor.name)
        if match:
            modules.setdefault(match["module"], {})[match["side"]] = tensor
        elif not extras:
            raise InvalidAdapter(
                f"{WEIGHTS}: {tensor.name!r} is neither a lora_A nor a lora_B, and {CONFIG} "
                f"declares none of {', '.join(_EXTRAS)} or bias."
            )
    if not modules:
        raise InvalidAdapter(f"{WEIGHTS} holds no lora_A and lora_B at all.")
    for module, sides in modules.items():
        _check_pair(module, sides, declared.rank(module.removeprefix("base_model.model.")))


def _check_pair(module: str, sides: Mapping[str, TensorInfo], rank: int) -> None:
    for side in "AB":
        if side not in sides:
            raise InvalidAdapter(f"{WEIGHTS}: {module!r} has no lora_{side}.")
        shape = sides[side].shape
        if len(shape) != 2 or 0 in shape:
            raise InvalidAdapter(
                f"{WEIGHTS}: {sides[side].name!r} has the shape {shape}; it must be a matrix."
            )
    found = sides["A"].shape[0], sides["B"].shape[1]
    if found != (rank, rank):
        raise InvalidAdapter(
            f"{WEIGHTS}: {module!r} has the rank {found[0]} in lora_A and {found[1]} in lora_B, "
            f"but {CONFIG} declares {rank}."
        )


def _check_template(directory: Path) -> None:
    try:
        _read_text(directory / TEMPLATE).decode()
    except UnicodeDecodeError as error:
        raise InvalidAdapter(f"{TEMPLATE} is not UTF-8: {error}.") from error


# Which files an adapter may have, each with its check of the directory. To allow another, add it.
ALLOWED_FILES: Mapping[str, Callable[[Path], None]] = {
    CONFIG: _check_config,
    WEIGHTS: _check_weights,
    TEMPLATE: _check_template,
}
