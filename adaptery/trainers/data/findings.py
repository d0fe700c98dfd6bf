"""What is wrong with data: findings, and the error that carries them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from adaptery.errors import DataError

MOST_PLACES = 5  # how many rows a message lists before it counts the rest
Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of defect and all the rows that have it."""

    code: str
    severity: Severity
    message: str
    """A sentence; where there are places it reads on from their number, as in `5 row(s) are …`."""
    remedy: str
    places: tuple[str, ...] = ()
    """`file:line`, and behind a colon what is particular to that row."""

    def __str__(self) -> str:
        """The sentences, then the first few places, a line each, and the number of the others."""
        count = f"{len(self.places)} " if self.places else ""
        more = len(self.places) - MOST_PLACES
        lines = [f"{count}{self.message} {self.remedy}".strip()]
        lines += [f"  {place}" for place in self.places[:MOST_PLACES]]
        return "\n".join([*lines, f"  … and {more} more."] if more > 0 else lines)

    def as_data(self) -> dict[str, Any]:
        """For JSON, with every place."""
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "remedy": self.remedy,
            "count": len(self.places),
            "places": list(self.places),
        }


class DefectiveData(DataError):
    """Data with errors, each of which is in `findings`."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n".join(str(finding) for finding in findings))


def refuse(findings: Iterable[Finding]) -> None:
    """Do nothing if none of the findings is an error.

    Raises:
        DefectiveData: some are; the message holds all of those.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise DefectiveData(errors)
