"""An experiment's report: results.json, report.md and a report.html that needs nothing else."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from adaptery.trainers.evaluation.bootstrap import Difference
from adaptery.trainers.evaluation.scoring import Metric
from adaptery.trainers.experiments.cells import (
    NOTHING,
    Column,
    columns,
    three,
    title,
)
from adaptery.trainers.experiments.comparison import compare, told, verdict
from adaptery.trainers.experiments.experiment import Experiment, Run
from adaptery.trainers.experiments.plots import bars, curves
from adaptery.trainers.experiments.table import (
    Figure,
    Row,
    best_of,
    deciding,
    metrics_of,
    rows_of,
)

STYLE = """body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;
color:#1f2328;background:#fff}table{border-collapse:collapse;margin:1rem 0;font-size:.9rem}
th,td{padding:.3rem .7rem;border-bottom:1px solid #d0d7de;text-align:left;white-space:nowrap}
.figure{text-align:right;font-variant-numeric:tabular-nums}svg{max-width:100%;height:auto}
.wide{overflow-x:auto}pre{background:#f6f8fa;padding:1rem;overflow-x:auto}"""


@dataclass(frozen=True)
class Table:
    """Headings and cells; `figures` tells which columns are numbers."""

    headings: list[str]
    rows: list[list[str]]
    figures: list[bool]
    caption: str = ""


@dataclass(frozen=True)
class Report:
    """All that there is to say of an experiment."""

    experiment: Experiment
    rows: list[Row]
    metric: str | None
    baseline: Row
    """The row that the others are compared with."""
    differences: dict[str, Difference]
    """By the names of the others."""
    verdict: str
    more: list[Table] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        runs: Sequence[Run],
        metrics: Mapping[str, Metric],
        metric: str | None = None,
        baseline: str | None = None,
    ) -> "Report":
        """The report of runs.

        Args:
            metrics: those of answers that were measured.
            metric: the one that decides; by default macro-F1 where it is measured.
            baseline: the row that the others are compared with; by default the first.

        Raises:
            UnknownName: the metric was not measured.
        """
        rows = rows_of(runs)
        decides = deciding(metrics_of(rows), metric)
        first = next((row for row in rows if row.name == baseline), rows[0])
        found = {
            row.name: compare(row, first, decides, metrics)
            for row in rows
            if decides and row is not first
        }
        differences = {name: apart for name, apart in found.items() if apart}
        said = verdict(rows, decides, metrics)
        return cls(experiment, rows, decides, first, differences, said)

    @property
    def columns(self) -> list[Column]:
        """Those of the table, the comparison last."""
        own = columns(self.experiment.heading, self.rows)
        if not self.differences or not self.metric:
            return own
        heading = f"{title(self.metric)} less that of {self.baseline.name}"
        return [*own, Column(heading, lambda row: self.against(row))]

    def against(self, row: Row) -> str:
        return told(self.differences[row.name]) if row.name in self.differences else NOTHING

    @property
    def table(self) -> Table:
        """The whole table, the untuned base's row last."""
        cells = [[column.cell(row) for column in self.columns] for row in self.rows]
        base = self.base_scores
        if base:
            by_title = {title(name): three(score) for name, score in base.items()}
            headings = [column.title for column in self.columns[1:]]
            cells.append(["base alone", *(by_title.get(name, "") for name in headings)])
        return Table(
            [column.title for column in self.columns],
            cells,
            [column.figures for column in self.columns],
        )

    @property
    def base_scores(self) -> dict[str, float]:
        """The untuned base's metrics, where they were measured."""
        every = [measured.metrics for row in self.rows for measured in row.measured()]
        scores = next((own for own in every if any(name.startswith("base.") for name in own)), {})
        return {
            name.removeprefix("base."): score
            for name, score in scores.items()
            if name.startswith("base.")
        }

    @property
    def troubles(self) -> list[str]:
        """What went wrong, a sentence each."""
        return [f"{row.name}: {row.status}. {row.sentence}" for row in self.rows if row.sentence]

    def data(self) -> dict[str, Any]:
        """For scripts."""
        best = best_of(self.rows, self.metric) if self.metric else None
        return {
            "experiment": self.experiment.kind,
            "notes": list(self.experiment.notes),
            "metric": self.metric,
            "best": best.name if best else None,
            "verdict": self.verdict,
            "base": self.base_scores,
            "rows": [self.row_data(row) for row in self.rows],
            "tables": [
                {"caption": t.caption, "headings": t.headings, "rows": t.rows} for t in self.more
            ],
        }

    def row_data(self, row: Row) -> dict[str, Any]:
        names = metrics_of(self.rows)
        difference = self.differences.get(row.name)
        return {
            "name": row.name,
            "changes": dict(row.runs[0].variation.changes),
            "status": row.status,
            "mean": {n: f.mean for n in names if (f := row.score(n))},
            "spread": {n: f.spread for n in names if (f := row.score(n)) and f.spread is not None},
            "difference": self.difference_data(difference) if difference else None,
            "runs": [
                {"seed": run.seed, "folder": str(run.folder), **run.outcome.data()}
                for run in row.runs
            ],
        }

    def difference_data(self, apart: Difference) -> dict[str, Any]:
        more = {"metric": self.metric, "against": self.baseline.name}
        return {**more, **asdict(apart), "could_be_chance": apart.could_be_chance}

    def write(self, output: Path) -> None:
        """All three files."""
        text = json.dumps(self.data(), indent=2, ensure_ascii=False)
        (output / "results.json").write_text(text + "\n", encoding="utf-8")
        (output / "report.md").write_text(self.markdown(), encoding="utf-8")
        (output / "report.html").write_text(self.html(), encoding="utf-8")

    @property
    def heading(self) -> str:
        return f"{self.experiment.kind}: {self.experiment.base.value.name}"

    @property
    def about(self) -> list[str]:
        """What was run, a sentence each."""
        config = self.experiment.base.value
        seeds = ", ".join(map(str, self.experiment.seeds))
        spread = " Figures are means ± one standard deviation." if "," in seeds else ""
        return [
            f"Base {config.base}, rows of {config.data.train}, held-out rows of "
            f"{config.data.eval or 'no file'}, seed {seeds}.{spread}",
            *self.experiment.notes,
        ]

    def markdown(self) -> str:
        """The report as text."""
        parts = [f"# {self.heading}", *self.about, markdown_table(self.table), self.verdict]
        parts += self.troubles
        for table in self.more:
            parts += [table.caption, markdown_table(table)]
        return "\n\n".join(parts) + "\n"

    def html(self) -> str:
        """The report as a page, drawings within it."""
        e = html.escape
        body = [f"<h1>{e(self.heading)}</h1>", *(f"<p>{e(line)}</p>" for line in self.about)]
        body += [html_table(self.table), f"<p><strong>{e(self.verdict)}</strong></p>"]
        body += [f"<p>{e(line)}</p>" for line in self.troubles]
        for table in self.more:
            body += [f"<p>{e(table.caption)}</p>", html_table(table)]
        body += ["<h2>Training loss</h2>", curves(self.rows)]
        body += ["<h2>Side by side</h2>", bars(self.rows, self.panels)]
        return page(self.heading, body)

    @property
    def panels(self) -> list[tuple[str, list[Figure | None]]]:
        """What is drawn as bars: the score, memory and time."""
        of_rows = [
            ("memory (GB)", [row.figure(lambda m: m.peak / 1e9) for row in self.rows]),
            ("training (s)", [row.figure(lambda m: m.training_seconds) for row in self.rows]),
        ]
        if self.metric is None:
            return of_rows
        return [(title(self.metric), [row.score(self.metric) for row in self.rows]), *of_rows]


def markdown_table(table: Table) -> str:
    """A table in Markdown's form."""
    lines = [table.headings, ["---:" if figure else "---" for figure in table.figures]]
    lines += [[cell.replace("|", "\\|") for cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def html_table(table: Table) -> str:
    """A table in HTML."""

    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = [' class="figure"' if figure else "" for figure in table.figures]
        inner = (
            f"<{tag}{kind}>{html.escape(cell)}</{tag}>"
            for kind, cell in zip(kinds, cells, strict=True)
        )
        return f"<tr>{''.join(inner)}</tr>"

    rows = [line("th", table.headings), *(line("td", row) for row in table.rows)]
    return f'<div class="wide"><table>{"".join(rows)}</table></div>'


def page(heading: str, body: Sequence[str]) -> str:
    """A whole page that asks no other address for anything."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(heading)}</title><style>{STYLE}</style></head>"
        f"<body>{''.join(body)}</body></html>\n"
    )
