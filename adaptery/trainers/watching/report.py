"""A run's report: one HTML file that needs no other and no network."""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from adaptery.trainers.run_directory import RunDirectory
from adaptery.trainers.watching.diagnosis import described, diagnose, scores
from adaptery.trainers.watching.findings import written
from adaptery.trainers.watching.plots import draw_loss, draw_norm, draw_rate, picture

STYLE = """body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;
color:#1f2328;background:#fff}table{border-collapse:collapse;margin:1rem 0;font-size:.9rem}
th,td{padding:.3rem .8rem .3rem 0;border-bottom:1px solid #d0d7de;text-align:left}
td.figure,th.figure{text-align:right;font-variant-numeric:tabular-nums}img{max-width:100%}
pre{background:#f6f8fa;padding:.6rem 1rem;white-space:pre-wrap;overflow-wrap:anywhere}"""
PANELS: dict[str, Callable[[Any, Sequence[Mapping[str, Any]]], None]] = {
    "Loss": draw_loss,
    "Learning rate": draw_rate,
    "Gradient norm": draw_norm,
}


def html_report(run: RunDirectory) -> str:
    """Figures, findings, curves, evaluation, events, samples and configuration of a run."""
    title = escape(f"Run {run.path.name}")
    parts = (
        f"<h1>{title}</h1>",
        table([(key, told(value)) for key, value in figures(run).items()]),
        section("Diagnosis", diagnosis(run)),
        section("Curves", curves(run)),
        section("Held-out rows", evaluation(run)),
        section("Events", events(run)),
        section("Answers in mid-run", samples(run)),
        section("Configuration", configuration(run)),
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body>\n{''.join(parts)}</body></html>\n"
    )


def section(title: str, body: str) -> str:
    """A part with its heading; nothing where there is nothing to say."""
    return f"<h2>{escape(title)}</h2>\n{body}\n" if body else ""


def table(
    rows: Iterable[Sequence[str]], headings: Sequence[str] = (), figures: Sequence[int] = ()
) -> str:
    """Cells as text; those of the columns in `figures` stand at the right."""

    def row(cells: Sequence[str], tag: str) -> str:
        kinds = [' class="figure"' if index in figures else "" for index in range(len(cells))]
        inside = (f"<{tag}{k}>{escape(c)}</{tag}>" for k, c in zip(kinds, cells, strict=True))
        return f"<tr>{''.join(inside)}</tr>\n"

    body = "".join(row(cells, "td") for cells in rows)
    return f"<table>\n{row(headings, 'th') if headings else ''}{body}</table>\n" if body else ""


def told(value: Any) -> str:
    """A figure as people read it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {told(part)}" for key, part in value.items())
    return (
        f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else written(value)
    )


def figures(run: RunDirectory) -> dict[str, Any]:
    """What the run was, on what rows, and what it took."""
    line, result = described(run), run.result()
    known = {key: value for key, value in line.items() if value is not None and key != "path"}
    taken = {
        name.replace("_", " "): result[name]
        for name in ("trainable_parameters", "peak_memory_bytes")
        if name in result
    }
    rows = [row for row in run.metrics() if "loss" in row]
    if rows and "epoch" in rows[-1]:
        taken["epochs"] = rows[-1]["epoch"]
    speeds = sorted(row["tokens_per_second"] for row in rows if "tokens_per_second" in row)
    if speeds:
        taken["tokens per second (median)"] = round(speeds[len(speeds) // 2])
    return known | run.data() | taken


def diagnosis(run: RunDirectory) -> str:
    """The findings, or that there is none."""
    found = diagnose(run)
    rows = [
        (item.symptom, item.cause, "; ".join([*map(str, item.changes), item.advice]).strip("; "))
        for item in found
    ]
    return table(rows, ("symptom", "likely cause", "try")) or "<p>Nothing is wrong.</p>"


def curves(run: RunDirectory) -> str:
    """Every panel as an image inside the file."""
    rows = run.metrics()
    if not rows:
        return "<p>No figures were written yet.</p>"
    return "".join(
        f'<img alt="{escape(name)}" src="data:image/png;base64,'
        f'{base64.b64encode(picture(rows, [draw])).decode()}">\n'
        for name, draw in PANELS.items()
    )


def evaluation(run: RunDirectory) -> str:
    """Every metric beside the base's."""
    metrics = scores(run)
    rows = []
    for name in (name for name in metrics if not name.startswith("base.")):
        own, base = metrics[name], metrics.get(f"base.{name}")
        change = "" if base is None else f"{own - base:+.4g}"
        rows.append((name, "" if base is None else written(base), written(own), change))
    return table(rows, ("metric", "base alone", "adapter", "change"), (1, 2, 3))


def events(run: RunDirectory) -> str:
    rows = [
        (told(event.get("step")), event.get("kind", ""), event.get("sentence", ""))
        for event in run.events()
    ]
    return table(rows, ("step", "what", "told"), (0,))


def samples(run: RunDirectory) -> str:
    """Prompts and answers of the last measurement."""
    rows = run.samples()
    last = [row for row in rows if row["step"] == max(row["step"] for row in rows)]
    return "".join(
        f"<h3>Step {row['step']}{'' if row.get('ended', True) else ', cut off'}</h3>\n"
        f"<pre>{escape(row['prompt'])}</pre>\n<pre>{escape(row['answer'])}</pre>\n"
        for row in last
    )


def configuration(run: RunDirectory) -> str:
    """Every option with its value and where that came from."""
    from adaptery.trainers.watching.reporters import flat

    origins = run.origins()
    values = flat(run.config().model_dump(mode="json"))
    rows = [(key, written(value), origins.get(key, "default")) for key, value in values.items()]
    return table(rows, ("option", "value", "from"))
