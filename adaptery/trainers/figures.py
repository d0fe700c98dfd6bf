"""The figures of a run's steps, left on the device until somebody looks."""

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from adaptery.errors import VerificationError

if TYPE_CHECKING:
    import torch

    from adaptery.trainers.encoding import Example


class Window:
    """The steps since the last row of metrics.

    Losses and norms stay tensors until they are read: reading one makes a GPU finish its work.
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.weights: list[float] = []
        self.measured: list[torch.Tensor] = []
        self.tokens = self.learned = 0
        self.since = time.perf_counter()

    def add(
        self, step: int, rows: "Sequence[Example]", weight: float, measured: "torch.Tensor"
    ) -> None:
        """Take in a step's rows, what they count for, and its (loss, gradient norm)."""
        self.steps.append(step)
        self.weights.append(weight)
        self.measured.append(measured)
        self.tokens += sum(len(row.ids) for row in rows)
        self.learned += sum(row.learned for row in rows)

    def read(self, *, scaled: bool = False) -> dict[str, float]:
        """The averages; the gradient's norm is the last step's.

        Args:
            scaled: losses are scaled for fp16; a gradient that overflows is passed over then.

        Raises:
            VerificationError: a loss or its gradient is no number.
        """
        import torch

        seconds = time.perf_counter() - self.since
        measured = torch.stack(self.measured).tolist()
        for step, (loss, norm) in zip(self.steps, measured, strict=True):
            if not math.isfinite(loss if scaled else loss + norm):
                raise VerificationError(
                    f"The loss became {loss} and its gradient's norm {norm} at step {step}, so the "
                    "run was stopped and nothing published. Lower training.learning_rate or "
                    "training.max_grad_norm."
                )
        norms = [norm for _, norm in measured if math.isfinite(norm)]
        losses = (loss * weight for (loss, _), weight in zip(measured, self.weights, strict=True))
        return {
            "loss": sum(losses) / max(1e-9, sum(self.weights)),
            "grad_norm": norms[-1] if norms else 0.0,
            "tokens_per_second": self.tokens / seconds,
            "learned_tokens_per_second": self.learned / seconds,
        }
