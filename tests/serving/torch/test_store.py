"""Adapters come into memory and go, and whoever uses one has exactly that one."""

import json
import os
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from safetensors.torch import save_file

from adaptery.errors import EngineError, InvalidAdapter
from adaptery.serving.torch.lora import Adapter
from adaptery.serving.torch.residents import AdapterFile
from adaptery.serving.torch.store import AdapterStore
from adaptery.serving.torch.weights import AdapterReader

LAYERS = {f"layers.{i}.q_proj": torch.nn.Linear(8, 8) for i in range(2)}
ONE = 2 * (8 + 8) * 4  # bytes of an adapter of rank 1 in float32


def write(directory: Path, value: float, rank: int = 1) -> Path:
    """An adapter all of whose numbers are `value`."""
    directory.mkdir(parents=True, exist_ok=True)
    declared = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["q_proj"]}
    (directory / "adapter_config.json").write_text(json.dumps(declared))
    tensors = {}
    for layer in LAYERS:
        tensors[f"base_model.model.{layer}.lora_A.weight"] = torch.full((rank, 8), value)
        tensors[f"base_model.model.{layer}.lora_B.weight"] = torch.full((8, rank), value)
    save_file(tensors, directory / "adapter_model.safetensors")
    return directory


def values(adapter: Adapter) -> set[float]:
    """The numbers that are in an adapter."""
    pairs = adapter.layers.values()
    return {float(x) for f in pairs for matrix in (f.a, f.b) for x in matrix.unique()}


@dataclass
class Watched:
    """Reads real files, slowly if told to, and counts."""

    reads: Counter[str] = field(default_factory=Counter)
    at_once: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    gate: threading.Event = field(default_factory=threading.Event)
    pause: Callable[[], None] = lambda: None
    reader: AdapterReader = field(
        default_factory=lambda: AdapterReader(LAYERS, torch.float32, torch.device("cpu"))
    )

    def __post_init__(self) -> None:
        self.gate.set()

    def open(self, name: str, directory: Path) -> AdapterFile:
        return WatchedFile(name, self.reader.open(name, directory), self)


@dataclass
class WatchedFile:
    name: str
    file: AdapterFile
    watch: Watched

    @property
    def nbytes(self) -> int:
        return self.file.nbytes

    def read(self) -> Adapter:
        watch = self.watch
        watch.at_once[self.name] += 1
        watch.most[self.name] = max(watch.most[self.name], watch.at_once[self.name])
        watch.gate.wait(10)
        watch.pause()
        try:
            return self.file.read()
        finally:
            watch.at_once[self.name] -= 1
            watch.reads[self.name] += 1


@dataclass
class House:
    """A store of at most `room` adapters of rank 1, and the versions v0, v1, v2 …"""

    root: Path
    room: int = 2
    limit: int = 100
    watch: Watched = field(default_factory=Watched)
    changed: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.store = AdapterStore(
            self.watch.open, budget=self.room * ONE, limit=self.limit, on_change=self.changed.set
        )

    def directory(self, number: int) -> Path:
        return self.root / f"v{number}"

    def add(self, *numbers: int, rank: int = 1) -> None:
        for number in numbers:
            directory = write(self.directory(number), 1.0 + number, rank)
            self.store.register(f"v{number}", directory).result(10)

    def get(self, name: str, patience: float = 10.0) -> Adapter:
        """Acquire, as a step loop does: again and again."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            self.changed.clear()
            if adapter := self.store.acquire(name):
                return adapter
            self.changed.wait(0.05)
        raise TimeoutError(name)

    def settle(self) -> None:
        while self.store._busy:
            time.sleep(0.0005)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.watch.gate.set()
    house.store.close()


def test_a_registered_version_is_there(house):
    house.add(3)
    adapter = house.store.acquire("v3")
    assert adapter is not None
    assert values(adapter) == {4.0}
    assert house.store.residents == {"v3"}
    assert house.store.resident_bytes == ONE == adapter.nbytes


def test_the_least_recently_used_goes_and_comes_back_the_same(house):
    house.add(0, 1)
    house.store.acquire("v0")
    house.store.release("v0")
    house.add(2)
    assert house.store.residents == {"v0", "v2"}
    assert values(house.get("v1")) == {2.0}


def test_what_is_known_without_being_in_memory_is_read_once_for_all_who_ask(house):
    house.add(0, 1, 2)
    house.watch.gate.clear()
    before = house.watch.reads["v0"]
    assert [house.store.acquire("v0") for _ in range(5)] == [None] * 5
    house.watch.gate.set()
    house.get("v0")
    assert house.watch.reads["v0"] == before + 1


def test_acquiring_does_not_wait_for_a_file(house):
    house.add(0, 1, 2)
    house.watch.gate.clear()
    begin = time.monotonic()
    assert house.store.acquire("v0") is None
    house.store.prefetch(["v0", "v1", "v2"])
    assert house.store.acquire("v2") is not None
    house.store.release("v2")
    house.store.forget("v2")
    assert time.monotonic() - begin < 1
    assert house.store.resident_bytes <= 2 * ONE


def test_what_is_acquired_stays_and_who_needs_its_room_starves(house):
    house.add(0, 1, 2, 3)
    held = [house.get("v0"), house.get("v1")]
    assert house.store.acquire("v2") is None
    assert house.store.acquire("v3") is None
    assert house.store.starving == 2
    assert [values(adapter) for adapter in held] == [{1.0}, {2.0}]
    house.store.release("v1")
    assert values(house.get("v2")) == {3.0}
    assert house.store.starving == 1
    assert house.store.residents == {"v0", "v2"}


def test_nobody_starves_for_what_is_no_longer_waited_for(house):
    house.add(0, 1, 2)
    house.get("v0")
    house.get("v1")
    assert house.store.acquire("v2") is None
    house.store.prefetch(["v2"])
    assert house.store.starving == 1
    house.store.prefetch([])  # its request was cancelled
    assert house.store.starving == 0


def test_versions_come_in_in_the_order_in_which_they_were_asked_for(tmp_path):
    house = House(tmp_path, room=1)
    house.add(0, 1, 2, 3)
    order = []
    house.get("v0")
    for name in ("v3", "v1", "v2"):
        assert house.store.acquire(name) is None
    current = "v0"
    for _ in range(3):
        house.store.release(current)
        house.settle()
        (current,) = house.store.residents
        order.append(current)
        assert house.store.acquire(current) is not None
    assert order == ["v3", "v1", "v2"]
    house.store.close()


def test_what_was_read_for_somebody_is_kept_until_they_come(tmp_path):
    house = House(tmp_path, room=1)
    house.add(0, 1, 2)
    assert house.store.acquire("v0") is None
    house.settle()
    assert house.store.acquire("v1") is None  # must not take the place of v0
    house.settle()
    assert house.store.residents == {"v0"}
    house.store.prefetch(["v1"])  # but nobody waits for v0 any more
    house.settle()
    assert house.store.residents == {"v1"}
    house.store.close()


def test_a_registration_does_not_wait_for_what_nobody_fetches(tmp_path):
    house = House(tmp_path, room=1)
    house.add(0, 1)
    assert house.store.acquire("v0") is None  # and its request is cancelled, and no step follows
    house.settle()
    house.add(2)
    assert house.store.residents == {"v2"}
    house.store.close()


def test_waiting_versions_are_read_ahead_in_their_order_where_nobody_uses_the_room(tmp_path):
    house = House(tmp_path, room=3)
    house.add(0, 1, 2, 3, 4, 5)
    house.get("v4")
    house.store.prefetch(["v1", "v0", "v2"])
    house.settle()
    assert house.store.residents == {"v4", "v1", "v0"}
    house.store.prefetch(["v2"])
    house.settle()
    assert "v2" in house.store.residents
    assert house.store.starving == 0
    house.store.close()


def test_more_versions_than_the_limit_do_not_stay_however_small(tmp_path):
    house = House(tmp_path, room=10, limit=3)
    house.add(*range(6))
    assert house.store.residents == {"v3", "v4", "v5"}
    house.store.close()


def test_a_version_larger_than_the_budget_is_refused_with_both_sizes(house):
    with pytest.raises(
        InvalidAdapter, match=r"v9 takes 384 bytes .* have 256\. .*--adapter-memory"
    ):
        house.add(9, rank=3)
    with pytest.raises(EngineError, match="v9 is not loaded"):
        house.store.acquire("v9")


def test_a_registration_waits_for_room_and_is_no_reason_to_evict_who_answers(house):
    house.add(0, 1)
    house.get("v0")
    house.get("v1")
    late = house.store.register("v2", write(house.directory(2), 3.0))
    house.settle()
    assert not late.done()
    assert house.store.starving == 1
    house.store.release("v0")
    late.result(10)
    assert house.store.residents == {"v1", "v2"}


def test_registering_again_changes_nothing(house):
    house.add(0)
    again = house.store.register("v0", house.root / "nowhere")
    assert again.done()
    assert again.exception() is None
    assert house.watch.reads["v0"] == 1


def test_two_who_register_at_once_share_one_reading(house):
    house.watch.gate.clear()
    directory = write(house.directory(0), 1.0)
    both = [house.store.register("v0", directory) for _ in range(2)]
    assert not both[0].cancel()
    house.watch.gate.set()
    assert [one.result(10) for one in both] == [None, None]
    assert house.watch.reads["v0"] == 1


def test_a_file_that_cannot_be_applied_is_not_registered_and_may_be_once_it_is_right(house):
    directory = write(house.directory(0), float("nan"))
    with pytest.raises(InvalidAdapter, match="not finite"):
        house.store.register("v0", directory).result(10)
    assert house.store.resident_bytes == 0
    with pytest.raises(InvalidAdapter, match="cannot be read"):
        house.store.register("v1", house.root / "nowhere").result(10)
    house.add(0)
    assert values(house.get("v0")) == {1.0}


def test_what_is_forgotten_goes_when_the_last_one_has_released_it(house):
    house.add(0)
    adapters = [house.get("v0"), house.get("v0")]
    house.store.forget("v0")
    with pytest.raises(EngineError, match="not loaded"):
        house.store.acquire("v0")
    assert house.store.names() == frozenset()
    house.store.release("v0")
    assert house.store.residents == {"v0"}
    assert [values(adapter) for adapter in adapters] == [{1.0}] * 2
    house.store.release("v0")
    assert house.store.residents == frozenset()
    assert house.store.resident_bytes == 0


def test_what_is_registered_again_before_it_is_gone_stays(house):
    house.add(0)
    house.get("v0")
    house.store.forget("v0")
    house.add(0)
    house.store.release("v0")
    assert values(house.get("v0")) == {1.0}


def test_what_is_forgotten_while_it_is_read_is_gone_afterwards(house):
    house.watch.gate.clear()
    loading = house.store.register("v0", write(house.directory(0), 1.0))
    house.store.forget("v0")
    house.watch.gate.set()
    loading.result(10)
    house.settle()
    assert house.store.residents == frozenset()
    waiting = House(house.root, room=1)
    waiting.add(1)
    waiting.get("v1")
    late = waiting.store.register("v0", house.directory(0))
    waiting.settle()
    waiting.store.forget("v0")
    with pytest.raises(EngineError, match="unloaded before it was loaded"):
        late.result(10)
    waiting.store.close()


def remove(directory: Path) -> None:
    shutil.rmtree(directory)


def tear(directory: Path) -> None:
    file = directory / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


def replace(directory: Path) -> None:
    """By another adapter of the same shapes, moved into its place."""
    write(directory.parent / "other", 77.0)
    os.replace(
        directory.parent / "other" / "adapter_model.safetensors",
        directory / "adapter_model.safetensors",
    )


def rewrite(directory: Path) -> None:
    """By another adapter of the same shapes, written into the same file."""
    file = directory / "adapter_model.safetensors"
    write(directory.parent / "other", 77.0)
    file.write_bytes((directory.parent / "other" / "adapter_model.safetensors").read_bytes())


@pytest.mark.parametrize("damage", [remove, tear, replace, rewrite])
def test_a_file_that_changed_since_fails_who_asks_for_it_and_nobody_else(house, damage):
    house.add(0, 1, 2)
    damage(house.directory(0))
    with pytest.raises(EngineError, match="v0 could not be read again"):
        house.get("v0")
    assert values(house.get("v1")) == {2.0}
    assert values(house.get("v2")) == {3.0}
    house.store.release("v1")
    with pytest.raises(EngineError, match="v0 could not be read again"):
        house.get("v0")
    assert house.store.resident_bytes <= 2 * ONE


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("damage", [replace, rewrite])
def test_a_file_that_changes_while_it_is_read_is_not_taken_for_the_version(house, damage, known):
    house.add(*(0, 1, 2) if known else (1, 2))
    house.watch.gate.clear()
    loading = house.store.register("v0", write(house.directory(0), 1.0) if not known else Path())
    if known:
        assert house.store.acquire("v0") is None
    while not house.watch.at_once["v0"]:
        time.sleep(0.001)
    damage(house.directory(0))
    house.watch.gate.set()
    with pytest.raises(EngineError, match="changed while they were read"):
        house.get("v0") if known else loading.result(10)


def test_a_failure_is_not_told_to_who_asks_when_the_file_is_back(house):
    house.add(0, 1, 2)
    kept = house.root / "kept"
    house.directory(0).rename(kept)
    assert house.store.acquire("v0") is None
    house.settle()
    house.store.prefetch([])  # whoever asked has gone
    kept.rename(house.directory(0))
    assert values(house.get("v0")) == {1.0}


def test_a_pinned_version_stays_and_comes_back(house):
    house.add(0, 1)
    house.store.pin(["v0"])
    house.add(2, 3)
    assert "v0" in house.store.residents
    house.store.pin([])
    house.add(4, 5)
    assert "v0" not in house.store.residents
    house.store.pin(["v0"])
    house.settle()
    assert "v0" in house.store.residents


def test_pins_give_way_to_what_would_have_no_room_at_all_beside_them(house):
    house.add(0, 1)
    house.store.pin(["v0", "v1"])
    house.add(2)
    assert values(house.get("v2")) == {3.0}
    house.store.release("v2")
    assert values(house.get("v0")) == {1.0}
    assert values(house.get("v1")) == {2.0}


def test_closing_tells_who_waits(house):
    house.add(0, 1)
    house.get("v0")
    house.get("v1")
    late = house.store.register("v2", write(house.directory(2), 3.0))
    house.settle()
    house.store.close()
    with pytest.raises(EngineError, match="stopped"):
        late.result(10)
    with pytest.raises(EngineError, match="stopped"):
        house.store.register("v2", house.directory(2)).result(10)


def test_who_is_told_may_ask_the_store(house):
    """Callbacks run where nothing is locked."""
    seen = threading.Event()
    house.add(0)
    directory = write(house.directory(1), 2.0)

    def ask(_: object) -> None:
        house.store.names()
        house.store.acquire("v0")
        seen.set()

    house.store.register("v1", directory).add_done_callback(ask)
    assert seen.wait(10)


class Schedules(RuleBasedStateMachine):
    """Any order of what the server and the step thread may ask for."""

    names = st.sampled_from([f"v{i}" for i in range(6)])

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.house = House(self.root, room=4, limit=3)
        for number in range(6):
            write(self.house.directory(number), 1.0 + number, rank=1 + number % 3)
        self.held: list[tuple[str, Adapter]] = []
        self.broken: set[str] = set()

    def teardown(self) -> None:
        self.house.store.close()
        shutil.rmtree(self.root)

    @rule(name=names, wait=st.booleans())
    def register(self, name: str, wait: bool) -> None:
        registering = self.house.store.register(name, self.root / name)
        if wait:
            self.house.settle()
            if registering.done() and registering.exception():
                assert name in self.broken or "unloaded" in str(registering.exception())

    @rule(name=names)
    def forget(self, name: str) -> None:
        self.house.store.forget(name)

    @rule(name=names, settled=st.booleans())
    def acquire(self, name: str, settled: bool) -> None:
        if settled:
            self.house.settle()
        complaint, adapter = "", None
        try:
            adapter = self.house.store.acquire(name)
        except EngineError as error:
            complaint = str(error)
        assert not complaint or "not loaded" in complaint or name in self.broken
        if adapter is not None:
            self.held.append((name, adapter))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        name, _ = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.house.store.release(name)

    @rule(names=st.lists(names, max_size=4))
    def prefetch(self, names: list[str]) -> None:
        self.house.store.prefetch(names)

    @rule(names=st.sets(names, max_size=2))
    def pin(self, names: set[str]) -> None:
        self.house.store.pin(names)

    @rule(name=names, damage=st.sampled_from([tear, replace, rewrite]))
    def damage(self, name: str, damage: Callable[[Path], None]) -> None:
        self.broken.add(name)
        damage(self.root / name)

    @invariant()
    def within_the_budget(self) -> None:
        assert self.house.store.resident_bytes <= 4 * ONE
        assert len(self.house.store.residents) <= 3

    @invariant()
    def what_is_held_is_what_was_asked_for(self) -> None:
        residents = self.house.store.residents
        for name, adapter in self.held:
            assert name in residents
            expected = {1.0 + int(name[1:])}
            assert values(adapter) == expected or (
                name in self.broken and values(adapter) == {77.0}  # registered when it was that
            )

    @invariant()
    def nothing_is_read_twice_at_once(self) -> None:
        assert all(count <= 1 for count in self.house.watch.most.values())


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_under_many_threads_everybody_is_answered_by_their_own_adapter(tmp_path):
    """32 versions over room for 8, all wanted in turns, while the server comes and goes."""
    rng = random.Random(5)
    house = House(tmp_path, room=8)
    house.watch.pause = lambda: time.sleep(rng.random() * 0.002)
    house.add(*range(32))
    over: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            if house.store.resident_bytes > 8 * ONE or len(house.store.residents) > 8:
                over.append(house.store.resident_bytes)

    def come_and_go() -> None:
        extra = random.Random(7)
        while not done.is_set():
            number = extra.randrange(32, 36)
            house.store.register(f"v{number}", write(tmp_path / f"v{number}", 1.0 + number))
            time.sleep(0.002)
            house.store.forget(f"v{number}")
            house.store.pin({f"v{extra.randrange(32)}"})

    with ThreadPoolExecutor(2) as others:
        jobs = [others.submit(watch), others.submit(come_and_go)]
        try:
            answered = take_turns(house, [f"v{i}" for i in range(32) for _ in range(3)], rng)
        finally:
            done.set()
        for job in jobs:
            job.result(10)
    house.store.close()
    assert answered == Counter({f"v{i}": 3 for i in range(32)})
    assert not over
    assert max(house.watch.most.values()) == 1


def take_turns(house: House, wanted: list[str], rng: random.Random) -> Counter[str]:
    """A step thread in short: admits in order, holds for some steps, gives way when told to."""
    rng.shuffle(wanted)
    waiting, running = list(wanted), []
    answered: Counter[str] = Counter()
    end = time.monotonic() + 30
    while waiting or running:
        assert time.monotonic() < end, (waiting, running, house.store.residents)
        house.store.prefetch(waiting)
        for name in list(waiting):
            if len(running) < 16 and (adapter := house.store.acquire(name)):
                assert values(adapter) == {1.0 + int(name[1:])}
                waiting.remove(name)
                running.append([name, adapter, rng.randrange(1, 6)])
        if house.store.starving and running:
            oldest = running[0][0]
            for request in [request for request in running if request[0] == oldest]:
                running.remove(request)
                house.store.release(oldest)
                waiting.append(oldest)
        for request in list(running):
            request[2] -= 1
            if request[2] == 0:
                assert values(request[1]) == {1.0 + int(request[0][1:])}
                running.remove(request)
                house.store.release(request[0])
                answered[request[0]] += 1
        time.sleep(0.0005)
    return answered
