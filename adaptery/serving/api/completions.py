"""`POST /v1/completions`: text or tokens in, their continuation out."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from itertools import accumulate
from time import time
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from adaptery.base_model import LocalBase
from adaptery.serving.api.answering import Answering, Prompt, holding, prepare
from adaptery.serving.api.schemas import CompletionRequest
from adaptery.serving.api.service import Service
from adaptery.serving.api.streaming import EventStream, unless_gone
from adaptery.serving.engine import Chunk
from adaptery.serving.prompts import encode, token_text


def completion_routes(service: Service) -> APIRouter:
    """The route of plain completions."""
    routes = APIRouter()

    @routes.post("/v1/completions", response_model=None)
    async def complete(body: CompletionRequest, request: Request) -> Response:
        service.require_ready()
        if body.form:
            await asyncio.to_thread(body.check_form)
        target = await service.route(body.model, await request.json(), request.headers)
        async with AsyncExitStack() as resources:
            await resources.enter_async_context(holding(service, target))
            prompts = await asyncio.to_thread(tokens_of, service.base, body.prompt)
            answering = prepare(service, target, body, prompts, body.max_tokens, body.logprobs)
            if body.stream:
                events = completion_events(body, answering)
                return EventStream(events, resources.pop_all(), target.headers)
            reply = await unless_gone(request, whole_completion(body, answering))
            return JSONResponse(reply, headers=target.headers)

    return routes


def tokens_of(
    base: LocalBase, prompt: str | list[int] | list[str] | list[list[int]]
) -> list[Prompt]:
    """The prompts of a request, which may be one or several, as text or as tokens."""
    match prompt:
        case str():
            return [encode(base, prompt, special=True)]
        case [int(), *_]:
            return [tuple(token for token in prompt if isinstance(token, int))]
        case _:
            return [
                encode(base, one, special=True) if isinstance(one, str) else tuple(one)
                for one in prompt
                if not isinstance(one, int)
            ]


async def whole_completion(body: CompletionRequest, answering: Answering) -> dict[str, Any]:
    """The answer in one piece."""
    chunks: list[list[Chunk]] = [[] for _ in answering.requests]
    async for index, chunk in answering.chunks():
        chunks[index].append(chunk)
    choices = [
        choice(body, answering.service.base, index, answer) for index, answer in enumerate(chunks)
    ]
    return {**heading(answering), "choices": choices, "usage": answering.usage.as_json()}


async def completion_events(
    body: CompletionRequest, answering: Answering
) -> AsyncGenerator[dict[str, Any], None]:
    """The answer piece by piece."""
    head = heading(answering)
    if body.stream_options.include_usage:
        head["usage"] = None
    chunks = answering.chunks()
    try:
        async for index, chunk in chunks:
            if chunk.text or body.logprobs is not None or chunk.finish_reason:
                piece = choice(body, answering.service.base, index, [chunk])
                yield {**head, "choices": [piece]}
    finally:
        await chunks.aclose()
    if body.stream_options.include_usage:
        yield {**head, "choices": [], "usage": answering.usage.as_json()}


def heading(answering: Answering) -> dict[str, Any]:
    """What every object of one answer has. `model` is the version that answers."""
    return {
        "id": f"cmpl-{uuid4().hex}",
        "object": "text_completion",
        "created": int(time()),
        "model": answering.target.model,
    }


def choice(
    body: CompletionRequest, base: LocalBase, index: int, chunks: list[Chunk]
) -> dict[str, Any]:
    """One choice, or a piece of it."""
    return {
        "index": index,
        "text": "".join(chunk.text for chunk in chunks),
        "logprobs": scores(base, chunks) if body.logprobs is not None else None,
        "finish_reason": chunks[-1].finish_reason,
    }


def scores(base: LocalBase, chunks: list[Chunk]) -> dict[str, Any]:
    """Log-probabilities of tokens. Offsets count characters from the start of this piece."""
    tokens = [token_text(base, chunk.token) for chunk in chunks]
    return {
        "tokens": tokens,
        "token_logprobs": [chunk.logprob for chunk in chunks],
        "top_logprobs": [
            {token_text(base, token): logprob for token, logprob in chunk.top_logprobs}
            for chunk in chunks
        ],
        "text_offset": list(accumulate(map(len, tokens), initial=0))[:-1],
    }
