"""What `eval` found out, for people and for scripts."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptery.cli.context import print_table, stderr, stdout
from adaptery.cli.measuring import interval

if TYPE_CHECKING:
    from adaptery.trainers.data.rows import Dataset
    from adaptery.trainers.evaluation.bootstrap import Difference
    from adaptery.trainers.evaluation.candidates import Candidate
    from adaptery.trainers.evaluation.class_report import ClassReport
    from adaptery.trainers.evaluation.scoring import Evaluation
    from adaptery.trainers.evaluation.verdict import Verdict

NOTABLE = 1e-3  # of a loss, in nats


@dataclass(frozen=True)
class Assessment:
    """What was measured of one version, and beside its baseline."""

    version: "Candidate"
    evaluation: "Evaluation"
    baseline: "Candidate | None" = None
    baseline_evaluation: "Evaluation | None" = None
    differences: "dict[str, Difference]" = field(default_factory=dict)
    verdict: "Verdict | None" = None
    classes: "ClassReport | None" = None
    reported: dict[str, float] = field(default_factory=dict)
    """What training said of the same rows."""


def write_rows(path: Path, rows: "Dataset", result: Assessment) -> None:
    """One line a row: where it is from, the true answer, and what was said to it."""
    lines = []
    beside = result.baseline_evaluation
    for place, (row, answer) in enumerate(zip(rows.rows, result.evaluation.answers, strict=True)):
        line: dict[str, Any] = {
            "origin": row.origin,
            "reference": result.evaluation.references[place],
            "answer": answer.text,
            "loss": answer.loss,
            "tokens": answer.tokens,
        }
        if answer.scores:
            line["scores"] = dict(zip(result.version.task.labels, answer.scores, strict=True))
        if beside:
            line["baseline"] = beside.answers[place].text
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    path.write_text("".join(lines), encoding="utf-8")


def report_data(result: Assessment, rows: "Dataset") -> dict[str, Any]:
    """Everything, for scripts."""
    beside = result.baseline_evaluation
    offsets = getattr(result.version.task, "offsets", ())
    return {
        "version": result.version.name,
        "data": {
            "source": rows.source,
            "format": rows.format,
            "rows": len(rows.rows),
            "digest": rows.digest,
            "trained_on": result.version.manifest.data_digest == rows.digest,
        },
        "offsets": dict(zip(result.version.task.labels, offsets, strict=True)) if offsets else None,
        "metrics": result.evaluation.metrics,
        "reported": result.reported or None,
        "baseline": {"name": result.baseline.name, "metrics": beside.metrics}
        if result.baseline and beside
        else None,
        "differences": {name: asdict(one) for name, one in result.differences.items()},
        "verdict": asdict(result.verdict) if result.verdict else None,
        "classes": asdict(result.classes) if result.classes else None,
    }


def print_report(result: Assessment, names: list[str]) -> None:
    """The figures, and what to make of them."""
    metrics, beside = result.evaluation.metrics, result.baseline_evaluation
    columns = ["metric", f"{result.version.name} "]
    columns += ["in training "] * bool(result.reported)
    columns += [f"{result.baseline.name} ", "difference "] if result.baseline else []
    rows = []
    for name in names:
        row = [name, f"{metrics[name]:.4f}"]
        if result.reported:
            row.append(f"{result.reported[name]:.4f}" if name in result.reported else "")
        if beside:
            row += [f"{beside.metrics[name]:.4f}", interval(result.differences[name])]
        rows.append(row)
    print_table(columns, rows)
    if result.classes:
        print_classes(result.classes)
    if getattr(result.version.task, "offsets", ()):
        stderr().print(f"{result.version.name} decides by calibrated thresholds.", soft_wrap=True)
    if result.version.task.head_labels and not result.baseline:
        stderr().print("There is no baseline: the base alone has no such head.", soft_wrap=True)
    if abs(metrics["loss"] - result.reported.get("loss", metrics["loss"])) > NOTABLE:
        stderr().print(
            f"Training reported a loss of {result.reported['loss']:.4f} on these rows: it computed "
            "on a quantized base or in another arithmetic. Measured here is the version on the "
            "base as it is served.",
            soft_wrap=True,
        )
    if result.verdict and result.baseline:
        stdout().print(f"\n{result.verdict.sentence}", soft_wrap=True)


def print_classes(report: "ClassReport") -> None:
    """Which classes are taken for which, and whether a threshold can part them."""
    stdout().print()
    confusion = zip(report.labels, report.confusion, strict=True)
    columns = ["true \\ told", *(f"{column} " for column in report.columns)]
    print_table(columns, [[label, *row] for label, row in confusion])
    stdout().print()
    columns = ["class", "rows ", "precision ", "recall ", "f1 "]
    shares = [
        [one.label, one.rows, *(f"{share:.3f}" for share in (one.precision, one.recall, one.f1))]
        for one in report.classes
    ]
    print_table(columns, shares)
    for one in report.overlaps:
        low, high = one.own
        stdout().print(
            f"Scores of {one.label} lie in [{low:.2f}, {high:.2f}], of others in "
            f"[{one.others[0]:.2f}, {one.others[1]:.2f}]: {one.own_within_others:.0%} and "
            f"{one.others_within_own:.0%} of them are within the other range (AUC {one.auc:.3f}).",
            soft_wrap=True,
        )
