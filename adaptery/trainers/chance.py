"""The random generators of this process: kept, and put back."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def random_state() -> dict[str, Any]:
    """Python's, numpy's and torch's, as a checkpoint can hold them."""
    import numpy

    name, keys, *rest = numpy.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, numpy.asarray(keys).tolist(), *rest),
        "dropout": dropout_state(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Undo `random_state`."""
    import numpy

    name, keys, *rest = state["numpy"]
    random.setstate(state["python"])
    numpy.random.set_state((name, numpy.array(keys, dtype="uint32"), *rest))
    set_dropout_state(state["dropout"])


def dropout_state() -> "tuple[torch.Tensor, list[torch.Tensor]]":
    """What the next dropout depends on: torch's generators of the CPU and of the GPUs."""
    import torch

    return torch.get_rng_state(), torch.cuda.get_rng_state_all()


def set_dropout_state(state: "tuple[torch.Tensor, list[torch.Tensor]]") -> None:
    """Undo `dropout_state`."""
    import torch

    torch.set_rng_state(state[0])
    torch.cuda.set_rng_state_all(state[1])


@contextmanager
def undisturbed() -> Iterator[None]:
    """Whatever the body draws, what follows draws as if it had not run."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)
