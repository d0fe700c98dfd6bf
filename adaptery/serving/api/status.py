"""`GET /health`, `/ready` and `/metrics`, for those who watch over the server."""

from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from adaptery.serving.api.service import Service


def status_routes(service: Service) -> APIRouter:
    """The routes for load balancers and Prometheus."""
    routes = APIRouter()

    @routes.get("/health")
    async def health() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @routes.get("/ready")
    async def ready() -> dict[str, Any]:
        """The engine answers; what it runs with."""
        service.require_ready()
        return {"status": "ready", "engine": dict(service.engine.state)}

    @routes.get("/metrics")
    async def metrics() -> Response:
        told = service.metrics
        told.resident.clear()
        for version in service.residency.versions():
            told.resident.labels(str(version)).set(1)
        return Response(generate_latest(told.registry), media_type=CONTENT_TYPE_LATEST)

    return routes
