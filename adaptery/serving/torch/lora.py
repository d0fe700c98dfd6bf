"""Many adapters in one batch: each adds its low-rank update to its own rows, and to no others.

What is computed, for the rows x of the batch that adapters answer: y = W x + B (m ∘ (A x)). A and B
are the matrices of all active adapters, one after another, and the mask m leaves of A x what each
row's own adapter gave. So a step costs two small products per layer however many adapters are in
it. Rows of one adapter alone, as in a prompt, are multiplied by its own part of A and B.

This is how PyTorch's operations do it best. On a CPU, kernels/segments.py does without the mask.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor, nn

from adaptery.serving.torch.memory import zeros

SMALL = 700_000  # bytes of zeros that cost less to multiply by than a further product does
SLACK = 1.25  # room for adapters to come, so that not every one of them moves all others
ROOM = 128  # ranks, at least: what is not used of it takes no memory on a CPU
PATIENCE = 4  # what of the arrangement may go unused: so many times what rearranging would copy


@dataclass(frozen=True, slots=True)
class Factors:
    """ΔW = B A of one layer: `a` (rank, inputs), `b` (outputs, rank) with the scaling in it."""

    a: Tensor
    b: Tensor


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Adapter:
    """A version's weights on the engine's device, by the name of the layer that they change."""

    name: str
    layers: Mapping[str, Factors]

    @property
    def rank(self) -> int:
        """The highest of its layers."""
        return max(int(factors.a.shape[0]) for factors in self.layers.values())

    @property
    def nbytes(self) -> int:
        """Bytes of its matrices."""
        return sum(
            int(factors.a.nbytes) + int(factors.b.nbytes) for factors in self.layers.values()
        )


Run = tuple[Adapter | None, int]
"""Whose so many rows, one after another, are; None if they are the base's."""

Change = Callable[[Tensor, Tensor], None]
"""Adds to outputs (tokens, outputs) what adapters make of inputs (tokens, inputs)."""


class ActiveAdapters(Protocol):
    """Which adapters are in the step being computed, and on which rows."""

    places: float
    """How many times its bytes an adapter takes while it is in steps."""

    def layers(self, members: Mapping[str, nn.Linear]) -> Change:
        """What active adapters add to these layers, computed from one input, side by side."""

    def prepared(self, adapter: Adapter) -> Adapter:
        """An adapter that was read, as it is to be kept in memory."""

    def begin(self, runs: Sequence[Run]) -> None:
        """A step begins; single tokens stand first, longer runs by adapter."""

    def end(self) -> None:
        """It is over."""


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """What `adapters` add to the rows `rows` of the batch, by their part `ranks` of the stacks.

    `foreign` (ranks, 1, rows) is true where a rank belongs to another adapter than the row does;
    None if all belong to one.
    """

    rows: slice
    ranks: slice
    adapters: frozenset[Adapter]
    foreign: Tensor | None = None


class Part:
    """The matrices of some ranks of a stack, laid out for multiplication.

    `a` (ranks of all members, inputs) stands on the left of its product and the few tokens on the
    right, because oneDNN then reads it as it lies. What that gives is multiplied by `together`, if
    the zeros in it are few; else member by member: `apart` lists which rows of the first product
    are multiplied by which matrix, and between them the columns of the output that get the sum.
    """

    def __init__(self, a: Tensor, b: Tensor, columns: Sequence[slice]) -> None:
        members = len(columns)
        self.a = a.flatten(0, 1)
        if b.nbytes // members * (members - 1) < SMALL:
            self.together: Tensor | None = b.flatten(0, 1)
            self.apart: list[tuple[slice, slice, Tensor]] = []
        else:
            self.together = None
            self.apart = [
                (slice(number, None, members), mine, b[:, number, mine])
                for number, mine in enumerate(columns)
            ]


class Stack:
    """A and B of all arranged adapters, for layers that are computed together from one input.

    `a` (ranks, members, inputs) and `b` (ranks, members, outputs of all members), where `b` is
    zero outside of the member's own outputs.
    """

    def __init__(
        self,
        members: Sequence[str],
        inputs: int,
        outputs: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.members = tuple(members)
        self.inputs = inputs
        ends = [sum(outputs[: i + 1]) for i in range(len(outputs))]
        self.columns = [slice(end - size, end) for end, size in zip(ends, outputs, strict=True)]
        self.outputs = ends[-1]
        self._dtype, self._device = dtype, device
        self.reserve(0)

    def reserve(self, ranks: int) -> None:
        """Forget all adapters and have room for `ranks` ranks."""
        self.forget()
        members = len(self.members)
        self.a = zeros((ranks, members, self.inputs), self._dtype, self._device)
        self.b = zeros((ranks, members, self.outputs), self._dtype, self._device)

    def forget(self) -> None:
        """Have no adapters, in the same room."""
        self.changed: set[Adapter] = set()
        self._parts: dict[tuple[int, int], Part] = {}  # by the ranks that steps have asked for

    def place(self, adapter: Adapter, ranks: slice) -> None:
        """Copy an adapter's matrices to its ranks."""
        self.a[ranks] = 0
        for number, member in enumerate(self.members):
            factors = adapter.layers.get(member)
            mine = self.b[ranks, number, self.columns[number]]
            if factors is None:
                mine.zero_()
                continue
            rank = factors.a.shape[0]
            self.a[ranks.start : ranks.start + rank, number] = factors.a
            mine[:rank] = factors.b.t()
            mine[rank:] = 0
            self.changed.add(adapter)

    def add(self, output: Tensor, inputs: Tensor, update: Update) -> None:
        """Add an update to `output` (tokens, outputs), given `inputs` (tokens, inputs)."""
        if self.changed.isdisjoint(update.adapters):
            return
        part = self._part(update.ranks)
        if update.rows.stop - update.rows.start < len(inputs):
            inputs, output = inputs[update.rows], output[update.rows]
        inner = torch.mm(part.a, inputs.t())
        if update.foreign is not None:
            inner.view(-1, len(self.members), inner.shape[1]).masked_fill_(update.foreign, 0)
        if part.together is not None:
            output.addmm_(inner.t(), part.together)
        for mine, columns, b in part.apart:
            output[:, columns].addmm_(inner[mine].t(), b)

    def _part(self, ranks: slice) -> Part:
        key = ranks.start, ranks.stop
        if key not in self._parts:
            self._parts[key] = Part(self.a[ranks], self.b[ranks], self.columns)
        return self._parts[key]


class Stacked:
    """`ActiveAdapters` whose matrices are copied side by side, in the stacks of all layers."""

    places = 1 + SLACK

    def __init__(self) -> None:
        self.stacks: list[Stack] = []
        self._updates: Sequence[Update] = ()
        self._places: dict[Adapter, slice] = {}
        self._end = 0
        self._room = 0
        self._unused = 0  # ranks that steps have computed for nobody

    def layers(self, members: Mapping[str, nn.Linear]) -> Change:
        modules = list(members.values())
        sizes, weight = [module.out_features for module in modules], modules[0].weight
        stack = Stack(list(members), modules[0].in_features, sizes, weight.dtype, weight.device)
        self.stacks.append(stack)
        return partial(self._add, stack)

    def prepared(self, adapter: Adapter) -> Adapter:
        return adapter

    def begin(self, runs: Sequence[Run]) -> None:
        self.arrange(adapter for adapter, _ in runs if adapter is not None)
        self._updates = list(self._made(runs))

    def end(self) -> None:
        self._updates = ()

    def _add(self, stack: Stack, output: Tensor, inputs: Tensor) -> None:
        for update in self._updates:
            stack.add(output, inputs, update)

    def _made(self, runs: Sequence[Run]) -> Iterator[Update]:
        """What adapters add: once for all single tokens together, then for each one's prompts."""
        begin = 0
        for _, group in groupby(runs, key=rows_owner):
            owners = [adapter for adapter, count in group for _ in range(count)]
            rows = slice(begin, begin + len(owners))
            begin = rows.stop
            if update := self.update(rows, owners):
                yield update

    def arrange(self, adapters: Iterable[Adapter]) -> None:
        """Have all of `adapters` in the stacks. What is there already stays where it is."""
        active = set(adapters)
        if not active:
            return
        new = sorted(active - self._places.keys(), key=lambda adapter: adapter.name)
        wanted = sum(adapter.rank for adapter in active)
        self._unused += self._end - wanted
        more = sum(adapter.rank for adapter in new)
        if self._end + more > self._room or self._unused > PATIENCE * wanted:
            self._start_again(wanted)
            new = sorted(active, key=lambda adapter: adapter.name)
        for adapter in new:
            ranks = slice(self._end, self._end + adapter.rank)
            for stack in self.stacks:
                stack.place(adapter, ranks)
            self._places[adapter] = ranks
            self._end = ranks.stop

    def update(self, rows: slice, owners: Sequence[Adapter | None]) -> Update | None:
        """What adapters add to `rows`, whose adapters are `owners`; None if that is nothing."""
        adapters = frozenset(owner for owner in owners if owner is not None)
        if not adapters:
            return None
        places = [self._places[adapter] for adapter in adapters]
        ranks = slice(min(p.start for p in places), max(p.stop for p in places))
        if len(adapters) == 1 and None not in owners:
            return Update(rows, ranks, adapters)
        return Update(rows, ranks, adapters, self._foreign(owners, ranks))

    def _foreign(self, owners: Sequence[Adapter | None], ranks: slice) -> Tensor:
        places = [self._places[owner] if owner else slice(0, 0) for owner in owners]
        starts = torch.tensor([place.start for place in places])
        stops = torch.tensor([place.stop for place in places])
        rank = torch.arange(ranks.start, ranks.stop)[:, None, None]
        return ((rank < starts) | (rank >= stops)).to(self.stacks[0].a.device)

    def _start_again(self, wanted: int) -> None:
        """Forget what is arranged, with room for `wanted` ranks and some more."""
        self._places, self._end, self._unused = {}, 0, 0
        if not wanted <= self._room <= max(4 * SLACK * wanted, ROOM):
            self._room = max(int(SLACK * wanted), ROOM)
            for stack in self.stacks:
                stack.reserve(self._room)
        for stack in self.stacks:
            stack.forget()


def rows_owner(run: Run) -> object:
    """What the rows of runs must have in common to be computed in one product."""
    adapter, count = run
    return None if count == 1 else (adapter,)
