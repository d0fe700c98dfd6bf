"""The beginning of a run: a commented `run.yaml` with values that suit base, task and memory.

The rules of thumb are those of practice: rank by the difficulty of the task, alpha twice the rank,
an effective batch of 32, rates that fall as models grow, 4 bits where 16 do not fit.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from adaptery.config import Config, group_of
from adaptery.errors import DoesNotFit
from adaptery.trainers.config import RunConfig

Kind = Literal["sft", "classify", "pair"]
GIGABYTE = 10**9
# Bytes for each parameter of a frozen base with what a step of few rows takes beside it.
BITS_16, BITS_4 = 2.3, 0.8
SCRATCH = 2 * GIGABYTE
EFFECTIVE_BATCH = 32
# Rows of a micro-batch by the gigabytes that the weights leave.
ROWS = ((24, 16), (12, 8), (6, 4), (3, 2))
# Peak rates of LoRA by the base's parameters, and passes over the data.
RATES = ((50e6, 2e-3), (1e9, 3e-4), (4e9, 2e-4))
LARGE_RATE = 1e-4
RECOMPUTED = 1e9  # parameters from which activations are computed again instead of kept
RANKS: Mapping[Kind, int] = {"sft": 16, "classify": 8, "pair": 8}
LENGTHS: Mapping[Kind, int] = {"sft": 1024, "classify": 256, "pair": 256}
SIZE = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([BM])(?![A-Za-z])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a run is begun for. `encoder` bases tell classes by a head."""

    name: str
    base: str
    kind: Kind
    data: str
    held_out: str | None
    parameters: float
    memory: float
    """Gigabytes of the GPU, or of a machine without one."""
    encoder: bool = False


def parameters_in(name: str) -> float | None:
    """The number of parameters that a model's name tells.

    >>> parameters_in("Qwen/Qwen2.5-7B-Instruct"), parameters_in("SmolLM2-135M"), parameters_in("x")
    (7000000000.0, 135000000.0, None)
    """
    found = SIZE.search(name)
    return float(found[1]) * (1e9 if found[2] in "bB" else 1e6) if found else None


def starting_values(wanted: Wanted) -> dict[str, Any]:
    """What is written into the file, the rest being left at its defaults.

    Raises:
        DoesNotFit: not even in 4 bits.
    """
    quantized = needs(wanted.parameters, BITS_16) > wanted.memory * GIGABYTE
    if quantized and needs(wanted.parameters, BITS_4) > wanted.memory * GIGABYTE:
        raise DoesNotFit(
            f"{wanted.base} has {wanted.parameters / 1e9:.3g} billion parameters, which take about "
            f"{needs(wanted.parameters, BITS_4) / GIGABYTE:.0f} GB even in 4 bits, and there are "
            f"{wanted.memory:g} GB. Use a smaller base, or more memory."
        )
    held = wanted.parameters * (BITS_4 if quantized else BITS_16) / GIGABYTE
    rows = rows_for(wanted.memory - held)
    rank = RANKS[wanted.kind]
    return {
        "name": wanted.name,
        "base": wanted.base,
        "method": "qlora" if quantized else "lora",
        "task": {"kind": wanted.kind} | ({"way": "head"} if wanted.encoder else {}),
        "data": {"train": wanted.data}
        | ({"eval": wanted.held_out} if wanted.held_out else {})
        | {"max_length": LENGTHS[wanted.kind]},
        "lora": {"r": rank, "alpha": 2 * rank},
        "training": {
            "learning_rate": rate_for(wanted.parameters),
            "epochs": 2 if wanted.parameters > 4e9 else 3,
            "batch_size": rows,
            "accumulation": EFFECTIVE_BATCH // rows,
            "gradient_checkpointing": wanted.parameters >= RECOMPUTED,
        },
    }


def needs(parameters: float, each: float) -> float:
    """Bytes that a run takes at the least."""
    return parameters * each + SCRATCH * min(1.0, parameters / RECOMPUTED)


def rows_for(free: float) -> int:
    return next((rows for gigabytes, rows in ROWS if free >= gigabytes), 1)


def rate_for(parameters: float) -> float:
    return next((rate for limit, rate in RATES if parameters < limit), LARGE_RATE)


def run_file(values: Mapping[str, Any], options: type[Config], remark: str) -> str:
    """The text of a `run.yaml`: every option with its meaning, and those not in `values` as
    comments that show the default.

    Args:
        options: of the method.
        remark: the first lines, without the comment signs.
    """
    head = [f"# {line}".rstrip() for line in remark.splitlines()]
    return "\n".join([*head, "", *lines_of(RunConfig, values, options)]) + "\n"


def lines_of(
    schema: type[BaseModel], values: Mapping[str, Any], own: type[Config], used: bool = True
) -> Iterator[str]:
    """The lines of one level. A group of which nothing is `used` is a comment as a whole."""
    for name, field in schema.model_fields.items():
        group = own if name == "options" else group_of(schema, name)
        if group is None:
            sign = "" if name in values or not used else "# "
            yield f"# {(field.description or name).rstrip('.')}"
            yield f"{sign}{name}: {scalar(values.get(name, default_of(field)))}"
            continue
        inner = values.get(name, {})
        sign = "" if inner else "# "
        yield ""
        yield f"# {(field.description or (group.__doc__ or '').splitlines()[0]).rstrip('.')}"
        yield f"{sign}{name}:"
        for line in lines_of(group, inner, own, bool(inner)):
            yield f"{sign}  {line}"


def default_of(field: FieldInfo) -> Any:
    return None if field.is_required() else field.default


def scalar(value: Any) -> str:
    """A value as YAML has it in a line. JSON is YAML, and quotes what would be read otherwise."""
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, float) and 0 < value < 1e-3:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{float(mantissa)}e{int(exponent)}"  # 2e-4 without a point is a text to YAML
    return json.dumps(value, default=str, ensure_ascii=False)
