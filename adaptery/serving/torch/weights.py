"""An adapter's files, applied in full or refused.

Other servers answer with the base's weights, or with half an adapter, when names or shapes do not
fit. Here every tensor must find its layer, and every declared layer its two tensors. All that is
told from the declaration and the header, before any tensor is read; adapters that were made alike
share it. Then the bytes are read at once and changed at once, on one thread: beside a step that
computes on all cores, anything else would be felt.
"""

import mmap
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import NoReturn, Protocol

import torch
from torch import Tensor

from adaptery.errors import InvalidAdapter
from adaptery.serving.torch.declaration import Declaration, read_declaration
from adaptery.serving.torch.lora import Adapter, Factors
from adaptery.serving.torch.tensorfile import StoredTensor, all_finite, parse_header, read_header

WEIGHTS = "adapter_model.safetensors"
KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
LAYOUTS = 16  # headers of which it is remembered what they mean
PIECE = 32768  # elements: torch takes a second thread for more


class Layer(Protocol):
    """A linear layer that adapters can change; its weight is (outputs, inputs)."""

    @property
    def in_features(self) -> int: ...

    @property
    def out_features(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Layout:
    """What is where in a file of `size` bytes after the header, and what it means.

    `runs` are consecutive tensors of one number format; `modules` names A and B of every layer;
    `scales` are those by which a B is multiplied, if not by 1.
    """

    size: int
    elements: int
    runs: Sequence[Sequence[StoredTensor]]
    modules: Mapping[str, tuple[str, str]]
    scales: Mapping[str, float]


class AdapterReader:
    """Reads adapters for one base, whose adaptable layers are `layers`, into one number format.

    `prepared` makes of an adapter that was read what is kept in memory.
    """

    def __init__(
        self,
        layers: Mapping[str, Layer],
        dtype: torch.dtype,
        device: torch.device,
        prepared: Callable[[Adapter], Adapter] = lambda adapter: adapter,
    ) -> None:
        self.dtype = dtype
        self.device = device
        self.prepared = prepared
        self._layers = layers
        self._layout: Callable[[bytes, int, str], Layout] = lru_cache(LAYOUTS)(self._make_layout)

    def open(self, name: str, directory: Path) -> "WeightsFile":
        """The adapter in `directory`, whose tensors are not read yet.

        Raises:
            InvalidAdapter: it cannot be applied in full; the message says what is in the way.
        """
        path = directory / WEIGHTS
        with refusals(name):
            declaration = read_declaration(directory)
            with path.open("rb", buffering=0) as file:
                header = read_header(file)
                origin, size = file.tell(), os.fstat(file.fileno()).st_size
            layout = self._layout(header, size - origin, declaration.model_dump_json())
        return WeightsFile(name, path, origin, layout, self)

    def _make_layout(self, header: bytes, size: int, declared: str) -> Layout:
        declaration = Declaration.model_validate_json(declared)
        tensors = parse_header(header, size)
        shapes = {tensor.name: tensor.shape for tensor in tensors}
        modules = paired_modules(shapes)
        require_targets(declaration, modules, self._layers)
        for module in sorted(modules):
            rank, layer = declaration.rank(module), self._layers[module]
            require_shape(shapes, key(module, "A"), (rank, layer.in_features))
            require_shape(shapes, key(module, "B"), (layer.out_features, rank))
        scales = {key(module, "B"): declaration.scale(module) for module in modules}
        return Layout(
            size=size,
            elements=sum(tensor.count for tensor in tensors),
            runs=[list(run) for _, run in groupby(tensors, lambda tensor: tensor.dtype)],
            modules={module: (key(module, "A"), key(module, "B")) for module in sorted(modules)},
            scales={name: scale for name, scale in scales.items() if scale != 1},
        )


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """An adapter whose tensors are in the file at `path` from the byte `origin` on."""

    name: str
    path: Path
    origin: int
    layout: Layout
    reader: AdapterReader

    @property
    def nbytes(self) -> int:
        """What the adapter takes in memory."""
        return int(self.layout.elements * self.reader.dtype.itemsize)

    def read(self) -> Adapter:
        """The adapter, its matrices side by side in memory, the scaling multiplied into B.

        Raises:
            InvalidAdapter: a number is not finite, or would not be in the engine's number format.
        """
        matrices: dict[str, Tensor] = {}
        with refusals(self.name):
            raw = self._raw()
            for run in self.layout.runs:
                numbers = scaled(numbers_of(raw, run), run, self.layout.scales, self.reader.dtype)
                if not all_finite(numbers):
                    self._refuse(run, numbers)
                matrices |= matrices_of(numbers.to(self.reader.device), run)
        modules = self.layout.modules.items()
        factors = {module: Factors(matrices[a], matrices[b]) for module, (a, b) in modules}
        return self.reader.prepared(Adapter(self.name, factors))

    def _raw(self) -> Tensor:
        """The bytes of all tensors."""
        raw = fresh(self.layout.size, torch.uint8)
        rest = memoryview(raw.numpy())
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.origin)
            while rest:
                count = file.readinto(rest)
                if not count:
                    raise InvalidAdapter(f"{self.path} ends {len(rest):,} bytes too early")
                rest = rest[count:]
        return raw

    def _refuse(self, run: Sequence[StoredTensor], numbers: Tensor) -> NoReturn:
        """Say which matrix has numbers that are not finite, in the file or only here."""
        stored = matrices_of(numbers_of(self._raw(), run), run)
        for name, matrix in stored.items():
            if not all_finite(matrix):
                raise InvalidAdapter(f"{name!r} holds numbers that are not finite")
        name = next(n for n, matrix in matrices_of(numbers, run).items() if not all_finite(matrix))
        raise InvalidAdapter(f"{name!r} overflows {self.reader.dtype}; serve in float32")


def numbers_of(raw: Tensor, run: Sequence[StoredTensor]) -> Tensor:
    """The numbers of consecutive tensors, one after the other."""
    part = raw[run[0].start : run[-1].end]
    aligned = run[0].start % run[0].dtype.itemsize == 0
    return (part if aligned else part.clone()).view(run[0].dtype)


def matrices_of(numbers: Tensor, run: Sequence[StoredTensor]) -> dict[str, Tensor]:
    """Those numbers as the tensors that they are, by name; no copies."""
    parts = numbers.split([tensor.count for tensor in run])
    return {t.name: part.view(t.shape) for t, part in zip(run, parts, strict=True)}


def scaled(
    numbers: Tensor, run: Sequence[StoredTensor], scales: Mapping[str, float], dtype: torch.dtype
) -> Tensor:
    """The numbers in `dtype`, those of some tensors scaled before they are rounded, which is once.

    If nothing else is to do, in place: torch multiplies bfloat16 in float32, but by a factor that
    it has rounded to bfloat16.
    """
    mine = [scales.get(tensor.name, 1) for tensor in run]
    in_place = all(torch.tensor(scale, dtype=dtype).item() == scale for scale in set(mine))
    if numbers.dtype != dtype or not in_place:
        numbers = converted(numbers, torch.float32)
    pieces: dict[float, list[Tensor]] = defaultdict(list)
    parts = numbers.split([tensor.count for tensor in run])
    for part, scale in zip(parts, mine, strict=True):
        if scale != 1:
            pieces[scale] += [part] if len(part) <= PIECE else part.split(PIECE)
    for scale, together in pieces.items():
        torch._foreach_mul_(together, scale)
    return converted(numbers, dtype)


def converted(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers in `dtype`; themselves if they are."""
    if numbers.dtype == dtype:
        return numbers
    result = fresh(len(numbers), dtype)
    torch._foreach_copy_(result.split(PIECE), numbers.split(PIECE))
    return result


def fresh(count: int, dtype: torch.dtype) -> Tensor:
    """Memory for so many numbers, in huge pages where the system has them.

    The first touch of each of two thousand small pages takes several times as long as reading nine
    megabytes into them does. It is given back to the system when the tensor goes.
    """
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(count, dtype=dtype)
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    pages = mmap.mmap(-1, count * dtype.itemsize, flags=private)
    with suppress(OSError):  # a kernel without them
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype)


def key(module: str, side: str) -> str:
    """What PEFT calls a matrix of a layer."""
    return f"base_model.model.{module}.lora_{side}.weight"


def paired_modules(keys: Iterable[str]) -> set[str]:
    """The layers for which there are both A and B. Raises `InvalidAdapter` for any other tensor."""
    sides: dict[str, set[str]] = {"A": set(), "B": set()}
    for name in keys:
        match = KEY.fullmatch(name)
        if match is None:
            raise InvalidAdapter(f"the tensor {name!r} is not a LoRA matrix of a layer")
        sides[match["side"]].add(match["module"])
    for module in sorted(sides["A"] ^ sides["B"]):
        missing = "B" if module in sides["A"] else "A"
        raise InvalidAdapter(f"{module!r} has no matrix lora_{missing}")
    if not sides["A"]:
        raise InvalidAdapter("it holds no tensors")
    return sides["A"]


def require_targets(
    declaration: Declaration, modules: set[str], layers: Mapping[str, Layer]
) -> None:
    """Do nothing if exactly the declared layers have matrices, and the base has all of them."""
    for module in sorted(modules - layers.keys()):
        raise InvalidAdapter(f"the base has no linear layer {module!r} that adapters can change")
    targets = declaration.targets(list(layers))
    for module in sorted(targets - modules):
        raise InvalidAdapter(f"{module!r} is among the declared target modules but has no matrices")
    for module in sorted(modules - targets):
        raise InvalidAdapter(f"{module!r} has matrices but is not a declared target module")


def require_shape(shapes: Mapping[str, tuple[int, ...]], name: str, shape: tuple[int, int]) -> None:
    if shapes[name] != shape:
        raise InvalidAdapter(
            f"{name!r} has shape {shapes[name]}, but the base and the declared rank ask for {shape}"
        )


@contextmanager
def refusals(name: str) -> Iterator[None]:
    """Say of which adapter it is that a complaint speaks."""
    try:
        yield
    except InvalidAdapter as error:
        raise InvalidAdapter(f"{name} cannot be applied to this base in full: {error}.") from error
    except (OSError, re.error, ValueError) as error:
        raise InvalidAdapter(f"{name} cannot be read: {error}") from error
