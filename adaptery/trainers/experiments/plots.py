"""Drawings of an experiment, as SVG that stands in a page by itself."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from adaptery.trainers.experiments.table import Figure, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

INK = "#4269d0"


def curves(rows: Sequence[Row]) -> str:
    """The training losses of all variations over one another, their first seeds'."""
    drawing = blank(7.5, 4)
    axes = drawing.subplots()
    for row in rows:
        steps, losses = row.runs[0].curve
        if steps:
            axes.plot(steps, losses, label=row.name, linewidth=1.2)
    axes.set(xlabel="step", ylabel="training loss (nats)")
    if axes.lines:
        axes.legend(fontsize="small", frameon=False)
    return svg(drawing)


def bars(rows: Sequence[Row], figures: Sequence[tuple[str, Sequence[Figure | None]]]) -> str:
    """For each (title, figure of every row) a panel of bars, whiskers of one spread."""
    drawing = blank(3 * len(figures), 0.9 + 0.3 * len(rows))
    panels = drawing.subplots(1, len(figures), sharey=True, squeeze=False)[0]
    for axes, (title, values) in zip(panels, figures, strict=True):
        lengths = [value.mean if value else 0.0 for value in values]
        spreads = [(value.spread or 0.0) if value else 0.0 for value in values]
        whiskers = spreads if any(spreads) else None
        axes.barh([row.name for row in rows], lengths, xerr=whiskers, color=INK, height=0.6)
        axes.set_title(title, fontsize="medium")
    panels[0].invert_yaxis()
    return svg(drawing)


def blank(width: float, height: float) -> "Drawing":
    """A drawing of so many inches, without the state that pyplot keeps."""
    from matplotlib.figure import Figure as Drawing

    return Drawing(figsize=(width, height), layout="constrained")


def svg(drawing: "Drawing") -> str:
    """Its SVG element; the same drawing gives the same text."""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "adaptery"}):
        drawing.savefig(text, format="svg", metadata={"Date": None})
    found = text.getvalue()
    return found[found.index("<svg") :]
