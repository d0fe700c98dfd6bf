"""Server-sent events, and the end of requests whose client has gone."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from adaptery.errors import AdapteryError
from adaptery.serving.api.errors import describe

log = logging.getLogger(__name__)
T = TypeVar("T")


class EventStream(StreamingResponse):
    """Objects as server-sent events, then `[DONE]`; closes `resources` however it ends."""

    def __init__(
        self,
        events: AsyncGenerator[dict[str, Any], None],
        resources: AsyncExitStack,
        headers: Mapping[str, str],
    ) -> None:
        self._events = events
        self._resources = resources
        headers = {**headers, "cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(lines(events), headers=headers, media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._resources:
            try:
                await super().__call__(scope, receive, send)
            finally:
                await self._events.aclose()


async def lines(events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    """The text of events. An error in the midst of an answer is its last event."""
    try:
        async for event in events:
            yield data(event)
        yield "data: [DONE]\n\n"
    except AdapteryError as error:
        log.error("An answer broke off: %s", error)
        yield data(describe(error)[1])


def data(event: dict[str, Any]) -> str:
    return f"data: {json.dumps(event, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client closes its connection.

    Raises:
        ClientDisconnect: it did.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())  # the body is read: only the end can come
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)
