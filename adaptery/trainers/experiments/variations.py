"""The runs that an experiment is made of: one configuration, changed in one place each."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptery.config import Layer, Resolved, resolve
from adaptery.errors import ConfigError
from adaptery.trainers.config import RunConfig
from adaptery.types import canonical_json, sha256_of

# What does not shape a result, and what is told by the content of files rather than their names.
INCIDENTAL = {"name", "runs", "report_to"}
RANKS = (4, 8, 16, 32)
TARGETS = ("q_proj,v_proj", "attention", "mlp", "all")
RATES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # of the configured one


@dataclass(frozen=True)
class Variation:
    """One row of an experiment's table: what is changed, and what the row says of it."""

    name: str
    changes: Mapping[str, Any]
    """Dotted keys of `RunConfig`; each value replaces the configured one as a whole."""
    shown: Mapping[str, str]
    """More that the table says of the row."""

    def settings(self, base: Resolved[RunConfig], seed: int) -> Resolved[RunConfig]:
        """The whole configuration of the row's run with a seed."""
        return changed(base, {**self.changes, "training.seed": seed}, f"variation {self.name}")


def changed(
    base: Resolved[RunConfig], changes: Mapping[str, Any], origin: str
) -> Resolved[RunConfig]:
    """`base` with other values for dotted keys; a mapping is replaced, not merged.

    Raises:
        ConfigError: a value is not allowed.
    """
    values = copy.deepcopy(base.value.model_dump(mode="json"))
    for key, value in changes.items():
        *groups, last = key.split(".")
        group = values
        for name in groups:
            group = group[name]
        group[last] = value
    return resolve(RunConfig, [Layer(values, dict(base.origins) | dict.fromkeys(changes, origin))])


def digest_of(config: RunConfig, base_digest: str) -> str:
    """SHA-256 of what shapes a run's result: its configuration, the content of its files, its base.

    Raises:
        ConfigError: a file of rows cannot be read.
    """
    values = config.model_dump(mode="json", exclude=INCIDENTAL)
    values["base"] = base_digest
    del values["evaluation"]["baseline"]  # says more of the base, and nothing else of the run
    for key in ("train", "eval"):
        source = values["data"][key]
        if source and "://" not in source:
            values["data"][key] = file_digest(Path(source).expanduser())
    return sha256_of(canonical_json(values))


def file_digest(path: Path) -> str:
    """SHA-256 of a file. Raises `ConfigError` if it cannot be read."""
    import hashlib

    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"The rows {path} cannot be read: {error}.") from error


def methods(
    config: RunConfig,
    names: Sequence[str],
    own_rates: Mapping[str, float],
    given: Mapping[str, float],
) -> list[Variation]:
    """One row per method, each at a rate that suits it.

    The configured rate is the configured method's; another method gets it times the ratio of the
    two methods' own default rates, for what is right for LoRA's A and B would tear whole weights
    apart. A rate in `given` is taken as it is.

    Args:
        own_rates: default rates of the methods, the configured one among them.
    """
    unit = config.training.learning_rate or own_rates[config.method]
    rows = []
    for name in names:
        rate = given.get(name) or rounded(unit * own_rates[name] / own_rates[config.method])
        options = config.options if name == config.method else {}
        changes = {"method": name, "options": options, "training.learning_rate": rate}
        rows.append(Variation(name, changes, {"rate": f"{rate:g}"}))
    return rows


def rounded(rate: float) -> float:
    """A rate without the dust of a multiplication."""
    return float(f"{rate:.6g}")


def ranks(config: RunConfig, ladder: Sequence[int], alpha: str) -> list[Variation]:
    """One row per rank; alpha keeps its ratio to the rank (`scaled`) or its value (`kept`)."""
    rows = []
    for r in ladder:
        own = config.lora.alpha * (r / config.lora.r if alpha == "scaled" else 1)
        shown = {"alpha": f"{own:g}"}
        rows.append(Variation(f"r={r}", {"lora.r": r, "lora.alpha": own}, shown))
    return rows


def targets(names: Sequence[str]) -> list[Variation]:
    """One row per choice of adapted layers."""
    return [Variation(name, {"lora.targets": name}, {}) for name in names]


def weights(config: RunConfig, given: Sequence[Mapping[str, float]]) -> list[Variation]:
    """No class weights, inverse frequency, and those that are given or configured.

    Raises:
        ConfigError: the task tells no classes.
    """
    if config.task.kind == "sft":
        raise ConfigError(
            "Class weights need classes: set task.kind to classify or pair (task.labels lists "
            "the classes; by default those of the rows)."
        )
    configured = config.task.weights
    explicit = list(given) or ([configured] if isinstance(configured, dict) else [])
    rows = [Variation(name, {"task.weights": name}, {}) for name in ("none", "auto")]
    for own in explicit:
        name = ", ".join(f"{label}={weight:g}" for label, weight in own.items())
        rows.append(Variation(name, {"task.weights": dict(own)}, {}))
    return rows


def rates(config: RunConfig, ladder: Sequence[float], own_rate: float) -> list[Variation]:
    """One row per learning rate; by default from a tenth of the configured one to 30 times it."""
    configured = config.training.learning_rate or own_rate
    ladder = ladder or [rounded(configured * factor) for factor in RATES]
    return [Variation(f"{rate:g}", {"training.learning_rate": rate}, {}) for rate in ladder]
