"""The built-in metrics of greedy answers."""

from collections.abc import Sequence
from typing import Any

from adaptery import hookimpl
from adaptery.plugins.specs import Spec


@hookimpl
def metrics() -> list[Spec]:
    return [
        Spec("accuracy", "share of answers that equal the true one", lambda: accuracy),
        Spec("macro_f1", "F1 averaged over the true answers' classes", macro_f1),
    ]


def accuracy(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Share of predictions that equal their reference."""
    return sum(p == r for p, r in zip(predictions, references, strict=True)) / len(references)


def macro_f1() -> Any:
    from sklearn.metrics import f1_score

    def score(predictions: Sequence[str], references: Sequence[str]) -> float:
        """Unweighted mean of each true class' F1; answers that are no class count as misses."""
        labels = sorted(set(references))
        return float(
            f1_score(references, predictions, labels=labels, average="macro", zero_division=0.0)
        )

    return score
