"""The audit of files before any run: as much as can be told without the base, or with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from adaptery.errors import AdapteryError, ConfigError, DataError
from adaptery.trainers.audit.parts import Part, Rules
from adaptery.trainers.audit.report import AuditReport, audit
from adaptery.trainers.config import DataConfig, TaskConfig
from adaptery.trainers.data.findings import DefectiveData, Finding
from adaptery.trainers.data.reading import read_rows
from adaptery.trainers.data.rows import Dataset, Format
from adaptery.trainers.encoding import Example
from adaptery.trainers.tasks.base import Task
from adaptery.trainers.tasks.classes import find_classes
from adaptery.trainers.tasks.forward import Forward
from adaptery.trainers.tasks.making import make_task
from adaptery.trainers.tasks.words import LabelWords
from adaptery.trainers.watching import Watcher

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNFIT = "unfit-for-task"
TOLD_BY_AUDIT = {"single-class", "unknown-label"}  # what a task refuses too


@dataclass
class Check:
    """What files are checked with. What is wrong gathers in `findings`, so that all of it shows."""

    data: DataConfig
    task: TaskConfig
    formats: Mapping[str, Format]
    tokenizer: "PreTrainedTokenizerBase | None"
    watcher: Watcher

    def run(self, sources: Sequence[str]) -> AuditReport:
        """Audit `sources`, of which the first is trained on and the others are measured on."""
        findings: list[Finding] = []
        files = [data for source in sources if (data := self.read(source, findings))]
        if not files:
            return AuditReport(tuple(findings), ())
        task = self.make(files[0], findings)
        parts = [Part.of(data, self.encode(task, data, findings)) for data in files]
        report = audit(parts, self.rules(task))
        if any(finding.code in TOLD_BY_AUDIT for finding in report.errors):
            findings = [finding for finding in findings if finding.code != UNFIT]
        return replace(report, findings=(*findings, *report.findings))

    def read(self, source: str, findings: list[Finding]) -> Dataset | None:
        """A file's rows, if it can be read."""
        try:
            return read_rows(source, self.data, self.formats)
        except DataError as error:
            findings += findings_of(error, "unreadable-file")
            return None

    def make(self, data: Dataset, findings: list[Finding]) -> Task | None:
        """The task, if there is a tokenizer and the rows are fit for it."""
        try:
            if self.tokenizer:
                return make_task(self.task, Forward(self.tokenizer), data.rows)
            if self.task.kind != "sft":
                find_classes(self.task, data.rows)
        except ConfigError:
            raise
        except DataError as error:
            findings += findings_of(error, UNFIT)
        return None

    def encode(self, task: Task | None, data: Dataset, findings: list[Finding]) -> list[Example]:
        """The examples of a file; none if some rows cannot be encoded."""
        if task is None:
            return []
        self.watcher.phase(f"encoding {data.source}", len(data.rows))
        try:
            return task.encode(data.rows, self.watcher.advance)
        except DataError as error:
            findings += findings_of(error, UNFIT)
            return []

    def rules(self, task: Task | None) -> Rules:
        """What the rows must obey."""
        length, too_long = self.data.max_length, self.data.too_long
        kind, labels = self.task.kind, self.task.labels
        words = (
            dict(zip(task.labels, task.tree.words, strict=True))
            if isinstance(task, LabelWords)
            else None
        )
        if self.tokenizer is None:
            return Rules(length, too_long, kind=kind, labels=labels)
        return Rules.of(self.tokenizer, length, too_long, kind, labels, words)


def findings_of(error: AdapteryError, code: str) -> list[Finding]:
    """An error as findings."""
    if isinstance(error, DefectiveData):
        return list(error.findings)
    return [Finding(code, "error", str(error), "")]
