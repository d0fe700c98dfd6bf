"""Step after step: pieces of requests in, chunks of answers out."""

from collections.abc import Callable
from enum import Enum
from queue import Empty, SimpleQueue
from time import perf_counter

from adaptery.errors import EngineError
from adaptery.serving.engine import Chunk
from adaptery.serving.torch.answer import choose
from adaptery.serving.torch.runner import Runner
from adaptery.serving.torch.scheduler import Scheduler
from adaptery.serving.torch.sequence import Piece, Request


class Word(Enum):
    """What the loop can be told beside requests."""

    LOOK = "something may have become possible"
    STOP = "end after the step under way"


class StepLoop:
    """Runs in the thread that calls `run`, and is told things by any other.

    `flush` is called at the end of each step, when all its chunks are delivered.
    """

    def __init__(
        self, runner: Runner, scheduler: Scheduler, flush: Callable[[], None] = lambda: None
    ) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._flush = flush
        self._inbox: SimpleQueue[Request | Word] = SimpleQueue()
        self._stuck = False

    def submit(self, request: Request) -> None:
        """Let `request` take part from the next step on."""
        self._inbox.put(request)

    def wake(self) -> None:
        """Look again: a request was cancelled, or an adapter has been read."""
        self._inbox.put(Word.LOOK)

    def stop(self) -> None:
        """End after the step under way."""
        self._inbox.put(Word.STOP)

    def run(self) -> None:
        """Take steps until told to stop. Whatever makes a whole step fail is raised."""
        while self._receive():
            self._step()

    def _receive(self) -> bool:
        """Take in what has come, waiting for it if nothing can be computed; False at the end."""
        wait = self._stuck or self._scheduler.idle
        while True:
            try:
                item = self._inbox.get(block=wait)
            except Empty:
                return True
            wait = False
            if item is Word.STOP:
                return False
            if isinstance(item, Request):
                self._scheduler.add(item)

    def _step(self) -> None:
        pieces = self._scheduler.schedule()
        self._stuck = not pieces
        if pieces:
            self._compute(pieces)
        self._flush()

    def _compute(self, pieces: list[Piece[Request]]) -> None:
        begin = perf_counter()
        logits = self._runner.run(pieces)
        requests = [piece.sequence for piece in pieces if piece.last]
        results = choose([request.answer for request in requests], logits)
        self._scheduler.advance(pieces, perf_counter() - begin)
        for request, result in zip(requests, results, strict=True):
            self._settle(request, result)

    def _settle(self, request: Request, result: Chunk | EngineError) -> None:
        """Let a request go on, or end it; then whoever waits for it may know."""
        if isinstance(result, EngineError):
            self._scheduler.finish(request, keep=False)
        elif result.finish_reason is not None:
            self._scheduler.finish(request, keep=True)
        else:
            self._scheduler.append(request, result.token)
        request.answer.deliver(result)
