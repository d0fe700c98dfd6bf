"""Who computes how many tokens in the next step."""

from collections import deque

from adaptery.serving.torch.cache import SlotCache
from adaptery.serving.torch.runner import adapter_order
from adaptery.serving.torch.sequence import Piece, Request


class Scheduler:
    """Requests in order of arrival, as many at a time as there are slots.

    A step computes at most `step_tokens` tokens: first one for each request that is already
    answering, so that nobody's prompt can stall them, then prompts, in pieces if they are long.
    """

    def __init__(self, cache: SlotCache, step_tokens: int) -> None:
        self._cache = cache
        self._step_tokens = max(step_tokens, cache.slots)
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []

    @property
    def requests(self) -> list[Request]:
        """All that are not finished."""
        return [*self._running, *self._waiting]

    def add(self, request: Request) -> None:
        """Let a request wait for its turn."""
        self._waiting.append(request)

    def finish(self, request: Request) -> None:
        """Take a running request out."""
        self._running.remove(request)
        self._cache.give_back(request.slot)

    def schedule(self) -> list[Piece[Request]]:
        """The pieces of the next step, those of one adapter side by side."""
        self._drop_cancelled()
        self._admit()
        pieces: list[Piece[Request]] = []
        budget = self._step_tokens
        for request in sorted(self._running, key=lambda request: request.missing > 1):
            if count := min(request.missing, budget):
                pieces.append(Piece(request, count))
                budget -= count
        return sorted(pieces, key=adapter_order)

    def _drop_cancelled(self) -> None:
        for request in [request for request in self._running if request.cancelled]:
            self.finish(request)
        self._waiting = deque(request for request in self._waiting if not request.cancelled)

    def _admit(self) -> None:
        while self._waiting and self._cache.free:
            request = self._waiting.popleft()
            request.slot = self._cache.take()
            self._running.append(request)
