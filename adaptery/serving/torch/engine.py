"""The `Engine` that the server sees: asyncio on this side, the step loop on the other."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch

from adaptery.base_model import LocalBase
from adaptery.errors import DoesNotFit, EngineError, NotReady
from adaptery.serving.config import ServeConfig
from adaptery.serving.engine import Chunk, GenerationRequest
from adaptery.serving.torch.answer import Answer
from adaptery.serving.torch.loop import StepLoop
from adaptery.serving.torch.lora import ActiveAdapters, Adapter
from adaptery.serving.torch.model import (
    Decoder,
    choose_device,
    choose_dtype,
    load_model,
    longest_context,
)
from adaptery.serving.torch.runner import Runner
from adaptery.serving.torch.scheduler import Scheduler
from adaptery.serving.torch.sequence import Request
from adaptery.serving.torch.trial import try_out
from adaptery.serving.torch.weights import read_adapter

DEFAULT_CONTEXT = 4096
LOADERS = 2  # adapters read at the same time


@dataclass(eq=False)
class Held:
    """A loaded adapter and how many answers use it."""

    adapter: Adapter
    users: int = 0
    unused: asyncio.Event = field(default_factory=asyncio.Event)


class TorchEngine:
    """The embedded engine. Requests to many adapters and to the base share every step."""

    def __init__(self, base: LocalBase, config: ServeConfig) -> None:
        self.base = base
        self.max_context = config.max_context or DEFAULT_CONTEXT  # exact once started
        self._config = config
        self._pool = ThreadPoolExecutor(LOADERS, thread_name_prefix="adaptery-load")
        self._held: dict[str, Held] = {}
        self._decoder: Decoder | None = None
        self._steps: StepLoop | None = None

    async def start(self) -> None:
        """Load the base and begin to answer.

        Raises:
            DoesNotFit: there is too little memory for the weights or the cache.
            ConfigError: the device or the context is not to be had.
            UsageError: an architecture that this engine would not compute right.
            BaseNotFound: the files are not a model.
        """
        steps = await asyncio.get_running_loop().run_in_executor(self._pool, self._load_base)
        steps.start()
        self._steps = steps

    def _load_base(self) -> StepLoop:
        config = self._config
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        device = choose_device(config.device)
        model = load_model(self.base, device, choose_dtype(config.dtype, device))
        context = longest_context(model, config.max_context, DEFAULT_CONTEXT)
        decoder, tried = try_out(model, self.base, context)
        cache = tried.resized(config.max_sequences, context)
        runner = Runner(decoder, cache, ActiveAdapters(decoder.layers))
        self._decoder, self.max_context = decoder, context
        return StepLoop(runner, Scheduler(cache, config.step_tokens))

    async def close(self) -> None:
        """Stop; requests in flight get an `EngineError`."""
        steps, self._steps = self._steps, None
        if steps is not None:
            await asyncio.to_thread(steps.stop)
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def healthy(self) -> bool:
        """Whether requests can be answered."""
        return self._steps is not None and self._steps.running

    async def load(self, name: str, directory: Path) -> None:
        """Hold the version `name`, read in a thread of its own. A no-op if it is held already.

        Raises:
            InvalidAdapter: it cannot be applied in full on this base.
        """
        if name in self._held:
            return
        decoder = self._require_base()
        adapter = await asyncio.get_running_loop().run_in_executor(
            self._pool,
            read_adapter,
            name,
            directory,
            decoder.layers,
            decoder.dtype,
            decoder.device,
        )
        self._held.setdefault(name, Held(adapter))

    async def unload(self, name: str) -> None:
        """Refuse new requests for `name` at once; return when the last one is answered."""
        held = self._held.pop(name, None)
        if held is not None and held.users:
            await held.unused.wait()

    def loaded(self) -> frozenset[str]:
        """The versions held now."""
        return frozenset(self._held)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        """Answer token by token. Closing the generator cancels the request.

        Raises:
            DoesNotFit: the prompt and `max_tokens` exceed `max_context`.
            EngineError: the request failed; others go on.
        """
        self._check(request)
        held = self._use(request.adapter)
        arrived: asyncio.Queue[Chunk | EngineError] = asyncio.Queue()
        waiting = Request(
            list(request.prompt),
            adapter=held.adapter if held else None,
            answer=self._answer(request, into(arrived)),
        )
        try:
            self._submit(waiting)
            while True:
                chunk = await arrived.get()
                if isinstance(chunk, EngineError):
                    raise chunk
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            waiting.cancelled = True
            release(held)

    def _answer(self, request: GenerationRequest, deliver: Callable[..., None]) -> Answer:
        end_ids = self._require_base().end_ids
        return Answer(request.sampling, self.base.tokenizer, end_ids, deliver)

    def _require_base(self) -> Decoder:
        if self._decoder is None:
            raise NotReady("The base is not loaded yet.")
        return self._decoder

    def _submit(self, waiting: Request) -> None:
        if self._steps is None:
            raise NotReady("The engine is not running.")
        self._steps.submit(waiting)

    def _check(self, request: GenerationRequest) -> None:
        """Do nothing if `request` is one that can be computed."""
        vocabulary = self._require_base().vocabulary
        prompt, asked = len(request.prompt), request.sampling.max_tokens
        if prompt + asked > self.max_context:
            raise DoesNotFit(
                f"The prompt has {prompt:,} tokens and {asked:,} are asked for, but the context "
                f"holds {self.max_context:,}."
            )
        if not prompt or not all(0 <= i < vocabulary for i in request.prompt):
            raise EngineError("The prompt is empty or has tokens that the base does not know.")

    def _use(self, name: str | None) -> Held | None:
        if name is None:
            return None
        if name not in self._held:
            raise EngineError(f"The version {name} is not loaded.")
        held = self._held[name]
        held.users += 1
        return held


def release(held: Held | None) -> None:
    """One answer less uses the adapter."""
    if held is not None:
        held.users -= 1
        if not held.users:
            held.unused.set()


def into(queue: "asyncio.Queue[Chunk | EngineError]") -> Callable[[Chunk | EngineError], None]:
    """A function for other threads that puts what it gets into `queue`."""
    loop = asyncio.get_running_loop()

    def deliver(item: Chunk | EngineError) -> None:
        if not loop.is_closed():  # else nobody is left to wait
            loop.call_soon_threadsafe(queue.put_nowait, item)

    return deliver
