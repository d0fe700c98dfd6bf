"""Records of data files, one after the other: no file is ever held in memory as a whole.

JSON Lines and CSV are read by our own few lines rather than by `datasets`: it loses line numbers,
and guesses types, by which the label `007` becomes 7 and the text `NA` nothing.
"""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptery.errors import DataError, brief

HEAD = 4096  # bytes by which a file is told to be something else than its name says
BUFFER = 1 << 20  # bytes of a Parquet column in memory at a time
LONGEST_CELL = 1 << 28  # characters; Python's own limit of 131,072 is less than some documents
MAGIC = {
    b"PAR1": "a Parquet file; name it .parquet",
    b"\x1f\x8b": "compressed; unpack it with gunzip",
    b"PK\x03\x04": "a zip archive or a spreadsheet; unpack it, or save it as CSV",
    b"\x28\xb5\x2f\xfd": "compressed; unpack it with unzstd",
    b"BZh": "compressed; unpack it with bunzip2",
    b"\xfd7zXZ": "compressed; unpack it with unxz",
    b"SQLite format 3": "an SQLite database; export the table as CSV",
    b"\xff\xfe": "UTF-16; convert it with: iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "UTF-16; convert it with: iconv -f UTF-16 -t UTF-8",
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself with: git lfs pull",
}


@dataclass(frozen=True, slots=True)
class Defect:
    """What stands in the place of a record that cannot be read."""

    what: str


Record = dict[str, Any] | Defect
Records = Iterator[tuple[int, Record]]
"""Each record with its number: the line in a text file, the row in Parquet; both from 1."""


def read_file(path: Path) -> Records:
    """The records of a file, by its suffix.

    Raises:
        DataError: it cannot be read, is not what its suffix says, or there is no such suffix; the
            rest may be raised while the records are taken.
    """
    read = READERS.get(path.suffix.lower())
    if path.is_dir():
        raise DataError(f"{path} is a directory; give the data file in it.")
    if not path.exists():
        raise DataError(f"There is no data file {path}.")
    if read is None:
        raise DataError(
            f"{path}: a data file is told by its suffix, which must be one of "
            f"{', '.join(READERS)}. Rename or convert it."
        )
    try:
        yield from read(path)
    except OSError as error:
        raise DataError(f"The data file {path} cannot be read: {error}.") from error


def json_lines(path: Path) -> Records:
    """A JSON object a line; empty lines are passed over."""
    for number, line in text_lines(path):
        if line.strip():
            yield number, parse_object(line, whole=line.endswith("\n"))


def parse_object(line: str, *, whole: bool) -> Record:
    """A line's object; `whole` unless the file ended before the line did."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        cut = "" if whole else " The file ends here without a line end: was its copying cut short?"
        return Defect(f"not JSON ({error}).{cut}")
    return value if isinstance(value, dict) else Defect(f"not an object: {brief(value)}.")


def json_array(path: Path) -> Records:
    """A file that is one array of objects, told by its first character, or JSON Lines."""
    first = next((line for _, line in text_lines(path) if line.strip()), "")
    if not first.lstrip().startswith("["):
        yield from json_lines(path)
        return
    try:
        values = json.loads("".join(line for _, line in text_lines(path)))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} begins as a JSON array and is none ({error}).") from error
    for number, value in enumerate(values, 1):
        yield number, value if isinstance(value, dict) else Defect(f"no object: {brief(value)}.")


def separated(path: Path, separator: str = ",") -> Records:
    """Rows under a line of column names. All values are text, as they stand there."""
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader((text for _, text in text_lines(path)), delimiter=separator, strict=True)
    line = 1  # where a row begins; it may go on for several
    try:
        header = next(reader, [])
        check_header(path, header, separator)
        line = reader.line_num + 1
        for values in reader:
            if values:
                yield line, row_of(header, values)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}:{line}: not CSV ({error}). Put values that hold separators, quotes "
            'or line ends in double quotes, and double the quotes in them ("").'
        ) from error


def row_of(header: list[str], values: list[str]) -> Record:
    """A row's values by column."""
    if len(values) == len(header):
        return dict(zip(header, values, strict=True))
    return Defect(
        f"{len(values)} values for {len(header)} columns ({', '.join(header)}). Put values that "
        "hold the separator in double quotes."
    )


def check_header(path: Path, header: list[str], separator: str) -> None:
    """Refuse a first line that names no columns one can tell apart."""
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"{path}:1: two columns are named {twice[0]!r}. Rename one of them.")
    other = next((mark for mark in ";\t,|" if len(header) == 1 and mark in header[0]), None)
    if other:
        raise DataError(
            f"{path}:1: the values are separated by {other!r} and not by {separator!r}. Save it "
            "with commas, or with tabs as .tsv."
        )


def tab_separated(path: Path) -> Records:
    return separated(path, "\t")


def parquet(path: Path) -> Records:
    """The rows of a Parquet file, a few hundred in memory at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    done = 0
    try:
        with pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False) as file:
            names = class_names(file.schema_arrow)
            for batch in file.iter_batches(batch_size=256):
                for done, record in enumerate(batch.to_pylist(), done + 1):  # noqa: B020 - goes on
                    yield done, named(record, names)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} is no whole Parquet file, from row {done + 1} on: "
            f"{str(error).strip().splitlines()[0]}. Copy it again."
        ) from error


def class_names(schema: Any) -> dict[str, list[str]]:
    """The names behind the numbers of class columns, where `datasets` wrote the file."""
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    from datasets import Features

    return names_of(Features.from_arrow_schema(schema))


def names_of(features: Any) -> dict[str, list[str]]:
    """Of the columns that hold classes, their names in the order of their numbers."""
    return {
        column: list(feature.names)
        for column, feature in (features or {}).items()
        if getattr(feature, "names", None)
    }


def named(record: dict[str, Any], names: dict[str, list[str]]) -> dict[str, Any]:
    """A record with the names of classes in place of their numbers."""
    for column, classes in names.items():
        number = record.get(column)
        if isinstance(number, int) and 0 <= number < len(classes):
            record[column] = classes[number]
    return record


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines of a text file with their ends. Only a line feed ends one: U+2028 and
    the like may stand inside JSON strings."""
    check_text(path)
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            yield number, decode(path, number, line)


def decode(path: Path, number: int, line: bytes) -> str:
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}:{number}: not UTF-8 text ({error.reason} at byte {error.start} of the line). "
            "Convert it, for example with: iconv -f LATIN1 -t UTF-8"
        ) from error
    if "\0" in text:
        raise DataError(
            f"{path}:{number}: a NUL character, which no text holds: the file is damaged or no "
            "text file. Copy or export it again."
        )
    return text


def check_text(path: Path) -> None:
    """Refuse what is empty, or by its first bytes something else."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head.strip():
        raise DataError(f"{path} is empty.")
    for magic, what in MAGIC.items():
        if head.startswith(magic):
            raise DataError(f"{path} is no {path.suffix[1:]} file: it is {what}.")
    if b"\0" in head:
        raise DataError(
            f"{path} is a binary file, not text. Give JSON Lines, CSV or Parquet as such."
        )


READERS: dict[str, Callable[[Path], Records]] = {
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".json": json_array,
    ".csv": separated,
    ".tsv": tab_separated,
    ".parquet": parquet,
}
