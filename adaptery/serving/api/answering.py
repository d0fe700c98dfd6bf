"""One request to the API being answered: held, generated, counted."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from adaptery.errors import AdapteryError, DoesNotFit, UsageError
from adaptery.serving.api.body import Refusal
from adaptery.serving.api.schemas import Generation
from adaptery.serving.api.service import Service, Target
from adaptery.serving.engine import Chunk, GenerationRequest

Prompt = tuple[int, ...]


@dataclass
class Usage:
    """Tokens of one request, counted as they come."""

    prompt: int
    answer: int = 0

    def as_json(self) -> dict[str, int]:
        """The object that OpenAI calls usage."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.answer,
            "total_tokens": self.prompt + self.answer,
        }


@dataclass
class Answering:
    """The chunks of all choices of one request, as they come, each with its choice's number."""

    service: Service
    target: Target
    requests: Sequence[GenerationRequest]
    usage: Usage

    async def chunks(self) -> AsyncGenerator[tuple[int, Chunk], None]:
        """Generate and count. Closing it cancels what is not finished."""
        metrics, model = self.service.metrics, self.target.model
        metrics.prompt_tokens.labels(model).inc(self.usage.prompt)
        chunks = side_by_side(self.service, self.requests)
        with metrics.request(model) as first_token:
            async with aclosing(chunks):
                async for choice, chunk in chunks:
                    if not self.usage.answer:
                        first_token()
                    self.usage.answer += 1
                    metrics.answer_tokens.labels(model).inc()
                    yield choice, chunk


@asynccontextmanager
async def holding(service: Service, target: Target) -> AsyncIterator[Path | None]:
    """Keep the target in the engine meanwhile; gives the directory of a version's files."""
    if target.version is None:
        yield None
        return
    async with AsyncExitStack() as held:
        try:
            hold = service.residency.hold(target.version)
            directory = await held.enter_async_context(hold)
        except AdapteryError:
            service.metrics.requests.labels(target.model, "error").inc()
            raise
        yield directory


def prepare(
    service: Service,
    target: Target,
    body: Generation,
    prompts: Sequence[Prompt],
    wanted: int | None,
    logprobs: int | None,
) -> Answering:
    """`body.n` requests to the engine for each prompt, of at most `wanted` tokens.

    Raises:
        DoesNotFit: a prompt and the answer wanted are longer than the context.
        UsageError: a prompt is empty, or tokens are named that the base does not have.
    """
    check_named_tokens(service, body)
    adapter = target.version.engine_name if target.version else None
    requests = []
    for prompt in prompts:
        check_tokens(service, prompt)
        room = room_after(prompt, wanted, service.engine.max_context)
        if body.min_tokens > room:
            raise Refusal(
                "min_tokens",
                f"min_tokens={body.min_tokens:,}, but the answer has at most {room:,}.",
            )
        for choice in range(body.n):
            sampling = body.sampling(choice, room, logprobs)
            requests.append(GenerationRequest(prompt, sampling, adapter, target.tenant))
    return Answering(service, target, requests, Usage(sum(map(len, prompts))))


def check_tokens(service: Service, prompt: Prompt) -> None:
    if not prompt:
        raise UsageError("The prompt is empty; it must have at least one token.")
    known = vocabulary(service)
    for token in prompt:
        if not 0 <= token < known:
            raise UsageError(
                f"The prompt has the token {token}, but tokens go from 0 to {known - 1}."
            )


def check_named_tokens(service: Service, body: Generation) -> None:
    """Raises `Refusal` for tokens in parameters that the base does not have."""
    named = {"logit_bias": body.logit_bias, "stop_token_ids": body.stop_token_ids}
    known = vocabulary(service)
    for param, tokens in named.items():
        for token in tokens:
            if token >= known:
                message = f"{param} names the token {token}, but tokens go from 0 to {known - 1}."
                raise Refusal(param, message)


def vocabulary(service: Service) -> int:
    """How many tokens the base has scores for."""
    return service.base.config.get("vocab_size") or len(service.base.tokenizer)


def room_after(prompt: Prompt, wanted: int | None, context: int) -> int:
    """Tokens that the answer may have."""
    room = context - len(prompt)
    if room < (wanted or 1):
        asked = f" and {wanted:,} for the answer" if wanted else ""
        raise DoesNotFit(
            f"The context holds {context:,} tokens, but the request asks for {len(prompt):,} in "
            f"the prompt{asked}. Shorten the one or the other."
        )
    return wanted or room


async def side_by_side(
    service: Service, requests: Sequence[GenerationRequest]
) -> AsyncGenerator[tuple[int, Chunk], None]:
    """The chunks of all requests in the order in which they come, with the request's number."""
    arrived: asyncio.Queue[tuple[int, Chunk] | Exception | None] = asyncio.Queue()

    async def follow(number: int, request: GenerationRequest) -> None:
        try:
            async with aclosing(service.engine.generate(request)) as chunks:
                async for chunk in chunks:
                    arrived.put_nowait((number, chunk))
            arrived.put_nowait(None)
        except Exception as error:  # noqa: BLE001 it is raised where the chunks are read
            arrived.put_nowait(error)

    tasks = [asyncio.create_task(follow(*numbered)) for numbered in enumerate(requests)]
    try:
        open_requests = len(tasks)
        while open_requests:
            item = await arrived.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                open_requests -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
