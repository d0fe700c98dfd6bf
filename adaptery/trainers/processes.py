"""The processes that train together, found and connected by accelerate.

Every process holds the whole model, learns from its share of a step's rows, and adds its gradients
to the others'. That is done once at the end of a step rather than inside the backward pass: an
adapter's gradients are small, no part of the model need be wrapped, and a process that ran out of
memory can still tell the others.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from adaptery.errors import ConfigError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

BUCKET = 1 << 26  # numbers that are added up in one message


class Processes:
    """One process alone communicates with nobody, and nothing here costs it time."""

    def __init__(self) -> None:
        """Join the others, if a launcher such as `accelerate launch` or `torchrun` started some.

        Raises:
            ConfigError: they were to be joined in a way that there is not.
        """
        import torch
        from accelerate import PartialState
        from accelerate.utils import parse_flag_from_env

        # `Accelerator` would keep a precision for the whole process, and two runs may differ in it.
        cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
        state = PartialState(cpu=cpu)
        self.count, self.index = state.num_processes, state.process_index
        self.device = state.device
        self.sharded = self.count > 1 and parse_flag_from_env("ACCELERATE_USE_FSDP")
        """Whether layers are spread over the processes, so that all compute each together."""
        if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
            raise ConfigError(
                "DeepSpeed is not among what adapters train with: an adapter's optimizer is small, "
                "and a base that is too large is spread by FSDP. Launch with --use_fsdp instead."
            )

    @property
    def main(self) -> bool:
        """Whether this is the one that writes, shows and publishes."""
        return bool(self.index == 0)

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process' items; it may get none."""
        return items[self.index :: self.count]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in some process."""
        if self.count == 1:
            return flag
        import torch
        from torch import distributed

        flags = torch.tensor(int(flag), device=self.device)
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)
        return bool(flags.item())

    def gather(self, value: T) -> list[T]:
        """What each process has, by number."""
        if self.count == 1:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def from_main(self, value: T) -> T:
        """What the main process has."""
        if self.count == 1:
            return value
        from torch import distributed

        values: list[Any] = [value]
        distributed.broadcast_object_list(values)
        return values[0]  # type: ignore[no-any-return]

    def go_apart(self, seed: int) -> None:
        """Let every process draw its own dropout; the main one draws what it would draw alone."""
        if self.index:
            import torch

            torch.manual_seed(seed + self.index)

    def add_up(self, tensors: Sequence["torch.Tensor"]) -> None:
        """Replace each tensor by its sum over the processes, the same bits in all of them."""
        if self.count == 1:
            return
        import torch
        from torch import distributed

        for kind in dict.fromkeys(tensor.dtype for tensor in tensors):
            for bucket in buckets([tensor for tensor in tensors if tensor.dtype == kind]):
                flat = torch.cat([tensor.flatten() for tensor in bucket])
                distributed.all_reduce(flat)
                for tensor, part in zip(
                    bucket, flat.split([t.numel() for t in bucket]), strict=True
                ):
                    tensor.copy_(part.view_as(tensor))

    def end(self) -> bool:
        """Leave the others, nothing is said to them after this; returns whether this goes on."""
        if self.count > 1:
            from torch import distributed

            distributed.destroy_process_group()
        return self.main


def buckets(tensors: Sequence["torch.Tensor"]) -> list[list["torch.Tensor"]]:
    """Tensors in order, in groups of about `BUCKET` numbers."""
    groups: list[list[torch.Tensor]] = [[]]
    size = 0
    for tensor in tensors:
        if size and size + tensor.numel() > BUCKET:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += tensor.numel()
    return groups
