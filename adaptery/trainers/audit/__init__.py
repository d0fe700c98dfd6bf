"""Checks before the first step. A defect is an error, not a line in a log."""

from adaptery.trainers.audit.parts import Part, Rules
from adaptery.trainers.audit.report import AuditReport, audit
from adaptery.trainers.audit.tokens import within
from adaptery.trainers.audit.words import check_label_words

__all__ = ["AuditReport", "Part", "Rules", "audit", "check_label_words", "within"]
