"""`POST /v1/chat/completions`."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from time import time
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from adaptery.base_model import LocalBase
from adaptery.serving.api.answering import Answering, holding, prepare
from adaptery.serving.api.schemas import ChatRequest
from adaptery.serving.api.service import Service
from adaptery.serving.api.streaming import EventStream, unless_gone
from adaptery.serving.engine import Chunk
from adaptery.serving.prompts import chat_template, render_chat, token_text


def chat_routes(service: Service) -> APIRouter:
    """The route of chat completions."""
    routes = APIRouter()

    @routes.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatRequest, request: Request) -> Response:
        service.require_ready()
        if body.form:
            await asyncio.to_thread(body.check_form)
        target = await service.route(body.model, await request.json(), request.headers)
        async with AsyncExitStack() as resources:
            directory = await resources.enter_async_context(holding(service, target))
            messages = [message.plain() for message in body.messages]
            template = chat_template(directory)
            prompt = await asyncio.to_thread(render_chat, service.base, messages, template)
            wanted = body.max_completion_tokens or body.max_tokens
            answering = prepare(service, target, body, [prompt], wanted, body.top)
            if body.stream:
                events = chat_events(body, answering)
                return EventStream(events, resources.pop_all(), target.headers)
            reply = await unless_gone(request, whole_chat(body, answering))
            return JSONResponse(reply, headers=target.headers)

    return routes


async def whole_chat(body: ChatRequest, answering: Answering) -> dict[str, Any]:
    """The answer in one piece."""
    chunks: list[list[Chunk]] = [[] for _ in range(body.n)]
    async for choice, chunk in answering.chunks():
        chunks[choice].append(chunk)
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": "".join(c.text for c in answer)},
            "logprobs": scores(body, answering.service.base, answer),
            "finish_reason": answer[-1].finish_reason,
        }
        for index, answer in enumerate(chunks)
    ]
    head = heading(answering, "chat.completion")
    return {**head, "choices": choices, "usage": answering.usage.as_json()}


async def chat_events(
    body: ChatRequest, answering: Answering
) -> AsyncGenerator[dict[str, Any], None]:
    """The answer piece by piece."""
    head = heading(answering, "chat.completion.chunk")
    if body.stream_options.include_usage:
        head["usage"] = None
    for index in range(body.n):
        yield {**head, "choices": [part(index, {"role": "assistant", "content": ""})]}
    chunks = answering.chunks()
    try:
        async for index, chunk in chunks:
            if chunk.text or body.logprobs or chunk.finish_reason:
                delta = {"content": chunk.text} if chunk.text else {}
                logprobs = scores(body, answering.service.base, [chunk])
                choice = part(index, delta, logprobs, chunk.finish_reason)
                yield {**head, "choices": [choice]}
    finally:
        await chunks.aclose()
    if body.stream_options.include_usage:
        yield {**head, "choices": [], "usage": answering.usage.as_json()}


def heading(answering: Answering, kind: str) -> dict[str, Any]:
    """What every object of one answer has. `model` is the version that answers."""
    return {
        "id": f"chatcmpl-{uuid4().hex}",
        "object": kind,
        "created": int(time()),
        "model": answering.target.model,
    }


def part(
    index: int,
    delta: dict[str, str],
    logprobs: dict[str, Any] | None = None,
    finish_reason: str | None = None,
) -> dict[str, Any]:
    """One choice of a streamed object."""
    return {
        "index": index,
        "delta": delta,
        "logprobs": logprobs,
        "finish_reason": finish_reason,
    }


def scores(body: ChatRequest, base: LocalBase, chunks: list[Chunk]) -> dict[str, Any] | None:
    """Log-probabilities of tokens, if they were asked for. The end token's are among them."""
    if not body.logprobs:
        return None
    content = [
        {
            **score(base, chunk.token, chunk.logprob),
            "top_logprobs": [score(base, *other) for other in chunk.top_logprobs],
        }
        for chunk in chunks
    ]
    return {"content": content, "refusal": None}


def score(base: LocalBase, token: int, logprob: float | None) -> dict[str, Any]:
    """A token with its log-probability. Part of a character has no bytes that can be told."""
    text = token_text(base, token)
    known = "\N{REPLACEMENT CHARACTER}" not in text
    return {"token": text, "logprob": logprob, "bytes": list(text.encode()) if known else None}
