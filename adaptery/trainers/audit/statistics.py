"""Figures of one part of the data."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from adaptery.trainers.audit.parts import Part, Rules

PERCENTILES = (50, 95, 99, 100)


@dataclass(frozen=True)
class TokenStatistics:
    """Figures that need a tokenizer. Shares are of the rows, that of learned tokens of all."""

    tokens: int
    learned: int
    lengths: dict[str, int]
    """Tokens of a row: `p50`, `p95`, `p99` and `max`."""
    too_long: int
    """Rows longer than `max_length`."""
    max_length: int
    begin_share: float
    """Of rows whose first token is BOS."""
    end_share: float
    """Of rows in which the end token is learned."""

    @property
    def learned_share(self) -> float:
        return self.learned / self.tokens if self.tokens else 0.0


@dataclass(frozen=True)
class Statistics:
    """Figures of one part."""

    source: str
    format: str
    rows: int
    classes: dict[str, int]
    """Rows of each class, the largest first; empty where answers are texts."""
    tokens: TokenStatistics | None

    @property
    def imbalance(self) -> float | None:
        """How many times more rows the largest class has than the smallest."""
        counts = self.classes.values()
        return max(counts) / min(counts) if counts else None

    def as_data(self) -> dict[str, Any]:
        data = asdict(self) | {"imbalance": self.imbalance}
        if self.tokens:
            data["tokens"]["learned_share"] = self.tokens.learned_share
        return data


def measure(part: Part, rules: Rules) -> Statistics:
    """The figures of one part."""
    classes = part.classes(rules.kind)
    return Statistics(
        source=part.source,
        format=part.format,
        rows=len(part.rows),
        classes=dict(Counter(classes).most_common()) if classes else {},
        tokens=measure_tokens(part, rules) if part.examples else None,
    )


def measure_tokens(part: Part, rules: Rules) -> TokenStatistics:
    rows = part.examples
    lengths = sorted(len(row.ids) for row in rows)
    return TokenStatistics(
        tokens=sum(lengths),
        learned=sum(row.learned for row in rows),
        lengths={"max" if p == 100 else f"p{p}": percentile(lengths, p) for p in PERCENTILES},
        too_long=sum(length > rules.max_length for length in lengths),
        max_length=rules.max_length,
        begin_share=sum(row.ids[:1] == (rules.begin,) for row in rows) / len(rows),
        end_share=sum(rules.end in row.labels for row in rows) / len(rows),
    )


def percentile(ordered: Sequence[int], share: int) -> int:
    """The least value that at least `share` per cent of the ordered values do not exceed."""
    return ordered[max(0, -(-share * len(ordered) // 100) - 1)]
