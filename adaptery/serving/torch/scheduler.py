"""Who computes how many tokens in the next step."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from adaptery.errors import EngineError
from adaptery.serving.torch.blocks import BLOCK, Blocks, needed
from adaptery.serving.torch.cache import KeyValueCache
from adaptery.serving.torch.pace import Pace
from adaptery.serving.torch.sequence import Piece, Request
from adaptery.serving.torch.store import AdapterStore

QUANTUM = 8  # steps with tokens for it that a version has at least while others want its memory


@dataclass(eq=False)
class Turn:
    """A version's time in memory: the request that it began with, and the steps that it got."""

    first: Request
    steps: int = 0


class Scheduler:
    """Requests in order of arrival, as many at a time as have room.

    A step computes one token for each request that is already answering, then prompts, in pieces
    small enough that nobody's answer stalls. When the cache is full the request that came last
    steps back; what it computed is found again as a known beginning, unless its room was needed.
    """

    def __init__(
        self, cache: KeyValueCache, store: AdapterStore, max_sequences: int, step_tokens: int
    ) -> None:
        self._cache = cache
        self._blocks = Blocks(cache.blocks)
        self._store = store
        self._max_sequences = max_sequences
        self._pace = Pace(step_tokens)
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []  # in the order in which they were admitted
        self._handed_out: list[int] = []  # blocks, in this step
        self._turns: dict[str, Turn] = {}  # of the running ones' versions, the longest first

    @property
    def requests(self) -> list[Request]:
        """All that are not finished."""
        return [*self._running, *self._waiting]

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._running and not self._waiting

    def add(self, request: Request) -> None:
        """Let a request wait for its turn."""
        self._waiting.append(request)

    def schedule(self) -> list[Piece[Request]]:
        """The pieces of the next step: answers, the longest first, then prompts by adapter."""
        self._drop_cancelled()
        self._take_turns()
        self._admit()
        self._make_room()
        self._cache.clear(self._handed_out)
        self._handed_out = []
        answering = [request for request in self._running if request.missing == 1]
        prompts = [request for request in self._running if request.missing > 1]
        pieces = [Piece(request, 1) for request in sorted(answering, key=length, reverse=True)]
        first = prompts[0].missing if prompts else 0
        budget = self._pace.budget(len(answering), len(prompts), first)
        parts = []
        for request in prompts:
            if count := min(request.missing, budget):
                parts.append(Piece(request, count))
                budget -= count
        return pieces + sorted(parts, key=lambda piece: piece.sequence.adapter_name or "")

    def advance(self, pieces: Iterable[Piece[Request]], seconds: float) -> None:
        """Count what a step of `seconds` has computed."""
        pieces = list(pieces)
        answering = sum(piece.sequence.missing == 1 for piece in pieces)
        tokens = sum(piece.count for piece in pieces) - answering
        self._pace.measured(answering, tokens, seconds)
        for name in {piece.sequence.adapter_name for piece in pieces if piece.last}:
            if name is not None:
                self._turns[name].steps += 1
        for piece in pieces:
            piece.sequence.computed += piece.count

    def append(self, request: Request, token: int) -> None:
        """The request's next token. Its scores were finite, so all that led to them is."""
        prompt = request.computed - request.verified > 1
        request.verified = request.computed
        if prompt:
            self._blocks.keep(request.seed, request.ids[: request.verified], request.table)
        request.ids.append(token)

    def finish(self, request: Request, keep: bool) -> None:
        """Take a running request out; with `keep` all that it computed is finite."""
        if keep:
            request.verified = request.computed
        self._leave(request)

    def _drop_cancelled(self) -> None:
        for request in [request for request in self._running if request.cancelled]:
            self._leave(request)
        self._waiting = deque(request for request in self._waiting if not request.cancelled)

    def _take_turns(self) -> None:
        """Let versions that wait for memory have that of those which have had it the longest.

        A version's turn brings its first request a token at least, and its requests keep their
        order: so all of them come to their end, however few tokens a step has and others come.
        """
        starving = self._store.starving
        if not starving:
            return
        over = [name for name, turn in self._turns.items() if self._is_over(turn)]
        chosen = set(over[:starving])
        parked = [request for request in self._running if request.adapter_name in chosen]
        for request in parked:
            self._step_back(request)
        behind = [request for request in self._waiting if request.adapter_name in chosen]
        before = [request for request in self._waiting if request.adapter_name not in chosen]
        self._waiting = deque([*before, *parked, *behind])

    def _is_over(self, turn: Turn) -> bool:
        served = turn.first not in self._running or answers(turn.first)
        return turn.steps >= QUANTUM and served

    def _admit(self) -> None:
        """Let waiting requests in, in their order, except where an adapter is still being read."""
        self._store.prefetch(r.adapter_name for r in self._waiting if r.adapter_name)
        passed: deque[Request] = deque()
        while self._waiting and len(self._running) < self._max_sequences:
            request = self._waiting.popleft()
            try:
                ready = self._get_adapter(request)
            except EngineError as error:
                request.answer.deliver(error)
                continue
            if not ready:
                passed.append(request)
            elif self._get_room(request):
                self._running.append(request)
                if request.adapter_name is not None:
                    self._turns.setdefault(request.adapter_name, Turn(request))
            else:
                passed.append(request)
                break
        self._waiting.extendleft(reversed(passed))

    def _get_adapter(self, request: Request) -> bool:
        if request.adapter_name is None:
            return True
        request.adapter = self._store.acquire(request.adapter_name)
        return request.adapter is not None

    def _get_room(self, request: Request) -> bool:
        """Blocks for all tokens so far and one more, known ones first."""
        request.table = self._blocks.find(request.seed, request.ids)
        request.computed = request.verified = len(request.table) * BLOCK
        if self._grow(request, len(request.ids) + 1):
            return True
        self._blocks.release(request.table)
        self._release_adapter(request)
        return False

    def _grow(self, request: Request, tokens: int) -> bool:
        """Blocks for so many tokens; False, and none, if there are too few."""
        owned = len(request.table)
        if not self._blocks.grow(request.table, tokens):
            return False
        self._handed_out += request.table[owned:]
        return True

    def _make_room(self) -> None:
        """A place in the cache for every running request's next token; the newest step back."""
        for request in list(self._running):
            while request in self._running:
                if self._grow(request, len(request.ids)):
                    break
                newest = self._running[-1]
                self._step_back(newest)
                self._waiting.appendleft(newest)

    def _step_back(self, request: Request) -> None:
        """Out of the running ones, to come again: what it computed is kept if it is finite."""
        if self._cache.finite(request.table[request.verified // BLOCK : needed(request.computed)]):
            request.verified = request.computed
        self._leave(request)

    def _leave(self, request: Request) -> None:
        """Out of the running ones. What is known to be finite can be found again."""
        self._running.remove(request)
        if all(other.adapter_name != request.adapter_name for other in self._running):
            self._turns.pop(request.adapter_name or "", None)
        self._blocks.keep(request.seed, request.ids[: request.verified], request.table)
        self._blocks.release(request.table)
        request.computed = request.verified = 0
        self._release_adapter(request)

    def _release_adapter(self, request: Request) -> None:
        if request.adapter is not None:
            self._store.release(request.adapter.name)
            request.adapter = None


def length(request: Request) -> int:
    """Tokens so far."""
    return len(request.ids)


def answers(request: Request) -> bool:
    """Whether it got a token since it was admitted, and so is not in its prompt."""
    return request.missing == 1 and request.verified == request.computed
