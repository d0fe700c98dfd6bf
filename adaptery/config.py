"""Configuration from six places into one frozen value, each field knowing where it came from.

Flags win over `--set`, then environment, file, preset and default. A layer is a nested mapping
with an origin; `resolve` lays them over one another and lets pydantic check the result.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from adaptery.errors import ConfigError, join, suggest

ENVIRONMENT_PREFIX = "ADAPTERS_"


def cache_directory() -> Path:
    """Where this machine keeps what it can have again: $ADAPTERS_CACHE, else the user's cache."""
    chosen = os.environ.get("ADAPTERS_CACHE")
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(chosen or f"{caches}/adaptery").expanduser()


class Config(BaseModel):
    """A frozen group of options; unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        # An assignment that reads `2024` is a number to YAML, and may be meant as a name.
        coerce_numbers_to_str=True,
        # So that a default of 32 and a 32 that was given are the same number to a digest.
        validate_default=True,
    )


C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class Layer:
    """Values from one place. `origins` names the place for each dotted key."""

    values: Mapping[str, Any]
    origins: Mapping[str, str]

    @classmethod
    def of(cls, dotted: Mapping[str, Any], origin: str) -> "Layer":
        """A layer of `{"training.seed": 1}`, every value from the same place.

        Raises:
            ConfigError: one key is both a value and a group of others.
        """
        values: dict[str, Any] = {}
        for key, value in dotted.items():
            *groups, last = key.split(".")
            group = values
            for name in groups:
                group = group.setdefault(name, {})
                if not isinstance(group, dict):
                    raise ConfigError(f"The option {name!r} is given both whole and as {key!r}.")
            group[last] = value
        return cls(values, dict.fromkeys(dotted, origin))


@dataclass(frozen=True)
class Resolved(Generic[C]):
    """A checked configuration and, for every dotted key that is not a default, its origin."""

    value: C
    origins: Mapping[str, str]


class UniqueKeys(yaml.SafeLoader):
    """YAML in which a second block of the same name is an error, not the end of the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key.value!r} stands there twice", problem_mark=key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def read_file(path: Path) -> Layer:
    """The layer of a YAML file.

    Raises:
        ConfigError: it cannot be read, is not a YAML mapping, or names a key twice.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), UniqueKeys)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"The configuration file {path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"The configuration file {path} must be a mapping of option names to values."
        )
    return Layer(values, dict.fromkeys(dotted_keys(values), f"file {path}"))


def read_assignments(assignments: Iterable[str]) -> Layer:
    """The layer of `--set training.learning_rate=1e-4` flags; values are read as YAML.

    Raises:
        ConfigError: one of them is not KEY=VALUE.
    """
    dotted = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(
                f"--set {text!r} is not KEY=VALUE, such as training.learning_rate=1e-4."
            )
        dotted[key] = read_value(value, f"--set {text!r}")
    return Layer.of(dotted, "--set")


def read_value(text: str, where: str) -> Any:
    """A single value, read as YAML.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} cannot be read: {error}") from error


def read_environment(schema: type[Config], environment: Mapping[str, str] = os.environ) -> Layer:
    """The layer of variables such as `ADAPTERS_TRAINING_SEED`, one per field of `schema`.

    Raises:
        ConfigError: a variable names a group of `schema` but no field in it, or cannot be read.
    """
    variables = {environment_name(key): key for key in fields_of(schema)}
    groups = tuple(
        environment_name(key) + "_" for key in schema.model_fields if group_of(schema, key)
    )
    dotted, origins = {}, {}
    for name, value in environment.items():
        if name in variables:
            # Lists and null are YAML. The rest stays text for the field to read, for YAML would
            # take an API key of digits for a number.
            structured = value.startswith(("[", "{")) or value in ("null", "~")
            dotted[variables[name]] = (
                read_value(value, f"The variable {name}") if structured else value
            )
            origins[variables[name]] = f"environment {name}"
        elif name.startswith(groups):
            raise ConfigError(f"The variable {name} sets no option. {suggest(name, variables)}")
    return Layer(Layer.of(dotted, "").values, origins)


def resolve(schema: type[C], layers: Sequence[Layer]) -> Resolved[C]:
    """Lay `layers` over one another, the last one on top, and check the result.

    Raises:
        ConfigError: naming key, value, origin and what is allowed, for every wrong one.
    """
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        merged = overlay(merged, layer.values)
        origins |= layer.origins
    try:
        return Resolved(schema.model_validate(merged), origins)
    except ValidationError as error:
        raise ConfigError(explain(error, schema, origins)) from error


def overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both mappings, nested ones merged, `above` winning."""
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        both = isinstance(value, Mapping) and isinstance(under, Mapping)
        result[key] = overlay(under, value) if both else value  # type: ignore[arg-type]
    return result


def explain(error: ValidationError, schema: type[Config], origins: Mapping[str, str]) -> str:
    """pydantic's findings as sentences."""
    return "\n".join(explain_one(dict(item), schema, origins) for item in error.errors())


def explain_one(item: Mapping[str, Any], schema: type[Config], origins: Mapping[str, str]) -> str:
    key = key_of(item["loc"], schema)
    origin = next((f" (from {origins[other]})" for other in origins if related(key, other)), "")
    if item["type"] == "extra_forbidden":
        known = list(fields_of(schema))
        return join(f"There is no option {key!r}{origin}.", suggest(key, known))
    if item["type"] == "missing":
        return (
            f"The option {key!r} is missing: give it as a flag, with --set {key}=… or in the file."
        )
    message = item["msg"].removeprefix("Value error, ").removesuffix(".")
    value = item["input"]
    return f"The option {key!r} cannot be {value!r}{origin}: {message[0].lower()}{message[1:]}."


def related(key: str, other: str) -> bool:
    """Whether two dotted keys are the same, or one is a group that holds the other."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def key_of(location: Sequence[str | int], schema: type[Config]) -> str:
    """The dotted key of a finding; pydantic's location also names the branch of a union."""
    parts = [str(part) for part in location]
    fields = set(fields_of(schema))
    ends = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((key for key in ends if key in fields), ".".join(parts))


def fields_of(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted keys of every field, groups opened."""
    for name in schema.model_fields:
        group = group_of(schema, name)
        if group:
            yield from fields_of(group, f"{prefix}{name}.")
        else:
            yield prefix + name


def group_of(schema: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The nested model behind a field, if it is one."""
    annotation = schema.model_fields[name].annotation
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def dotted_keys(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys of a nested mapping's leaves."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from dotted_keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def environment_name(key: str) -> str:
    return ENVIRONMENT_PREFIX + key.replace(".", "_").upper()
