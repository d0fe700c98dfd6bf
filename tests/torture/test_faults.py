"""A full disk, a failing disk, no file descriptor left: said in a sentence, and nothing changed."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.torture.arena import Arena
from tests.torture.deeds import DEEDS
from tests.torture.tracing import Call, Outcome

SHORT = 3  # points of each deed and fault in `make test`
LONG = 5  # in `make torture` every point fails once, and every fifth from then on


@dataclass(frozen=True)
class Fault:
    """What the kernel can answer, to which calls, and what must be read in the message then."""

    error: str
    names: frozenset[str]
    says: str


# fmt: off
WRITING = frozenset([
    "write", "pwrite64", "sendfile", "copy_file_range", "ftruncate", "fallocate", "fsync",
    "fdatasync", "mkdir", "rename", "link",
])
# fmt: on
READING = frozenset(["read", "pread64", "getdents64", "newfstatat", "fstat", "statx"])
TIDYING = frozenset(["unlink", "unlinkat", "rmdir", "fchmod"])
# SQLite does not tell why it could not open a file, so we name what it can be.
FAULTS = [
    Fault("ENOSPC", WRITING | {"openat"}, "No space left on device|disk is full|disk I/O error"),
    Fault(
        "EIO",
        WRITING | READING | TIDYING | {"openat"},
        "Input/output error|disk I/O error|the disk is (full or )?failing",
    ),
    Fault("EMFILE", frozenset(["openat"]), "(?i:too many open files)|too many files are open"),
]


@pytest.mark.parametrize("for_good", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.error)
@pytest.mark.parametrize("deed", DEEDS)
def test_a_fault_at_any_call_changes_nothing_and_is_said(
    deed, fault, for_good, template, tmp_path, report, exhaustive
):
    arena = Arena(deed, template, tmp_path)
    points = list(calls_that_can_fail(arena, fault))
    if exhaustive:
        tried = points[:: LONG if for_good else 1]
    else:
        tried = points[:: max(1, len(points) // SHORT)]
    for point in tried:
        outcome = template.fail(deed, arena.fresh(), point, fault.error, for_good=for_good)
        done = arena.assert_whole(outcome)
        if outcome.status == 0:
            assert done, f"{point}: {outcome}"
        else:
            assert not (done and arena.deed.visible), f"{point}: {outcome}"
            assert_said(outcome, fault, point, for_good)
        arena.assert_repeatable(done)
    report("faults", f"{deed}, {fault.error}", points=len(tried))


def calls_that_can_fail(arena: Arena, fault: Fault) -> Iterator[Call]:
    """Those about the arena's files; for a full disk, only those that want space."""
    for call in arena.calls(*fault.names):
        ours = call.touches(arena.path) and not call.touches(arena.path / "url")
        if ours and (fault.error != "ENOSPC" or call.changes):
            yield call


def assert_said(outcome: Outcome, fault: Fault, point: Call, for_good: bool) -> None:
    """A sentence that names what happened; 1 is the registry's exit code, 2 that of its input."""
    assert outcome.status in (1, 2), f"{point}: {outcome}"
    assert outcome.stdout == ""
    if for_good and point.name == "write":
        return  # Nor can anything be written to standard error.
    assert re.fullmatch(rf"error: .*({fault.says}).*\.\n", outcome.stderr), f"{point}: {outcome}"
