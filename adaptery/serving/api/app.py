"""Puts the application together."""

from fastapi import FastAPI

from adaptery.serving.api.auth import ApiKeys
from adaptery.serving.api.chat import chat_routes
from adaptery.serving.api.classify import classify_routes
from adaptery.serving.api.completions import completion_routes
from adaptery.serving.api.errors import add_error_handlers
from adaptery.serving.api.models import model_routes
from adaptery.serving.api.service import Service
from adaptery.serving.api.status import status_routes
from adaptery.serving.config import ServeConfig
from adaptery.serving.engine import Engine
from adaptery.serving.router import ByName, Router
from adaptery.types import VersionSource


def create_app(
    engine: Engine, registry: VersionSource, config: ServeConfig, router: Router | None = None
) -> FastAPI:
    """The OpenAI-style API of one engine and one registry.

    Starting and closing the engine is the caller's business; until it runs, `/ready` and requests
    for answers get 503.
    """
    app = FastAPI(title="adaptery", docs_url="/docs", redoc_url=None)
    service = app.state.service = Service(engine, registry, config, router or ByName())
    kinds = (chat_routes, completion_routes, classify_routes, model_routes, status_routes)
    for routes in kinds:
        app.include_router(routes(service))
    add_error_handlers(app)
    if config.api_keys:
        keys = [key.get_secret_value() for key in config.api_keys]
        app.add_middleware(ApiKeys, keys=keys)
    return app
