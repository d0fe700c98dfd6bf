"""Two versions side by side: what they were made from, how they scored, what they do to a base."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from adaptery.registry.carry.transfer import checked_out
from adaptery.registry.compare.updates import Update, Updates
from adaptery.registry.gate.config import CONFIG, read_config
from adaptery.registry.gate.lora import WEIGHTS
from adaptery.types import AdapterRef, FileEntry, Manifest, Version

if TYPE_CHECKING:
    from adaptery.registry.base import Registry

# What is compared in a way of its own, or differs between any two training runs.
_APART = {"files", "metrics", "probe"}


@dataclass(frozen=True, slots=True)
class Change:
    """A value that differs. `field` is a dotted key; None stands for one that is not there."""

    field: str
    before: JsonValue
    after: JsonValue


@dataclass(frozen=True, slots=True)
class Score:
    """A metric of both versions; None where a version has it not."""

    metric: str
    before: float | None
    after: float | None

    @property
    def delta(self) -> float | None:
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file that differs, or that only one version has."""

    path: str
    before: FileEntry | None
    after: FileEntry | None


@dataclass(frozen=True, slots=True)
class ModuleChange:
    """What two versions add to one module's weight.

    `before` and `after` are the Frobenius norms of ΔW. `relative` is the norm of their difference
    as a fraction of `before`, `cosine` the cosine between them: None where one of the norms is 0,
    or where the two are for weights of different shapes.
    """

    module: str
    before: float
    after: float
    relative: float | None
    cosine: float | None


@dataclass(frozen=True, slots=True)
class WeightChange:
    """What two versions do to the base.

    `modules` are those that both adapt, `only_before` and `only_after` those that one does, and
    `others` the tensors beside A and B that differ. `sentence` says what was and was not compared.
    """

    sentence: str
    modules: tuple[ModuleChange, ...] = ()
    only_before: tuple[str, ...] = ()
    only_after: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """How `after` differs from `before`."""

    before: Version
    after: Version
    changes: tuple[Change, ...]
    scores: tuple[Score, ...]
    files: tuple[FileChange, ...]
    weights: WeightChange


def diff(registry: "Registry", before: AdapterRef, after: AdapterRef) -> Difference:
    """How the version that `after` means differs from the one that `before` means.

    Raises:
        ReferenceNotFound: one of them means nothing.
        CorruptFile: a file no longer has its digest.
    """
    versions = registry.resolve(before), registry.resolve(after)
    old, new = (version.manifest for version in versions)
    with checked_out(registry, versions[0]) as first, checked_out(registry, versions[1]) as second:
        here, there = first.directory, second.directory
        configs = read_config(here), read_config(there)
        weights = _weights(here, there, configs, _digest(old) == _digest(new))
    return Difference(
        *versions,
        changes=(
            *changes(_about(old), _about(new)),
            *changes({CONFIG: configs[0]}, {CONFIG: configs[1]}),
        ),
        scores=tuple(_scores(old.metrics, new.metrics)),
        files=tuple(_files(old, new)),
        weights=weights,
    )


def changes(before: Mapping[str, JsonValue], after: Mapping[str, JsonValue]) -> Iterator[Change]:
    """What differs between two JSON objects, in order of the keys; nested keys are dotted."""
    old, new = dict(flat(before)), dict(flat(after))
    for field in sorted(old.keys() | new.keys()):
        if field not in old or field not in new or old[field] != new[field]:
            yield Change(field, old.get(field), new.get(field))


def _about(manifest: Manifest) -> dict[str, JsonValue]:
    return manifest.model_dump(mode="json", exclude=_APART)


def flat(value: Mapping[str, JsonValue], prefix: str = "") -> Iterator[tuple[str, JsonValue]]:
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from flat(inner, f"{prefix}{key}.")
        elif inner not in ({}, None):
            yield f"{prefix}{key}", inner


def _scores(before: Mapping[str, float], after: Mapping[str, float]) -> Iterator[Score]:
    for metric in sorted(before.keys() | after.keys()):
        yield Score(metric, before.get(metric), after.get(metric))


def _files(before: Manifest, after: Manifest) -> Iterator[FileChange]:
    old, new = ({file.path: file for file in manifest.files} for manifest in (before, after))
    for path in sorted(old.keys() | new.keys()):
        if old.get(path) != new.get(path):
            yield FileChange(path, old.get(path), new.get(path))


def _digest(manifest: Manifest) -> str:
    return next(file.sha256 for file in manifest.files if file.path == WEIGHTS)


def _weights(
    here: Path, there: Path, configs: tuple[dict[str, Any], dict[str, Any]], same: bool
) -> WeightChange:
    kinds = {str(config.get("peft_type")) for config in configs}
    if kinds != {"LORA"}:
        verdict = "the same" if same else "not the same"
        return WeightChange(
            f"Only LoRA is compared module by module, and this is {' and '.join(sorted(kinds))}: "
            f"by their digests, the files of the weights are {verdict}."
        )
    old, new = Updates(here), Updates(there)
    dora = any(config.get("use_dora") for config in configs)
    return WeightChange(
        "ΔW = s·B·A of every module is compared"
        + (", without DoRA's magnitudes." if dora else "."),
        modules=tuple(_module(name, old[name], new[name]) for name in old if name in new),
        only_before=tuple(name for name in old if name not in new),
        only_after=tuple(name for name in new if name not in old),
        others=tuple(_others(old, new)),
    )


def _module(name: str, old: Update, new: Update) -> ModuleChange:
    before, after = old.norm, new.norm
    if old.shape != new.shape:
        return ModuleChange(name, before, after, None, None)
    relative = old.minus(new).norm / before if before else None
    cosine = old.dot(new) / (before * after) if before and after else None
    return ModuleChange(
        name, before, after, relative, None if cosine is None else max(-1.0, min(1.0, cosine))
    )


def _others(old: Updates, new: Updates) -> Iterator[str]:
    """Names of the tensors that are in no pair and not the same in both."""
    before, after = (
        {
            tensor.name: (tensor.dtype, tensor.shape, updates.raw(tensor))
            for tensor in updates.others
        }
        for updates in (old, new)
    )
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield name
