"""Who is computed when: nobody starves, nothing is lost, and what fails leaves no trace."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from adaptery.base_model import LocalBase
from adaptery.serving.torch.blocks import BLOCK, needed
from tests.serving import models
from tests.serving.torch.rig import Asked, Play, Rig, Truth

TEXT = [(11 * i) % 113 + 5 for i in range(120)]


@pytest.fixture(scope="module")
def directories(
    adapters: dict[str, Path], base_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """And one whose numbers are finite and whose scores are not."""
    root = tmp_path_factory.mktemp("overflow")
    return {**adapters, "bad": models.write_overflowing_adapter(root, base_directory)}


@pytest.fixture(scope="module", params=[True, False], ids=["own", "torch"])
def rig(request: pytest.FixtureRequest, base: LocalBase, directories: dict[str, Path]) -> Rig:
    """With our kernels, and with PyTorch's operations."""
    return Rig.of(base, directories, kernels=request.param)


@pytest.fixture(scope="module")
def truth(base_directory: Path, adapters: dict[str, Path]) -> Iterator[Truth]:
    return Truth.of(base_directory, adapters, 30)


def require_true(truth: Truth, *asked: Asked) -> None:
    for one in asked:
        assert one.error is None
        assert one.tokens == truth.answer(one.name, one.prompt, one.wanted)


def test_a_request_may_fill_the_whole_cache(rig: Rig, truth: Truth):
    play = Play(rig, blocks=needed(60 + 30), step_tokens=7)
    asked = [play.ask(name, TEXT[:60], 30) for name in (None, "wide", "narrow")]
    play.finish()
    require_true(truth, *asked)


def test_they_start_in_their_order_also_if_a_later_one_would_fit(rig: Rig):
    play = Play(rig, blocks=8, step_tokens=200)
    first, large, small = (play.ask(None, TEXT[:n], 5, b"%d" % n) for n in (60, 90, 3))
    play.step()
    assert first.tokens
    assert not large.request.table
    assert not small.request.table
    while not large.tokens:
        assert first.finished or not large.request.table
        assert not small.tokens
        play.step()
    play.finish()


def test_the_newest_steps_back_and_goes_on_where_it_was(rig: Rig, truth: Truth):
    play = Play(rig, blocks=6)
    old, new = play.ask(None, TEXT[:40], 30, b"old"), play.ask("wide", TEXT[:31], 30, b"new")
    while new.request.table or not new.tokens:
        play.step()
    assert old.request.table
    assert play.seen["preempted"] == 1
    play.finish()
    require_true(truth, old, new)


def test_what_a_prompt_in_pieces_had_computed_is_found_when_it_comes_again(rig: Rig, truth: Truth):
    play = Play(rig, blocks=20, step_tokens=16)
    asked = play.ask(None, TEXT[:100], 3)
    play.step()
    play.step()
    play.scheduler._step_back(asked.request)
    play.scheduler.add(asked.request)
    play.step()
    assert play.seen["prefix found"] == 1
    assert asked.request.computed == 3 * 16
    play.finish()
    require_true(truth, asked)


@pytest.mark.parametrize("wanted", [1, 20])
def test_versions_that_have_no_room_get_their_turn_however_short_the_steps(
    rig: Rig, truth: Truth, wanted: int
):
    """Also while requests for the version that is in memory never end to come."""
    play = Play(rig, blocks=30, residents=1, step_tokens=2)
    waiting = [play.ask(name, TEXT[:30], 4) for name in ("wide", "narrow", "mixed")]
    asked = []
    for _ in range(1500):
        asked.append(play.ask("stable", TEXT[:5], wanted)) if len(asked) < 60 else None
        play.step()
        play.read()
        if all(one.finished for one in waiting):
            break
    require_true(truth, *waiting)
    play.finish()
    require_true(truth, *asked)


def test_requests_of_a_version_keep_their_order_over_its_turns(rig: Rig):
    play = Play(rig, blocks=30, residents=1, step_tokens=4, max_sequences=3)
    of_one = [play.ask("wide", TEXT[: 20 + i], 25, b"%d" % i) for i in range(5)]
    play.ask("narrow", TEXT[:20], 25)
    while play.seen["parked"] < 3:
        play.step()
        play.read()
    order = [request for request in play.scheduler.requests if request.adapter_name == "wide"]
    assert order == [one.request for one in of_one if not one.finished]
    play.finish()


def test_a_request_cancelled_while_its_adapter_is_read_leaves_nothing(rig: Rig, truth: Truth):
    play = Play(rig, blocks=10, residents=1)
    held = play.ask("wide", TEXT[:10], 12)
    while not held.tokens:
        play.step()
        play.read()
    gone = play.ask("narrow", TEXT[:10], 5)
    while not play.store.starving:
        play.step()
    play.cancel(gone)
    play.step()
    assert not play.store.starving
    play.finish()
    require_true(truth, held)


def test_a_version_that_is_not_known_any_more_ends_its_request_alone(rig: Rig, truth: Truth):
    play = Play(rig, blocks=10)
    good, bad = play.ask("wide", TEXT[:10], 12), play.ask("narrow", TEXT[:10], 5)
    play.store.forget("narrow")
    play.finish()
    require_true(truth, good)
    assert "narrow is not loaded" in str(bad.error)


def poisoned(play: Play) -> list[int]:
    """Blocks with numbers that are not finite, which a request has or could find."""
    empty = play.scheduler._blocks._empty
    in_reach = [block for block in range(play.cache.blocks) if block not in empty]
    return [block for block in in_reach if not play.cache.finite([block])]


def write_quiet_giant(directory: Path, base: Path) -> Path:
    """An adapter whose keys are about to overflow, and its queries zero: its scores are finite."""
    models.write_adapter(
        directory, base, 1, r=64, lora_alpha=64, target_modules=["q_proj", "k_proj"]
    )
    base_weights = models.load_base(base).state_dict()
    tensors = load_file(directory / "adapter_model.safetensors")
    for name in [name for name in tensors if "lora_B" in name]:
        layer = name.removeprefix("base_model.model.").replace("lora_B.", "")
        tensors[name.replace("lora_B", "lora_A")] = torch.eye(64)
        tensors[name] = base_weights[layer] * (-1.0 if "q_proj" in name else 3e37)
    save_file(tensors, directory / "adapter_model.safetensors")
    return directory


def test_keys_that_would_overflow_with_anothers_queries_are_not_left_behind(
    base: LocalBase, base_directory: Path, truth: Truth, tmp_path: Path
):
    rig = Rig.of(base, {"giant": write_quiet_giant(tmp_path, base_directory)})
    play = Play(rig, blocks=6)
    giant = play.ask("giant", TEXT[:60], 20)
    play.finish()
    assert giant.error is None
    after = [play.ask(None, TEXT[:37], 6, b"one"), play.ask(None, TEXT[:20], 6, b"two")]
    play.finish()
    require_true(truth, *after)


@pytest.mark.parametrize("step_tokens", [7, 200], ids=["in pieces", "at once"])
def test_scores_that_are_not_finite_end_their_request_and_leave_no_trace(
    rig: Rig, truth: Truth, step_tokens: int
):
    play = Play(rig, blocks=8, step_tokens=step_tokens)
    neighbours = [play.ask(name, TEXT[:9], 20) for name in ("wide", None)]
    bad = play.ask("bad", TEXT[:50], 9)
    while bad.error is None:
        play.step()
    assert "not finite" in str(bad.error)
    assert not bad.tokens
    assert not poisoned(play)
    after = [
        play.ask(name, TEXT[:50], 20, b"after %d" % i) for i, name in enumerate([None, "wide"])
    ]
    play.finish()
    require_true(truth, *neighbours, *after)


def test_a_prompt_cancelled_in_the_middle_leaves_no_trace(rig: Rig, truth: Truth):
    play = Play(rig, blocks=5, step_tokens=20)
    bad = play.ask("bad", TEXT[:70], 5)
    play.step()
    play.step()
    assert poisoned(play)
    play.cancel(bad)
    after = play.ask(None, TEXT[:45], 20)
    play.step()
    assert not poisoned(play)
    play.finish()
    require_true(truth, after)


def test_a_prompt_that_steps_back_with_numbers_that_are_not_finite_is_not_kept(rig: Rig):
    play = Play(rig, blocks=6, step_tokens=20)
    bad = play.ask("bad", TEXT[:70], 5)
    play.step()
    play.scheduler._step_back(bad.request)
    assert not poisoned(play)
    assert not play.scheduler._blocks.find(b"bad", TEXT[:70])


def test_versions_and_tenants_never_share_what_is_computed(rig: Rig, truth: Truth):
    play = Play(rig, blocks=40)
    first = play.ask("wide", TEXT[:50], 3, b"tenant wide")
    play.finish()
    others = [
        play.ask("wide", TEXT[:50], 3, b"other wide"),
        play.ask(None, TEXT[:50], 3, b"tenant"),
    ]
    play.step()
    assert play.seen["prefix found"] == 0
    same = play.ask("wide", TEXT[:50], 3, b"tenant wide")
    play.step()
    assert play.seen["prefix found"] == 1
    play.finish()
    require_true(truth, first, same, *others)


def test_a_beginning_is_computed_once_for_all_who_share_it(rig: Rig):
    play = Play(rig, blocks=40)
    play.ask(None, TEXT[:50], 3)
    play.step()
    later = [play.ask(None, [*TEXT[:48], 9 + i], 3) for i in range(4)]
    play.step()
    tables = [one.request.table for one in later]
    assert len({tuple(table[: 48 // BLOCK]) for table in tables}) == 1
    play.finish()
