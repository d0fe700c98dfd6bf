"""The random generators of this process: kept, and put back."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def random_state() -> dict[str, Any]:
    """Python's, numpy's and torch's, as a checkpoint can hold them."""
    import numpy
    import torch

    name, keys, *rest = numpy.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, numpy.asarray(keys).tolist(), *rest),
        "torch": torch.get_rng_state(),
        "gpus": torch.cuda.get_rng_state_all(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Undo `random_state`."""
    import numpy
    import torch

    name, keys, *rest = state["numpy"]
    random.setstate(state["python"])
    numpy.random.set_state((name, numpy.array(keys, dtype="uint32"), *rest))
    torch.set_rng_state(state["torch"])
    torch.cuda.set_rng_state_all(state["gpus"])


@contextmanager
def undisturbed() -> Iterator[None]:
    """Whatever the body draws, what follows draws as if it had not run."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)
