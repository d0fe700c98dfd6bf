"""A micro-step on a model of shapes without numbers, to see how much memory it takes.

Every operation is carried out on tensors that have a shape and no storage, forwards and backwards,
with the same attention, autocast and checkpointing as in the run. What is alive at each moment is
counted, so nothing needs to be known about the architecture, and no weights are loaded.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class BatchShape:
    """A micro-batch: `rows` of `tokens` each, of which `kept` positions of a row have logits."""

    rows: int
    tokens: int
    kept: int


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What a step computes in: autocast's number format, if there is autocast."""

    autocast: "torch.dtype | None" = None

    def context(self) -> "torch.autocast":
        import torch

        dtype = self.autocast or torch.bfloat16
        return torch.autocast("cpu", dtype, enabled=self.autocast is not None)


def peak_of_training(
    model: Any, shape: BatchShape, arithmetic: Arithmetic, *, micro_batches: int = 1
) -> int:
    """The most bytes beside the parameters that forward and backward of a step take, gradients of
    parameters included.

    Args:
        model: an outline on the meta device; it is left as it was.
        micro_batches: of a step; from the second on, gradients are there from the beginning.
    """

    def step() -> None:
        with arithmetic.context():
            loss = loss_of(model, shape)
        loss.backward()

    model.train()
    return peak(model, [step] * min(2, micro_batches))


def peak_of_evaluation(model: Any, shape: BatchShape, arithmetic: Arithmetic) -> int:
    """The most bytes beside the parameters that losses of a batch take without gradients."""
    import torch

    def step() -> None:
        with torch.no_grad(), arithmetic.context():
            loss_of(model, shape)

    model.eval()
    return peak(model, [step])


def loss_of(model: Any, shape: BatchShape) -> "torch.Tensor":
    """A loss of that many rows, by the output layer or by the classification head."""
    import torch

    ids = torch.zeros((shape.rows, shape.tokens), dtype=torch.long)
    given: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if not shape.kept:
        scores: torch.Tensor = model(**given).logits.float().logsumexp(-1).sum()
        return scores
    logits = model(**given, use_cache=False, logits_to_keep=torch.arange(shape.kept)).logits
    labels = torch.zeros(shape.rows * shape.kept, dtype=torch.long)
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), labels, reduction="none"
    )
    return losses.sum()


def peak(model: Any, steps: list[Callable[[], None]]) -> int:
    """The most bytes that are alive at once while the steps are taken, one after another."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True), shadowed(model):
        meter = make_meter()
        with meter:
            for step in steps:
                step()
    return int(meter.peak)


@contextmanager
def shadowed(model: Any) -> Iterator[None]:
    """Give the model tensors that are shapes on the CPU, for a while; tied ones stay tied."""
    import torch

    shadows: dict[int, torch.Tensor] = {}
    before = []
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                if tensor is None:
                    continue
                before.append((store, name, tensor))
                if id(tensor) not in shadows:
                    shadow = torch.empty(tensor.shape, dtype=tensor.dtype)
                    if isinstance(tensor, torch.nn.Parameter):
                        shadow = torch.nn.Parameter(shadow, requires_grad=tensor.requires_grad)
                    shadows[id(tensor)] = shadow
                store[name] = shadows[id(tensor)]
    try:
        yield
    finally:
        for store, name, tensor in before:
            store[name] = tensor


def make_meter() -> Any:
    """A mode that counts the bytes of all storages that operations make, while they live."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Meter(TorchDispatchMode):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.alive: dict[int, int] = {}
            self.now = self.peak = 0

        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = function(*args, **(kwargs or {}))
            for leaf in tree_leaves(result):
                if isinstance(leaf, torch.Tensor):
                    self.count(leaf.untyped_storage())
            return result

        def count(self, storage: Any) -> None:
            key = storage._cdata
            if key not in self.alive:
                self.alive[key] = storage.nbytes()
                self.now += self.alive[key]
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.forget, key)

        def forget(self, key: int) -> None:
            self.now -= self.alive.pop(key, 0)

    return Meter()
