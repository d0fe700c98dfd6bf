"""The thread that takes step after step, apart from the event loop that serves HTTP."""

import logging
import threading
from queue import Empty, SimpleQueue

from torch import Tensor

from adaptery.errors import EngineError
from adaptery.serving.torch.runner import Runner
from adaptery.serving.torch.scheduler import Scheduler
from adaptery.serving.torch.sequence import Piece, Request

log = logging.getLogger(__name__)


class StepLoop:
    """Takes requests from any thread. If a step fails all requests end with an `EngineError`."""

    def __init__(self, runner: Runner, scheduler: Scheduler) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._inbox: SimpleQueue[Request | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._ended: str | None = None
        self._thread = threading.Thread(target=self._run, name="adaptery-steps", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether requests are still taken."""
        return self._ended is None

    def submit(self, request: Request) -> None:
        """Let `request` take part from the next step on. Raises `EngineError` if there is none."""
        with self._lock:
            if self._ended is not None:
                raise EngineError(self._ended)
            self._inbox.put(request)

    def stop(self) -> None:
        """End after the step under way, and wait for it."""
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        reason = "The engine was stopped."
        try:
            while self._receive():
                self._step()
        except Exception as error:
            log.exception("A step of the engine failed.")
            reason = f"The engine failed and must be restarted: {type(error).__name__}: {error}"
        self._end(reason)

    def _receive(self) -> bool:
        """Take in new requests, waiting for one if there is nothing to do; False at the end."""
        while True:
            try:
                request = self._inbox.get(block=not self._scheduler.requests)
            except Empty:
                return True
            if request is None:
                return False
            self._scheduler.add(request)

    def _step(self) -> None:
        pieces = self._scheduler.schedule()
        if not pieces:
            return
        logits = self._runner.run(pieces)
        finished = [piece for piece in pieces if piece.last]
        for piece in pieces:
            piece.sequence.computed += piece.count
        for piece, row in zip(finished, logits, strict=True):
            self._answer(piece, row)

    def _answer(self, piece: Piece[Request], logits: Tensor) -> None:
        """Choose a request's next token. Whatever goes wrong here ends this request alone."""
        request = piece.sequence
        try:
            chunk = request.answer.next(logits)
        except Exception as error:  # noqa: BLE001 it is delivered
            self._scheduler.finish(request)
            request.answer.deliver(as_engine_error(error))
            return
        request.ids.append(chunk.token)
        if chunk.finish_reason is not None:
            self._scheduler.finish(request)
        request.answer.deliver(chunk)

    def _end(self, reason: str) -> None:
        with self._lock:
            self._ended = reason
        while not self._inbox.empty():
            if (request := self._inbox.get()) is not None:
                self._scheduler.add(request)
        for request in self._scheduler.requests:
            request.answer.deliver(EngineError(reason))


def as_engine_error(error: Exception) -> EngineError:
    """`error`, as the one kind that engines raise."""
    if isinstance(error, EngineError):
        return error
    log.error("A request failed.", exc_info=error)
    return EngineError(f"The request failed in the engine: {type(error).__name__}: {error}")
