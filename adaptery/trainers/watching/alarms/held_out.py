"""Alarms of what is measured on held-out rows, beside what is measured on those trained on."""

import numpy as np

from adaptery.trainers.watching.findings import Change, Finding, less_fitting
from adaptery.trainers.watching.history import History

WORSE = 0.05  # of the best held-out loss; measurements of the same rows differ by far less
NOISE = 1.1  # times that an average of five lines may be higher by chance
TIMES = 2  # measurements in a row that are worse
GAP = 2.0  # times the training loss
GAP_NATS = 0.1  # at least


def overfitting(history: History) -> Finding | None:
    """The loss on held-out rows rises while that on training rows does not."""
    measured = history["eval.loss"]
    if len(measured) <= TIMES:
        return None
    values = measured.array
    best = int(np.argmin(values))
    after = values[best + 1 :]
    if len(after) < TIMES or (after[-TIMES:] < (1 + WORSE) * values[best]).any():
        return None
    then, now = training_loss(history, measured.steps[best]), training_loss(history, None)
    if now > NOISE * then:
        return None
    step, at = measured.steps[-1], measured.steps[best]
    symptom = (
        f"The held-out loss was best at step {at} ({values[best]:.3g}) and is {values[-1]:.3g} at "
        f"step {step}, while the training loss went from {then:.3g} to {now:.3g}."
    )
    cause = "The model learns the training rows by heart."
    epochs = epoch_of(history, at)
    changes = less_fitting(history, epochs)
    if history.settings.evaluation.patience is None:
        changes = (*changes, Change("evaluation.patience", None, 3))
    return Finding("overfitting", step, symptom, cause, changes)


def training_loss(history: History, step: int | None) -> float:
    """The average of the five lines up to a step, or of the last five; NaN without any."""
    loss = history["loss"]
    end = len(loss) if step is None else int(np.searchsorted(loss.steps, step, side="right"))
    part = loss.values[max(0, end - 5) : end]
    return float(np.mean(part)) if part else float("nan")


def epoch_of(history: History, step: int) -> float | None:
    """The passes over the rows at a step."""
    epochs = history["epoch"]
    at = int(np.searchsorted(epochs.steps, step))
    return epochs.values[at] if at < len(epochs) else None


def gap(history: History) -> Finding | None:
    """Training rows are told far better than held-out ones."""
    measured = history["eval.loss"]
    if len(measured) < 2 or overfitting(history) or len(history["loss"]) < 5:
        return None
    own, other = training_loss(history, None), measured.values[-1]
    if own != own or other < GAP * own or other - own < GAP_NATS:  # NaN is never itself
        return None
    step = measured.steps[-1]
    symptom = (
        f"At step {step} the training loss is {own:.3g} and the held-out loss {other:.3g}, "
        f"{other / max(own, 1e-9):.3g} times as much."
    )
    cause = (
        "The model knows the training rows better than what they have in common with others: "
        "too few rows, or held-out rows of another kind."
    )
    return Finding("gap", step, symptom, cause, less_fitting(history), "more and more varied rows")


def worse_than_base(scores: dict[str, float], history: History) -> Finding | None:
    """In the end the adapter tells held-out rows worse than the base alone."""
    own, base = scores.get("loss"), scores.get("base.loss")
    if own is None or base is None or own <= base:
        return None
    rate = history.peak_rate
    symptom = f"The held-out loss is {own:.3g} with the adapter and {base:.3g} with the base alone."
    cause = "Training made the model worse at these rows: too much of it, or rows of another kind."
    changes = less_fitting(history, history.settings.training.epochs / 2)
    if not changes and rate:
        changes = (Change("training.learning_rate", rate, rate / 2),)
    step = max(history["loss"].steps, default=0)
    return Finding("worse_than_base", step, symptom, cause, changes)
