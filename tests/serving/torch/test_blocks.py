"""Blocks are never lost, and found again only by whom they belong to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptery.serving.torch.blocks import BLOCK, Blocks, keys, needed

TEXT = list(range(5 * BLOCK))


def held(blocks: Blocks, tokens: list[int], seed: bytes = b"") -> list[int]:
    """A table for `tokens`, all of them computed and kept."""
    table: list[int] = []
    assert blocks.grow(table, len(tokens))
    blocks.keep(seed, tokens, table)
    return table


def test_a_table_grows_by_what_it_lacks_or_not_at_all():
    blocks, table = Blocks(3), []
    assert blocks.grow(table, 1)
    assert blocks.grow(table, BLOCK)
    assert len(table) == 1
    assert not blocks.grow(table, 3 * BLOCK + 1)
    assert len(table) == 1
    assert blocks.grow(table, 3 * BLOCK)
    assert sorted(table) == [0, 1, 2]
    assert blocks.free == 0
    blocks.release(table)
    assert (table, blocks.free) == ([], 3)


def test_the_longest_known_beginning_is_found_and_shared():
    blocks = Blocks(8)
    table = held(blocks, TEXT[: 3 * BLOCK])
    found = blocks.find(b"", [*TEXT[: 2 * BLOCK], 999, *TEXT[2 * BLOCK + 1 :]])
    assert found == table[:2]
    blocks.release(table)
    assert blocks.free == 8 - 2  # the others still use these
    blocks.release(found)
    assert blocks.free == 8


@pytest.mark.parametrize(
    ("tokens", "known"), [(2 * BLOCK, 1), (2 * BLOCK + 1, 2), (BLOCK, 0), (1, 0)]
)
def test_the_last_token_is_never_among_what_is_found(tokens: int, known: int):
    blocks = Blocks(8)
    held(blocks, TEXT)
    assert len(blocks.find(b"", TEXT[:tokens])) == known


def test_another_seed_finds_nothing():
    blocks = Blocks(8)
    held(blocks, TEXT, b"one")
    assert not blocks.find(b"two", TEXT)
    assert not blocks.find(b"", TEXT)


def test_the_key_of_a_block_depends_on_every_token_before_it():
    first = list(keys(b"seed", TEXT))
    assert len(first) == 5
    for changed in range(len(TEXT)):
        other = list(keys(b"seed", [*TEXT[:changed], 7777, *TEXT[changed + 1 :]]))
        same = [a == b for a, b in zip(first, other, strict=True)]
        assert same == [block < changed // BLOCK for block in range(5)]


def test_only_full_blocks_are_kept():
    blocks = Blocks(4)
    table = held(blocks, TEXT[: 2 * BLOCK - 1])
    blocks.release(table)
    assert len(blocks.find(b"", TEXT)) == 1


def test_the_least_recently_used_goes_first_and_the_end_of_a_text_before_its_beginning():
    blocks = Blocks(4)
    old, new = held(blocks, TEXT[: 2 * BLOCK], b"old"), held(blocks, TEXT[: 2 * BLOCK], b"new")
    blocks.release(old)
    blocks.release(new)
    blocks.release(blocks.find(b"old", TEXT))  # used again: now "new" is the older one
    taken: list[int] = []
    assert blocks.grow(taken, BLOCK)
    assert len(blocks.find(b"new", TEXT)) == 1
    assert len(blocks.find(b"old", TEXT)) == 2


def test_what_is_used_is_never_evicted():
    blocks, table = Blocks(2), []
    held(blocks, TEXT[: 2 * BLOCK])
    assert blocks.free == 0
    assert not blocks.grow(table, 1)


def test_the_same_text_computed_twice_is_kept_once():
    blocks = Blocks(4)
    first, second = held(blocks, TEXT[: 2 * BLOCK]), held(blocks, TEXT[: 2 * BLOCK])
    assert not set(first) & set(second)
    blocks.release(second)
    assert blocks.find(b"", TEXT) == first
    assert blocks.free == 2


actions = st.lists(
    st.tuples(
        st.sampled_from(["take", "take", "give"]),
        st.sampled_from([b"a", b"b"]),
        st.integers(1, 4 * BLOCK),
        st.booleans(),
    ),
    max_size=40,
)


@given(actions)
def test_whatever_is_done_no_block_is_lost_or_given_to_two(actions):
    blocks, tables = Blocks(9), []
    for act, seed, length, kept in actions:
        if act == "take":
            tokens = TEXT[:length]
            table = blocks.find(seed, tokens)
            if blocks.grow(table, length):
                if kept:
                    blocks.keep(seed, tokens, table)
                tables.append((seed, table, kept))
                assert len(table) == needed(length)
            else:
                blocks.release(table)
        elif tables:
            blocks.release(tables.pop(length % len(tables))[1])
        used = {block for _, table, _ in tables for block in table}
        assert len(used) + blocks.free == 9
        for block in used:  # shared by the same text of the same seed, at the same place
            places = {(seed, table.index(block)) for seed, table, _ in tables if block in table}
            assert len(places) == 1
    for _, table, _ in tables:
        blocks.release(table)
    assert blocks.free == 9
