"""What `adapter_config.json` may say: a known method, sane figures, names, and never code."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from adaptery.errors import InvalidAdapter, brief
from adaptery.registry.gate.patterns import check_pattern
from adaptery.registry.gate.text import read_text, strict_json

CONFIG = "adapter_config.json"

# What PEFT calls its methods. All can be kept, because they can be merged; what an engine applies
# without merging is the engine's to say.
# fmt: off
_PEFT_TYPES = frozenset([
    "LORA", "ADALORA", "LOHA", "LOKR", "IA3", "OFT", "BOFT", "VERA", "FOURIERFT", "HRA",
    "VBLORA", "RANDLORA", "MISS", "C3A", "ROAD", "DELORA", "LN_TUNING", "PREFIX_TUNING",
    "PROMPT_TUNING", "P_TUNING", "TRAINABLE_TOKENS",
])
# fmt: on

# Keys by which some loader or other is told to run code, wherever in the file they stand.
_CODE = frozenset(
    {"auto_map", "trust_remote_code", "custom_code", "custom_generate", "custom_pipelines"}
    | {"megatron_config"}
)
# Keys that name a library to import, with the libraries that PEFT itself writes there.
_IMPORTS = {
    "parent_library": ("transformers", "diffusers"),
    "megatron_core": ("megatron",),
}

# Modules as people list them, and the texts that PEFT takes for patterns instead.
_LISTS = ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern")
_PATTERNS = ("target_modules", "exclude_modules", "layers_pattern")
_KEYED = ("rank_pattern", "alpha_pattern")
_IDS = ("base_model_name_or_path", "revision", "peft_version", "task_type")
MODULE_NAME = re.compile(r"(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
_MAX_ID = 512  # characters

Rank = Annotated[int, Field(ge=1)]


class LoraDeclaration(BaseModel):
    """The part of `adapter_config.json` that says which tensors there are, and their scales."""

    model_config = ConfigDict(strict=True, frozen=True)

    r: Rank
    lora_alpha: FiniteFloat
    rank_pattern: dict[str, Rank] | None = None
    alpha_pattern: dict[str, FiniteFloat] | None = None
    use_dora: bool | None = None
    use_rslora: bool | None = None
    lora_bias: bool | None = None
    fan_in_fan_out: bool | None = None
    bias: Literal["none", "all", "lora_only"] = "none"
    modules_to_save: list[str] | None = None
    task_type: str | None = None
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None


def read_config(directory: Path) -> dict[str, Any]:
    """`adapter_config.json` as data. Raises `InvalidAdapter` if it is not one JSON object."""
    config = strict_json(read_text(directory / CONFIG), CONFIG)
    if not isinstance(config, dict):
        raise InvalidAdapter(f"{CONFIG} is not a JSON object.")
    return config


def check_config(directory: Path) -> None:
    """Raises `InvalidAdapter` if the configuration in `directory` cannot be applied as it is."""
    config = read_config(directory)
    _check_no_code(config)
    kind = config.get("peft_type")
    if not isinstance(kind, str) or kind not in _PEFT_TYPES:
        raise InvalidAdapter(
            f"{CONFIG}: the peft_type {brief(kind)} is not known. "
            f"Known: {', '.join(sorted(_PEFT_TYPES))}."
        )
    _check_ids(config)
    _check_names(config)
    if kind == "LORA":
        declaration(config)


def declaration(config: Mapping[str, Any]) -> LoraDeclaration:
    """What a configuration of the type LORA declares. Raises `InvalidAdapter`."""
    try:
        return LoraDeclaration.model_validate(config)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = brief(".".join(str(part) for part in first["loc"]), quote=False)
        raise InvalidAdapter(f"{CONFIG}: {field}: {first['msg']}.") from error


def _check_no_code(config: Mapping[str, Any]) -> None:
    for key, value in _items(config):
        if key in _CODE and value:
            article = "an" if key[0] in "aeiou" else "a"
            raise InvalidAdapter(
                f"{CONFIG} has {article} {key}: adapters never bring code of their own."
            )
        known = _IMPORTS.get(key)
        if known and value is not None and str(value).split(".")[0] not in known:
            raise InvalidAdapter(
                f"{CONFIG}: {key} names {brief(value)}, which would be imported; only "
                f"{' and '.join(known)} may be: adapters never bring code of their own."
            )


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key of every object in a JSON value, with what it holds."""
    if isinstance(value, dict):
        yield from value.items()
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _items(inner)


def _check_ids(config: Mapping[str, Any]) -> None:
    for field in _IDS:
        value = config.get(field)
        if value is None:
            continue
        if not isinstance(value, str) or not value.isprintable() or len(value) > _MAX_ID:
            raise InvalidAdapter(
                f"{CONFIG}: {field} is {brief(value)}, which is not one line of printable text of "
                f"at most {_MAX_ID} characters."
            )


def _check_names(config: Mapping[str, Any]) -> None:
    """Names of modules are names of modules, and patterns are such as cannot hang a matcher."""
    for field in _LISTS:
        value = config.get(field)
        if isinstance(value, str) and field in _PATTERNS:
            check_pattern(value, f"{CONFIG}: {field}")
        elif isinstance(value, list):
            for name in value:
                check_module_name(name, field)
        elif value is not None:
            raise InvalidAdapter(f"{CONFIG}: {field} is {brief(value)}, not a list of modules.")
    for field in _KEYED:
        value = config.get(field)
        if not isinstance(value, dict | None):
            raise InvalidAdapter(f"{CONFIG}: {field} is {brief(value)}, not a mapping of modules.")
        for pattern in value or ():
            if not MODULE_NAME.fullmatch(pattern):
                check_pattern(pattern, f"{CONFIG}: {field}")


def check_module_name(name: object, field: str) -> None:
    """Raises `InvalidAdapter` unless `name` is what a module can be called."""
    if not isinstance(name, str) or not MODULE_NAME.fullmatch(name):
        raise InvalidAdapter(
            f"{CONFIG}: {field} names {brief(name)}, which no module is called: use letters, "
            "digits, '_', '-' and single dots."
        )
