"""Which adapters are in memory, of all that are known: read when wanted, the idlest goes first.

The server registers and forgets versions. The step thread acquires and releases them and never
waits: what is not in memory is asked for, and there at a later step. Two threads read. All is
decided under one lock, which nobody holds for longer than that takes.
"""

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from adaptery.errors import AdapteryError, EngineError, InvalidAdapter
from adaptery.serving.config import ServeConfig
from adaptery.serving.torch.lora import Adapter
from adaptery.serving.torch.memory import available_memory
from adaptery.serving.torch.residents import AdapterFile, Entry, Residents, marks_of

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

READERS = 2  # adapters read at the same time
NICE = 10  # how far readers stand back behind steps
STOPPED = "The engine was stopped."
SHARE = 4  # of the memory that is free at start, adapters take one part in so many


class AdapterStore:
    """Knows any number of versions and keeps `limit` of them, `budget` bytes together, in memory.

    Args:
        open_adapter: gives the file of a version; called, like its `read`, in the readers' threads.
        budget: bytes of all adapters that are in memory or being read.
        limit: how many these may be.
        on_change: called, in a reader's thread, when it is worth asking for a version again.
    """

    def __init__(
        self,
        open_adapter: Callable[[str, Path], AdapterFile],
        *,
        budget: int,
        limit: int,
        on_change: Callable[[], None],
    ) -> None:
        self._open_adapter = open_adapter
        self._on_change = on_change
        self._residents = Residents(budget, limit)
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(READERS, "adaptery-read", initializer=give_way)
        self._entries: dict[str, Entry] = {}
        self._queue: dict[Entry, None] = {}  # to be read, in the order in which they were asked for
        self._wanted: set[Entry] = set()  # asked for by the step thread, which has not got them yet
        self._ahead: tuple[str, ...] = ()
        self._pins: frozenset[str] = frozenset()
        self._busy = 0  # readers at work
        self._starving = 0
        self._closed = False
        self._decided: list[tuple[Future[None], Exception | None]] = []

    # What the server asks for.

    def register(self, name: str, directory: Path) -> "Future[None]":
        """Know the version once it has been read in full; a no-op if it is known already.

        The future raises `InvalidAdapter` if it cannot be applied in full or exceeds the budget.
        """
        with self._deciding():
            entry = self._entries.get(name)
            if entry is None:
                entry = self._entries[name] = Entry(name, directory)
                entry.registration.set_running_or_notify_cancel()  # nobody may cancel it for all
                self._queue[entry] = None
                if self._closed:
                    self._fail(entry, EngineError(STOPPED))
            elif entry.forgotten:  # and yet in use or being read
                entry.forgotten, entry.directory, entry.marks = False, directory, ()
            return entry.registration

    def forget(self, name: str) -> None:
        """Know the version no longer. Its memory is free when the last one has released it."""
        with self._deciding():
            if entry := self._entries.get(name):
                entry.forgotten = True
                self._wanted.discard(entry)
                self._queue.pop(entry, None)
                self._settle(entry)

    def pin(self, names: Iterable[str]) -> None:
        """Let these stay in memory, and those pinned before no longer.

        Pins beside which a wanted version has no room at all give way to it, and come back.
        """
        with self._deciding():
            self._pins = frozenset(names)

    def names(self) -> frozenset[str]:
        """The versions that are known."""
        with self._lock:
            return frozenset(entry.name for entry in self._entries.values() if entry.known)

    def close(self) -> None:
        """Read no more; who waits for a registration gets an `EngineError`."""
        with self._deciding():
            self._closed = True
            for entry in [e for e in self._entries.values() if not e.registered and not e.reading]:
                self._fail(entry, EngineError(STOPPED))
        self._pool.shutdown(wait=False)

    # What the step thread asks for.

    def acquire(self, name: str) -> Adapter | None:
        """The adapter, which stays until it is released as often; None if it has yet to be read.

        Raises:
            EngineError: the version is not known, or could not be read again.
        """
        with self._deciding():
            entry = self._entries.get(name)
            if entry is None or entry.forgotten:
                raise EngineError(f"The version {name} is not loaded.")
            if entry.adapter is not None:
                entry.users += 1
                self._wanted.discard(entry)
                self._residents.touch(entry)
                return entry.adapter
            error, entry.error = entry.error, None
            if error is not None and entry in self._wanted:
                self._wanted.discard(entry)
                raise EngineError(f"{name} could not be read again: {error}") from error
            self._wanted.add(entry)
            if not entry.reading:
                self._queue.setdefault(entry)
            return None

    def release(self, name: str) -> None:
        """Give back what `acquire` gave."""
        with self._deciding():
            entry = self._entries[name]
            entry.users -= 1
            self._residents.touch(entry)
            self._settle(entry)

    def prefetch(self, names: Iterable[str]) -> None:
        """Say which versions the waiting requests need: all of them, in order, at each step.

        They are read while there is room that nobody uses. What was asked for before and is not
        among them is no longer waited for.
        """
        ahead = tuple(dict.fromkeys(names))
        with self._lock:
            stale = [entry for entry in self._wanted if entry.name not in ahead]
            if ahead == self._ahead and not stale:
                return
        with self._deciding():
            self._ahead = ahead
            for entry in stale:
                self._wanted.discard(entry)
                if entry.registered:
                    self._queue.pop(entry, None)
            for name in reversed(ahead):  # whoever waits last goes first
                if name in self._entries:
                    self._residents.touch(self._entries[name])

    @property
    def starving(self) -> int:
        """How many versions that are asked for cannot come because all others are in use."""
        return self._starving

    @property
    def resident_bytes(self) -> int:
        """Bytes of the adapters in memory and of those being read."""
        return self._residents.nbytes

    @property
    def residents(self) -> frozenset[str]:
        """The versions in memory and those being read."""
        with self._lock:
            return frozenset(entry.name for entry in self._residents)

    # Under the lock.

    @contextmanager
    def _deciding(self) -> Iterator[None]:
        """Change something, begin what can be begun then, and tell who waits for it."""
        with self._lock:
            yield
            self._advance()
            decided, self._decided = self._decided, []
        for registration, error in decided:
            if error is None:
                registration.set_result(None)
            else:
                registration.set_exception(error)

    def _settle(self, entry: Entry) -> None:
        """Let go of what is forgotten and no longer used."""
        if entry.forgotten and not entry.users and not entry.reading:
            del self._entries[entry.name]
            self._residents.leave(entry)
            if not entry.registered:
                error = EngineError(f"{entry.name} was unloaded before it was loaded.")
                self._decided.append((entry.registration, error))

    def _advance(self) -> None:
        """Begin to read whatever can be read now; what is asked for strictly in its order."""
        self._starving = 0
        for entry in list(self._queue):
            if self._busy == READERS or self._closed:
                return
            if entry.nbytes and not self._residents.take(entry, self._movable(entry)):
                self._starving = 0 if self._busy else len(self._queue)
                return
            del self._queue[entry]
            self._begin(entry)
        self._read_ahead()

    def _read_ahead(self) -> None:
        """Read what will be asked for, as long as that takes nobody's place."""
        for name in (*self._ahead, *self._pins):
            entry = self._entries.get(name)
            if entry and entry.known and entry not in self._residents and not entry.error:
                soon = {*self._ahead, *self._pins}
                spare = [other for other in self._movable(entry) if other.name not in soon]
                free = self._busy < READERS and not self._closed
                if not free or not self._residents.take(entry, spare):
                    return
                self._begin(entry)

    def _begin(self, entry: Entry) -> None:
        self._busy += 1
        entry.reading, entry.error = True, None
        self._pool.submit(self._read, entry)

    def _movable(self, entry: Entry) -> list[Entry]:
        """Who may go to make room for `entry`, first who should go first."""
        idle = [other for other in self._residents.idle if other not in self._wanted]
        going = [other for other in idle if other.name not in self._pins]
        pinned = [other for other in self._residents if other.name in self._pins]
        if not self._residents.fits_beside(entry, pinned):
            going += [other for other in idle if other.name in self._pins]
        if not entry.registered and not self._residents.used:
            # Nothing computes, so perhaps nobody will come for what is kept for the step thread.
            going += [other for other in self._residents.idle if other in self._wanted]
        return going

    # In a reader's thread.

    def _read(self, entry: Entry) -> None:
        """Open a version if it is not open yet, and read it if it has or finds a place."""
        adapter, error = None, None
        try:
            adapter = self._tensors(entry)
        except Exception as caught:  # noqa: BLE001 it is told to whom it concerns
            error = caught
        with self._deciding():
            self._busy -= 1
            entry.reading = False
            if error is not None:
                self._fail(entry, error)
            else:
                self._arrive(entry, adapter)
        self._on_change()

    def _tensors(self, entry: Entry) -> Adapter | None:
        """The adapter; None if there is no room for it yet."""
        directory, file = entry.directory, entry.file
        marks = marks_of(directory)
        if entry.marks not in ((), marks):
            raise EngineError(f"the files in {directory} are not those that were loaded.")
        entry.file, entry.marks = None, marks
        file = file or self._open_adapter(entry.name, directory)
        if not entry.nbytes and not self._place(entry, file):
            return None
        adapter = file.read()
        if marks_of(directory) != marks or file.nbytes != entry.nbytes:
            raise EngineError(f"the files in {directory} were changed while they were read.")
        return adapter

    def _place(self, entry: Entry, file: AdapterFile) -> bool:
        """Whether a version whose size is known now has a place; else it queues for one."""
        if file.nbytes > self._residents.budget:
            raise InvalidAdapter(
                f"{entry.name} takes {file.nbytes:,} bytes in memory, where all adapters "
                f"together have {self._residents.budget:,}. Start the server with a larger "
                "--adapter-memory."
            )
        with self._lock:
            if self._closed:
                raise EngineError(STOPPED)
            entry.nbytes = file.nbytes
            queued = any(other.nbytes for other in self._queue)
            if not queued and self._residents.take(entry, self._movable(entry)):
                return True
            entry.file = file
            return False

    def _arrive(self, entry: Entry, adapter: Adapter | None) -> None:
        """Note that an adapter was read, or that it must wait for room."""
        entry.adapter = adapter
        if adapter is None and not entry.forgotten:
            self._queue[entry] = None
        elif adapter is not None and not entry.registered:
            entry.registered = True
            self._decided.append((entry.registration, None))
        self._settle(entry)

    def _fail(self, entry: Entry, error: Exception) -> None:
        """Note that reading failed: the end of a registration, or of who acquires it next."""
        self._residents.leave(entry)
        if entry.registered:
            log.warning("%s could not be read again: %s", entry.name, error)
            entry.error = error
            self._settle(entry)
        else:
            del self._entries[entry.name]
            self._wanted.discard(entry)
            self._queue.pop(entry, None)
            self._decided.append((entry.registration, registration_error(entry.name, error)))


def give_way() -> None:
    """Let this thread have what steps leave of the processor, where the system knows threads."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def registration_error(name: str, error: Exception) -> AdapteryError:
    """Why a version cannot be loaded, as one of our errors."""
    if isinstance(error, InvalidAdapter | EngineError):
        return error
    if isinstance(error, OSError):
        return InvalidAdapter(f"{name} cannot be read: {error}")
    return EngineError(f"{name} could not be loaded: {error or type(error).__name__}")


def adapter_budget(config: ServeConfig, device: "torch.device") -> int:
    """Bytes for adapters: what `--adapter-memory` says, else a quarter of what is free now."""
    return config.adapter_memory or available_memory(device) // SHARE
