"""Networks of a few kinds of kernels, and a device on paper that says what energy each takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwnas.ir import Kernel, TensorSpec
from hwnas.predict.energy import EnergyRecord, Loads
from hwnas.predict.features import Matrix, describe

PER_FLOP_J = {"Gemm": 1e-11, "Relu": 2e-9, "Softmax": 2e-11}
PER_BYTE_J, PER_KERNEL_J, PER_CALL_J = 5e-11, 2e-6, 1e-5


def network(depth: int, width: int, activations: int = 1, rows: int = 64) -> tuple[Kernel, ...]:
    """Matrix products with so many activations behind each, and a Softmax behind them all."""
    x, weight = TensorSpec((rows, width)), TensorSpec((width, width))
    attrs = (("alpha", 1.0), ("beta", 1.0), ("transA", 0), ("transB", 1))
    product = Kernel(op="Gemm", inputs=(x,), weights=(weight,), outputs=(x,), attrs=attrs)
    return (
        *(product, *(Kernel(op="Relu", inputs=(x,), outputs=(x,)),) * activations) * depth,
        Kernel(op="Softmax", inputs=(x,), outputs=(x,), attrs=(("axis", -1),)),
    )


def networks(count: int, seed: int = 0) -> list[tuple[Kernel, ...]]:
    """Networks of random depths, widths and numbers of activations."""
    rng = np.random.default_rng(seed)
    return [network(int(rng.integers(2, 20)), int(rng.integers(4, 64)) * 8, int(rng.integers(0, 4))) for _ in range(count)]


def joules(kernels: Sequence[Kernel], scale: float = 1.0, bend: float = 0.1) -> float:
    """Energy of a call: a sum over kernels, and what load does to it."""
    seen = [describe(kernel) for kernel in kernels]
    total = PER_CALL_J + sum(PER_FLOP_J[row.kind] * row.flops + PER_BYTE_J * row.bytes + PER_KERNEL_J for row in seen)
    size = np.log(sum(row.flops for row in seen) / 1e8)
    return float(scale * total * np.exp(bend * np.tanh(size)))


def measured(count: int, seed: int = 0, *, scale: float = 1.0, bend: float = 0.1, noise: float = 0.02) -> tuple[Loads, Matrix]:
    """Random networks and their energies, each off by a normal error that is so large in the logarithm."""
    found = networks(count, seed)
    error = noise * np.random.default_rng([seed, 1]).standard_normal(count)
    return Loads.of(found), np.array([joules(kernels, scale, bend) for kernels in found]) * np.exp(error)


def records(count: int, source: str = "nvml-counter") -> list[EnergyRecord]:
    """Random networks as a meter would hand them on."""
    return [EnergyRecord(kernels=kernels, joules=joules(kernels), source=source) for kernels in networks(count)]
