"""Scheduler, store, cache and runner in one thread: no server, no process, no clock, no chance."""

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor

from adaptery.base_model import LocalBase
from adaptery.errors import EngineError
from adaptery.serving.engine import Chunk, SamplingParams
from adaptery.serving.torch.answer import Answer, choose
from adaptery.serving.torch.blocks import BLOCK, needed
from adaptery.serving.torch.cache import KeyValueCache
from adaptery.serving.torch.kernels.calls import Kernels
from adaptery.serving.torch.lora import Adapter
from adaptery.serving.torch.model import Decoder
from adaptery.serving.torch.runner import Runner
from adaptery.serving.torch.scheduler import Scheduler
from adaptery.serving.torch.sequence import Piece, Request
from adaptery.serving.torch.sequence import Sequence as Tokens
from adaptery.serving.torch.store import AdapterStore
from adaptery.serving.torch.trial import try_out
from adaptery.serving.torch.weights import AdapterReader
from tests.serving import models


class Readers:
    """In place of the store's threads: a version is read when the test says so."""

    def __init__(self) -> None:
        self.jobs: deque[Callable[[], None]] = deque()

    def submit(self, call: Callable[..., None], *arguments: object) -> None:
        self.jobs.append(partial(call, *arguments))

    def shutdown(self, wait: bool = True) -> None:
        self.jobs.clear()

    def work(self) -> bool:
        """Finish what was asked for first; False if that is nothing."""
        if self.jobs:
            self.jobs.popleft()()
            return True
        return False


class Truth:
    """What transformers and PEFT answer in float32, one request at a time."""

    def __init__(self, model: PeftModel, tokens: int = 0) -> None:
        self._model = model.eval()
        self._tokens = tokens
        self._known: dict[tuple[str | None, tuple[int, ...]], list[int]] = {}

    @classmethod
    def of(
        cls,
        base: Path,
        adapters: Mapping[str, Path],
        tokens: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> "Truth":
        """Of a base and adapters on disk, whose answers are wanted up to `tokens` tokens."""
        first, *others = adapters
        model = PeftModel.from_pretrained(models.load_base(base), adapters[first], first)
        for name in others:
            model.load_adapter(adapters[name], name)
        return cls(model.to(dtype), tokens)

    def answer(self, name: str | None, prompt: Sequence[int], tokens: int) -> list[int]:
        """The greedy answer."""
        key = name, tuple(prompt)
        if key not in self._known:
            self._known[key] = self._generate(name, torch.tensor([prompt]))
        return self._known[key][:tokens]

    def scores(self, name: str | None, ids: Sequence[int]) -> Tensor:
        """Of the token after each of `ids`, (tokens, vocabulary)."""
        with torch.inference_mode():
            return self._as(name, lambda model: model(torch.tensor([ids])).logits[0])

    def _generate(self, name: str | None, ids: Tensor) -> list[int]:
        answer = self._as(
            name,
            lambda model: model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=self._tokens,
            ),
        )
        return answer[0, ids.shape[1] :].tolist()

    def _as(self, name: str | None, call: Callable[[PeftModel], Tensor]) -> Tensor:
        if name is None:
            with self._model.disable_adapter():
                return call(self._model)
        self._model.set_adapter(name)
        return call(self._model)


@dataclass(frozen=True)
class Rig:
    """A base on our attention and layers, and the files of some adapters of it."""

    base: LocalBase
    decoder: Decoder
    tried: KeyValueCache
    directories: Mapping[str, Path]

    @classmethod
    def of(
        cls,
        base: LocalBase,
        directories: Mapping[str, Path],
        dtype: torch.dtype = torch.float32,
        kernels: bool = True,
    ) -> "Rig":
        model = models.load_base(base.directory).to(dtype)
        own = Kernels(dtype, 2) if kernels else None
        return cls(base, *try_out(model, base, own), directories)

    def adapter(self, name: str | None) -> Adapter | None:
        """Read anew."""
        if name is None:
            return None
        decoder = self.decoder
        directory = self.directories[name]
        reader = AdapterReader(
            decoder.layers, decoder.dtype, decoder.device, decoder.active.prepared
        )
        return reader.open(name, directory).read()

    def scores(
        self,
        texts: Sequence[Sequence[int]],
        adapters: Sequence[Adapter | None],
        steps: Sequence[int],
    ) -> list[Tensor]:
        """Scores after each step of each text, all texts in every step, `steps` tokens at a time.

        Texts with fewer tokens than that leave earlier. Those of one token stand first, as the
        runner wants it.
        """
        cache = self.tried.resized(sum(needed(len(text)) for text in texts))
        runner, free = Runner(self.decoder, cache), iter(range(cache.blocks))
        sequences = [
            Tokens(
                list(text), adapter=adapter, table=[next(free) for _ in range(needed(len(text)))]
            )
            for text, adapter in zip(texts, adapters, strict=True)
        ]
        found: dict[Tokens, list[Tensor]] = {sequence: [] for sequence in sequences}
        for count in steps:
            if any(sequence.missing for sequence in sequences):
                step(runner, sequences, count, found)
        return [torch.stack(found[sequence]) for sequence in sequences]


def step(runner: Runner, sequences: list[Tokens], count: int, found: dict) -> None:
    """The next `count` tokens of all sequences; the scores go to `found`."""
    going = [sequence for sequence in sequences if sequence.missing]
    pieces = []
    for sequence in going:
        mine = min(count, sequence.missing)
        view = Tokens(
            sequence.ids[: sequence.computed + mine],
            adapter=sequence.adapter,
            table=sequence.table,
            computed=sequence.computed,
        )
        pieces.append((sequence, Piece(view, mine)))
    pieces.sort(key=lambda pair: (pair[1].count > 1, -len(pair[1].sequence.ids)))
    rows = runner.run([piece for _, piece in pieces])
    for (sequence, piece), row in zip(pieces, rows, strict=True):
        sequence.computed += piece.count
        found[sequence].append(row.float())


@dataclass(eq=False)
class Asked:
    """A request and what came of it."""

    request: Request
    name: str | None
    prompt: list[int]
    wanted: int
    tokens: list[int] = field(default_factory=list)
    error: EngineError | None = None

    @property
    def finished(self) -> bool:
        return self.error is not None or len(self.tokens) == self.wanted

    def take(self, item: Chunk | EngineError) -> None:
        assert not self.finished, "a chunk after the last"
        if isinstance(item, EngineError):
            self.error = item
        else:
            self.tokens.append(item.token)


class Play:
    """One engine's life, step by step, and what must be so at each."""

    def __init__(
        self,
        rig: Rig,
        *,
        blocks: int,
        residents: int = 100,
        max_sequences: int = 8,
        step_tokens: int = 64,
        seen: Counter[str] | None = None,
    ) -> None:
        self._rig = rig
        self.cache = rig.tried.resized(blocks)
        self._readers = Readers()
        self.store = self._make_store(residents)
        self._residents = residents
        self._max_sequences = max_sequences
        self._step_tokens = step_tokens
        self.scheduler = Scheduler(self.cache, self.store, max_sequences, step_tokens)
        self._runner = Runner(rig.decoder, self.cache)
        self.asked: dict[Request, Asked] = {}
        self.seen: Counter[str] = Counter() if seen is None else seen
        self._first = {}

    def _make_store(self, residents: int) -> AdapterStore:
        decoder = self._rig.decoder
        reader = AdapterReader(
            decoder.layers, decoder.dtype, decoder.device, decoder.active.prepared
        )
        store = AdapterStore(reader.open, budget=10**9, limit=residents, on_change=lambda: None)
        store._pool.shutdown()
        store._pool = self._readers  # type: ignore[assignment]
        registrations = [store.register(*known) for known in self._rig.directories.items()]
        while self._readers.work():
            pass
        for registration in registrations:
            registration.result(timeout=0)
        return store

    def ask(self, name: str | None, prompt: Sequence[int], wanted: int, seed: bytes = b"") -> Asked:
        """A greedy request arrives; unless told otherwise it shares what its version knows."""
        seed = seed or str(name).encode()
        sampling = SamplingParams(wanted, temperature=0, ignore_eos=True)
        asked: Asked
        answer = Answer(
            sampling,
            self._rig.base.tokenizer,
            self._rig.decoder.end_ids,
            prompt,
            lambda item: asked.take(item),
        )
        request = Request(list(prompt), answer=answer, adapter_name=name, seed=seed)
        self.seen["requests"] += 1
        asked = self.asked[request] = Asked(request, name, list(prompt), wanted)
        self.scheduler.add(request)
        return asked

    def cancel(self, asked: Asked) -> None:
        """Whoever asked has gone."""
        if not asked.finished:
            self.seen["cancelled in the prompt"] += 0 < asked.request.missing > 1 and bool(
                asked.request.computed
            )
            self.seen["cancelled while its adapter is read"] += bool(
                asked.name and asked.request.adapter is None and self._readers.jobs
            )
            asked.request.cancelled = True
            del self.asked[asked.request]

    def read(self) -> bool:
        """A reader finishes."""
        return self._readers.work()

    def step(self, seconds: float = 1.0) -> bool:
        """One step; False if nothing could be computed."""
        before = {r: list(r.table) for r in self.scheduler.requests if r.table}
        starving = bool(self.store.starving)
        pieces = self.scheduler.schedule()
        self._count(before, pieces, starving)
        self.check(pieces)
        if not pieces:
            return False
        logits = self._runner.run(pieces)
        last = [piece.sequence for piece in pieces if piece.last]
        results = choose([request.answer for request in last], logits)
        self.scheduler.advance(pieces, seconds)
        for request, result in zip(last, results, strict=True):
            if isinstance(result, EngineError):
                self.scheduler.finish(request, keep=False)
            elif result.finish_reason is not None:
                self.scheduler.finish(request, keep=True)
            else:
                self.scheduler.append(request, result.token)
            request.answer.deliver(result)
        return True

    def finish(self, limit: int = 5000) -> None:
        """Steps until nobody waits; readers are as fast as steps."""
        for _ in range(limit):
            if self.scheduler.idle:
                break
            computed = self.step()
            assert self.read() or computed or self.scheduler.idle, "it waits for nothing"
        assert self.scheduler.idle, f"after {limit} steps somebody still waits"
        while self.read():
            pass
        self.check([])
        assert self.scheduler._blocks.free == self.cache.blocks
        assert not any(entry.users for entry in self.store._entries.values())

    def check(self, pieces: list[Piece[Request]]) -> None:
        """What holds in every step."""
        running = self.scheduler._running
        assert len(running) <= self._max_sequences
        assert sum(piece.count for piece in pieces if piece.count > 1) <= self._step_tokens
        users: dict[int, list[Request]] = {}
        for request in running:
            for block in request.table:
                users.setdefault(block, []).append(request)
        assert len(users) + self.scheduler._blocks.free == self.cache.blocks
        for block, requests in users.items():
            assert len({beginning(request, block) for request in requests}) == 1
        for piece in pieces:
            assert piece.sequence in running
            assert len(piece.sequence.table) >= needed(piece.sequence.computed + piece.count)
        self._check_adapters(running)

    def _check_adapters(self, running: list[Request]) -> None:
        assert len(self.store.residents) <= self._residents
        using = Counter(request.adapter_name for request in running if request.adapter_name)
        entries = self.store._entries
        assert using == {name: entry.users for name, entry in entries.items() if entry.users}
        for request in self.scheduler.requests:
            held = request.adapter.name if request.adapter else None
            assert held == (request.adapter_name if request in running else None)

    def _count(
        self, before: dict[Request, list[int]], pieces: list[Piece[Request]], starving: bool
    ) -> None:
        for request in before:
            if not request.table and not request.cancelled:
                may_be_parked = starving and request.adapter_name is not None
                self.seen["parked" if may_be_parked else "preempted"] += 1
        for request in self.scheduler._running:
            if request not in before and request.computed:
                self.seen["prefix found"] += 1
        self.seen["prompt in pieces"] += any(not piece.last for piece in pieces)
        owners = {piece.sequence.adapter for piece in pieces}
        self.seen["mixed step"] += len(owners) > 2 and None in owners
        for request in self.scheduler._running:
            adapter = request.adapter
            if adapter is not None:
                known = self._first.setdefault(adapter.name, adapter)
                self.seen["reloaded"] += known is not adapter
                self._first[adapter.name] = adapter


def beginning(request: Request, block: int) -> tuple[bytes, tuple[int, ...] | Request]:
    """What two requests must have in common to share a block: all tokens up to its end."""
    end = (request.table.index(block) + 1) * BLOCK
    return request.seed, tuple(request.ids[:end]) if end <= request.computed else request
