"""The built-in engine."""

from typing import Any

from adaptery import hookimpl
from adaptery.plugins.specs import Spec


@hookimpl
def engines() -> list[Spec]:
    return [Spec("torch", "the embedded engine: PyTorch on CPU, CUDA or MPS", torch_engine)]


def torch_engine() -> Any:
    from adaptery.serving.torch.engine import TorchEngine

    return TorchEngine
