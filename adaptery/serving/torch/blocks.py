"""Who has which blocks of the key-value cache, and which blocks begin other requests too."""

from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from hashlib import blake2b

BLOCK = 16  # tokens


class Blocks:
    """Hands out blocks by number, counts who uses each, and finds prompts that begin alike.

    A full block that is `kept` has a key: a digest of its tokens and of all before them, seeded
    by whose they are. A block that nobody uses stays findable until its room is needed, the least
    recently used goes first.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._users = [0] * count
        self._empty = list(reversed(range(count)))  # hold nothing that could be found
        self._unused: OrderedDict[int, None] = OrderedDict()  # findable, oldest first
        self._by_key: dict[bytes, int] = {}
        self._keys: dict[int, bytes] = {}

    @property
    def free(self) -> int:
        """Blocks that can be had."""
        return len(self._empty) + len(self._unused)

    def grow(self, table: list[int], tokens: int) -> bool:
        """Give `table` blocks for `tokens` tokens; False, and nothing, if there are too few."""
        missing = needed(tokens) - len(table)
        if missing > self.free:
            return False
        for _ in range(missing):
            block = self._empty.pop() if self._empty else self._evict()
            self._users[block] = 1
            table.append(block)
        return True

    def find(self, seed: bytes, tokens: Sequence[int]) -> list[int]:
        """Blocks of the longest known beginning of `tokens`, which the caller then uses.

        The last token is never among them: its scores are wanted, so it must be computed.
        """
        table: list[int] = []
        for key in keys(seed, tokens[:-1]):
            block = self._by_key.get(key)
            if block is None:
                break
            self._unused.pop(block, None)
            self._users[block] += 1
            table.append(block)
        return table

    def keep(self, seed: bytes, tokens: Sequence[int], table: Sequence[int]) -> None:
        """Let the full blocks of `tokens`, which are computed, be found."""
        for key, block in zip(keys(seed, tokens), table, strict=False):
            if key not in self._by_key and block not in self._keys:
                self._by_key[key] = block
                self._keys[block] = key

    def release(self, table: list[int]) -> None:
        """The caller uses the blocks of `table` no more."""
        for block in reversed(table):  # so that the end of a text goes before its beginning
            self._users[block] -= 1
            if self._users[block]:
                continue
            if block in self._keys:
                self._unused[block] = None
            else:
                self._empty.append(block)
        table.clear()

    def _evict(self) -> int:
        block, _ = self._unused.popitem(last=False)
        del self._by_key[self._keys.pop(block)]
        return block


def needed(tokens: int) -> int:
    """Blocks that `tokens` tokens fill or begin."""
    return -(-tokens // BLOCK)


def keys(seed: bytes, tokens: Sequence[int]) -> Iterator[bytes]:
    """A key for each full block of `tokens`, which also depends on all tokens before it."""
    key = blake2b(seed, digest_size=16).digest()
    numbers = array("I", tokens)
    for end in range(BLOCK, len(tokens) + 1, BLOCK):
        key = blake2b(key + numbers[end - BLOCK : end].tobytes(), digest_size=16).digest()
        yield key
