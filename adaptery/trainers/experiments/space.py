"""What a sweep may choose from: `r=8,16,32` is a list, `learning_rate=1e-4:1e-2:log` a range."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptery.config import Resolved, fields_of, read_value
from adaptery.errors import ConfigError, suggest
from adaptery.trainers.config import RunConfig
from adaptery.trainers.experiments.variations import changed

if TYPE_CHECKING:
    from optuna import Trial

SHORT = {
    "r": "lora.r",
    "rank": "lora.r",
    "alpha": "lora.alpha",
    "dropout": "lora.dropout",
    "targets": "lora.targets",
    "learning_rate": "training.learning_rate",
    "batch_size": "training.batch_size",
    "epochs": "training.epochs",
    "weight_decay": "training.weight_decay",
    "warmup": "training.warmup",
    "scheduler": "training.scheduler",
}
# With another of these, trials would not be of one task, or not be measured alike.
FIXED = {"name", "base", "revision", "data.eval", "runs", "report_to", "training.seed"}
FIXED_GROUPS = ("evaluation.", "task.kind", "task.way", "task.labels")


@dataclass(frozen=True)
class Dimension:
    """One option and what it may be: one of `choices`, or a number from `low` to `high`."""

    key: str
    """Dotted, as in `RunConfig`."""
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    """Whether a range is of whole numbers."""

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values by which to tell whether all are allowed."""
        return self.choices or (self.low, self.high)

    def suggest(self, trial: "Trial") -> Any:
        """What a trial is to try."""
        if self.choices:
            return trial.suggest_categorical(self.key, self.choices)
        if self.whole:
            return trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, log=self.log)


def parse_space(texts: Sequence[str], base: Resolved[RunConfig]) -> list[Dimension]:
    """The dimensions of `--space KEY=VALUES` flags.

    Raises:
        ConfigError: a key is unknown, twice there or must stay as it is, or a value is not allowed.
    """
    space = [parse_dimension(text) for text in texts]
    keys = [dimension.key for dimension in space]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ConfigError(f"--space names {twice[0]} twice; give its values once.")
    for dimension in space:
        for value in dimension.ends:
            changed(base, {dimension.key: value}, f"--space {dimension.key}")
    return space


def parse_dimension(text: str) -> Dimension:
    """One of them. Raises `ConfigError`."""
    name, equals, values = text.partition("=")
    if not equals or not name or not values:
        raise ConfigError(f"--space {text!r} is not KEY=VALUES, such as r=8,16,32.")
    key = full_key(name)
    if ":" in values:
        return parse_range(text, key, values.split(":"))
    choices = tuple(choice(value, f"--space {text!r}") for value in values.split(","))
    if len(set(map(str, choices))) < len(choices):
        raise ConfigError(f"--space {text!r} names a value twice.")
    return Dimension(key, choices)


def full_key(name: str) -> str:
    """The dotted key of a short or dotted name. Raises `ConfigError` for no key to vary."""
    known = list(fields_of(RunConfig))
    key = SHORT.get(name, name)
    if key not in known and not key.startswith("options."):
        raise ConfigError(f"There is no option {name!r} to vary. {suggest(name, [*SHORT, *known])}")
    if key in FIXED or key.startswith(FIXED_GROUPS):
        raise ConfigError(f"{key!r} must be the same in all trials, or they cannot be compared.")
    return key


def choice(text: str, where: str) -> Any:
    """A value of a list. `q_proj+v_proj` names two layers, for the comma parts values."""
    value = read_value(text.strip(), where)
    if isinstance(value, dict | list):
        raise ConfigError(f"{where}: {text!r} is no single value; name layers as q_proj+v_proj.")
    if not isinstance(value, str):
        return value
    try:
        return float(value)  # 1e-4, which is a text to YAML
    except ValueError:
        return value.replace("+", ",")


def parse_range(text: str, key: str, parts: Sequence[str]) -> Dimension:
    """`LOW:HIGH` or `LOW:HIGH:log`. Raises `ConfigError`."""
    try:
        low, high = float(parts[0]), float(parts[1])
        log = parts[2:] == ["log"]
        right = low < high and (low > 0 or not log) and (log or len(parts) == 2)
    except ValueError:
        right = False
    if not right:
        raise ConfigError(
            f"--space {text!r} is no range: write KEY=LOW:HIGH or KEY=LOW:HIGH:log, LOW below "
            "HIGH, and above 0 for log."
        )
    whole = all(part.strip().lstrip("-").isdigit() for part in parts[:2])
    return Dimension(key, low=low, high=high, log=log, whole=whole)


def grid_size(space: Iterable[Dimension]) -> int:
    """How many points a grid has.

    Raises:
        ConfigError: it has a range.
    """
    size = 1
    for dimension in space:
        if not dimension.choices:
            raise ConfigError(
                f"A grid needs lists, and {dimension.key} is a range: write its values with commas."
            )
        size *= len(dimension.choices)
    return size
