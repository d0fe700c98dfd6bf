"""The kernels as functions of tensors."""

import ctypes
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from adaptery.serving.torch.kernels.build import NoKernels, compiled

NAMES = {torch.float32: "f32", torch.bfloat16: "bf16"}
AT, INT, REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
ARGUMENTS = {
    "rms_norm": (AT, AT, AT, INT, INT, REAL),
    "gated": (AT, AT, INT, INT, INT),
    "rotate": (AT, INT, AT, AT, AT, INT, INT, INT),
    "attend": (*[AT] * 3, *[INT] * 3, *[AT] * 3, *[INT] * 4, AT, INT, AT, REAL, INT),
    "plain_linear": (AT, AT, AT, INT, INT, INT),
    "update": (AT, INT, AT, INT, INT, AT, INT, INT, AT, INT, AT),
    "pack": (AT, AT, INT, INT),
    "linear": (AT, INT, AT, AT, AT, INT, INT, INT),  # this and the next: bfloat16 alone
    "pack_linear": (AT, AT, INT, INT),
}
LANES, PANEL = 16, 32  # outputs; see numbers.h and linear.h
ACTIVATIONS = ("silu", "gelu_tanh")  # in the order of the enum in kernels.cpp


class Kernels:
    """Those for one number format. All tensors are the CPU's and of that format.

    Raises:
        NoKernels: there are none for this format, or they cannot be had here.
    """

    def __init__(self, dtype: torch.dtype, threads: int) -> None:
        if dtype not in NAMES:
            raise NoKernels(f"there are none for {dtype}")
        self.dtype = dtype
        try:
            self._library = ctypes.CDLL(str(compiled()))
        except OSError as error:
            raise NoKernels(f"they cannot be loaded: {error}") from error
        self._rms_norm, self._gated, self._rotate = map(
            self._function, ("rms_norm", "gated", "rotate")
        )
        self._attend, self._update = self._function("attend"), self._function("update")
        self._plain_linear, self._pack = self._function("plain_linear"), self._function("pack")
        self.multiplies = dtype == torch.bfloat16 and bool(self._library.multiplies())
        if self.multiplies:
            self._library.threads(INT(threads))

    def _function(self, name: str) -> Any:
        found: Any = self._library[f"{name}_{NAMES[self.dtype]}"]
        found.argtypes, found.restype = ARGUMENTS[name], None
        return found

    def product(self, weights: Sequence[Tensor], bias: Tensor | None) -> Callable[[Tensor], Tensor]:
        """x ↦ x Wᵀ + b for x (…, inputs), with a copy in our own order of W (outputs, inputs),
        which consists of `weights` one below the other.

        Only where `multiplies` is true: elsewhere, others are faster.
        """
        if any(len(weight) % PANEL for weight in weights):
            weights = [torch.cat(list(weights))]
        outputs, inputs = sum(map(len, weights)), weights[0].shape[1]
        size = -(-outputs // PANEL) * PANEL * (inputs + inputs % 2)
        first = weights[0]
        panels = first.new_empty(size) if size == outputs * inputs else first.new_zeros(size)
        pack, begin = self._function("pack_linear"), 0
        for weight in map(Tensor.contiguous, weights):
            pack(weight.data_ptr(), panels[begin:].data_ptr(), inputs, len(weight))
            begin += len(weight) * (inputs + inputs % 2)
        call = self._function("linear")

        def multiply(x: Tensor) -> Tensor:
            if x.dtype != self.dtype:
                raise TypeError(f"a layer in {self.dtype} gets {x.dtype}")
            x = x.contiguous()
            y = x.new_empty((*x.shape[:-1], outputs))
            at, rows = (x.data_ptr(), inputs, panels.data_ptr()), x.numel() // inputs
            more = bias.data_ptr() if bias is not None else None
            call(*at, more, y.data_ptr(), rows, inputs, outputs)
            return y

        return multiply

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """w · x / √(mean x² + ε) over the last dimension (Zhang & Sennrich 2019)."""
        x = x.contiguous()
        y, size = torch.empty_like(x), x.shape[-1]
        rows = x.numel() // size
        self._rms_norm(x.data_ptr(), weight.data_ptr(), y.data_ptr(), rows, size, epsilon)
        return y

    def gated(self, x: Tensor, activation: str) -> Tensor:
        """activation(gate) · up, (…, size), of gate and up side by side in x (…, 2 size)."""
        x = x.contiguous()
        size = x.shape[-1] // 2
        y = x.new_empty((*x.shape[:-1], size))
        number = ACTIVATIONS.index(activation)
        self._gated(x.data_ptr(), y.data_ptr(), x.numel() // (2 * size), size, number)
        return y

    def rotate(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """x cos + rotate_half(x) sin for x (1, heads, tokens, size), angles (1, tokens, size)."""
        x, stride = side_by_side(x)
        _, heads, tokens, size = x.shape
        y = x.new_empty((1, tokens, heads, size))
        cosine, sine = cosine.contiguous(), sine.contiguous()
        at = (t.data_ptr() for t in (cosine, sine, y))
        self._rotate(x.data_ptr(), stride, *at, tokens, heads, size)
        return y.transpose(1, 2)

    def attend(
        self,
        query: Tensor,
        new: tuple[Tensor, Tensor],
        cache: tuple[Tensor, Tensor],
        pieces: "array[int]",
        tables: "array[int]",
        scale: float,
        window: int | None,
    ) -> Tensor:
        """Put new keys and values into the cache, and let each token look at its own past.

        Args:
            query: (1, heads, tokens, size).
            new: keys and values of the same tokens, (1, groups, tokens, size).
            cache: keys and values, (blocks, block, groups, size).
            pieces: four int64 each: first row, rows, position of the first, its table's begin.
            tables: numbers of the sequences' blocks, int32.
            window: tokens that each sees, itself among them; None means all.

        Returns:
            (1, tokens, heads, size).
        """
        (query, a), (key, b), (value, c) = map(side_by_side, (query, *new))
        _, heads, tokens, size = query.shape
        _, block, groups, _ = cache[0].shape
        out = query.new_empty((1, tokens, heads, size))
        self._attend(
            query.data_ptr(), key.data_ptr(), value.data_ptr(), a, b, c,
            cache[0].data_ptr(), cache[1].data_ptr(), out.data_ptr(),
            heads, groups, size, block,
            address(pieces), len(pieces) // 4, address(tables),
            scale, window or 0,
        )  # fmt: skip
        return out

    def plain_linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """x Wᵀ, (…, outputs), for few rows x (…, inputs) and contiguous W (outputs, inputs)."""
        x, (outputs, inputs) = x.contiguous(), weight.shape
        y = x.new_empty((*x.shape[:-1], outputs))
        rows = x.numel() // inputs
        self._plain_linear(x.data_ptr(), weight.data_ptr(), y.data_ptr(), rows, inputs, outputs)
        return y

    def update(
        self,
        y: Tensor,
        x: Tensor,
        columns: "array[int]",
        layer: int,
        segments: "array[int]",
        rows: "array[int]",
    ) -> None:
        """y += (x Aᵀ) Bᵀ for the rows of each segment, with its own adapter's A and B.

        Args:
            y: (tokens, outputs of some layers side by side).
            x: (tokens, inputs).
            columns: int64; a layer's outputs are from one of them to the next.
            layer: number of the first of these layers in the adapters' lists of factors.
            segments: three int64 each: where in `rows` its rows begin, how many they are, and the
                address of its adapter's factors (see `packed`).
            rows: int32.
        """
        if x.stride(1) != 1:
            x = x.contiguous()
        self._update(
            x.data_ptr(), x.stride(0), y.data_ptr(), y.stride(0), x.shape[1],
            address(columns), len(columns) - 1, layer,
            address(segments), len(segments) // 3, address(rows),
        )  # fmt: skip

    def packed(self, b: Tensor) -> Tensor:
        """B (outputs, rank) in the order in which `update` reads it (see adapters.h), in place if
        there is room for that."""
        outputs, rank = b.shape
        pair = 2 if self.dtype == torch.bfloat16 else 1
        size = -(-outputs // LANES) * LANES * -(-rank // pair) * pair
        source, fits = b.clone(), size == b.numel() and b.is_contiguous()
        packed = b.view(-1) if fits else b.new_zeros(size)
        self._pack(source.data_ptr(), packed.data_ptr(), outputs, rank)
        return packed


def side_by_side(x: Tensor) -> tuple[Tensor, int]:
    """x (1, heads, tokens, size), a token's heads side by side, and how far tokens are apart."""
    _, heads, tokens, size = x.shape
    there = x.stride(3) == 1 and (x.stride(1) == size or heads == 1)
    if not there:
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    return x, x.stride(2) if tokens > 1 else heads * size


def address(numbers: "array[int]") -> int:
    return numbers.buffer_info()[0]
