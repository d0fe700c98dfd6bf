"""What loads amount to: percentiles, ratios of loads taken in turns, and whether a bar is met."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.figures import Figure
from benchmarks.serving.load import Answer

WRONG = "WRONG"


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of all do not exceed; never one that was not measured."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


@dataclass(frozen=True)
class Load:
    """One load on one server. Times in seconds; speed in tokens of finished answers a second."""

    speed: float
    first: tuple[float, float]
    """To the first token: median and 99th percentile."""
    each: tuple[float, float]
    """Per token after the first, over answers: median and 99th percentile."""
    requests: int
    failures: tuple[str, ...] = ()

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> "Load":
        """What `answers` amount to, from the first sent to the last token."""
        good = [answer for answer in answers if not answer.failure]
        failures = tuple(answer.failure for answer in answers if answer.failure)
        if not good:
            return cls(0.0, (math.inf,) * 2, (math.inf,) * 2, len(answers), failures)
        seconds = max(a.times[-1] for a in good) - min(a.sent for a in answers)
        firsts = [answer.first for answer in good]
        each = [answer.each for answer in good if answer.tokens > 1] or [math.inf]
        return cls(
            sum(answer.tokens for answer in good) / seconds,
            (statistics.median(firsts), percentile(firsts, 99)),
            (statistics.median(each), percentile(each, 99)),
            len(answers),
            failures,
        )


@dataclass(frozen=True)
class Score:
    """A contender: its loads, one of each turn, and what is wrong with its answers, if anything."""

    loads: Sequence[Load]
    wrong: str = ""

    @property
    def speed(self) -> float:
        """Tokens a second, the median of the turns."""
        return statistics.median(load.speed for load in self.loads)

    def cells(self) -> list[str]:
        """The contender's line of the table of loads; one that answers wrongly has no speed."""
        if self.wrong:
            return [f"{WRONG}: {self.wrong}", *[""] * 4]
        speeds = [load.speed for load in self.loads]
        failed = Counter(reason for load in self.loads for reason in load.failures)
        return [
            f"{self.speed:.0f} ({min(speeds):.0f} to {max(speeds):.0f})",
            middle([load.first for load in self.loads], 1, "s"),
            middle([load.each for load in self.loads], 1000, "ms"),
            str(sum(load.requests for load in self.loads)),
            "; ".join(f"{count} × {reason}" for reason, count in failed.items()) or "0",
        ]


def middle(pairs: Sequence[tuple[float, float]], times: float, unit: str) -> str:
    """Medians over the turns of a median and a 99th percentile."""
    both = (statistics.median(side) * times for side in zip(*pairs, strict=True))
    digits = 2 if unit == "s" else 0
    texts = [f"{value:.{digits}f}" if math.isfinite(value) else "–" for value in both]
    return f"{texts[0]} / {texts[1]} {unit}" if texts[0] != "–" else "–"


def ratio(what: str, ours: Score, other: Score, bar: float) -> Figure:
    """Speed in times another's, turn by turn: at least `bar`."""
    said = f"≥ {bar:.2f} ×"
    for whose, score in (("ours", ours), ("the peer", other)):
        if score.wrong:
            ok = False if whose == "ours" else None  # beside a wrong peer there is nothing to meet
            return Figure(what, f"{WRONG}, {whose}: {score.wrong}", said, ok)
    if any(load.failures for load in ours.loads):
        return Figure(what, "some of our requests failed", said, False)
    if not other.speed:
        return Figure(what, "the peer answered nothing", said)
    turns = turn_ratios(ours, other)
    value = statistics.median(turns)
    spread = f"({min(turns):.2f} to {max(turns):.2f})"
    speeds = f"{ours.speed:.0f} against {other.speed:.0f} tokens/s"
    return Figure(what, f"{value:.2f} × {spread}: {speeds}", said, value >= bar)


def turn_ratios(ours: Score, other: Score) -> list[float]:
    """The ratio of each turn; of the turns' medians where they were not taken together."""
    if len(ours.loads) != len(other.loads):
        return [ours.speed / other.speed]
    return [a.speed / b.speed for a, b in zip(ours.loads, other.loads, strict=True)]
