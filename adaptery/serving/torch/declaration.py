"""What an adapter says about itself in `adapter_config.json`, and which of it can be applied.

PEFT's configuration has some forty fields, and more with each release. Those that plain LoRA
needs are read, those without influence on the result are listed; any other must be unset.
"""

import json
import re
from math import sqrt
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    field_validator,
    model_validator,
)

from adaptery.errors import InvalidAdapter

CONFIG = "adapter_config.json"

# Fields that say how an adapter was made, not what it computes. `runtime_config` and the group
# size of QALoRA have values even where they mean nothing.
IDLE = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "lora_dropout",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
    }
)

# Initialisations that leave the base's weights as they are; the others subtract from them.
Initialisation = bool | Literal["gaussian", "orthogonal", "eva", "mica"] | None
Rank = Annotated[int, Field(ge=1)]
Names = str | list[str]


class Declaration(BaseModel):
    """A plain LoRA adapter's declaration."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    peft_type: Literal["LORA"]
    task_type: Literal["CAUSAL_LM"] | None = None
    r: Rank
    lora_alpha: FiniteFloat
    target_modules: Names
    use_rslora: bool = False
    rank_pattern: dict[str, Rank] = {}
    alpha_pattern: dict[str, FiniteFloat] = {}
    exclude_modules: Names | None = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: Names | None = None
    init_lora_weights: Initialisation = True
    bias: Literal["none"] = "none"
    fan_in_fan_out: Literal[False] = False

    @model_validator(mode="before")
    @classmethod
    def without_idle_fields(cls, values: Any) -> Any:
        """Leave out what has no influence: idle fields, and fields that are not set."""
        if not isinstance(values, dict):
            return values
        known = cls.model_fields.keys()
        return {
            key: value
            for key, value in values.items()
            if key not in IDLE and (value is not None if key in known else value)
        }

    @field_validator("target_modules")
    @classmethod
    def in_order(cls, value: Names) -> Names:
        """PEFT writes a set, in any order."""
        return value if isinstance(value, str) else sorted(value)

    @model_validator(mode="after")
    def without_idle_layers(self) -> Self:
        """As PEFT, refuse numbers and names of layers where nothing would heed them."""
        heeded = isinstance(self.target_modules, list)
        for field in ("layers_to_transform", "layers_pattern"):
            if getattr(self, field) is not None and not heeded:
                raise ValueError(f"{field} needs target_modules to be a list")
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError("layers_pattern needs layers_to_transform")
        return self

    def rank(self, module: str) -> int:
        """The rank of the layer `module`."""
        return self.rank_pattern.get(matching(self.rank_pattern, module), self.r)

    def scale(self, module: str) -> float:
        """By what B A is multiplied in the layer `module`."""
        alpha = self.alpha_pattern.get(matching(self.alpha_pattern, module), self.lora_alpha)
        return alpha / (sqrt(self.rank(module)) if self.use_rslora else self.rank(module))

    def targets(self, modules: list[str]) -> set[str]:
        """Those of the layers `modules` that the adapter changes, by PEFT's rules."""
        return {module for module in modules if self._targets(module)}

    def _targets(self, module: str) -> bool:
        if self.exclude_modules and named(self.exclude_modules, module):
            return False
        if self.target_modules == "all-linear":
            return True
        if isinstance(self.target_modules, list) and module in self.target_modules:
            return True  # by its full name, in whichever layer
        return named(self.target_modules, module) and self._is_in_layer(module)

    def _is_in_layer(self, module: str) -> bool:
        """Whether the number of the layer that `module` is in is among those to transform."""
        wanted = self.layers_to_transform
        if wanted is None or wanted == []:
            return True
        patterns = self.layers_pattern or [r"[^.]*"]
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            start = r".*?\." if not self.layers_pattern else r"(?:^|.*?\.)"
            if match := re.match(rf"{start}{pattern}\.(?P<idx>\d+)\.", module):
                return int(match["idx"]) in ([wanted] if isinstance(wanted, int) else wanted)
        return False


def named(names: Names, module: str) -> bool:
    """Whether one text matches `module` as a pattern, or one of several is the end of its name."""
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return module in names or any(module.endswith(f".{name}") for name in names)


def matching(patterns: dict[str, Any], module: str) -> str:
    """The pattern that applies to `module`: the first that fits the end of its name."""
    fitting = (p for p in patterns if re.match(rf"(.*\.)?({p})$", module))
    return next(fitting, module)


def read_declaration(directory: Path) -> Declaration:
    """The declaration in `directory`. Raises `InvalidAdapter` if it is not one of plain LoRA."""
    try:
        values = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        refuse_head(values)
        return Declaration.model_validate(values)
    except ValidationError as error:
        raise InvalidAdapter(f"{CONFIG}: {'; '.join(map(complaint, error.errors()))}") from error
    except (FileNotFoundError, ValueError) as error:
        raise InvalidAdapter(f"{CONFIG} cannot be read: {error}") from error


def refuse_head(values: Any) -> None:
    """Raises `InvalidAdapter` for a classifier: it has classes to tell, and no text to answer."""
    if isinstance(values, dict) and values.get("task_type") == "SEQ_CLS":
        raise InvalidAdapter(
            "This adapter has a classification head (task_type is SEQ_CLS), so it tells classes, "
            "not texts. `adapters eval` uses it; train with task.way=words to serve "
            "classes."
        )


def complaint(error: Any) -> str:
    """One of pydantic's errors, with the field and its value."""
    if not error["loc"]:
        return str(error["msg"]).removeprefix("Value error, ")
    field, value = ".".join(map(str, error["loc"][:1])), repr(error["input"])
    if error["type"] == "extra_forbidden":
        way_out = "`adapters merge` folds it into the base"
        return f"{field!r} is {value}, which plain LoRA does not have ({way_out})"
    return f"{field!r} is {value}: {error['msg']}"
