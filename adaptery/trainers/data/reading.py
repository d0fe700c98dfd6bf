"""From a file or a data set on the Hub to rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptery.errors import DataError, UnknownName
from adaptery.trainers.config import DataConfig
from adaptery.trainers.data.columns import MissingColumn
from adaptery.trainers.data.files import Defect, Record, Records, read_file
from adaptery.trainers.data.findings import DefectiveData, Finding, refuse
from adaptery.trainers.data.hub import SCHEME, read_hub
from adaptery.trainers.data.rows import Dataset, Format, Row

NAMING = "Give columns their names with data.columns, such as data.columns={text: sentence}."
MOST_DEFECTS = 1000  # a file with more malformed rows is not read to its end


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one record, and where."""

    code: str
    where: str


class Reading:
    """One pass over a source. `format` is the one given, or what the first good record shows.

    Raises:
        UnknownName: the format given is none of `formats`.
    """

    def __init__(self, source: str, settings: DataConfig, formats: Mapping[str, Format]) -> None:
        if settings.format != "auto" and settings.format not in formats:
            raise UnknownName("data format", settings.format, formats)
        self.source, self.columns, self.formats = source, settings.columns, formats
        self.format = "" if settings.format == "auto" else settings.format

    def results(self) -> Iterator[Row | Fault]:
        """Every record as a row, or what is wrong with it."""
        for number, record in records_of(self.source):
            origin = f"{self.source}:{number}"
            try:
                yield self.row(record, origin)
            except DataError:
                raise
            except MissingColumn as error:
                yield Fault("missing-column", f"{origin}: {error}")
            except ValueError as error:
                yield Fault("malformed-row", f"{origin}: {error}")

    def row(self, record: Record, origin: str) -> Row:
        """One record as a row. Raises `ValueError` with what is wrong in words."""
        if isinstance(record, Defect):
            raise ValueError(record.what)
        values = renamed(record, self.columns)
        self.format = self.format or detect(self.source, values, self.formats)
        return self.formats[self.format].parse(values, origin)


def read_rows(source: str, settings: DataConfig, formats: Mapping[str, Format]) -> Dataset:
    """All rows of `source`, a file or `hf://ORG/NAME[@revision][:split]`.

    Args:
        settings: which format, by what names the columns go.
        formats: those to choose from.

    Raises:
        DataError: it cannot be read, holds no rows, no format or several fit its first record, or
            later records do not fit it; the message names file, line and what is wrong for the
            first few.
        UnknownName: `settings.format` is none of `formats`.
    """
    reading = Reading(source, settings, formats)
    rows: list[Row] = []
    faults: list[Fault] = []
    for result in reading.results():
        if isinstance(result, Fault):
            faults.append(result)
        else:
            rows.append(result)
        if len(faults) == MOST_DEFECTS:
            break
    refuse(findings_of(source, reading.format, faults))
    if not rows:
        raise DefectiveData([Finding("empty-file", "error", f"{source} holds no rows.", "")])
    return Dataset(source, reading.format, rows)


def first_row(source: str, settings: DataConfig, formats: Mapping[str, Format]) -> Row:
    """The first row of `source`; nothing behind it is read.

    Raises:
        DataError, UnknownName: as `read_rows`.
    """
    for result in Reading(source, settings, formats).results():
        if isinstance(result, Fault):
            raise DataError(result.where)
        return result
    raise DataError(f"{source} holds no rows.")


def findings_of(source: str, name: str, faults: Sequence[Fault]) -> list[Finding]:
    """The faults of a file's records, by kind."""
    what = f"row(s) of {source} cannot be read" + (f" as {name}." if name else ".")
    remedies = {
        "malformed-row": "Correct or remove them.",
        "missing-column": f"{NAMING} Or choose another format with data.format.",
    }
    places = {code: tuple(f.where for f in faults if f.code == code) for code in remedies}
    return [
        Finding(code, "error", what, remedies[code], where)
        for code, where in places.items()
        if where
    ]


def records_of(source: str) -> Records:
    """The records of a file or of a split on the Hub."""
    return read_hub(source) if source.startswith(SCHEME) else read_file(Path(source).expanduser())


def renamed(record: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """A record under our columns' names. Raises `ValueError` if one is missing."""
    for ours, theirs in columns.items():
        if theirs in record:
            record[ours] = record.pop(theirs)
        elif ours not in record:
            raise MissingColumn(
                f"there is no column {theirs!r}, which data.columns names as {ours!r}; "
                f"there are: {', '.join(record)}."
            )
    return record


def detect(source: str, record: Mapping[str, Any], formats: Mapping[str, Format]) -> str:
    """The one format that a record fits.

    Raises:
        DataError: none does, or several.
    """
    found = [name for name, format in formats.items() if format.recognizes(record)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            f"{source} has the columns {', '.join(record)}, which fit several formats: "
            f"{', '.join(found)}. Choose one with data.format."
        )
    needs = [f"{name}: {format.needs}" for name, format in formats.items()]
    raise DataError(
        "\n".join(
            [
                f"{source} has the columns {', '.join(record)}, which fit no format. {NAMING} The "
                "formats need:",
                *(f"  {need}" for need in needs),
            ]
        )
    )
