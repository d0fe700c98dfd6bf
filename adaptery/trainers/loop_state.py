"""What a checkpoint holds of a loop, and putting it back."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adaptery.errors import ConfigError
from adaptery.trainers.chance import random_state, set_random_state

if TYPE_CHECKING:
    from adaptery.trainers.loop import Loop


def state_of(loop: "Loop") -> dict[str, Any]:
    """All that the steps to come depend on. Every process must ask for it."""
    return {
        "inputs": loop.inputs,
        "processes": loop.processes.count,
        "step": loop.step,
        "seconds": loop.seconds,
        "micro_batch": loop.micro_batch,
        "best": loop.best.state(),
        "adapter": {name: p.detach() for name, p in loop.trained.items()},
        "method": loop.method.state(loop.model),
        "optimizer": loop.optimizer.state_dict(),
        "schedule": loop.schedule.state_dict(),
        "scaler": loop.scaler.state_dict(),
        "random": loop.processes.gather(random_state()),
    }


def check_state(loop: "Loop", state: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that this run could not have written.

    Raises:
        ConfigError: it is of another base, other rows, or more or fewer processes.
    """
    folder = loop.checkpoints.folder
    if state["inputs"] != loop.inputs:
        raise ConfigError(
            f"{folder} was trained on another base or other rows than those here now. "
            "Bring those back, or start the run anew."
        )
    if state["processes"] != loop.processes.count:
        raise ConfigError(
            f"{folder} was trained by {state['processes']} processes and now there are "
            f"{loop.processes.count}, so steps would have other rows. Launch as many as before."
        )


def restore(loop: "Loop", state: Mapping[str, Any]) -> None:
    """Let the loop go on from where `state_of` was asked for."""
    put_weights(loop, state)
    loop.optimizer.load_state_dict(state["optimizer"])
    loop.schedule.load_state_dict(state["schedule"])
    loop.scaler.load_state_dict(state["scaler"])
    loop.best.restore(state["best"])
    loop.step = state["step"]
    loop.seconds, loop.micro_batch = state["seconds"], state["micro_batch"]
    set_random_state(state["random"][loop.processes.index])


def put_weights(loop: "Loop", state: Mapping[str, Any]) -> None:
    """Take over the weights of a checkpoint, and what the method knows of them."""
    import torch

    with torch.no_grad():
        for name, value in state["adapter"].items():
            loop.trained[name].copy_(value)
    loop.method.restore(loop.model, state["method"])
