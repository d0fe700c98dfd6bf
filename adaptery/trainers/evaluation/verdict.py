"""Whether an adapter was worth its training, in the grades of the practice notes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from adaptery.trainers.evaluation.bootstrap import Difference

LOWER_IS_BETTER = frozenset({"loss", "perplexity"})
CLEAR, SOME = 0.05, 0.01  # of the baseline's score

Grade = Literal["effective", "limited", "none"]
SENTENCES: dict[Grade, str] = {
    "effective": "training was effective",
    "limited": "training had some effect, but a limited one",
    "none": "no clear effect",
}
ADVICE = "Consider other data, another base or another method."


@dataclass(frozen=True)
class Verdict:
    """How a score compares with its baseline's, as a share of that; above 0 is better.

    There is no such share where the baseline's score is 0.
    """

    metric: str
    improvement: float | None
    grade: Grade
    could_be_chance: bool

    @property
    def sentence(self) -> str:
        if self.improvement is None:
            text = f"The baseline's {self.metric} is 0"
        else:
            better = "better" if self.improvement >= 0 else "worse"
            text = f"{self.metric} is {abs(self.improvement):.1%} {better} than the baseline's"
        if self.could_be_chance:
            return f"{text}, which could be chance: measure on more rows."
        advice = f" {ADVICE}" if self.grade == "none" else ""
        return f"{text}: {SENTENCES[self.grade]}.{advice}"


def judge(metric: str, value: float, baseline: float, difference: Difference) -> Verdict:
    """The verdict on a score: more than 5 % better, more than 1 %, or less."""
    gain = value - baseline
    if metric in LOWER_IS_BETTER:
        gain = -gain
    share = gain / abs(baseline) if baseline else float(gain > 0)
    grade: Grade = "effective" if share > CLEAR else "limited" if share > SOME else "none"
    return Verdict(metric, share if baseline else None, grade, difference.could_be_chance)


def headline(metrics: Sequence[str]) -> str:
    """The metric that a verdict goes by: macro-F1 if measured, else the first one of answers, else
    the loss."""
    for name in ("macro_f1", "f1"):
        if name in metrics:
            return name
    return next((name for name in metrics if name not in LOWER_IS_BETTER), "loss")


def compared(metric: str, difference: Difference) -> Literal["better", "worse", "no difference"]:
    """What a difference of two models' scores means; it may be that it could be chance."""
    if difference.could_be_chance:
        return "no difference"
    return "better" if (difference.value > 0) != (metric in LOWER_IS_BETTER) else "worse"
