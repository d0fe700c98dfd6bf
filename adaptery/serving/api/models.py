"""`GET /v1/models`: the base, and what its adapters' names, aliases and versions mean now."""

import asyncio
from typing import Any

from fastapi import APIRouter

from adaptery.classification import labels_of
from adaptery.serving.api.service import Service
from adaptery.types import AdapterRef, Version


def model_routes(service: Service) -> APIRouter:
    """The routes that list models."""
    routes = APIRouter()

    @routes.get("/v1/models")
    async def models() -> dict[str, Any]:
        references = await asyncio.to_thread(service.resolver.references)
        base_name = service.resolver.base_name
        adapters = [card(ref, version, base_name) for ref, version in references]
        return {"object": "list", "data": [base_card(service), *adapters]}

    @routes.get("/v1/models/{model:path}")
    async def model(model: str) -> dict[str, Any]:
        version = await service.resolver.resolve(model)
        if version is None:
            return base_card(service)
        return card(AdapterRef.parse(model), version, service.resolver.base_name)

    return routes


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
