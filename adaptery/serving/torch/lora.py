"""Many adapters in one batch: each adds its low-rank update to its own rows, and to no others."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


@dataclass(frozen=True, slots=True)
class Factors:
    """ΔW = B A of one layer: `a` (rank, inputs), `b` (outputs, rank) with the scaling in it."""

    a: Tensor
    b: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """A version's weights on the engine's device, by the name of the layer that they change."""

    name: str
    layers: Mapping[str, Factors]


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive rows of the batch that one adapter answers."""

    rows: slice
    adapter: Adapter


class ActiveAdapters:
    """The segments of the step being computed. Rows in none of them are the base's.

    A forward hook on each layer reads them, because a linear layer is called with its input only.
    """

    def __init__(self, layers: Mapping[str, nn.Linear]) -> None:
        self.segments: Sequence[Segment] = ()
        for name, layer in layers.items():
            layer.register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
        """y ← y + B A x on the rows of every adapter that changes the layer `name`."""

        def add_updates(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            for segment in self.segments:
                factors = segment.adapter.layers.get(name)
                if factors is not None:
                    x = inputs[0][:, segment.rows]
                    output[:, segment.rows] += linear(linear(x, factors.a), factors.b)
            return output

        return add_updates


def adaptable_layers(
    model: nn.Module, run: Callable[[], object], rows: int
) -> dict[str, nn.Linear]:
    """The linear layers that see each of the `rows` tokens of a batch once, by name.

    Only they can carry adapters: an expert that sees a selection of tokens cannot be told which
    rows are whose. `run` calls the model on a batch of (1, rows) tokens.
    """
    calls: Counter[nn.Module] = Counter()

    def count(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[layer] += 1 if inputs[0].shape[:2] == torch.Size((1, rows)) else rows

    found = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    hooks = [layer.register_forward_pre_hook(count) for layer in found.values()]
    run()
    for hook in hooks:
        hook.remove()
    return {name: layer for name, layer in found.items() if calls[layer] == 1}
