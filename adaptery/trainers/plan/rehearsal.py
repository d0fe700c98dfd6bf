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

    from adaptery.trainers.batches import Batch
    from adaptery.trainers.compute.packing import Packed

Loss = Callable[[Any], "torch.Tensor"]


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What a step computes in: autocast's number format, if there is autocast."""

    autocast: "torch.dtype | None" = None

    def context(self) -> "torch.autocast":
        import torch

        dtype = self.autocast or torch.bfloat16
        return torch.autocast("cpu", dtype, enabled=self.autocast is not None)


def peak_of_training(model: Any, loss: Loss, arithmetic: Arithmetic, micro_batches: int = 1) -> int:
    """The most bytes beside the parameters that forward and backward of a step take, gradients of
    parameters included.

    Args:
        model: an outline on the meta device; it is left as it was.
        loss: of the micro-batch, from the model.
        micro_batches: of a step; from the second on, gradients are there from the beginning.
    """

    def step() -> None:
        with arithmetic.context():
            value = loss(model)
        value.backward()

    model.train()
    return peak(model, [step] * min(2, micro_batches))


def peak_of_evaluation(model: Any, loss: Loss, arithmetic: Arithmetic) -> int:
    """The most bytes beside the parameters that losses of a batch take without gradients."""
    import torch

    def step() -> None:
        with torch.no_grad(), arithmetic.context():
            loss(model)

    model.eval()
    return peak(model, [step])


@dataclass(frozen=True, slots=True)
class Padded:
    """The loss of a padded batch with logits at `kept` positions of a row; with none of these, by
    a classification head."""

    batch: "Batch"
    kept: int

    def __call__(self, model: Any) -> "torch.Tensor":
        import torch

        batch = self.batch
        given: dict[str, Any] = {
            "input_ids": batch.ids,
            "attention_mask": batch.mask,
            "position_ids": batch.positions,
            "use_cache": False,
        }
        if not self.kept:
            scores: torch.Tensor = model(**given).logits.float().logsumexp(-1).sum()
            return scores
        logits = model(**given, logits_to_keep=torch.arange(self.kept)).logits.flatten(0, 1)
        labels = torch.zeros(len(logits), dtype=torch.long)
        losses = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
        return losses.sum()


@dataclass(frozen=True, slots=True)
class EndToEnd:
    """The loss of rows laid end to end, as `compute.losses.token_losses` computes it."""

    packed: "Packed"

    def __call__(self, model: Any) -> "torch.Tensor":
        import torch

        from adaptery.trainers.compute.losses import fused, run

        layout = self.packed.layout
        if fused(model):
            return run(model, self.packed, targets=layout.targets).sum()
        logits = run(model, self.packed)[: layout.learned].float()
        return torch.nn.functional.cross_entropy(logits, layout.targets, reduction="none").sum()


def speed_up(model: Any, base: Any, *, pack: bool) -> bool:
    """Change an outline as `loading.speed_up` changes a model, but for the trial of its numbers.

    Returns:
        Whether rows are laid end to end.
    """
    import torch
    from torch.nn import Linear

    from adaptery.trainers.compute import attention, enabling, lora, losses, shortcut

    lora.fuse(model)
    if not pack or enabling.unfit(base):
        return False
    base.set_attn_implementation(attention.NAME)
    shortcut.shorten(base)
    head = base.get_output_embeddings()
    if type(head) is Linear:
        losses.LossHead(base, head)
    dropout = getattr(base.config.get_text_config(), "attention_dropout", 0.0)
    setattr(base, losses.SHARING, not torch.cuda.is_available() and not dropout)
    return True


def peak(model: Any, steps: list[Callable[[], None]]) -> int:
    """The most bytes that are alive at once while the steps are taken, one after another."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from adaptery.trainers.compute.row_attention import bias

    try:
        with FakeTensorMode(allow_non_fake_inputs=True), shadowed(model):
            meter = make_meter()
            for tensor in (*model.parameters(), *model.buffers()):
                meter.alive[tensor.untyped_storage()._cdata] = 0  # a view of it is no new memory
            with meter:
                for step in steps:
                    step()
    finally:
        bias.cache_clear()  # what it made here has no numbers
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
