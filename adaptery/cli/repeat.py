"""`adapters train --from REF`: a version's training done again, and whether the result is the same.

The manifest says how it was trained; the rows come from the user, and must be the same ones.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptery.cli.context import (
    open_registry,
    plugins,
    print_json,
    stderr,
    stdout,
    version_data,
)
from adaptery.config import Layer, Resolved, dotted_keys, resolve
from adaptery.errors import DataError, UsageError, VerificationError
from adaptery.trainers.config import RunConfig
from adaptery.types import AdapterRef

if TYPE_CHECKING:
    from adaptery.registry.compare.difference import Change
    from adaptery.trainers.train import TrainingResult
    from adaptery.types import Manifest, Version

APART = {"files", "metrics", "probe"}
SENTENCES = {
    "manifest": "The same: manifest and every file have the digests of {version}.",
    "files": "The same: every file has the digest of {version}'s.",
    "base name": "The same: the weights have the digest of {version}'s, and only the base's name "
    "differs in the files.",
    "metrics": "The files are those of {version}, but what was measured of them is not.",
    "different": "Not the same as {version}.",
}
SAME = ("manifest", "files", "base name")


@dataclass(frozen=True)
class Agreement:
    """How far a repetition is the same. `level` is a key of `SENTENCES`."""

    version: str
    level: str
    changes: "tuple[Change, ...]" = ()
    """What differs of configuration, packages and what computed it, and of metrics."""
    largest: float | None = None
    """The largest difference of two weights, where the files of weights differ."""
    only: tuple[str, ...] = field(default=())
    """Tensors that only one side has, or of other shapes."""

    @property
    def same(self) -> bool:
        return self.level in SAME

    def data(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "same": self.same,
            "agreement": self.level,
            "repeats": self.version,
            "differences": [asdict(change) for change in self.changes],
            "largest_weight_difference": self.largest,
            "tensors_of_one_side": list(self.only),
        }


def recorded_config(version: "Version", layers: list[Layer]) -> Resolved[RunConfig]:
    """The configuration that a manifest records, with `layers` over it.

    Args:
        layers: where the rows and the base are now, and whatever else is wanted otherwise.

    Raises:
        UsageError: the version was not trained by adaptery, or its rows are not given.
        ConfigError: a value is wrong.
    """
    manifest = version.manifest
    recorded: dict[str, Any] = dict(manifest.config)
    known = {name: recorded[name] for name in RunConfig.model_fields if name in recorded}
    if not {"data", "lora", "training"} <= known.keys():
        raise UsageError(
            f"{version} cannot be repeated: its manifest records no training (it was imported, or "
            "made by another program)."
        )
    values: dict[str, Any] = {
        **known,
        "name": version.name,
        "base": manifest.base.id,
        "revision": manifest.base.revision,
        "method": manifest.method,
    }
    values["data"] = without_files(values["data"])
    asked = {key for layer in layers for key in dotted_keys(layer.values)}
    if "base" in asked:  # its digest is compared, wherever it is now
        del values["revision"]
    origins = dict.fromkeys(dotted_keys(values), f"manifest of {version}")
    for key, flag in (("train", "--data"), ("eval", "--eval-data")):
        name = known["data"].get(key)
        if name and "://" not in str(name) and f"data.{key}" not in asked:
            raise UsageError(
                f"{version} was trained with {name!r} as data.{key}, of which the manifest keeps "
                f"only digest and name: give the file with {flag}."
            )
    return resolve(RunConfig, [Layer(values, origins), *layers])


def without_files(data: Any) -> dict[str, Any]:
    """The recorded options of data without names of files, of which the folder is not known."""
    return {k: v for k, v in data.items() if k not in ("train", "eval") or "://" in str(v)}


def check_inputs(version: "Version", config: Resolved[RunConfig]) -> Resolved[RunConfig]:
    """The configuration, its base and rows compared with those of the training.

    Chats ask by themselves, so that what the manifest records as their question is taken out.

    Raises:
        BaseMismatch: the base is another one.
        DataError: the rows are others.
        UsageError: held-out rows are given, and there were none.
    """
    from adaptery.base_model import open_base
    from adaptery.trainers.data.reading import read_rows
    from adaptery.trainers.data.rows import Labelled

    settings, manifest = config.value, version.manifest
    open_base(settings.base, settings.revision).require(manifest, str(version))
    formats = plugins().load_all("data_formats")
    train = read_rows(settings.data.train, settings.data, formats)
    require_digest("data.train", settings.data.train, train.digest, manifest.data_digest)
    if settings.data.eval:
        held_out = read_rows(settings.data.eval, settings.data, formats).digest
        wanted = manifest.config.get("held_out_digest")
        if wanted is None:
            raise UsageError(f"{version} was trained without held-out rows: leave out --eval-data.")
        require_digest("data.eval", settings.data.eval, held_out, wanted)
    if settings.task.instruction is None or isinstance(train.rows[0], Labelled):
        return config
    task = settings.task.model_copy(update={"instruction": None})
    return Resolved(settings.model_copy(update={"task": task}), config.origins)


def require_digest(key: str, source: str, here: str, wanted: object) -> None:
    """Raises `DataError` for other rows than those of the training."""
    if here != wanted:
        raise DataError(
            f"{source} does not hold the rows that the version was made with as {key}: their "
            f"digest is {here}, and the manifest names {wanted}."
        )


def compare(version: "Version", old: Path, result: "TrainingResult") -> Agreement:
    """A training's result beside the version that it repeats, whose files are in `old`."""
    from adaptery.registry.compare.difference import changes
    from adaptery.registry.gate.lora import WEIGHTS
    from adaptery.registry.gate.package import build_files

    before = version.manifest
    after = result.manifest.model_copy(update={"files": build_files(result.adapter)})
    found = tuple(changes(about(before), about(after)))
    scores = tuple(changes(scored(before), scored(after)))
    if before.digest == after.digest:
        return Agreement(str(version), "manifest")
    if before.files == after.files:
        return Agreement(str(version), "metrics" if scores else "files", found + scores)
    if same_but_for_base(old, result.adapter):
        return Agreement(str(version), "base name", found + scores)
    largest, only = weights_apart(old / WEIGHTS, result.adapter / WEIGHTS)
    return Agreement(str(version), "different", found + scores, largest, only)


def about(manifest: "Manifest") -> Mapping[str, Any]:
    """What a manifest says of how it was made."""
    return manifest.model_dump(mode="json", exclude=APART)


def scored(manifest: "Manifest") -> dict[str, Any]:
    """What was measured."""
    return {"metrics": manifest.metrics}


def same_but_for_base(old: Path, new: Path) -> bool:
    """Whether two adapters differ in nothing but the name under which their base was found."""
    from adaptery.registry.gate.config import CONFIG, read_config

    first, second = (
        {
            k: v
            for k, v in read_config(folder).items()
            if k not in ("base_model_name_or_path", "revision")
        }
        for folder in (old, new)
    )
    names = [{path.name for path in folder.iterdir()} - {CONFIG} for folder in (old, new)]
    return (
        first == second
        and names[0] == names[1]
        and all((old / name).read_bytes() == (new / name).read_bytes() for name in names[0])
    )


def weights_apart(old: Path, new: Path) -> tuple[float | None, tuple[str, ...]]:
    """The largest difference of two weights, and the tensors that cannot be compared."""
    from safetensors.torch import load_file

    first, second = load_file(old), load_file(new)
    both = [
        name
        for name in sorted(first.keys() & second.keys())
        if first[name].shape == second[name].shape
    ]
    others = tuple(sorted((first.keys() | second.keys()) - set(both)))
    largest = max(
        (float((first[n].float() - second[n].float()).abs().max()) for n in both), default=None
    )
    return largest, others


def repeat(
    ref: str, layers: list[Layer], registry: str, reason: str, *, no_publish: bool, as_json: bool
) -> int:
    """Train as the version `ref` was trained; returns 0 if the result is the same, 5 if not.

    A result that is the same is published, unless it is the version itself.

    Raises:
        UsageError: the version's manifest does not say how, or another value is wanted.
        DataError: the rows are others.
    """
    from adaptery.cli.run_options import run_parts
    from adaptery.cli.train import publish, run
    from adaptery.trainers.train import summary

    store = open_registry(registry)
    version = store.resolve(AdapterRef.parse(ref))
    config = check_inputs(version, recorded_config(version, layers))
    old = store.materialize(version)
    result = run(config, run_parts(config.value), None)
    agreement = compare(version, old, result)
    published = None
    if agreement.same and not no_publish:
        why = reason or f"repeats {version}"
        published = publish(config.value.name, result, store, why)
    if as_json:
        more = version_data(published) if published else {}
        print_json(summary(result) | more | agreement.data())
    else:
        stdout().print(SENTENCES[agreement.level].format(version=version), soft_wrap=True)
        for line in told(agreement):
            stdout().print(line, soft_wrap=True)
    if not agreement.same:
        stderr().print(f"Not published; what came out is in {result.adapter}.", soft_wrap=True)
    return 0 if agreement.same else VerificationError.exit_code


def told(agreement: Agreement) -> list[str]:
    """What differs, a line each."""
    lines = []
    if agreement.largest is not None:
        lines.append(f"Weights differ by at most {agreement.largest:.3g}.")
    if agreement.only:
        lines.append(f"Tensors that cannot be compared: {', '.join(agreement.only)}.")
    lines += [f"{c.field}: {c.before} before, {c.after} now" for c in agreement.changes]
    if not agreement.same and all(c.field.startswith("metrics.") for c in agreement.changes):
        lines.append(
            "Nothing differs that the manifest records of how it was made; a GPU may add up in "
            "another order each time."
        )
    return lines
