"""The `Engine` that the server sees: its worker is started, fed, and started again if it ends."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from adaptery.base_model import LocalBase
from adaptery.errors import AdapteryError, DoesNotFit, EngineError, NotReady, Overloaded
from adaptery.serving.config import ServeConfig
from adaptery.serving.engine import Chunk, GenerationRequest
from adaptery.serving.torch.channel import Begin
from adaptery.serving.torch.imports import UNUSED, loading
from adaptery.serving.torch.link import Link
from adaptery.serving.torch.process import DEFAULT, Isolation

log = logging.getLogger(__name__)

DEFAULT_CONTEXT = 4096
RESTARTS = (0.1, 1.0, 5.0, 15.0, 60.0)  # seconds to wait before each attempt in a row
STEADY = 60.0  # seconds after which an end is not one more failure in a row


@dataclass(eq=False)
class Held:
    """A version that can be asked for, and how many answers use it."""

    directory: Path
    users: int = 0
    unused: asyncio.Event = field(default_factory=asyncio.Event)


class TorchEngine:
    """The embedded engine. Requests to many adapters and to the base share every step.

    It computes in a process of its own, so that nothing here can stall it, and its end is an error
    of the requests in flight and no more. This process then does without torch: transformers is
    imported without it, unless either was imported before. With `isolation="thread"` everything is
    here, in a thread.

    Args:
        restarts: seconds to wait before each attempt to start again; after as many failures in
            a row it is left at that.
    """

    def __init__(
        self,
        base: LocalBase,
        config: ServeConfig,
        isolation: Isolation = DEFAULT,
        restarts: Sequence[float] = RESTARTS,
    ) -> None:
        self.base = base
        self.max_context = config.max_context or DEFAULT_CONTEXT  # exact once started
        self.state: Mapping[str, str | int] = {}
        self.restarts = 0
        self._vocabulary = 0
        self._config = config
        self._isolation = isolation
        self._waits = restarts
        self._held: dict[str, Held] = {}
        self._pins: frozenset[str] = frozenset()
        self._link: Link | None = None
        self._trouble = "The base is not loaded yet."
        self._supervising: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load the base and begin to answer.

        Raises:
            DoesNotFit: there is too little memory for the weights or the cache.
            ConfigError: the device or the context is not to be had.
            UsageError: an architecture that this engine would not compute right.
            BaseNotFound: the files are not a model.
        """
        link = self._begin()
        try:
            await asyncio.gather(self._take(link), asyncio.to_thread(self._read_tokenizer))
        except BaseException:
            await link.close()
            raise
        self._supervising = asyncio.create_task(self._supervise())

    async def close(self) -> None:
        """Stop; requests in flight get an `EngineError`."""
        supervising, self._supervising = self._supervising, None
        if supervising is not None:
            supervising.cancel()
            await asyncio.gather(supervising, return_exceptions=True)
        link, self._link = self._link, None
        self._trouble = "The engine was stopped."
        if link is not None:
            await link.close()

    @property
    def healthy(self) -> bool:
        """Whether requests can be answered."""
        return self._link is not None and not self._link.ended.done()

    async def load(self, name: str, directory: Path) -> None:
        """Hold the version `name`. A no-op if it is held already.

        Raises:
            InvalidAdapter: it cannot be applied in full on this base.
            EngineError: the engine failed meanwhile.
        """
        await self._require_link().hold(name, directory)
        self._held.setdefault(name, Held(directory))

    async def unload(self, name: str) -> None:
        """Refuse new requests for `name` at once; return when the last one is answered."""
        held = self._held.pop(name, None)
        if held is not None and held.users:
            await held.unused.wait()
        if self._link is not None and name not in self._held:
            self._link.forget(name)

    async def pin(self, names: frozenset[str]) -> None:
        """Keep these of the loaded versions in memory, and no others for that reason alone."""
        self._pins = names
        if self._link is not None and self.healthy:
            self._link.pin(names)

    def loaded(self) -> frozenset[str]:
        """The versions held now."""
        return frozenset(self._held)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        """Answer token by token. Closing the generator cancels the request.

        Raises:
            DoesNotFit: the prompt and `max_tokens` exceed `max_context`.
            Overloaded: too many requests wait already.
            EngineError: the request failed; others go on.
        """
        self._check(request)
        with self._using(request.adapter) as held:
            link = self._require_link()
            if request.adapter is not None and held is not None:
                await link.hold(request.adapter, held.directory)  # it may be another worker
            number, chunks = link.ask(request)
            try:
                while True:
                    chunk = await chunks.get()
                    if isinstance(chunk, AdapteryError):
                        raise chunk
                    yield chunk
                    if chunk.finish_reason is not None:
                        return
            finally:
                link.leave(number)

    def _read_tokenizer(self) -> None:
        with loading("torch", *UNUSED) if self._isolation == "process" else nullcontext():
            self.base.tokenizer  # noqa: B018 it is kept there

    def _begin(self) -> Link:
        """A worker that begins to load."""
        base = LocalBase(self.base.directory, self.base.identity)  # without what is cached in it
        return Link(Begin(base, self._config), self._isolation)

    async def _take(self, link: Link) -> None:
        """Answer through this worker once it can. Raises the error with which it could not."""
        started = await asyncio.shield(link.started)
        self.max_context, self._vocabulary = started.max_context, started.vocabulary
        self.state = started.state
        self._link = link

    async def _supervise(self) -> None:
        """Start again whenever the worker ends, unless that happens too often in a row."""
        failures = 0
        while self._link is not None:
            begin = monotonic()
            self._trouble = await asyncio.shield(self._link.ended)
            self._link = None
            failures = 0 if monotonic() - begin > STEADY else failures
            while self._link is None and failures < len(self._waits):
                log.error("%s It is started again.", self._trouble)
                await asyncio.sleep(self._waits[failures])
                failures += 1
                await self._start_again()
        log.critical(
            "%s It failed %d times in a row and is not started again.", self._trouble, failures + 1
        )

    async def _start_again(self) -> None:
        link = self._begin()
        try:
            await self._take(link)
        except AdapteryError as error:
            self._trouble = str(error)
            return
        except asyncio.CancelledError:
            await link.close()
            raise
        self.restarts += 1
        log.warning("The engine answers again.")
        await self._bring_back(self._pins)

    async def _bring_back(self, names: frozenset[str]) -> None:
        """Load versions into a new worker. The others follow when they are asked for."""
        link = self._require_link()
        held = [link.hold(name, self._held[name].directory) for name in names & self._held.keys()]
        for failed in await asyncio.gather(*held, return_exceptions=True):
            if failed is not None:
                log.warning("A pinned version could not be loaded again: %s", failed)
        if not link.ended.done():
            link.pin(names)

    def _require_link(self) -> Link:
        if self._link is None or self._link.ended.done():
            raise NotReady(f"The engine does not answer now. {self._trouble}")
        return self._link

    def _check(self, request: GenerationRequest) -> None:
        """Do nothing if `request` is one that can be computed, and there is a place for it."""
        link = self._require_link()
        prompt, asked = len(request.prompt), request.sampling.max_tokens
        if prompt + asked > self.max_context:
            raise DoesNotFit(
                f"The prompt has {prompt:,} tokens and {asked:,} are asked for, but the context "
                f"holds {self.max_context:,}."
            )
        if not prompt or not all(0 <= i < self._vocabulary for i in request.prompt):
            raise EngineError("The prompt is empty or has tokens that the base does not know.")
        if link.open >= self._config.max_sequences + self._config.max_waiting:
            raise Overloaded(
                f"{link.open:,} requests are being answered or wait, which is the limit here. "
                "Ask again later."
            )

    @contextmanager
    def _using(self, name: str | None) -> Iterator[Held | None]:
        """Keep the version from being unloaded meanwhile."""
        if name is None:
            yield None
            return
        if name not in self._held:
            raise EngineError(f"The version {name} is not loaded.")
        held = self._held[name]
        held.users += 1
        try:
            yield held
        finally:
            held.users -= 1
            if not held.users:
                held.unused.set()
