"""The tensors of a LoRA adapter: for every module A and B, of the rank that is declared."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from adaptery.errors import InvalidAdapter
from adaptery.registry.gate.config import CONFIG, MODULE_NAME, LoraDeclaration
from adaptery.registry.gate.patterns import ways
from adaptery.registry.gate.tensorfile import TensorInfo

Figure = TypeVar("Figure", int, float)
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
_PAIRED = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?:\.weight)?")
_MAX_WAYS = 1 << 25  # of matching all patterns with all modules: less than a second


@dataclass(frozen=True, slots=True)
class Pair:
    """One module's update B A: A is (rank, inputs) and B (outputs, rank)."""

    module: str
    a: TensorInfo
    b: TensorInfo
    embedding: bool

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def inputs(self) -> int:
        return self.a.shape[1]

    @property
    def outputs(self) -> int:
        return self.b.shape[0]


def check_pairs(tensors: Sequence[TensorInfo], declared: LoraDeclaration) -> None:
    """Check that every tensor is half of a pair of the declared rank, or declared beside them.

    Raises:
        InvalidAdapter: one is not; the message names it.
    """
    pairs, others = pair_up(tensors)
    # Beside an embedding's pair, PEFT saves the base's own weight.
    copies = {f"{PREFIX}{pair.module}.base_layer.weight" for pair in pairs}
    for tensor in others:
        if tensor.name not in copies and not _declared(tensor.name, declared):
            raise InvalidAdapter(
                f"{WEIGHTS}: {tensor.name!r} is neither a lora_A nor a lora_B, and nothing in "
                f"{CONFIG} declares it."
            )
    _check_head(others, declared)
    if not pairs:
        raise InvalidAdapter(f"{WEIGHTS} holds no lora_A and lora_B at all.")
    wanted = ranks(declared, [pair.module for pair in pairs])
    for pair in pairs:
        _check_ranks(pair, wanted[pair.module])
    _check_declared_ranks(declared, max(max(pair.inputs, pair.outputs) for pair in pairs))


def pair_up(tensors: Sequence[TensorInfo]) -> tuple[list[Pair], list[TensorInfo]]:
    """The pairs, by their modules' names without PEFT's prefix, and the tensors that are in none.

    Raises:
        InvalidAdapter: a module lacks A or B, has one twice, or has one that is not a matrix.
    """
    sides: dict[str, dict[str, TensorInfo]] = {}
    others, embeddings = [], set()
    for tensor in tensors:
        match = _PAIRED.fullmatch(tensor.name)
        if match is None:
            others.append(tensor)
            continue
        found = sides.setdefault(match["module"], {})
        if match["side"] in found:
            raise InvalidAdapter(f"{WEIGHTS}: {match['module']!r} has two lora_{match['side']}.")
        found[match["side"]] = tensor
        if match["embedding"]:
            embeddings.add(match["module"])
    return [_pair(module, found, module in embeddings) for module, found in sides.items()], others


def ranks(declared: LoraDeclaration, modules: Collection[str]) -> dict[str, int]:
    """The rank declared for each module. Raises `InvalidAdapter`, as `_by_pattern`."""
    return _by_pattern("rank_pattern", declared.rank_pattern or {}, declared.r, modules)


def alphas(declared: LoraDeclaration, modules: Collection[str]) -> dict[str, float]:
    """The alpha declared for each module. Raises `InvalidAdapter`, as `_by_pattern`."""
    return _by_pattern("alpha_pattern", declared.alpha_pattern or {}, declared.lora_alpha, modules)


def _by_pattern(
    field: str, patterns: Mapping[str, Figure], default: Figure, modules: Collection[str]
) -> dict[str, Figure]:
    """The value for each module, matched as PEFT matches: a whole name or its end.

    A key that is a plain name means that name; its dots match only dots.

    Raises:
        InvalidAdapter: there are more, or more complicated, patterns than can be matched at once.
    """
    plain = {key: place for place, key in enumerate(patterns) if MODULE_NAME.fullmatch(key)}
    _check_cost(field, [key for key in patterns if key not in plain], len(plain), modules)
    # Python's `re` keeps few compiled patterns; an adapter may have one for each module.
    compiled = [
        (place, re.compile(rf"(.*\.)?({key})"))
        for place, key in enumerate(patterns)
        if key not in plain
    ]
    values = list(patterns.values())
    found = {}
    for module in modules:
        places = [plain[end] for end in _ends(module) if end in plain]
        places += [place for place, pattern in compiled if pattern.fullmatch(module)]
        found[module] = values[min(places)] if places else default
    return found


def _ends(module: str) -> Iterator[str]:
    """`a.b.c`, `b.c` and `c` of a.b.c."""
    yield module
    while "." in module:
        module = module.partition(".")[2]
        yield module


def _check_cost(field: str, patterns: Sequence[str], plain: int, modules: Collection[str]) -> None:
    longest = max(len(module) for module in modules)
    total = plain + sum(ways(key, longest, f"{CONFIG}: {field}") for key in patterns)
    if total * len(modules) > _MAX_WAYS:
        raise InvalidAdapter(
            f"{CONFIG}: the {field} can match {len(modules)} modules in "
            f"{total * len(modules)} ways; at most {_MAX_WAYS} are tried. List modules by name."
        )


def _pair(module: str, sides: Mapping[str, TensorInfo], embedding: bool) -> Pair:
    for side in "AB":
        if side not in sides:
            raise InvalidAdapter(f"{WEIGHTS}: {module!r} has no lora_{side}.")
        shape = sides[side].shape
        if len(shape) != 2:
            raise InvalidAdapter(
                f"{WEIGHTS}: {sides[side].name!r} has the shape {shape}; it must be a matrix."
            )
    return Pair(module.removeprefix(PREFIX), sides["A"], sides["B"], embedding)


def _check_ranks(pair: Pair, rank: int) -> None:
    found = pair.a.shape[0], pair.b.shape[1]
    if found != (rank, rank):
        raise InvalidAdapter(
            f"{WEIGHTS}: {PREFIX + pair.module!r} has the rank {found[0]} in lora_A and "
            f"{found[1]} in lora_B, but {CONFIG} declares {rank}."
        )
    if rank > max(pair.inputs, pair.outputs):
        raise InvalidAdapter(
            f"{WEIGHTS}: {PREFIX + pair.module!r} has the rank {rank}, more than its layer of "
            f"{pair.inputs} inputs and {pair.outputs} outputs can have."
        )


def _check_declared_ranks(declared: LoraDeclaration, widest: int) -> None:
    """Nobody who reads the configuration makes room for more than the layers could use."""
    for name, rank in {"r": declared.r, **(declared.rank_pattern or {})}.items():
        if rank > widest:
            raise InvalidAdapter(
                f"{CONFIG} declares the rank {rank} for {name!r}, more than any of its layers can "
                f"have: the widest is {widest}."
            )


def _check_head(others: Sequence[TensorInfo], declared: LoraDeclaration) -> None:
    """A classifier without its head would tell classes by a random one.

    PEFT declares the heads that some model may have, so one of them is enough.
    """
    heads = declared.modules_to_save or ()
    if declared.task_type == "SEQ_CLS" and not any(
        f"{PREFIX}{head}." in tensor.name for head in heads for tensor in others
    ):
        raise InvalidAdapter(
            f"{CONFIG} says that this adapter tells classes (task_type is SEQ_CLS), but {WEIGHTS} "
            f"holds no tensor of a head ({', '.join(heads) or 'modules_to_save names none'}). "
            "Save it with its modules_to_save."
        )


def _declared(name: str, declared: LoraDeclaration) -> bool:
    """Whether the configuration says that there is such a tensor beside the pairs."""
    if declared.use_dora and ".lora_magnitude_vector" in name:
        return True
    if declared.lora_bias and name.endswith(".lora_B.bias"):
        return True
    if declared.bias != "none" and name.endswith(".bias"):
        return True
    if declared.trainable_token_indices and name.endswith(".trainable_tokens_delta"):
        return True
    # As PEFT matches them: `norm` is also `input_layernorm`.
    return any(f"{module}." in name for module in declared.modules_to_save or ())
