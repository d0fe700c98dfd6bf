"""Adapters that other tools made: `adapters import` checks them, and publishes them with what can
be said of where they come from.

A source is only read, and never trusted: its files are copied into a directory of ours first, so
that what was checked is what is published. Links are not followed, pickles are not opened.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import ValidationError

from adaptery.base_model import LocalBase, looks_like_a_path, open_base
from adaptery.errors import BaseNotFound, InvalidAdapter, brief
from adaptery.registry.base import Registry
from adaptery.registry.carry.sources import Source, open_source
from adaptery.registry.gate.config import CONFIG, read_config
from adaptery.registry.gate.fit import check_fit
from adaptery.registry.gate.package import TEMPLATE, build_files
from adaptery.types import AdapterPackage, Manifest, Version, check_name, sha256_of

# Fields of PEFT's configuration that shape the result, by the names that they have in a manifest.
_SETTINGS = {
    "r": "r",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "target_modules": "targets",
    "rank_pattern": "rank_pattern",
    "alpha_pattern": "alpha_pattern",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
    "bias": "bias",
    "modules_to_save": "modules_to_save",
    "init_lora_weights": "init_lora_weights",
    "layers_to_transform": "layers_to_transform",
    "layers_pattern": "layers_pattern",
    "exclude_modules": "exclude_modules",
    "fan_in_fan_out": "fan_in_fan_out",
}


@dataclass(frozen=True, slots=True)
class Imported:
    """The version that an import made or found, and the files of the source that are not in it."""

    version: Version
    left_behind: tuple[str, ...]


def import_adapter(
    registry: Registry,
    source: str,
    name: str,
    *,
    base: str | None = None,
    convert_pickle: bool = False,
    reason: str = "",
) -> Imported:
    """Publish the PEFT adapter at `source` as the next version of `name`.

    The same files from the same place are the same version, however often they are imported.

    Args:
        source: a directory, or `hf://ORG/REPO[@REVISION]`, which is pinned to its commit.
        base: a directory or Hub id of the base; what the adapter's configuration names if None.
        convert_pickle: take the tensors of an `adapter_model.bin`, in a process of its own.
        reason: why; kept in the history.

    Raises:
        InvalidName: `name` or `source` breaks the grammar.
        InvalidAdapter: the files are not an adapter that can be applied in full.
        BaseNotFound: the base is not named, or cannot be had.
        BaseMismatch: the adapter does not fit the base.
        RemoteError: the Hub said no.
    """
    check_name(name)
    with TemporaryDirectory(prefix="adaptery-import-") as scratch:
        try:
            found = open_source(source, Path(scratch) / "source")
            package = _package(found, Path(scratch) / "staged", base, convert_pickle)
        except OSError as error:
            raise InvalidAdapter(f"{brief(source)} cannot be read and copied: {error}.") from error
        version = registry.publish(name, package, reason=reason or f"imported from {found.origin}")
    return Imported(version, found.left_behind)


def _package(found: Source, staged: Path, base: str | None, convert_pickle: bool) -> AdapterPackage:
    """A checked copy of the source's adapter in `staged`, with its manifest."""
    found.check(convert_pickle=convert_pickle)
    trained_on = _base(base, read_config(found.directory), found)
    if not found.is_pickle:
        check_fit(found.directory, trained_on)  # before a file that claims to be huge is copied
    provenance = found.stage(staged)
    check_fit(staged, trained_on)
    return AdapterPackage(staged, _manifest(staged, read_config(staged), trained_on, provenance))


def _base(given: str | None, config: Mapping[str, Any], source: Source) -> LocalBase:
    """The base that the user or else the adapter names."""
    if given:
        return open_base(given)
    named = config.get("base_model_name_or_path")
    if not named:
        raise BaseNotFound(f"{CONFIG} of {source.origin} names no base: name it with --base.")
    if ".." in Path(named).parts or (source.remote and looks_like_a_path(named)):
        raise BaseNotFound(
            f"{CONFIG} of {source.origin} names the base {brief(named)}, a path of the machine "
            "that made it, which is not opened here: name the base with --base."
        )
    try:
        return open_base(named, config.get("revision"))
    except BaseNotFound as error:
        raise BaseNotFound(
            f"The base that {CONFIG} of {source.origin} names cannot be had: {error} "
            "Name it with --base."
        ) from error


def _manifest(
    staged: Path, config: Mapping[str, Any], base: LocalBase, provenance: Mapping[str, str]
) -> Manifest:
    """What there is to say of an adapter that we did not train."""
    template = staged / TEMPLATE
    tool = config.get("peft_version")
    try:
        return Manifest(
            files=build_files(staged),
            base=base.identity,
            method=method_of(config),
            config={**settings_of(config), "imported": dict(provenance)},
            template_digest=sha256_of(template.read_bytes()) if template.exists() else None,
            packages={"peft": tool} if tool else {},
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = brief(".".join(map(str, first["loc"])), quote=False)
        raise InvalidAdapter(f"{CONFIG} cannot be recorded: {field}: {first['msg']}.") from error


def method_of(config: Mapping[str, Any]) -> str:
    """The method, as trainers name it.

    >>> method_of({"peft_type": "LORA", "use_dora": True}), method_of({"peft_type": "LOHA"})
    ('dora', 'loha')
    """
    if config["peft_type"] == "LORA" and config.get("use_dora"):
        return "dora"
    if config["peft_type"] == "LORA" and config.get("use_rslora"):
        return "rslora"
    return str(config["peft_type"]).lower()


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What shaped the adapter, under the name of its family: `{"lora": {"r": 16, …}}`.

    Lists are sorted: tools write sets of modules in any order.
    """
    settings = {}
    for field, ours in _SETTINGS.items():
        value = config.get(field)
        if value is not None and value is not False and value not in ({}, []):
            settings[ours] = sorted(value, key=json.dumps) if isinstance(value, list) else value
    return {str(config["peft_type"]).lower(): settings}
