"""What a model said to every held-out row, kept beside its run: `answers.jsonl`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptery.trainers.evaluation.scoring import Evaluation, Metric, measured
from adaptery.trainers.tasks.base import Answer

FILE = "answers.jsonl"
CALIBRATION = "calibration.jsonl"  # to rows that thresholds may be chosen by


@dataclass(frozen=True)
class Said:
    """One row's answer: `loss` in nats over `tokens`, `scores` the classes' log-probabilities."""

    origin: str
    reference: str
    text: str
    loss: float
    tokens: int
    scores: tuple[float, ...] = ()


def answers_of(evaluation: Evaluation, origins: Sequence[str]) -> list[Said]:
    """An evaluation's answers with the rows that they are to."""
    rows = zip(evaluation.answers, evaluation.references, origins, strict=True)
    return [
        Said(origin, reference, answer.text, answer.loss, answer.tokens, tuple(answer.scores))
        for answer, reference, origin in rows
    ]


def evaluation_of(answers: Sequence[Said], metrics: Mapping[str, Metric]) -> Evaluation:
    """Answers and what they are worth."""
    said = [Answer(one.text, one.loss, one.tokens, one.scores) for one in answers]
    return measured(said, [one.reference for one in answers], metrics)


def write_answers(path: Path, answers: Sequence[Said]) -> None:
    """One line a row, whole or not at all."""
    partial = path.with_suffix(".partial")
    lines = (json.dumps(said.__dict__, ensure_ascii=False) + "\n" for said in answers)
    partial.write_text("".join(lines), encoding="utf-8")
    partial.replace(path)


def read_answers(path: Path) -> list[Said]:
    """What `write_answers` wrote; nothing if there is no file."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Said(**row | {"scores": tuple(row["scores"])}) for row in map(json.loads, lines)]
