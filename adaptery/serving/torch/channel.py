"""What the server and the engine's worker say to one another, through a pair of sockets.

Each message is a pickle behind its length; both ends are ours, and nobody else can reach them.
"""

import pickle
import struct
from asyncio import StreamReader
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from adaptery.base_model import LocalBase
from adaptery.errors import AdapteryError, EngineError
from adaptery.serving.config import ServeConfig
from adaptery.serving.engine import Chunk, GenerationRequest

LENGTH = struct.Struct("!I")
PROTOCOL = 5  # of pickle


@dataclass(frozen=True, slots=True)
class Fault:
    """An error on its way to the other end, where it is raised as the same kind."""

    kind: type[AdapteryError]
    text: str

    @classmethod
    def of(cls, error: BaseException) -> "Fault":
        """`error`; one that is not ours becomes an `EngineError`."""
        if isinstance(error, AdapteryError):
            return cls(type(error), str(error))
        return cls(EngineError, f"The engine failed: {type(error).__name__}: {error}")

    def error(self) -> AdapteryError:
        """What to raise."""
        return self.kind.__new__(self.kind, self.text)  # some kinds make their text themselves


# To the worker.


@dataclass(frozen=True, slots=True)
class Begin:
    """The first message: what to load, and how."""

    base: LocalBase
    config: ServeConfig


@dataclass(frozen=True, slots=True)
class Ask:
    """A request. What belongs to it bears its number, which is never used again."""

    number: int
    request: GenerationRequest


@dataclass(frozen=True, slots=True)
class Cancel:
    """Nobody waits for this request any more."""

    number: int


@dataclass(frozen=True, slots=True)
class Register:
    """Read this version and check it; `Registered` with the same number comes back."""

    number: int
    name: str
    directory: Path


@dataclass(frozen=True, slots=True)
class Forget:
    """No request will name this version until it is registered again."""

    name: str


@dataclass(frozen=True, slots=True)
class Pin:
    """Versions to keep in memory, and no others for that reason."""

    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class Stop:
    """End after the step under way."""


# From the worker.


@dataclass(frozen=True, slots=True)
class Started:
    """The base is loaded; requests can come. `state`: see `Engine.state`."""

    max_context: int
    vocabulary: int
    state: Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class Failed:
    """The last message: the worker could not start, or a step failed."""

    fault: Fault


@dataclass(frozen=True, slots=True)
class Registered:
    """How registering a version went."""

    number: int
    fault: Fault | None


@dataclass(frozen=True, slots=True)
class Chunks:
    """All that one step added to answers, each chunk with its request's number."""

    items: list[tuple[int, Chunk | Fault]]


def frame(message: object) -> bytes:
    """A message as it travels."""
    content = pickle.dumps(message, PROTOCOL)
    return LENGTH.pack(len(content)) + content


def messages(file: BinaryIO) -> Iterator[Any]:
    """The messages of the other end, until it is gone."""
    while len(head := file.read(LENGTH.size)) == LENGTH.size:
        (length,) = LENGTH.unpack(head)
        if len(content := file.read(length)) < length:
            return
        yield pickle.loads(content)


async def receive(reader: StreamReader) -> Any:
    """The next message. Raises `asyncio.IncompleteReadError` when the other end is gone."""
    (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    return pickle.loads(await reader.readexactly(length))
