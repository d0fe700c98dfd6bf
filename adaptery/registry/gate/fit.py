"""Whether a LoRA adapter can be applied in full to its base: told from headers, without torch.

A linear layer `m` of the base has `m.weight` of shape (outputs, inputs); its A is (rank, inputs)
and its B (outputs, rank). Conv1D keeps its weight the other way round, which the configuration
says by `fan_in_fan_out`. An embedding's weight is (entries, width); its A is (rank, entries).
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from adaptery.base_model import BaseTensor, LocalBase
from adaptery.errors import BaseMismatch
from adaptery.registry.gate.config import declaration, read_config
from adaptery.registry.gate.lora import PREFIX, WEIGHTS, Pair, pair_up
from adaptery.registry.gate.tensorfile import TensorInfo, read_header

_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
_HEADS = ("lm_head", "embed_out")
# Formats in which a weight has the shape of its layer; quantised ones are packed.
_PLAIN = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I8"})
_PACKED = (".qweight", ".weight_packed")
_LAYER = re.compile(r"(?:.*?\.)?(\w+\.\d+\..+)")


def check_fit(directory: Path, base: LocalBase) -> None:
    """Check that `base` has every layer that the adapter in `directory` changes, of its widths.

    Adapters of other types than LORA have tensors of other shapes; of those nothing is checked.

    Raises:
        BaseMismatch: it has not; the message names the layer and both shapes.
        InvalidAdapter: the files are not an adapter.
    """
    config = read_config(directory)
    if config["peft_type"] != "LORA":
        return
    layers = Layers(base, transposed=bool(declaration(config).fan_in_fan_out))
    pairs, others = pair_up(read_header(directory / WEIGHTS))
    for pair in pairs:
        layers.check_pair(pair)
    for tensor in others:
        layers.check_other(tensor)


class Layers:
    """The layers of a base, as adapters name them."""

    def __init__(self, base: LocalBase, *, transposed: bool) -> None:
        self._base = base.identity.id
        self._transposed = transposed
        self._tensors = base.tensors
        # Checkpoints of one model may differ from its modules, and so from what adapters name, in
        # what stands before the layers: `h.0.…`, `transformer.h.0.…`.
        self._by_tail: dict[str, list[BaseTensor]] = defaultdict(list)
        for name, tensor in self._tensors.items():
            self._by_tail[_tail(name)].append(tensor)
        self._embeddings = _embeddings(self._tensors)

    def check_pair(self, pair: Pair) -> None:
        """Raises `BaseMismatch` unless the base has the pair's layer, of its widths."""
        found = self._weights(pair.module)
        if not found:
            raise BaseMismatch(
                f"{WEIGHTS}: the base {self._base} has no layer {pair.module!r}, which the adapter "
                "changes. It was trained on another base; name that one with --base."
            )
        shapes = [tensor.shape for tensor in found if _is_plain(tensor)]
        wanted = (pair.outputs, pair.inputs)
        if pair.embedding or self._transposed:
            wanted = (pair.inputs, pair.outputs)
        if shapes and wanted not in shapes:
            raise BaseMismatch(
                f"{WEIGHTS}: {pair.module!r} has lora_A of shape {pair.a.shape} and lora_B of "
                f"{pair.b.shape}, for a weight of {wanted}; in the base {self._base} it is "
                f"{' or '.join(map(str, shapes))}. The adapter was trained on another base."
            )

    def check_other(self, tensor: TensorInfo) -> None:
        """Raises `BaseMismatch` if the tensor replaces one of the base that has another shape."""
        name = tensor.name.removeprefix(PREFIX).replace(".base_layer.", ".")
        found = self._find(name)
        shapes = [other.shape for other in found if _is_plain(other)]
        if shapes and tensor.shape not in shapes:
            raise BaseMismatch(
                f"{WEIGHTS}: {name!r} has the shape {tensor.shape}; in the base {self._base} it is "
                f"{' or '.join(map(str, shapes))}. The adapter was trained on another base."
            )

    def _weights(self, module: str) -> list[BaseTensor]:
        """The weight of a layer: one, or several that its name may mean; none if there is none."""
        found = self._find(f"{module}.weight")
        for ending in _PACKED if not found else ():
            found = found or self._find(module + ending)
        if not found and module.rpartition(".")[2] in _HEADS:
            return self._embeddings  # tied: the checkpoint keeps one of the two
        return found

    def _find(self, name: str) -> list[BaseTensor]:
        if name in self._tensors:
            return [self._tensors[name]]
        return self._by_tail.get(_tail(name), [])


def _tail(name: str) -> str:
    """A name from its first numbered layer on; of what is in none, the last module and parameter.

    >>> _tail("transformer.h.0.attn.c_attn.weight"), _tail("model.embed_tokens.weight")
    ('h.0.attn.c_attn.weight', 'embed_tokens.weight')
    """
    match = _LAYER.fullmatch(name)
    return match[1] if match else ".".join(name.split(".")[-2:])


def _embeddings(tensors: Mapping[str, BaseTensor]) -> list[BaseTensor]:
    return [tensor for name, tensor in tensors.items() if name.endswith(_EMBEDDINGS)]


def _is_plain(tensor: BaseTensor) -> bool:
    return tensor.dtype in _PLAIN
