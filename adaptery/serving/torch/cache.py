"""Keys and values of all sequences: one slot each, as long as the longest context allowed."""

import torch
from torch import Tensor

from adaptery.errors import DoesNotFit
from adaptery.serving.torch.memory import available_memory, gigabytes


class SlotCache:
    """Per layer, keys and values of shape (slots, heads, context, head size).

    A slot belongs to one sequence at a time and is read only as far as that sequence has written
    it, so nothing is cleared in between and nothing of another sequence can be seen.
    """

    def __init__(self, slots: int, context: int) -> None:
        self.slots = slots
        self.context = context
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._free = list(reversed(range(slots)))

    @property
    def free(self) -> int:
        """Slots that no sequence has."""
        return len(self._free)

    def take(self) -> int:
        """A free slot."""
        return self._free.pop()

    def give_back(self, slot: int) -> None:
        """Let another sequence have `slot`."""
        self._free.append(slot)

    def append(
        self, layer: int, slot: int, start: int, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Write new keys and values, each (heads, tokens, head size), from position `start` on.

        Returns:
            All keys and values of the slot's sequence up to and including the new ones.
        """
        if layer not in self._layers:
            self._layers[layer] = (self._room(keys), self._room(values))
        end = start + keys.shape[1]
        all_keys, all_values = (room[slot, :, :end] for room in self._layers[layer])
        all_keys[:, start:] = keys
        all_values[:, start:] = values
        return all_keys, all_values

    def resized(self, slots: int, context: int) -> "SlotCache":
        """An empty cache for the same layers, all memory taken at once.

        Raises:
            DoesNotFit: there is not so much memory.
        """
        self._require(slots * context)
        cache = SlotCache(slots, context)
        try:
            cache._layers = {
                layer: (cache._room(keys[0]), cache._room(values[0]))
                for layer, (keys, values) in self._layers.items()
            }
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            raise DoesNotFit(f"The key-value cache could not be allocated: {error}") from error
        return cache

    def _room(self, like: Tensor) -> Tensor:
        """Memory for a layer whose heads and head size are as in `like` (heads, any, head size)."""
        heads, _, size = like.shape
        shape = (self.slots, heads, self.context, size)
        return torch.empty(shape, dtype=like.dtype, device=like.device)

    def _require(self, tokens: int) -> None:
        rooms = [room for pair in self._layers.values() for room in pair]
        per_token = sum(room.shape[1] * room.shape[3] * room.element_size() for room in rooms)
        available = available_memory(rooms[0].device)
        if per_token * tokens > available:
            raise DoesNotFit(
                f"The key-value cache for {tokens:,} tokens needs {gigabytes(per_token * tokens)}, "
                f"but {gigabytes(available)} are free. Lower --max-sequences or --max-context."
            )
