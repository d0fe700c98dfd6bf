"""Keys and values of all sequences, in blocks of a fixed number of tokens."""

from collections.abc import Iterable, Iterator
from itertools import chain

import torch
from torch import Tensor

from adaptery.errors import DoesNotFit
from adaptery.serving.torch.blocks import BLOCK
from adaptery.serving.torch.memory import gigabytes, zeros


class KeyValueCache:
    """Per layer, keys and values of shape (blocks + 1, BLOCK, heads, head size).

    What a sequence reads beyond its own end is masked, which is harmless if its scores are finite.
    Those of one adapter's keys with another's queries need not be, even if both are. So a block is
    cleared when it is handed out, and the last one, which fills up short tables, is nobody's.
    """

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._scratch: dict[int, Tensor] = {}

    @property
    def nobodys(self) -> int:
        """The block that is always zero."""
        return self.blocks

    def write(self, layer: int, places: Tensor, keys: Tensor, values: Tensor) -> None:
        """Put new keys and values, each (heads, tokens, head size), to `places` (tokens,).

        A place is a block's number times BLOCK, plus the token's position in the block.
        """
        for room, new in zip(self.of(layer, keys, values), (keys, values), strict=True):
            room.flatten(0, 1).index_copy_(0, places, new.transpose(0, 1))

    def of(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's keys and values; of a new layer they are like those (heads, any, head size)."""
        if layer not in self._layers:
            self._layers[layer] = (self._room(keys), self._room(values))
        return self._layers[layer]

    def read(self, layer: int, table: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of sequences whose blocks are the rows of `table` (sequences, blocks).

        Returns:
            Two tensors (sequences, heads, tokens, head size), valid until the next reading.
        """
        keys, values = (
            self._gather(side, room, table) for side, room in enumerate(self._layers[layer])
        )
        return keys, values

    def clear(self, blocks: Iterable[int]) -> None:
        """Make what `blocks` hold zero."""
        chosen = list(blocks)
        for room in self._rooms() if chosen else ():
            room.index_fill_(0, torch.tensor(chosen, device=room.device), 0)

    def finite(self, blocks: list[int]) -> bool:
        """Whether all numbers in `blocks` are finite."""
        return all(bool(room[blocks].isfinite().all()) for room in self._rooms())

    def bytes_per_token(self) -> int:
        """Of keys and values in all layers. Known once every layer has been written to."""
        return sum(room[0, 0].numel() * room.element_size() for room in self._rooms())

    def resized(self, blocks: int) -> "KeyValueCache":
        """An empty cache for the same layers.

        Raises:
            DoesNotFit: there is not so much memory.
        """
        cache = KeyValueCache(blocks)
        try:
            for layer, pair in self._layers.items():
                keys, values = (cache._room(room[0].transpose(0, 1)) for room in pair)
                cache._layers[layer] = keys, values
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            size = gigabytes(self.bytes_per_token() * blocks * BLOCK)
            raise DoesNotFit(
                f"The key-value cache of {size} could not be allocated: {error}. "
                "Lower --kv-memory, --max-sequences or --max-context."
            ) from error
        return cache

    def _rooms(self) -> Iterator[Tensor]:
        return chain.from_iterable(self._layers.values())

    def _room(self, like: Tensor) -> Tensor:
        """Memory for a layer whose heads and head size are as in `like` (heads, any, head size)."""
        heads, _, width = like.shape
        shape = (self.blocks + 1, BLOCK, heads, width)
        return zeros(shape, like.dtype, like.device)

    def _gather(self, side: int, room: Tensor, table: Tensor) -> Tensor:
        sequences, blocks = table.shape
        _, size, heads, width = room.shape
        out = self._scratch_for(side, room, table.numel())
        torch.index_select(room, 0, table.flatten(), out=out)
        return out.view(sequences, blocks * size, heads, width).transpose(1, 2)

    def _scratch_for(self, side: int, room: Tensor, blocks: int) -> Tensor:
        """Memory to gather in: the same for all layers, so that it stays in the CPU's cache."""
        size = blocks * room[0].numel()
        if side not in self._scratch or self._scratch[side].numel() < size:
            self._scratch[side] = room.new_empty(size)
        return self._scratch[side][:size].view(blocks, *room.shape[1:])
