"""An audit's report, as `adapters data check` prints it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adaptery.cli.context import print_table, stdout

if TYPE_CHECKING:
    from adaptery.trainers.audit import AuditReport
    from adaptery.trainers.audit.statistics import Statistics

LENGTHS = ("p50", "p95", "p99", "max")
TOKEN_COLUMNS = [f"{name} " for name in ("tokens", "learned", *LENGTHS, "too long", "BOS", "end")]


def show_report(report: "AuditReport") -> None:
    """A report for people."""
    if report.statistics:
        show_files(report.statistics)
    show_classes(report.statistics)
    if report.words:
        rows = [(label, len(ids), list(ids)) for label, ids in report.words.items()]
        print_table(["label", "tokens of its word ", "token ids"], rows)
    console = stdout()
    for finding in report.findings:
        style = "red" if finding.severity == "error" else "yellow"
        console.print(f"{finding.severity} {finding.code}: {finding}", style=style, soft_wrap=True)
    errors, warnings = len(report.errors), len(report.warnings)
    console.print(f"{errors} error(s), {warnings} warning(s)." if errors else "No error found.")


def show_files(files: "Sequence[Statistics]") -> None:
    """A line of figures for each file."""
    columns = ["file", "format", "rows "]
    rows: list[list[object]] = [[file.source, file.format, file.rows] for file in files]
    if any(file.tokens for file in files):
        columns += [
            "tokens ",
            "learned ",
            "p50 ",
            "p95 ",
            "p99 ",
            "max ",
            "too long ",
            "BOS ",
            "end ",
        ]
        for file, row in zip(files, rows, strict=True):
            row += token_cells(file)
    print_table(columns, rows)


def token_cells(file: "Statistics") -> list[object]:
    """A file's figures of tokens; empty where it was not tokenized."""
    figures = file.tokens
    if figures is None:
        return [None] * len(TOKEN_COLUMNS)
    return [
        f"{figures.tokens:,}",
        f"{figures.learned_share:.1%}",
        *(figures.lengths[name] for name in LENGTHS),
        figures.too_long,
        f"{figures.begin_share:.0%}",
        f"{figures.end_share:.0%}",
    ]


def show_classes(files: "Sequence[Statistics]") -> None:
    """How many rows of each class each file has."""
    labels = list(dict.fromkeys(label for file in files for label in file.classes))
    if not labels:
        return
    rows = [
        [label, *(share(file.classes.get(label, 0), file.rows) for file in files if file.classes)]
        for label in labels
    ]
    print_table(["class", *(f"{file.source} " for file in files if file.classes)], rows)


def share(count: int, rows: int) -> str:
    """A number of rows and what part of all that is."""
    return f"{count} ({count / rows:.1%})"
