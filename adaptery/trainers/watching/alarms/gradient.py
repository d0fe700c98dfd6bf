"""Alarms of the gradient's norm, as it was before clipping."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from adaptery.trainers.watching.findings import Change, Finding, too_high
from adaptery.trainers.watching.history import Floats, History

WINDOW = 15  # lines whose median a norm is held against
EXPLOSION = 10.0  # times that median; the wildest healthy curve in tests reaches 8
GONE = 1e-7  # a norm below it moves no weight in any precision
VANISHED = 1e-4  # of the first norms


def explosion(history: History) -> Finding | None:
    """A norm far above those before it, and above what clipping lets through.

    The first norms grow by themselves, from an adapter that changes nothing yet, so that of them
    only those count which clipping takes nearly all of.
    """
    norms = history["grad_norm"].array
    if len(norms) < 3:
        return None
    medians = medians_before(norms)
    limit = np.full(len(norms), history.settings.training.max_grad_norm)
    limit[:WINDOW] *= EXPLOSION
    times = np.where(norms > limit, norms / np.maximum(medians, 1e-12), 0)
    worst = int(np.argmax(times))
    count = int((times > EXPLOSION).sum())
    if not count:
        return None
    step = history["grad_norm"].steps[worst]
    often = f", and so {count} times" if count > 1 else ""
    symptom = (
        f"The gradient's norm leapt to {norms[worst]:.3g} at step {step}, {times[worst]:.0f} times "
        f"the median of {medians[worst]:.3g} before it{often}."
    )
    return Finding("gradient_explosion", step, symptom, *too_high(history))


def medians_before(norms: Floats) -> Floats:
    """The median of up to `WINDOW` norms before each; infinite where there are fewer than two."""
    first = [np.median(norms[:end]) if end > 1 else np.inf for end in range(WINDOW)][: len(norms)]
    if len(norms) <= WINDOW:
        return np.array(first)
    return np.append(first, np.median(sliding_window_view(norms[:-1], WINDOW), axis=1))


def vanishing(history: History) -> Finding | None:
    """Nothing is learnt any more, though there is a loss left."""
    norms, losses = history["grad_norm"], history["loss"]
    if len(norms) < 5 or len(losses) < 5:
        return None
    last, first = np.median(norms.array[-5:]), np.median(norms.array[:5])
    loss, begun = float(np.mean(losses.array[-5:])), float(losses.array[:5].mean())
    if loss < 0.1 * begun or last > max(GONE, VANISHED * first):
        return None
    symptom = (
        f"The gradient's norm is {last:.2g} at step {norms.steps[-1]} (it was {first:.2g}), and "
        f"the loss still {loss:.3g}."
    )
    settings = history.settings
    if settings.training.precision == "fp16":
        cause = "Small gradients are zero in fp16."
        change = Change("training.precision", "fp16", "bf16")
    else:
        cause = "No trained weight takes part in the answer: look at what the targets are."
        change = Change("lora.targets", shown(settings.lora.targets), "all")
    return Finding("gradient_vanishing", norms.steps[-1], symptom, cause, (change,))


def shown(targets: str | tuple[str, ...]) -> str:
    return targets if isinstance(targets, str) else ",".join(targets)
