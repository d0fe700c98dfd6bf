"""Every error as an OpenAI error object, with the status that its kind has."""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from adaptery.errors import (
    AdapteryError,
    DoesNotFit,
    EngineError,
    InvalidAdapter,
    NotReady,
    Overloaded,
    ReferenceNotFound,
    RegistryError,
    UsageError,
    VerificationError,
)

log = logging.getLogger(__name__)

BAD_REQUEST, OUR_FAULT = "invalid_request_error", "server_error"


class Kind(NamedTuple):
    """What an error becomes over HTTP."""

    error: type[AdapteryError]
    status: int
    type: str
    code: str | None = None


# The first that fits decides.
KINDS = (
    Kind(ReferenceNotFound, 404, BAD_REQUEST, "model_not_found"),
    Kind(InvalidAdapter, 500, OUR_FAULT, "adapter_refused"),
    Kind(VerificationError, 500, OUR_FAULT, "adapter_refused"),
    Kind(DoesNotFit, 400, BAD_REQUEST, "context_length_exceeded"),
    Kind(UsageError, 400, BAD_REQUEST),
    Kind(RegistryError, 503, OUR_FAULT, "registry_unavailable"),
    Kind(NotReady, 503, OUR_FAULT, "not_ready"),
    Kind(Overloaded, 503, OUR_FAULT, "overloaded"),
    Kind(EngineError, 500, OUR_FAULT, "engine_error"),
    Kind(AdapteryError, 500, OUR_FAULT),
)
FINAL = {"x-should-retry": "false"}  # read by the openai client, which retries every 5xx


def error_object(
    message: str, type: str, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """The body of an error response."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def describe(error: AdapteryError) -> tuple[int, dict[str, Any], Mapping[str, str]]:
    """Status, body and headers for one of our errors."""
    kind = next(kind for kind in KINDS if isinstance(error, kind.error))
    headers = FINAL if kind.code == "adapter_refused" else {}
    param = "model" if kind.code == "model_not_found" else getattr(error, "param", None)
    return kind.status, error_object(str(error), kind.type, kind.code, param), headers


async def on_our_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AdapteryError)
    status, body, headers = describe(error)
    if status >= 500 and not isinstance(error, NotReady | Overloaded):
        log.error("%s %s: %s", request.method, request.url.path, error)
    return JSONResponse(body, status, headers=dict(headers))


async def on_bad_body(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    reason = str(first["msg"]).removeprefix("Value error, ")
    cause = first.get("ctx", {}).get("error")
    param = getattr(cause, "param", None) or where or None
    message = reason if cause else f"{where or 'The request body'}: {reason}."
    return JSONResponse(error_object(message, BAD_REQUEST, None, param), 400)


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = f"{error.detail}: {request.method} {request.url.path}"
    body = error_object(message, BAD_REQUEST)
    return JSONResponse(body, error.status_code, headers=error.headers)


async def on_client_gone(request: Request, error: Exception) -> Response:
    """Nobody reads this; 499 is what access logs show for it."""
    return Response(status_code=499)


async def on_unforeseen_error(request: Request, error: Exception) -> JSONResponse:
    """Starlette logs the error after this; its text may hold what is nobody's business."""
    body = error_object("The server failed on this request; its log says why.", OUR_FAULT)
    return JSONResponse(body, 500)


def add_error_handlers(app: FastAPI) -> None:
    """Let `app` answer every error in the one form."""
    app.add_exception_handler(AdapteryError, on_our_error)
    app.add_exception_handler(RequestValidationError, on_bad_body)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(ClientDisconnect, on_client_gone)
    app.add_exception_handler(Exception, on_unforeseen_error)
