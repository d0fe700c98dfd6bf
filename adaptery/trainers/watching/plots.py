"""Pictures of a run's curves. They are drawn without a display."""

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

Rows = Sequence[Mapping[str, Any]]


def save_curves(rows: Rows, path: Path) -> None:
    """Loss, learning rate and gradient norm over the steps, below one another, as PNG."""
    path.write_bytes(picture(rows, (draw_loss, draw_rate, draw_norm)))


def picture(rows: Rows, panels: Sequence[Callable[[Any, Rows], None]]) -> bytes:
    """A PNG of panels that share their steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heights = [3, *[1.5] * (len(panels) - 1)]
    figure = Figure(figsize=(7, sum(heights) + 0.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axis, draw in zip(axes, panels, strict=True):
        draw(axis, rows)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("step")
    file = BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def draw_loss(axis: Any, rows: Rows) -> None:
    """Of training rows, its moving average, and of held-out rows with the best one marked."""
    steps, losses = column(rows, "loss")
    many = len(losses) >= 20
    line(axis, steps, losses, color="tab:blue", alpha=0.4 if many else 1, label="training")
    if many:
        line(axis, *averaged(steps, losses, len(losses) // 10), color="tab:blue", label="average")
    steps, measured = column(rows, "eval.loss")
    line(axis, steps, measured, color="tab:orange", label="held-out", always_points=True)
    if measured:
        best = min(range(len(measured)), key=measured.__getitem__)
        axis.plot(steps[best], measured[best], "*", color="tab:red", markersize=11, label="best")
    axis.set_ylabel("loss (nats per token)")
    axis.set_ylim(bottom=0)
    if losses or measured:
        axis.legend()


def draw_rate(axis: Any, rows: Rows) -> None:
    line(axis, *column(rows, "learning_rate"), color="tab:gray")
    axis.set_ylabel("learning rate")
    axis.set_ylim(bottom=0)


def draw_norm(axis: Any, rows: Rows) -> None:
    steps, norms = column(rows, "grad_norm")
    line(axis, steps, norms, color="tab:green")
    axis.set_ylabel("gradient norm")
    if norms and max(norms) > 100 * max(min(norms), 1e-12):
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)


def line(
    axis: Any,
    steps: Sequence[int],
    values: Sequence[float],
    *,
    always_points: bool = False,
    **style: Any,
) -> None:
    """A curve; where it is too short to be seen as one, points."""
    if values:
        style["marker"] = "o" if always_points or len(values) < 3 else None
        axis.plot(steps, values, markersize=4, linewidth=1, **style)


def column(rows: Rows, name: str) -> tuple[list[int], list[float]]:
    """The steps at which a figure was measured, and its values."""
    found = [(row["step"], row[name]) for row in rows if name in row]
    return [step for step, _ in found], [value for _, value in found]


def averaged(
    steps: Sequence[int], values: Sequence[float], width: int
) -> tuple[list[int], list[float]]:
    """The means of `width` values, each at the step where its last stands."""
    ends = range(width, len(values) + 1)
    return [steps[end - 1] for end in ends], [
        sum(values[end - width : end]) / width for end in ends
    ]
