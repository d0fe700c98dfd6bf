"""What a LoRA adapter adds to each weight: ΔW = s B A, compared without ever forming ΔW.

A is (r, d_in), B (d_out, r), and s is alpha / r, or alpha / √r for rsLoRA. With factors of two
updates the Frobenius product is ⟨ΔW₁, ΔW₂⟩ = tr((B₁ᵀB₂)(A₂A₁ᵀ)), a sum over r₁ × r₂ numbers.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adaptery.registry.gate.config import LoraDeclaration, declaration, read_config
from adaptery.registry.gate.lora import WEIGHTS, Pair, alphas, pair_up
from adaptery.registry.gate.tensorfile import TensorInfo, read_header

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Update:
    """The factors of one module's ΔW: `a` (r, d_in) and `b` (d_out, r), s multiplied into `b`."""

    a: Matrix
    b: Matrix

    @property
    def shape(self) -> tuple[int, int]:
        """That of ΔW."""
        return self.b.shape[0], self.a.shape[1]

    @property
    def norm(self) -> float:
        """The Frobenius norm of ΔW."""
        return math.sqrt(max(0.0, self.dot(self)))

    def dot(self, other: "Update") -> float:
        """The Frobenius product of the two ΔW, which must have one shape."""
        return float(np.sum((self.b.T @ other.b) * (self.a @ other.a.T)))

    def minus(self, other: "Update") -> "Update":
        """Factors of the difference of the two ΔW, which must have one shape.

        With equal ranks it is written as B₁A₁ − B₂A₂ = (B₁ − B₂)A₁ + B₂(A₁ − A₂), so that nothing
        is lost to rounding where the two are nearly the same.
        """
        if self.a.shape == other.a.shape:
            return Update(
                np.vstack([self.a, self.a - other.a]), np.hstack([self.b - other.b, other.b])
            )
        return Update(np.vstack([self.a, other.a]), np.hstack([self.b, -other.b]))


class Updates(Mapping[str, Update]):
    """The updates of an adapter of the type LORA by module, read when they are asked for.

    Args:
        directory: holds the adapter's configuration and weights.

    Raises:
        InvalidAdapter: they cannot be read as such.
    """

    def __init__(self, directory: Path) -> None:
        declared = declaration(read_config(directory))
        tensors = read_header(directory / WEIGHTS)
        pairs, self.others = pair_up(tensors)
        self._pairs = {pair.module: pair for pair in pairs}
        self._scales = _scales(declared, self._pairs)
        self._data = np.memmap(directory / WEIGHTS, dtype=np.uint8, mode="r")

    def __getitem__(self, module: str) -> Update:
        pair = self._pairs[module]
        return Update(self._matrix(pair.a), self._matrix(pair.b) * self._scales[module])

    def __iter__(self) -> Iterator[str]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def raw(self, tensor: TensorInfo) -> bytes:
        """A tensor's bytes."""
        return self._data[tensor.start : tensor.end].tobytes()

    def _matrix(self, tensor: TensorInfo) -> Matrix:
        return values(self.raw(tensor), tensor.dtype).reshape(tensor.shape)


def values(data: bytes, dtype: str) -> Matrix:
    """The numbers in a tensor's bytes, as safetensors keeps F32, F16 and BF16."""
    if dtype == "BF16":  # the upper half of an F32, which numpy has no name for
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
    return np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float64)


def _scales(declared: LoraDeclaration, pairs: Mapping[str, Pair]) -> dict[str, float]:
    if not pairs:
        return {}
    power = 0.5 if declared.use_rslora else 1.0
    found = alphas(declared, list(pairs))
    return {module: found[module] / pairs[module].rank ** power for module in pairs}
