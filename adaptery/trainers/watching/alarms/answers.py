"""Alarms of the answers that a model gives in mid-run."""

import re
from collections.abc import Mapping
from typing import Any

from adaptery.trainers.watching.findings import Change, Finding, too_high
from adaptery.trainers.watching.history import History

# A word, or a character of a script that is written without spaces.
PIECE = re.compile(r"[぀-ヿ㐀-鿿가-힯]|[^\W぀-ヿ㐀-鿿가-힯]+|[^\w\s]")
GRAM = 4  # pieces in a row
SHORTEST = 16  # pieces that an answer must have
REPEATED = 0.5  # share of grams that came before; package descriptions have 0.1 at most


def repetition(text: str) -> float:
    """The share of a text's four-grams that stood in it before, from 0 to 1."""
    pieces = PIECE.findall(text)
    grams = [tuple(pieces[i : i + GRAM]) for i in range(len(pieces) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if len(pieces) >= SHORTEST else 0.0


def latest(history: History) -> list[list[Mapping[str, Any]]]:
    """The samples of each step at which some were taken, the last step's last."""
    steps: dict[int, list[Mapping[str, Any]]] = {}
    for sample in history.samples:
        steps.setdefault(int(sample["step"]), []).append(sample)
    return [steps[step] for step in sorted(steps)]


def repeating(history: History) -> Finding | None:
    """Half of the last answers say the same again and again."""
    measured = latest(history)
    if not measured:
        return None
    shares = [repetition(sample["answer"]) for sample in measured[-1]]
    bad = [share for share in shares if share > REPEATED]
    if len(bad) * 2 < len(shares) or not bad:
        return None
    step = int(measured[-1][0]["step"])
    worst = max(zip(shares, measured[-1], strict=True), key=lambda pair: pair[0])[1]
    symptom = (
        f"{len(bad)} of {len(shares)} answers at step {step} repeat themselves, such as "
        f"“{excerpt(worst['answer'])}”."
    )
    cause, changes = too_high(history)
    cause = f"The model degenerates. {cause}"
    if history["eval.loss"].values and history.settings.training.epochs > 1:
        now = history.settings.training.epochs
        changes = (*changes, Change("training.epochs", now, max(1, round(now / 2))))
    return Finding("repetition", step, symptom, cause, changes)


def endless(history: History) -> Finding | None:
    """No answer ended by itself, two measurements in a row."""
    measured = latest(history)[-2:]
    if len(measured) < 2 or any(ended(sample) for samples in measured for sample in samples):
        return None
    step = int(measured[-1][0]["step"])
    limit = history.settings.evaluation.max_new_tokens
    symptom = (
        f"None of the {len(measured[-1])} answers at step {step} ended within {limit} tokens, nor "
        "did any at the measurement before."
    )
    if all(repetition(sample["answer"]) > REPEATED for sample in measured[-1]):
        cause = "They go round in circles."
    else:
        cause = "Either right answers are longer than that, or the end token is not learnt yet."
    advice = "`adapters data preview FILE --mask`, to see that the end token is learned"
    change = Change("evaluation.max_new_tokens", limit, 2 * limit)
    return Finding("endless", step, symptom, cause, (change,), advice)


def ended(sample: Mapping[str, Any]) -> bool:
    return bool(sample.get("ended", True))


def excerpt(text: str, length: int = 60) -> str:
    """The beginning of an answer, in one line."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[:length]}…"
