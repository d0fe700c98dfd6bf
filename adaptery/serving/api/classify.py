"""`POST /v1/classify`: texts in, their classes out, with probabilities.

The version is asked as it was in training, and decides by its calibrated thresholds. These are read
with every request, so that a new calibration counts from the next one on.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from time import time
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from adaptery.classification import Classification, WordTree
from adaptery.errors import UsageError
from adaptery.serving.api.answering import (
    Answering,
    Prompt,
    Usage,
    check_tokens,
    holding,
    room_after,
)
from adaptery.serving.api.schemas import ClassifyRequest
from adaptery.serving.api.service import Service, Target
from adaptery.serving.api.streaming import unless_gone
from adaptery.serving.engine import GenerationRequest, SamplingParams
from adaptery.serving.prompts import chat_template, render_chat
from adaptery.serving.words import word_tree
from adaptery.types import Version


def classify_routes(service: Service) -> APIRouter:
    """The route of classification."""
    routes = APIRouter()

    @routes.post("/v1/classify", response_model=None)
    async def classify(body: ClassifyRequest, request: Request) -> Response:
        service.require_ready()
        target = await service.route(body.model, await request.json(), request.headers)
        version, classes = told_by_words(target)
        inputs = body.texts(classes.texts)
        offsets = await asyncio.to_thread(read_offsets, service, version, classes)
        async with holding(service, target) as directory:
            template = await asyncio.to_thread(chat_template, directory)
            tree, prompts = await asyncio.to_thread(questions, service, classes, inputs, template)
            answering = ask(service, target, tree, prompts)
            scores = await unless_gone(request, gather(answering, tree, len(prompts)))
        reply = {
            "id": f"classify-{uuid4().hex}",
            "object": "list",
            "created": int(time()),
            "model": target.model,
            "offsets": dict(zip(classes.labels, offsets, strict=True)) if offsets else None,
            "data": [told(classes, number, row, offsets) for number, row in enumerate(scores)],
            "usage": answering.usage.as_json(),
        }
        return JSONResponse(reply, headers=target.headers)

    return routes


def told_by_words(target: Target) -> tuple[Version, Classification]:
    """The version and its classes.

    Raises:
        UsageError: the target tells no classes, or tells them by a head.
    """
    if target.version is None:
        raise UsageError(
            f"{target.model} is the base alone, which was not trained to tell classes. Name a "
            "version that was."
        )
    classes = Classification.of(target.version.manifest)
    if classes.way == "head":
        raise UsageError(
            f"{target.model} tells classes by a classification head, which this server's engine "
            "cannot compute. Train with task.way=words to have it served, or measure it with "
            "`adapters eval`."
        )
    return target.version, classes


def read_offsets(service: Service, version: Version, classes: Classification) -> tuple[float, ...]:
    """The version's thresholds as they are now; none if it is not calibrated."""
    return classes.read_offsets(service.registry.standing(version.name)[version.number].tags)


def questions(
    service: Service,
    classes: Classification,
    inputs: Sequence[tuple[str, ...]],
    template: str | None,
) -> tuple[WordTree, list[Prompt]]:
    """The choices between label words, and the question that each input is."""
    prompts = [render_chat(service.base, classes.messages(texts), template) for texts in inputs]
    return word_tree(service.base, classes, template), prompts


def ask(service: Service, target: Target, tree: WordTree, prompts: Sequence[Prompt]) -> Answering:
    """A request to the engine for each choice of each prompt, prompt by prompt.

    Raises:
        DoesNotFit: a question is longer than the context.
    """
    assert target.version is not None  # told_by_words has refused the base
    requests = []
    for prompt in prompts:
        check_tokens(service, prompt)
        for fork in tree.forks:
            question = (*prompt, *fork.begun)
            room_after(question, 1, service.engine.max_context)
            sampling = SamplingParams(max_tokens=1, temperature=0, scored=fork.tokens)
            requests.append(
                GenerationRequest(question, sampling, target.version.engine_name, target.tenant)
            )
    usage = Usage(sum(len(request.prompt) for request in requests))
    return Answering(service, target, requests, usage)


async def gather(answering: Answering, tree: WordTree, inputs: int) -> list[list[float]]:
    """The classes' log-probabilities for each input."""
    choices: dict[int, tuple[float, ...]] = {}
    async for number, chunk in answering.chunks():
        choices[number] = chunk.scores
    forks = len(tree.forks)
    return [
        tree.scores([choices[number * forks + fork] for fork in range(forks)])
        for number in range(inputs)
    ]


def told(
    classes: Classification, number: int, scores: Sequence[float], offsets: Sequence[float]
) -> Mapping[str, Any]:
    """What is said of one input. Probabilities are the model's own; thresholds only decide."""
    return {
        "index": number,
        "label": classes.decide(scores, offsets),
        "probabilities": {
            label: math.exp(score) for label, score in zip(classes.labels, scores, strict=True)
        },
    }
