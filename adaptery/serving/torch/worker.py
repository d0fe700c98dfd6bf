"""The other side of the engine: loads the base and computes; all it hears of are messages."""

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from adaptery.errors import AdapteryError, EngineError
from adaptery.serving.engine import Chunk
from adaptery.serving.torch import channel
from adaptery.serving.torch.channel import Ask, Begin, Chunks, Failed, Fault, Registered

if TYPE_CHECKING:
    from adaptery.serving.torch.assembly import Assembly
    from adaptery.serving.torch.sequence import Request

log = logging.getLogger(__name__)


def work(
    connection: socket.socket,
    abandoned: Callable[[], None] = lambda: None,
    loading: AbstractContextManager[None] | None = None,
) -> None:
    """Serve the other end of `connection` until it says stop or is gone.

    Args:
        abandoned: called when it is gone, whatever is being done here.
        loading: entered while the base is loaded.
    """
    with connection, connection.makefile("rb") as file:
        incoming = channel.messages(file)
        begin = next(incoming, None)
        if begin is None:
            return
        outbox = Outbox(connection)
        worker = Worker(begin, outbox)
        hearing = threading.Thread(
            target=worker.hear, args=[incoming, abandoned], name="adaptery-hear", daemon=True
        )
        hearing.start()
        try:
            with loading or nullcontext():
                worker.load()
            worker.run()
        except Exception as error:
            if not isinstance(error, AdapteryError):
                log.exception("The engine failed.")
            outbox.send(Failed(Fault.of(error)))
        outbox.close()
        connection.shutdown(socket.SHUT_WR)
        hearing.join()  # to the end: what nobody reads would be an error there


class Outbox:
    """Sends in a thread of its own, so that a server that reads late cannot stall a step."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._step: list[tuple[int, Chunk | Fault]] = []
        self._messages: SimpleQueue[object] = SimpleQueue()
        self._thread = threading.Thread(target=self._send, name="adaptery-tell", daemon=True)
        self._thread.start()

    def add(self, number: int, item: Chunk | Fault) -> None:
        """Let a chunk go out at the end of the step; for the step's thread alone."""
        self._step.append((number, item))

    def flush(self) -> None:
        """The step is over."""
        if self._step:
            self.send(Chunks(self._step))
            self._step = []

    def send(self, message: object) -> None:
        """Let a message go out; for any thread."""
        self._messages.put(message)

    def close(self) -> None:
        """Return when all is sent, or cannot be."""
        self._messages.put(None)
        self._thread.join()

    def _send(self) -> None:
        try:
            for message in iter(self._messages.get, None):
                self._connection.sendall(channel.frame(message))
        except OSError:
            pass  # the other end is gone, which the one who reads from it notices too
        except Exception:
            log.exception("The engine's worker could not say something.")
            self._connection.shutdown(socket.SHUT_RDWR)  # rather than let others wait for it


class Worker:
    """One base being loaded, and then served."""

    def __init__(self, begin: Begin, outbox: Outbox) -> None:
        self._begin = begin
        self._outbox = outbox
        self._open: dict[int, Request] = {}  # by number, those somebody waits for
        self._stopped = False
        self._assembly: Assembly | None = None

    def load(self) -> None:
        """Load the base. Raises what makes that impossible."""
        from adaptery.serving.torch.assembly import assemble

        self._assembly = assemble(self._begin.base, self._begin.config, self._outbox.flush)

    def run(self) -> None:
        """Take steps until told to stop. Raises whatever makes a whole step fail."""
        if not self._stopped:
            self._outbox.send(self._parts.started())
            self._parts.loop.run()
        self._parts.store.close()

    def hear(self, incoming: Iterator[Any], abandoned: Callable[[], None]) -> None:
        """Do what messages say, beside the steps."""
        try:
            for message in incoming:
                self._obey(message)
        except Exception:
            log.exception("The engine's worker failed on a message.")
        abandoned()
        self._stop()

    def _obey(self, message: object) -> None:
        match message:
            case channel.Ask():
                self._ask(message)
            case channel.Cancel(number):
                if request := self._open.pop(number, None):
                    request.cancelled = True
                    self._parts.loop.wake()
            case channel.Register(number, name, directory):
                registration = self._parts.store.register(name, directory)
                registration.add_done_callback(partial(self._registered, number))
            case channel.Forget(name):
                self._parts.store.forget(name)
            case channel.Pin(names):
                self._parts.store.pin(names)
            case channel.Stop():
                self._stop()

    @property
    def _parts(self) -> "Assembly":
        assert self._assembly is not None  # nothing else is said before `Started`
        return self._assembly

    def _ask(self, ask: Ask) -> None:
        try:
            request = self._parts.request(ask.request, partial(self._deliver, ask.number))
        except Exception as error:
            if not isinstance(error, AdapteryError):
                log.exception("A request failed.")
            self._outbox.send(Chunks([(ask.number, Fault.of(error))]))
            return
        self._open[ask.number] = request
        request.answer.when_ready(partial(self._parts.loop.submit, request))

    def _deliver(self, number: int, item: Chunk | EngineError) -> None:
        ended = isinstance(item, EngineError) or item.finish_reason is not None
        if ended:
            self._open.pop(number, None)
        self._outbox.add(number, Fault.of(item) if isinstance(item, EngineError) else item)

    def _registered(self, number: int, registration: "Future[None]") -> None:
        error = registration.exception()
        self._outbox.send(Registered(number, Fault.of(error) if error else None))

    def _stop(self) -> None:
        self._stopped = True
        if self._assembly is not None:
            self._assembly.loop.stop()
