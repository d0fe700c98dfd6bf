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
from adaptery.trainers.data.rows import Dataset, Format, Labelled
from adaptery.trainers.encoding import Example
from adaptery.trainers.tasks.base import Task
from adaptery.trainers.tasks.classes import find_classes
from adaptery.trainers.tasks.forward import Forward
from adaptery.trainers.tasks.making import make_task
from adaptery.trainers.tasks.words import LabelWords
from adaptery.trainers.watching import Watcher

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class Check:
    """What files are checked with. What is wrong gathers in `findings`, so that all of it shows."""

    data: DataConfig
    task: TaskConfig | None
    """None: by the columns of the first file."""
    formats: Mapping[str, Format]
    tokenizer: "PreTrainedTokenizerBase | None"
    watcher: Watcher

    def run(self, sources: Sequence[str]) -> AuditReport:
        """Audit `sources`, of which the first is trained on and the others are measured on."""
        findings: list[Finding] = []
        files = [data for source in sources if (data := self.read(source, findings))]
        if not files:
            return AuditReport(tuple(findings), ())
        settings = self.task or found_task(files[0])
        task = self.make(settings, files[0], findings)
        parts = [Part.of(data, self.encode(task, data, findings)) for data in files]
        report = audit(parts, self.rules(settings, task))
        known = {finding.code for finding in report.errors}
        more = [finding for finding in findings if finding.code not in known]
        return replace(report, findings=(*more, *report.findings))

    def read(self, source: str, findings: list[Finding]) -> Dataset | None:
        """A file's rows, if it can be read."""
        try:
            return read_rows(source, self.data, self.formats)
        except DataError as error:
            findings += findings_of(error, "unreadable-file")
            return None

    def make(self, settings: TaskConfig, data: Dataset, findings: list[Finding]) -> Task | None:
        """The task, if there is a tokenizer and the rows are fit for it."""
        try:
            if self.tokenizer:
                return make_task(settings, Forward(self.tokenizer), data.rows)
            if settings.kind != "sft":
                find_classes(settings, data.rows)
        except ConfigError:
            raise
        except DataError as error:
            findings += findings_of(error, "unfit-for-task")
        return None

    def encode(self, task: Task | None, data: Dataset, findings: list[Finding]) -> list[Example]:
        """The examples of a file; none if some rows cannot be encoded."""
        if task is None:
            return []
        self.watcher.phase(f"encoding {data.source}", len(data.rows))
        try:
            return task.encode(data.rows, self.watcher.advance)
        except DataError as error:
            findings += findings_of(error, "unfit-for-task")
            return []

    def rules(self, settings: TaskConfig, task: Task | None) -> Rules:
        """What the rows must obey."""
        length, too_long, labels = self.data.max_length, self.data.too_long, settings.labels
        words = (
            dict(zip(task.labels, task.tree.words, strict=True))
            if isinstance(task, LabelWords)
            else None
        )
        if self.tokenizer is None:
            return Rules(length, too_long, kind=settings.kind, labels=labels)
        return Rules.of(self.tokenizer, length, too_long, settings.kind, labels, words)


def found_task(data: Dataset) -> TaskConfig:
    """The task that a file's columns speak for: a class of one or two texts, or answers."""
    row = data.rows[0]
    if not isinstance(row, Labelled):
        return TaskConfig()
    return TaskConfig(kind="pair" if len(row.texts) == 2 else "classify")


def findings_of(error: AdapteryError, code: str) -> list[Finding]:
    """An error as findings."""
    if isinstance(error, DefectiveData):
        return list(error.findings)
    return [Finding(code, "error", str(error), "")]
