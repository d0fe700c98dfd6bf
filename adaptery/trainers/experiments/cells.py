"""The table of an experiment as texts, the same for the terminal, Markdown and HTML."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adaptery.trainers.experiments.outcome import Measured
from adaptery.trainers.experiments.table import Figure, Row, metrics_of

NAMES = {"macro_f1": "macro-F1"}
NOTHING = "–"


@dataclass(frozen=True)
class Column:
    """A heading, and what stands under it. Figures stand at the right."""

    title: str
    cell: Callable[[Row], str]
    figures: bool = True


def columns(heading: str, rows: Sequence[Row]) -> list[Column]:
    """The notes' columns: memory, time, scores, trainable parameters; and what rows add."""
    shown = dict.fromkeys(name for row in rows for name in row.shown)
    return [
        Column(heading, lambda row: row.name, figures=False),
        *(Column(name, extra(name)) for name in shown),
        Column("memory", measured(lambda m: m.peak, size)),
        Column("above the base", measured(lambda m: m.above, size)),
        Column("training time", measured(lambda m: m.training_seconds, duration)),
        *(Column(title(name), score(name)) for name in metrics_of(rows)),
        Column("trainable", measured(lambda m: m.trainable_parameters, count)),
        Column("share", measured(lambda m: m.share, percent)),
        Column("on disk", measured(lambda m: m.size, size)),
    ]


def extra(name: str) -> Callable[[Row], str]:
    """A cell of what a variation says of itself."""
    return lambda row: row.shown.get(name, "")


def measured(
    read: Callable[[Measured], float | None], form: Callable[[float], str]
) -> Callable[[Row], str]:
    """A cell of something that every run measures."""
    return lambda row: told(row.figure(read), form)


def score(metric: str) -> Callable[[Row], str]:
    """A cell of a metric; of runs that came to nothing, what became of them."""

    def cell(row: Row) -> str:
        found = told(row.score(metric), three)
        return row.status if found == NOTHING else found

    return cell


def told(figure: Figure | None, form: Callable[[float], str]) -> str:
    return figure.told(form) if figure else NOTHING


def title(metric: str) -> str:
    """A metric's name as people write it."""
    return NAMES.get(metric, metric)


def three(value: float) -> str:
    return f"{value:.3f}"


def count(value: float) -> str:
    return f"{value:,.0f}"


def percent(share: float) -> str:
    """Three significant digits: an adapter's share may be tiny."""
    return f"{100 * share:.3g} %"


def size(value: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
