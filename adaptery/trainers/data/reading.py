"""From a file or a data set on the Hub to rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptery.errors import DataError, UnknownName
from adaptery.trainers.config import DataConfig
from adaptery.trainers.data.columns import MissingColumn
from adaptery.trainers.data.files import Defect, Records, read_file
from adaptery.trainers.data.findings import DefectiveData, Finding, refuse
from adaptery.trainers.data.hub import SCHEME, read_hub
from adaptery.trainers.data.rows import Dataset, Format, Row

NAMING = "Give columns their names with data.columns, such as data.columns={text: sentence}."
MOST_DEFECTS = 1000  # a file with more malformed rows is not read to its end


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
    if settings.format != "auto" and settings.format not in formats:
        raise UnknownName("data format", settings.format, formats)
    name = "" if settings.format == "auto" else settings.format
    rows: list[Row] = []
    defects: dict[str, list[str]] = {"malformed-row": [], "missing-column": []}
    for number, record in records_of(source):
        origin = f"{source}:{number}"
        try:
            values = renamed(record, settings.columns)
            name = name or detect(source, values, formats)
            rows.append(formats[name].parse(values, origin))
        except ValueError as error:
            if isinstance(error, DataError):
                raise
            code = "missing-column" if isinstance(error, MissingColumn) else "malformed-row"
            defects[code].append(f"{origin}: {error}")
        if sum(map(len, defects.values())) == MOST_DEFECTS:
            break
    refuse(defect_findings(source, name, defects))
    if not rows:
        raise DefectiveData([Finding("empty-file", "error", f"{source} holds no rows.", "")])
    return Dataset(source, name, rows)


def defect_findings(source: str, name: str, defects: Mapping[str, list[str]]) -> list[Finding]:
    """The defects of a file's rows, by kind."""
    what = f"row(s) of {source} cannot be read" + (f" as {name}." if name else ".")
    remedies = {
        "malformed-row": "Correct or remove them.",
        "missing-column": f"{NAMING} Or choose another format with data.format.",
    }
    return [
        Finding(code, "error", what, remedies[code], tuple(places))
        for code, places in defects.items()
        if places
    ]


def records_of(source: str) -> Records:
    """The records of a file or of a split on the Hub."""
    return read_hub(source) if source.startswith(SCHEME) else read_file(Path(source).expanduser())


def renamed(record: dict[str, Any] | Defect, columns: Mapping[str, str]) -> dict[str, Any]:
    """A record under our columns' names. Raises `ValueError` if there is none or one is missing."""
    if isinstance(record, Defect):
        raise ValueError(record.what)
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
