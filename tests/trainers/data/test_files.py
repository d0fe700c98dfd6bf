"""Files as they come: whole, cut off, in other encodings, and what is no data file at all."""

import csv
import gzip
import json
import os
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adaptery.errors import DataError
from adaptery.trainers.data.files import read_file
from adaptery.trainers.data.reading import MOST_DEFECTS
from adaptery.trainers.data.rows import Labelled
from tests.trainers.data.reading import ANSWER, GOOD, USER, complaint, read, write, write_json

PAIRS = [
    {"text1": "a cat", "text2": "a feline", "label": 1},
    {"text1": "x", "text2": "y", "label": 0},
]
NOISE = random.Random(0).randbytes(8000)


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    separator = "\t" if path.suffix == ".tsv" else ","
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def test_the_same_rows_are_the_same_data_in_every_kind_of_file(tmp_path: Path) -> None:
    array = tmp_path / "d.json"
    array.write_text(json.dumps(PAIRS, indent=1))
    paths = [
        write_json(tmp_path / "d.jsonl", PAIRS),
        write_json(tmp_path / "lines.json", PAIRS),
        write_table(tmp_path / "d.csv", PAIRS),
        write_table(tmp_path / "d.tsv", PAIRS),
        write_parquet(tmp_path / "d.parquet", PAIRS),
        array,
    ]
    data = [read(path) for path in paths]
    assert len({d.digest for d in data}) == 1
    assert {d.format for d in data} == {"pair"}


def test_parquet_holds_lists_of_messages(tmp_path: Path) -> None:
    rows = [
        {"messages": [{**USER, "name": None}, ANSWER], "tools": None},
        {"messages": [USER, ANSWER], "tools": None},
    ]
    path = write_parquet(tmp_path / "d.parquet", rows)
    data = read(path)
    assert data.digest == read(write(tmp_path / "d.jsonl", GOOD, GOOD)).digest
    assert [row.origin for row in data.rows] == [f"{path}:1", f"{path}:2"]


def test_classes_that_datasets_wrote_have_their_names(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    data = Dataset.from_dict({"text": ["x", "y"], "label": [1, 0]}, features=features)
    data.to_parquet(tmp_path / "d.parquet")
    rows = read(tmp_path / "d.parquet").rows
    assert [row.label for row in rows if isinstance(row, Labelled)] == ["good", "bad"]


def test_parquet_rows_go_on_counting_over_its_groups(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": "ab"[n % 2]} for n in range(700)]
    rows[650]["label"] = None
    path = write_parquet(tmp_path / "d.parquet", rows, row_group_size=300)
    assert f"{path}:651: the column 'label' is empty" in complaint(path)


def test_csv_values_stay_as_they_are_written(tmp_path: Path) -> None:
    """Where libraries guess types, the first two would be 7 and nothing."""
    rows = [
        {"text": "NA", "label": "007"},
        {"text": 'said "no", twice\nand left', "label": "1e3"},
        {"text": "ü", "label": "null"},
    ]
    path = write_table(tmp_path / "d.csv", rows)
    data = read(path)
    assert [row.content() for row in data.rows] == [
        {"texts": [row["text"]], "label": row["label"]} for row in rows
    ]
    assert [row.origin for row in data.rows] == [f"{path}:2", f"{path}:3", f"{path}:5"]


def test_a_csv_written_with_an_index_and_for_windows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes(b"\xef\xbb\xbf,text,label\r\n0,one,a\r\n\r\n1,two,b\r\n")
    assert [row.content()["texts"] for row in read(path).rows] == [["one"], ["two"]]


@pytest.mark.parametrize("row", ["one", "one,a,b", '"one,a', '"one,a\nand\nmore'])
def test_a_ragged_csv_row_is_named(tmp_path: Path, row: str) -> None:
    path = write(tmp_path / "d.csv", "text,label", "zero,a", row)
    message = complaint(path)
    assert f"{path}:3: " in message
    assert "double quotes" in message


@pytest.mark.parametrize(
    ("header", "complaint_of_it"),
    [("text,text", "two columns are named 'text'"), ("text;label", "separated by ';'")],
)
def test_a_csv_header_that_cannot_be_used_is_refused(
    tmp_path: Path, header: str, complaint_of_it: str
) -> None:
    assert complaint_of_it in complaint(write(tmp_path / "d.csv", header, "a,b"))


def test_a_cell_may_be_longer_than_the_standard_library_allows(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", "text,label", f"{'x' * 200_000},a")
    assert len(read(path).rows) == 1


@pytest.mark.parametrize("name", ["d.jsonl", "d.json", "d.csv"])
@pytest.mark.parametrize("content", [b"", b"\n\n", b" \r\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_a_sentence(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    message = complaint(path)
    assert name in message
    assert "empty" in message or "no rows" in message


def test_files_with_a_head_and_no_rows_are_a_sentence(tmp_path: Path) -> None:
    write(tmp_path / "d.csv", "text,label")
    write(tmp_path / "d.json", "[]")
    schema = pa.schema([("text", pa.string())])
    pq.write_table(pa.Table.from_pylist([], schema=schema), tmp_path / "d.parquet")
    for name in ("d.csv", "d.json", "d.parquet"):
        assert "holds no rows" in complaint(tmp_path / name)


JUNK = [
    (NOISE, ""),
    (gzip.compress(GOOD.encode()), "gunzip"),
    (b"PK\x03\x04" + b"x" * 50, "zip"),
    (b"PAR1" + b"x" * 50, ".parquet"),
    (b"SQLite format 3\0" + b"x" * 50, "SQLite"),
    (GOOD.encode("utf-16"), "UTF-16"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    (b"\x7fELF\x02\x01\x01\0\0\0\0", "binary"),
]


@pytest.mark.parametrize("name", ["d.jsonl", "d.csv", "d.json", "d.parquet"])
@pytest.mark.parametrize(("content", "what"), JUNK)
def test_binary_junk_is_a_sentence_that_names_the_file(
    tmp_path: Path, name: str, content: bytes, what: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    message = complaint(path)
    assert str(path) in message
    assert name == "d.parquet" or what in message


@pytest.mark.parametrize("name", ["d.jsonl", "d.csv"])
@pytest.mark.parametrize(("bad", "what"), [(b"\xe9", "not UTF-8"), (b"\0", "NUL")])
def test_bytes_that_are_no_text_are_found_wherever_they_stand(
    tmp_path: Path, name: str, bad: bytes, what: str
) -> None:
    path = tmp_path / name
    good = (GOOD if name == "d.jsonl" else "text,label") + "\n"
    path.write_bytes(good.encode() + b"\n" * 5000 + bad + b",x\n")
    message = complaint(path)
    assert f"{path}:5002: " in message
    assert what in message


def test_json_that_is_cut_off_is_told_from_json_that_is_wrong(tmp_path: Path) -> None:
    cut = write(tmp_path / "cut.jsonl", GOOD, GOOD[:40])
    assert f"{cut}:2: not JSON" in complaint(cut)
    assert "cut short" in complaint(cut)
    wrong = write(tmp_path / "wrong.jsonl", GOOD[:40], GOOD)
    assert "cut short" not in complaint(wrong)
    array = write(tmp_path / "d.json", "[", GOOD + ",", GOOD[:20])
    assert "is none" in complaint(array)


@pytest.mark.parametrize("size", [4, 10, 200, -1])
def test_a_parquet_file_that_is_cut_off_is_a_sentence(tmp_path: Path, size: int) -> None:
    path = write_parquet(tmp_path / "d.parquet", PAIRS * 100)
    path.write_bytes(path.read_bytes()[:size])
    message = complaint(path)
    assert str(path) in message
    assert "Parquet" in message


def test_a_parquet_file_with_damaged_pages_is_a_sentence(tmp_path: Path) -> None:
    rows = [{"text": NOISE[n : n + 30].hex(), "label": "a"} for n in range(2000)]
    path = write_parquet(tmp_path / "d.parquet", rows, compression="zstd")
    content = bytearray(path.read_bytes())
    content[2000:6000] = NOISE[:4000]
    path.write_bytes(bytes(content))
    assert str(path) in complaint(path)


def test_what_is_no_data_file_is_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "d.jsonl"
    folder.mkdir()
    assert "is a directory" in complaint(folder)
    assert "There is no data file" in complaint(tmp_path / "missing.csv")
    message = complaint(write(tmp_path / "d.xlsx", GOOD))
    assert ".jsonl" in message
    assert ".parquet" in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_a_sentence(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", GOOD)
    path.chmod(0)
    assert "cannot be read" in complaint(path)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c"])
def test_a_separator_inside_a_string_is_no_end_of_line(tmp_path: Path, separator: str) -> None:
    content = f"one{separator}two"
    record = {"messages": [USER, {**ANSWER, "content": content}]}
    line = json.dumps(record, ensure_ascii=ord(separator) < 32)
    rows = read(write(tmp_path / "d.jsonl", GOOD, line, GOOD)).rows
    assert len(rows) == 3
    assert rows[1].content()[1]["content"] == content


def test_windows_line_ends_and_a_byte_order_mark_are_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + f"{GOOD}\r\n{GOOD}\r\n".encode())
    assert len(read(path).rows) == 2


def test_a_file_of_nothing_but_defects_is_not_read_to_its_end(tmp_path: Path) -> None:
    message = complaint(write(tmp_path / "d.jsonl", *["{"] * (2 * MOST_DEFECTS)))
    assert message.startswith(f"{MOST_DEFECTS} row(s)")


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_memory_never_holds_the_file_beside_its_rows(tmp_path: Path, kind: str) -> None:
    rows = [{"text": f"{n} " + "the sky is blue " * 60, "label": n % 2} for n in range(4000)]
    path = tmp_path / f"d.{kind}"
    {"jsonl": write_json, "csv": write_table, "parquet": write_parquet}[kind](path, rows)
    read(path)  # what libraries allocate once
    del rows
    tracemalloc.start()
    data = read(path)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held > 4000 * 960  # the rows are there
    assert peak - held < 0.25 * held
    assert len(data.rows) == 4000


def test_of_a_parquet_file_a_few_rows_are_in_memory_at_a_time(tmp_path: Path) -> None:
    """Even where all rows are one row group, as writers make them by default."""
    rows = [{"text": f"{n} " + "the sky is blue " * 60, "label": n % 2} for n in range(20_000)]
    path = write_parquet(tmp_path / "d.parquet", rows, compression="none", use_dictionary=False)
    size = path.stat().st_size
    assert size > 15_000_000
    before = pa.total_allocated_bytes()
    peak = max(pa.total_allocated_bytes() for _ in read_file(path))
    assert peak - before < size / 4


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Bytes changed, lost, put in, or cut off."""
    for _ in range(rng.randint(1, 6)):
        place, kind = rng.randrange(len(content)), rng.random()
        before, after = content[:place], content[place:]
        if kind < 0.5:
            content = before + rng.randbytes(1) + after[1:]
        elif kind < 0.7:
            content = before + after[rng.randint(1, 30) :]
        else:
            content = before + rng.randbytes(rng.randint(1, 10)) + after * (kind < 0.9)
    return content


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_a_damaged_file_is_read_or_refused_and_nothing_else(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"d.{kind}"
    writers = {"csv": write_table, "parquet": write_parquet}
    writers.get(kind, write_json)(path, PAIRS * 40)
    if kind == "json":
        path.write_text(json.dumps(PAIRS * 40))
    whole, refusals = path.read_bytes(), []
    for seed in range(160):
        path.write_bytes(damaged(whole, random.Random(seed)))
        try:
            read(path)
        except DataError as error:
            refusals.append(str(error))
    assert len(refusals) > 100
    assert all(str(path) in refusal for refusal in refusals)
