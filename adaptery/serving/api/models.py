"""`GET /v1/models`: the base, and what its adapters' names, aliases and versions mean now.

All of them, or `limit` of them `after` one, as in OpenAI's other lists: names come before versions.
"""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from adaptery.classification import labels_of
from adaptery.errors import ReferenceNotFound
from adaptery.serving.api.service import Service
from adaptery.types import AdapterRef, Version

Limit = Annotated[int | None, Query(ge=1)]


def model_routes(service: Service) -> APIRouter:
    """The routes that list models."""
    routes = APIRouter()

    @routes.get("/v1/models")
    async def models(limit: Limit = None, after: str | None = None) -> JSONResponse:
        references = await asyncio.to_thread(service.resolver.references)
        base_name = service.resolver.base_name
        ids = [base_name, *(str(ref) for ref, _ in references)]
        first, end = bounds(ids, limit, after)
        cards = [card(*named, base_name) for named in references[max(first - 1, 0) : end - 1]]
        if first == 0:
            cards.insert(0, base_card(service))
        more = {"has_more": end < len(ids), "last_id": ids[end - 1]}
        return JSONResponse({"object": "list", "data": cards, **more})  # unchecked, for speed

    @routes.get("/v1/models/{model:path}")
    async def model(model: str) -> dict[str, Any]:
        version = await service.resolver.resolve(model)
        if version is None:
            return base_card(service)
        return card(AdapterRef.parse(model), version, service.resolver.base_name)

    return routes


def bounds(ids: Sequence[str], limit: int | None, after: str | None) -> tuple[int, int]:
    """Where a page begins and ends. Raises `ReferenceNotFound` if there is no id `after`."""
    if after is not None and after not in ids:
        raise ReferenceNotFound(
            f"There is no model {after!r} to go on after: give the `last_id` of a page."
        )
    first = ids.index(after) + 1 if after is not None else 0
    return first, len(ids) if limit is None else min(first + limit, len(ids))


def base_card(service: Service) -> dict[str, Any]:
    """The base as an entry of the list."""
    return {
        "id": service.resolver.base_name,
        "object": "model",
        "created": 0,
        "owned_by": "adaptery",
        "root": service.base.identity.id,
        "parent": None,
        "digest": service.base.identity.digest,
        "max_model_len": service.engine.max_context,
    }


def card(ref: AdapterRef, version: Version, base_name: str) -> dict[str, Any]:
    """A reference as an entry of the list. `root` is the version that it means now."""
    return {
        "id": str(ref),
        "object": "model",
        "created": int(version.created_at.timestamp()),
        "owned_by": version.created_by,
        "root": str(version),
        "parent": base_name,
        "digest": version.digest,
        **({"labels": list(labels)} if (labels := labels_of(version.manifest)) else {}),
    }
