"""What an exporter is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from adaptery.base_model import LocalBase
from adaptery.types import Version


@dataclass(frozen=True, slots=True)
class ExportJob:
    """A version to hand out: its files in `adapter`, the base it belongs to, where to write."""

    version: Version
    adapter: Path
    base: LocalBase
    output: Path
    dtype: str
    """`float32`, `bfloat16`, `float16`, or `base` for the base's own."""


class Exporter(Protocol):
    """Writes a version into `job.output`, which is not there yet, as a whole or not at all."""

    def __call__(self, job: ExportJob) -> Mapping[str, float | int | str]:
        """Export, check what was written, and return what the check measured.

        Raises:
            UsageError: the output is there already, or the version cannot take this form.
            VerificationError: what was written does not say what the adapter says; it is removed.
        """
