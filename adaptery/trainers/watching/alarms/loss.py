"""Alarms of the loss and the rate: no number, sudden nothing, up instead of down, swinging, flat.

A loss of one step is an average over few rows and jumps by half of itself in the best of runs (see
`tests/trainers/watching/curves`). So a rise counts when averages of many lines rise by more than
their standard errors allow, and a swing when lines differ by more than rows of a batch can.
"""

import math
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from adaptery.trainers.watching.findings import (
    Change,
    Finding,
    blocks,
    highest_rate,
    less_fitting,
    too_high,
)
from adaptery.trainers.watching.history import Floats, History

WORDS = {"loss": "loss", "grad_norm": "gradient's norm", "eval.loss": "held-out loss"}
BLOCK = 10  # lines in an average, at least
MOST_BLOCKS = 12  # that a run is cut into
RISE = 1.2  # of an average over the best before it: the rule of thumb is a fifth
ERRORS = 6.0  # standard errors that a rise must exceed; the best of many blocks is a lucky one
FLOOR = 0.05  # of the first average: rises of a loss that is as good as gone do not count
ROW_SPREAD = 3.0  # nats, or the mean if that is more: rows differ by less, n of them by less / √n
SWING_LINES = 30  # that a swing is measured on
MARGIN = 1.5  # by which that measure may be off
BEYOND = 5.0  # times the highest rate that a method usually bears
EARLY = 5  # lines that are above the first three together
LEARNT = 0.05  # nats per token: what is known by heart


def no_number(history: History) -> Finding | None:
    """The loss or its gradient is NaN or infinite; the loop stops a run at once."""
    for name, step, value in history.no_numbers:
        if name in ("loss", "grad_norm", "eval.loss"):
            symptom = f"The {WORDS[name]} became {value} at step {step}."
            return Finding("not_a_number", step, symptom, *too_high(history))
    return None


def collapse(history: History) -> Finding | None:
    """The loss falls to nothing before any row was seen twice, so nothing was learnt by heart."""
    loss, epochs = history["loss"], history["epoch"].values
    for end in range(3, len(loss) + 1):
        last = loss.values[end - 3 : end]
        first_pass = end <= len(epochs) and epochs[end - 1] <= 1
        if max(last) > (1e-3 if first_pass else 1e-7):
            continue
        symptom = (
            f"The loss fell from {loss.values[0]:.3g} to {last[-1]:.2g} nats by step "
            f"{loss.steps[end - 1]}{', in the first pass over the rows' if first_pass else ''}."
        )
        cause = (
            "Nothing can be learnt that fast: the prompt holds the answer, all answers are the "
            "same, or no token is learned."
        )
        advice = "`adapters data preview FILE --mask`, and look at what is learned"
        return Finding("collapse", loss.steps[end - 1], symptom, cause, (), advice)
    return None


def rate(history: History) -> Finding | None:
    """The learning rate is beyond what anybody uses this method with."""
    steps = history["learning_rate"].steps
    if not steps or history.peak_rate <= BEYOND * highest_rate(history):
        return None
    symptom = f"The learning rate goes up to {history.peak_rate:.3g}."
    return Finding("rate", steps[0], symptom, *too_high(history))


def early_rise(history: History) -> Finding | None:
    """The first steps made the model worse than it was."""
    loss = history["loss"].array[:40]
    if len(loss) < 3 + EARLY:
        return None
    start = loss[:3].mean()
    means = sliding_window_view(loss[1:], EARLY).mean(axis=1)
    worst = int(np.argmax(means))
    error = math.hypot(1 / math.sqrt(3), 1 / math.sqrt(EARLY)) * chance(history, start)
    if means[worst] < max(1.5 * start, start + 3 * error):
        return None
    cause, changes = too_high(history)
    step = history["loss"].steps[worst + EARLY]
    symptom = f"The loss began at {start:.3g} and was {means[worst]:.3g} around step {step}."
    return Finding("divergence", step, symptom, cause, changes)


def rise(history: History) -> Finding | None:
    """An average over many lines is well above one before it."""
    loss = history["loss"]
    size = max(BLOCK, len(loss) // MOST_BLOCKS)
    parts = [np.asarray(part) for part in blocks(loss.values, size)]
    parts = [part for part in parts if len(part) == size]
    if len(parts) < 2:
        return None
    means = np.array([part.mean() for part in parts])
    errors = np.array([part.std(ddof=1) for part in parts]) / math.sqrt(size)
    usual = np.median(errors)  # a lucky block is low and even at once
    best, at = means[0], 0
    for index in range(1, len(parts)):
        error = math.hypot(max(errors[at], usual), max(errors[index], usual))
        up = means[index] - best
        if up > max((RISE - 1) * best, FLOOR * means[0], ERRORS * error):
            step = loss.steps[len(loss) % size + (index + 1) * size - 1]
            cause, changes = too_high(history)
            symptom = (
                f"The loss rose from {best:.3g} to {means[index]:.3g} (averages of {size} lines, "
                f"up to step {step}), {up / error:.0f} times what chance explains."
            )
            return Finding("divergence", step, symptom, cause, changes)
        if means[index] < best:
            best, at = means[index], index
    return None


def swing(history: History) -> Finding | None:
    """Lines differ by a fifth and by more than rows of a batch differ among one another."""
    loss = history["loss"]
    if len(loss) < SWING_LINES:
        return None
    windows = sliding_window_view(loss.array, SWING_LINES)
    spread, means = wobble(windows), windows.mean(axis=1)
    unlikely = spread > MARGIN * chance(history, means)
    share = np.where(unlikely, spread / np.maximum(means, 1e-9), 0)
    worst = int(np.argmax(share))
    if share[worst] <= RISE - 1:
        return None
    step = loss.steps[worst + SWING_LINES - 1]
    symptom = (
        f"The loss swings by {share[worst]:.0%} of its {means[worst]:.3g} from line to line up to "
        f"step {step}; batches of {history.rows_per_line} rows differ by less."
    )
    cause, changes = too_high(history)
    now = history.settings.training.accumulation
    changes = (*changes, Change("training.accumulation", now, 2 * now))
    return Finding("swing", step, symptom, cause, changes)


def chance(history: History, means: Any) -> Any:
    """How far a line may lie from another because it is the average of other rows; in nats."""
    return np.maximum(ROW_SPREAD, means) / math.sqrt(history.rows_per_line)


def wobble(windows: Floats) -> Floats:
    """The standard deviation of each window about its trend, as second differences have it.

    Their median, so that the fall of the first lines counts for nothing; it is 0.6745 times the
    deviation of a second difference, whose variance is 1 + 4 + 1 times a line's.

    Args:
        windows: losses, (windows, lines).
    """
    second = np.abs(windows[:, :-2] - 2 * windows[:, 1:-1] + windows[:, 2:])
    spread: Floats = np.median(second, axis=1) / (0.6745 * math.sqrt(6))
    return spread


def plateau(history: History) -> Finding | None:
    """A third of the run or more is over and nothing is learnt."""
    loss = history["loss"]
    if len(loss) < 12 or 0 < history.progress < 1 / 2:
        return None
    measured = history["eval.loss"]
    if improved(history) or (history.settings.evaluation.every and len(measured) < 3):
        return None  # held-out rows, the same each time, tell sooner and better
    third = len(loss) // 3
    first, last = loss.array[:third], loss.array[-third:]
    error = math.hypot(first.std(ddof=1), last.std(ddof=1)) / math.sqrt(third)
    fall = first.mean() - last.mean()
    if fall > 0.1 * first.mean() or fall > max(0.02 * first.mean(), 2 * error):
        return None
    if last.mean() < LEARNT:
        return None
    training, peak = history.settings.training, history.peak_rate
    symptom = (
        f"The loss does not fall: {first.mean():.3g} in the first third, {last.mean():.3g} in the "
        f"last, up to step {loss.steps[-1]}."
    )
    if peak > highest_rate(history):
        return Finding("plateau", loss.steps[-1], symptom, *too_high(history))
    cause = f"A learning rate of {peak:.3g} is too low, or the base knows what the rows teach."
    changes = [Change("training.learning_rate", peak, 5 * peak)] if peak else []
    if training.warmup > 0.1:
        changes.append(Change("training.warmup", training.warmup, 0.05))
    if history.settings.method != "full":
        changes.append(Change("lora.r", history.settings.lora.r, 2 * history.settings.lora.r))
    return Finding("plateau", loss.steps[-1], symptom, cause, tuple(changes))


def improved(history: History) -> bool:
    """Whether held-out rows are told better than at the first measurement."""
    measured = history["eval.loss"].values
    return len(measured) > 1 and min(measured) < 0.998 * measured[0]


def by_heart(history: History) -> Finding | None:
    """The loss is as good as gone with half of the run left, and no held-out rows to judge by."""
    loss, epochs = history["loss"], history["epoch"].values
    if len(loss) < BLOCK or not epochs or len(epochs) != len(loss) or history["eval.loss"].values:
        return None
    means = sliding_window_view(loss.array, 5).mean(axis=1)
    low = np.flatnonzero(means < LEARNT)
    planned = history.settings.training.epochs
    if not len(low) or not 1 <= epochs[low[0] + 4] <= planned / 2:
        return None
    epoch, step = epochs[low[0] + 4], loss.steps[low[0] + 4]
    symptom = (
        f"The loss is down to {means[low[0]]:.2g} nats after {epoch:.1f} of {planned:g} epochs "
        f"(step {step})."
    )
    cause = "The rows are learnt by heart, and no held-out rows (data.eval) say what that is worth."
    changes = less_fitting(history, math.ceil(epoch))
    return Finding("by_heart", step, symptom, cause, changes)
