"""How long the Hub may take: limits of time, repeats, and the pauses that it asks for itself."""

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

# The root of what the client's HTTP library raises: httpx in its version 1, httpx2 in version 2.
from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]
from huggingface_hub.utils import get_session, parse_ratelimit_headers  # type: ignore[attr-defined]

from adaptery.errors import RegistryError, RemoteError, join

T = TypeVar("T")
TransportError = HTTPError

CONNECT_S, ANSWER_S = 10.0, 60.0
_PAUSES_S = (0.25, 1.0, 2.0)
_LONGEST_PAUSE_S = 60.0
_FRUITLESS_TRIES = 10
_CONTENDED_S, _UNCERTAIN_S = 1.0, 4.0


def limit(answer_s: float) -> None:
    """Bound every wait in the client's session. By itself it waits for ever, and as it is told."""
    # Called before each use: the client makes a new session after a failed connection or a fork.
    session = get_session()
    session.timeout = (CONNECT_S, answer_s, answer_s, answer_s)
    hooks = session.event_hooks
    if _refuse_long_pause not in hooks["response"]:
        session.event_hooks = {**hooks, "response": [*hooks["response"], _refuse_long_pause]}


def repeat(call: Callable[[], T]) -> T:
    """What `call` gives, after some more tries if the Hub fails for the moment.

    Only for what may happen twice.
    """
    for pause in _PAUSES_S:
        try:
            return call()
        except (TransportError, ValueError) as error:
            cause = cause_of(error)
            if not isinstance(cause, TransportError) or not passes(cause):
                raise
            time.sleep(max(pause, pause_asked(cause)))
    return call()


def cause_of(error: Exception) -> BaseException:
    """What went wrong, which the client wraps if it does so in a transfer."""
    wrapped = isinstance(error, RuntimeError | ValueError) and error.__cause__
    return wrapped or error


def passes(error: TransportError) -> bool:
    """Whether the same call may succeed later."""
    if not isinstance(error, HfHubHTTPError):
        return True
    status = error.response.status_code
    return bool(status in (408, 429) or status >= 500)


def pause_asked(error: TransportError) -> float:
    """Seconds that the Hub asks to wait, 0 if it says nothing."""
    return _pause(error.response) if isinstance(error, HfHubHTTPError) else 0.0


class Tries:
    """Tries of something that others do at the same time.

    Whoever fails because another was first tries again without end: each time somebody got ahead.
    Without anybody's progress there is an end.
    """

    def __init__(self) -> None:
        self._seen: set[str | None] = set()
        self._count = self._fruitless = 0

    def again(self, head: str | None, error: RegistryError, pause: float = 0.0) -> None:
        """Wait before another try, after one on top of `head` failed; or raise `error`."""
        self._count += 1
        self._fruitless = self._fruitless + 1 if head in self._seen else 0
        self._seen.add(head)
        if self._fruitless == _FRUITLESS_TRIES:
            raise RemoteError(
                join(
                    str(error),
                    f"That was try {self._count}. The same command may safely be repeated: nothing "
                    "is published or moved twice.",
                )
            ) from error
        longest = _UNCERTAIN_S if self._fruitless else _CONTENDED_S
        time.sleep(max(pause, random.uniform(0, min(longest, 0.05 * 2**self._count))))


def _pause(response: Any) -> float:
    limits = parse_ratelimit_headers(response.headers)
    if response.status_code == 429 and limits is not None and limits.remaining == 0:
        return float(limits.reset_in_seconds)
    asked = response.headers.get("Retry-After", "").strip()
    return float(asked) if asked.isdecimal() else 0.0


def _refuse_long_pause(response: Any) -> None:
    """Raises `RemoteError` where the client would sleep for as long as the Hub likes."""
    if response.status_code >= 400 and _pause(response) > _LONGEST_PAUSE_S:
        raise RemoteError(
            f"The Hub answers {response.status_code} and asks to come back in "
            f"{_pause(response):.0f} s. Try again then."
        )
