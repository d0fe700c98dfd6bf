"""The parts of a worker, put together for one base and one configuration."""

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import uuid4

import torch
from torch import nn
from transformers import PreTrainedModel

from adaptery.base_model import LocalBase
from adaptery.errors import EngineError
from adaptery.serving.config import ServeConfig
from adaptery.serving.engine import Chunk, GenerationRequest
from adaptery.serving.torch.answer import Answer
from adaptery.serving.torch.blocks import BLOCK
from adaptery.serving.torch.cache import KeyValueCache
from adaptery.serving.torch.channel import Started
from adaptery.serving.torch.kernels.build import NoKernels, compiled
from adaptery.serving.torch.kernels.calls import Kernels
from adaptery.serving.torch.loop import StepLoop
from adaptery.serving.torch.memory import cache_blocks
from adaptery.serving.torch.model import (
    Decoder,
    choose_device,
    choose_dtype,
    load_model,
    longest_context,
    stored_dtype,
)
from adaptery.serving.torch.runner import Runner
from adaptery.serving.torch.scheduler import Scheduler
from adaptery.serving.torch.sequence import Request
from adaptery.serving.torch.store import AdapterStore, adapter_budget
from adaptery.serving.torch.trial import try_out
from adaptery.serving.torch.weights import AdapterReader

DEFAULT_CONTEXT = 4096

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Assembly:
    """All that computes."""

    base: LocalBase
    config: ServeConfig
    threads: int
    context: int
    decoder: Decoder
    cache: KeyValueCache
    budget: int
    store: AdapterStore
    loop: StepLoop

    def request(
        self, asked: GenerationRequest, deliver: Callable[[Chunk | EngineError], None]
    ) -> Request:
        """A request as the scheduler takes it, whose answer goes to `deliver`."""
        end_ids, prompt = self.decoder.end_ids, asked.prompt
        answer = Answer(asked.sampling, self.base.tokenizer, end_ids, prompt, deliver)
        seed = f"{asked.adapter or ''} {asked.tenant}" if self.config.prefix_cache else uuid4().hex
        return Request(list(prompt), answer=answer, adapter_name=asked.adapter, seed=seed.encode())

    def started(self) -> Started:
        """What the server is told, and tells others."""
        tokens = self.cache.blocks * BLOCK
        state: dict[str, str | int] = {
            "device": str(self.decoder.device),
            "dtype": str(self.decoder.dtype).removeprefix("torch."),
            "threads": self.threads,
            "kernels": "own" if self.decoder.kernels else "torch",
            "weights_bytes": self.decoder.weights,
            "kv_tokens": tokens,
            "kv_bytes": tokens * self.cache.bytes_per_token(),
            "adapter_bytes": self.budget,
            "max_adapters": self.config.max_adapters,
            "max_sequences": self.config.max_sequences,
            "max_context": self.context,
        }
        return Started(self.context, self.decoder.vocabulary, state)


def assemble(base: LocalBase, config: ServeConfig, flush: Callable[[], None]) -> Assembly:
    """Load the base. `flush` will be called at the end of each step.

    Raises:
        DoesNotFit: there is too little memory for the weights or the cache.
        ConfigError: the device or the context is not to be had.
        UsageError: an architecture that this engine would not compute right.
        BaseNotFound: the files are not a model.
    """
    device, threads = choose_device(config.device), use_threads(config.threads)
    model, kernels = load(base, config, device, threads)
    context = longest_context(model, config.max_context, DEFAULT_CONTEXT)
    decoder, tried = try_out(model, base, kernels)
    leave_file(model)
    cache = tried.resized(cache_blocks(config, context, tried.bytes_per_token(), device))
    budget, active = adapter_budget(config, device), decoder.active
    reader = AdapterReader(decoder.layers, decoder.dtype, decoder.device, active.prepared)
    store = AdapterStore(
        reader.open,
        budget=int(budget / active.places),
        limit=config.max_adapters,
        on_change=lambda: loop.wake(),
    )
    scheduler = Scheduler(cache, store, config.max_sequences, config.step_tokens)
    loop = StepLoop(Runner(decoder, cache), scheduler, flush)
    return Assembly(base, config, threads, context, decoder, cache, budget, store, loop)


def load(
    base: LocalBase, config: ServeConfig, device: torch.device, threads: int
) -> tuple[PreTrainedModel, Kernels | None]:
    """The base's weights, and the kernels for them if there are any."""
    dtype = choose_dtype(config.dtype, device, stored_dtype(base))
    if config.kernels == "off" or device.type != "cpu":
        return load_model(base, device, dtype), None
    with ThreadPoolExecutor() as beside:
        beside.submit(compiled)  # the first time this takes as long as loading does
        model = load_model(base, device, dtype)
    try:
        return model, Kernels(dtype, threads)
    except NoKernels as error:
        log.warning("PyTorch's operations are used instead of faster kernels: %s.", error)
        return model, None


def leave_file(model: nn.Module) -> None:
    """Copy what is left of the tensors as they were read: one alone would keep all of the file's
    pages with this process, beside the weights that were made of them."""
    for parameter in model.parameters():
        if parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()


def use_threads(count: int | None) -> int:
    """Compute with so many; None means all cores that this process may use. Gives their number.

    Who sets OMP_NUM_THREADS has chosen already.
    """
    if count is None and "OMP_NUM_THREADS" not in os.environ:
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if count is not None:
        torch.set_num_threads(count)
    chosen: int = torch.get_num_threads()
    return chosen
