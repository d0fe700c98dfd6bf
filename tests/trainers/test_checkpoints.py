from pathlib import Path

import pytest
import torch

from adaptery.errors import ConfigError, Interrupted
from adaptery.trainers import checkpoints
from adaptery.trainers.checkpoints import Checkpoints
from tests.trainers.runs import InterruptAt, resume, run, tensors
from tests.trainers.test_loop import same


def kept(folder: Path, keep: int = 1) -> Checkpoints:
    known = Checkpoints(folder)
    known.keep = keep
    return known


@pytest.mark.parametrize(("keep", "left"), [(1, [5]), (2, [4, 5]), (9, [1, 2, 3, 4, 5])])
def test_the_last_ones_stay(tmp_path: Path, keep: int, left: list[int]) -> None:
    known = kept(tmp_path, keep)
    for step in range(1, 6):
        known.save(step, None, {"step": step})
    assert known.steps() == left
    assert known.newest()["step"] == 5


def test_the_best_of_each_of_the_last_stays_too(tmp_path: Path) -> None:
    """Should the newest be torn, the one before it still finds its best."""
    known = kept(tmp_path, 2)
    for step, best in [(1, 1), (2, 1), (3, 1), (4, 4), (5, 4)]:
        known.save(step, best, {"step": step})
        assert best in known.steps()
        assert len(known.steps()) <= 4
    assert known.steps() == [4, 5]
    known.save(6, 6, {"step": 6})
    assert known.steps() == [4, 5, 6]
    again = kept(tmp_path, 2)
    assert again.newest()["step"] == 6
    again.save(7, 6, {"step": 7})
    assert again.steps() == [6, 7]


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x05N.", None])
def test_a_torn_one_is_passed_over_for_the_one_before(
    tmp_path: Path, content: bytes | None
) -> None:
    known = kept(tmp_path, 2)
    for step in (1, 2):
        known.save(step, None, {"step": step, "weights": torch.zeros(1000)})
    whole = known.path(2).read_bytes()
    known.path(2).write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.warns(match=r"checkpoint-2\.pt cannot be read.*The one before it serves"):
        assert kept(tmp_path).newest()["step"] == 1


def test_when_all_are_torn_it_is_said(tmp_path: Path) -> None:
    kept(tmp_path).path(3).write_bytes(b"garbage")
    with pytest.raises(ConfigError, match=r"checkpoint-3\.pt cannot be read"):
        kept(tmp_path).newest()


def test_none_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="start the run anew"):
        kept(tmp_path).newest()


def test_one_that_cannot_be_finished_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = kept(tmp_path)
    known.save(1, None, {"step": 1})

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            known.save(2, None, {"step": 2})
    assert kept(tmp_path).newest()["step"] == 1
    known.save(3, None, {"step": 3})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3.pt"]


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "attacked",)

    torch.save({"step": Attack()}, tmp_path / "checkpoint-1.pt")
    with pytest.raises(ConfigError):
        kept(tmp_path).newest()
    assert not (tmp_path / "attacked").exists()


def test_they_are_written_as_often_as_asked(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    save = Checkpoints.save
    monkeypatch.setattr(
        Checkpoints,
        "save",
        lambda self, step, best, state: (written.append(step), save(self, step, best, state)),
    )
    result = run(tmp_path, tiny_base, training__checkpoint_every=4, training__keep_checkpoints=2)
    assert written == [0, 4, 8, 10]
    assert Checkpoints(result.run).steps() == [8, 10]


def test_a_run_whose_newest_checkpoint_is_torn_ends_as_if_it_were_whole(
    tiny_base: Path, tmp_path: Path
) -> None:
    changes = {"training__checkpoint_every": 3, "training__keep_checkpoints": 2}
    whole = run(tmp_path / "whole", tiny_base, **changes)
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", tiny_base, watcher=InterruptAt(7), **changes)
    (path,) = (tmp_path / "parts" / "runs").iterdir()
    torn = Checkpoints(path).path(7)
    torn.write_bytes(torn.read_bytes()[:-100])
    with pytest.warns(match=r"checkpoint-7\.pt cannot be read"):
        parts = resume(path)
    assert same(tensors(whole), tensors(parts))
