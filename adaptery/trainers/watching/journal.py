"""Files of JSON lines that a crash may cut off and a resumed run may repeat."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add a line. Behind one that was cut off, a new line begins first."""
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())


def read(path: Path) -> list[dict[str, Any]]:
    """The lines that are whole; none of a file that is not there."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [row for row in map(parsed, lines) if row is not None]


def parsed(text: bytes) -> dict[str, Any] | None:
    """A JSON object, or None of one that was cut off."""
    try:
        row = json.loads(text)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def merged(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per step, in order.

    What is said twice of a step, or by two rows of it, is joined, and the later word holds. A
    training row of an earlier step than the last means that the run was resumed there: what came
    after that step has not happened.
    """
    steps: dict[int, dict[str, Any]] = {}
    last = -1
    for row in rows:
        step = row.get("step")
        if not isinstance(step, int):
            continue
        if "loss" in row:
            if step < last:
                steps = {other: old for other, old in steps.items() if other <= step}
            last = step
        steps.setdefault(step, {}).update(row)
    return [steps[step] for step in sorted(steps)]
