"""The API key. Everything needs it except the two questions that load balancers ask."""

import hmac
from collections.abc import Mapping, Sequence
from hashlib import sha256

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from adaptery.serving.api.errors import error_object

OPEN = frozenset({"/health", "/ready"})


class ApiKeys:
    """Lets only requests through that bear one of `keys`."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN or self._allows(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        message = "A valid API key is needed: send it as 'Authorization: Bearer KEY'."
        body = error_object(message, "authentication_error", "invalid_api_key")
        response = JSONResponse(body, 401, headers={"www-authenticate": "Bearer"})
        await response(scope, receive, send)

    def _allows(self, headers: Headers) -> bool:
        """Whether the request's key is one of ours; takes as long for any wrong key."""
        key = bearer(headers)
        matches = [hmac.compare_digest(key, known) for known in self._keys]
        return any(matches)


def bearer(headers: Mapping[str, str]) -> bytes:
    """The key that a request bears; empty if it bears none."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    return given.strip().encode("latin-1") if scheme.lower() == "bearer" else b""


def tenant_of(headers: Mapping[str, str]) -> str:
    """Whose request it is: those of one key are one tenant's, and nobody learns the key by it."""
    key = bearer(headers)
    return sha256(key).hexdigest() if key else ""
