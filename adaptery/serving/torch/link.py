"""One worker as the server sees it, from its launch to its end."""

import asyncio
import logging
from itertools import count
from pathlib import Path
from typing import Any

from adaptery.errors import AdapteryError, EngineError
from adaptery.serving.engine import Chunk, GenerationRequest
from adaptery.serving.torch import channel
from adaptery.serving.torch.channel import Begin, Fault, Started, frame, receive
from adaptery.serving.torch.process import Isolation, launch

log = logging.getLogger(__name__)

Item = Chunk | AdapteryError

ORDERLY = 5.0  # seconds for the step under way when it is told to stop
DYING = 0.5  # seconds in which a process that has closed its sockets is gone


class Link:
    """Tells a worker what to do, and hands what it says to those who wait for it.

    A chunk waits in its request's queue until it is read. Who reads slowly keeps waiting at most
    the `max_tokens` chunks of the own answer, and nobody else.

    `started` fails with the error that the worker could not start with. `ended` says why it ended.
    """

    def __init__(self, begin: Begin, isolation: Isolation) -> None:
        self.host, connection = launch(isolation)
        connection.sendall(frame(begin))
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[Started] = loop.create_future()
        self.started.add_done_callback(seen)
        self.ended: asyncio.Future[str] = loop.create_future()
        self._numbers = count()
        self._asked: dict[int, asyncio.Queue[Item]] = {}
        self._registering: dict[int, asyncio.Future[None]] = {}
        self._held: dict[str, asyncio.Future[None]] = {}
        self._stopping = False
        self._writer: asyncio.StreamWriter | None = None
        self._connecting = asyncio.create_task(asyncio.open_connection(sock=connection))
        self._following = asyncio.create_task(self._follow())

    @property
    def open(self) -> int:
        """Requests that are not answered yet."""
        return len(self._asked)

    def ask(self, request: GenerationRequest) -> "tuple[int, asyncio.Queue[Item]]":
        """Submit a request; gives its number, and the queue of its chunks. An error is the last."""
        number = next(self._numbers)
        self._tell(channel.Ask(number, request))
        queue = self._asked[number] = asyncio.Queue()
        return number, queue

    def leave(self, number: int) -> None:
        """Wait for that request no longer; it ends at the next step if it has not yet."""
        if self._asked.pop(number, None) is not None and not self.ended.done():
            self._tell(channel.Cancel(number))

    async def hold(self, name: str, directory: Path) -> None:
        """Return when the worker knows the version.

        Raises:
            InvalidAdapter: it cannot be applied in full.
            EngineError: the worker has ended.
        """
        if name not in self._held:
            number = next(self._numbers)
            self._tell(channel.Register(number, name, directory))
            held = asyncio.get_running_loop().create_future()
            held.add_done_callback(seen)
            self._held[name] = self._registering[number] = held
        await asyncio.shield(self._held[name])

    def forget(self, name: str) -> None:
        """Let the worker know the version no longer."""
        if self._held.pop(name, None) is not None and not self.ended.done():
            self._tell(channel.Forget(name))

    def pin(self, names: frozenset[str]) -> None:
        """Let the worker keep these in memory."""
        self._tell(channel.Pin(names))

    async def close(self) -> None:
        """End the worker, and all that wait for it with an `EngineError`."""
        self._stopping = True
        _, writer = await asyncio.shield(self._connecting)
        if self.started.done():
            if not self.ended.done():
                self._tell(channel.Stop())
        elif not writer.is_closing():
            writer.write_eof()  # and so leave it, whatever it is loading
        await self._following

    def _tell(self, message: object) -> None:
        if self.ended.done():
            raise EngineError(self.ended.result())
        assert self._writer is not None  # once it has started
        if not self._writer.is_closing():  # else all who wait are about to be told
            self._writer.write(frame(message))

    async def _follow(self) -> None:
        """Take in messages until the worker ends; then nobody waits for it any more."""
        reader, writer = await asyncio.shield(self._connecting)
        self._writer = writer
        failure = None
        try:
            while failure is None:
                failure = self._take(await receive(reader))
        except (asyncio.IncompleteReadError, OSError):
            pass
        except Exception as error:
            log.exception("What the engine's worker said was not understood.")
            failure = Fault.of(error)
        writer.close()
        if failure is None:
            how = await self.host.end(ORDERLY if self._stopping else DYING)
            failure = Fault(EngineError, f"The engine failed: {how}.")
        self._end(failure)
        await self.host.end(ORDERLY)

    def _take(self, message: object) -> Fault | None:
        """Hand a message on; gives the fault if it tells of the worker's end."""
        match message:
            case channel.Chunks(items):
                for number, item in items:
                    self._hand(number, item.error() if isinstance(item, Fault) else item)
            case channel.Registered(number, fault):
                self._register(number, fault)
            case channel.Started():
                self.started.set_result(message)
            case channel.Failed(fault):
                return fault
        return None

    def _hand(self, number: int, item: Item) -> None:
        queue = self._asked.get(number)
        if queue is None:
            return  # cancelled
        queue.put_nowait(item)
        if isinstance(item, AdapteryError) or item.finish_reason is not None:
            del self._asked[number]

    def _register(self, number: int, fault: Fault | None) -> None:
        held = self._registering.pop(number)
        if fault is None:
            held.set_result(None)
            return
        held.set_exception(fault.error())
        self._held = {name: other for name, other in self._held.items() if other is not held}

    def _end(self, fault: Fault) -> None:
        if self._stopping:
            fault = Fault(EngineError, "The engine was stopped.")
        self.ended.set_result(fault.text)
        if not self.started.done():
            self.started.set_exception(fault.error())
        for number in list(self._asked):
            self._hand(number, EngineError(fault.text))
        for number in list(self._registering):
            self._register(number, Fault(EngineError, fault.text))


def seen(future: "asyncio.Future[Any]") -> None:
    """Let asyncio not complain of an error that nobody is left to be told."""
    if not future.cancelled():
        future.exception()
