"""The audit: every check of every part, and the figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from adaptery.trainers.audit.parts import Part, Rules
from adaptery.trainers.audit.rows import (
    check_classes,
    check_duplicates,
    check_leakage,
    check_special,
)
from adaptery.trainers.audit.statistics import Statistics, measure
from adaptery.trainers.audit.tokens import check_tokens
from adaptery.trainers.audit.words import uneven_answers
from adaptery.trainers.data.findings import Finding, refuse


@dataclass(frozen=True)
class AuditReport:
    """What an audit found, errors first, and the figures of each part."""

    findings: tuple[Finding, ...]
    statistics: tuple[Statistics, ...]
    words: Mapping[str, tuple[int, ...]] | None = None
    """The tokens of each label's word, where classes are told by words."""

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "warning"]

    def refuse(self) -> None:
        """Do nothing if there is no error.

        Raises:
            DefectiveData: there are some; the message holds all of them.
        """
        refuse(self.errors)

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "ok": not self.errors,
            "findings": [finding.as_data() for finding in self.findings],
            "files": [statistics.as_data() for statistics in self.statistics],
            "words": None
            if self.words is None
            else {label: list(tokens) for label, tokens in self.words.items()},
        }


def audit(parts: Sequence[Part], rules: Rules) -> AuditReport:
    """Look for what would train a wrong model, or measure a right one wrongly.

    Args:
        parts: the first is trained on, the others are measured on. What needs no tokens is checked
            of parts without examples too.
    """
    findings: list[Finding] = []
    for number, part in enumerate(parts):
        findings += check_tokens(part, rules)
        findings += check_classes(part, rules, first=number == 0)
        findings += check_duplicates(part, rules)
        findings += check_special(part, rules)
        if number == 0:
            findings += uneven_answers(part, rules)
            rules = with_labels(rules, part)
    for known, other in combinations(parts, 2):
        findings += check_leakage(known, other)
    findings.sort(key=lambda finding: finding.severity)  # errors come first in the alphabet too
    return AuditReport(tuple(findings), tuple(measure(part, rules) for part in parts), rules.words)


def with_labels(rules: Rules, part: Part) -> Rules:
    """The rules with the labels of the part that is trained on, if none are given."""
    found = part.classes(rules.kind)
    if rules.labels or rules.kind == "sft" or not found:
        return rules
    return replace(rules, labels=tuple(sorted(set(found))))
