"""Many adapters in one batch, each multiplied with its own rows where it lies in memory.

Nothing is copied side by side and nothing is computed to be masked: a kernel goes through the
adapters of the step, reads each once and adds to the rows that it answers (the idea of Punica's
segmented products, Chen et al. 2023).
"""

from array import array
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from adaptery.serving.torch.kernels.calls import Kernels, address
from adaptery.serving.torch.lora import Adapter, Change, Factors, Run


class Segmented:
    """`ActiveAdapters` by the kernels."""

    places = 1.0

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self._layers: list[str] = []
        self._factors: WeakKeyDictionary[Adapter, array[int]] = WeakKeyDictionary()
        self._segments: array[int] = array("q")
        self._rows: array[int] = array("i")

    def layers(self, members: Mapping[str, nn.Linear]) -> Change:
        first = len(self._layers)
        self._layers += members
        columns = array("q", accumulate((m.out_features for m in members.values()), initial=0))
        return partial(self._add, columns, first)

    def prepared(self, adapter: Adapter) -> Adapter:
        packed = self._kernels.packed
        layers = {name: Factors(f.a, packed(f.b)) for name, f in adapter.layers.items()}
        return Adapter(adapter.name, layers)

    def begin(self, runs: Sequence[Run]) -> None:
        rows: dict[Adapter, list[int]] = {}
        row = 0
        for adapter, count in runs:
            if adapter is not None:
                rows.setdefault(adapter, []).extend(range(row, row + count))
            row += count
        self._rows, self._segments = array("i"), array("q")
        for adapter, mine in rows.items():
            self._segments.extend((len(self._rows), len(mine), self._address(adapter)))
            self._rows.extend(mine)

    def end(self) -> None:
        self._segments = array("q")

    def _add(self, columns: "array[int]", layer: int, output: Tensor, inputs: Tensor) -> None:
        if self._segments:
            self._kernels.update(output, inputs, columns, layer, self._segments, self._rows)

    def _address(self, adapter: Adapter) -> int:
        """Where it is written of all layers in turn: the rank, and where A and B are."""
        factors = self._factors.get(adapter)
        if factors is None:
            factors = array("q")
            for name in self._layers:
                mine = adapter.layers.get(name)
                factors.extend(
                    (mine.a.shape[0], mine.a.data_ptr(), mine.b.data_ptr()) if mine else (0, 0, 0)
                )
            self._factors[adapter] = factors
        return address(factors)
