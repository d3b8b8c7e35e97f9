"""What a GPU makes of a kernel, from the kernel and the device's specification alone: bounds in time, tiles, waves, caches.

Trees do not extrapolate, and a model for GPUs has to: to sizes and to parts that nobody measured. So the models learn how much longer
a kernel takes than an analytic bound, and see it through ratios only, which stay in their range when sizes grow: how full the last wave
of tiles is, how much of the tiles is padding, how a tile's traffic compares with its arithmetic, what fits into the cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwnas.devices import DeviceSpec
from hwnas.errors import UsageError
from hwnas.predict.features import FEATURES, Matrix, Table


class Tile(NamedTuple):
    """A block of the output that a matrix kernel computes at a time, and how close it comes to the peak rate."""

    rows: int
    columns: int
    efficiency: float


# The tiles of cuBLAS's float32 kernels, as their names give them; smaller ones re-use less of what they load.
TILES = (
    Tile(128, 128, 1.0),
    Tile(128, 64, 0.97),
    Tile(64, 128, 0.97),
    Tile(64, 64, 0.9),
    Tile(32, 128, 0.86),
    Tile(128, 32, 0.86),
    Tile(32, 32, 0.7),
)
SEEN = TILES[:5]  # those of which the models see padding, waves and traffic
SPLITS = (1, 2, 4, 8)  # of the inner dimension, where there are too few tiles to keep all multiprocessors busy
INNER = 8  # elements of the inner dimension that a tile takes at a time
PROLOGUE = 24  # elements' worth of time that a tile takes before its first product and after its last
RESIDENT = 2  # tiles that run on a multiprocessor side by side
LAUNCH_S = 30e-6  # about what PyTorch takes to launch a kernel: the scale of the smallest kernels
THREADS = 2048  # resident per multiprocessor, each with 4 elements of an element-wise kernel

# What a float32 matrix product draws at its sustained clock, in W per TFLOP/s: a power law in the process, through the measured ceilings
# of P4 (16 nm, 20.6), T4 and V100 (12 nm, 18.9 and at least 18.3) and A100 (7 nm, 14.4); docs/gpu-predictors.md.
WATTS_PER_TFLOPS = 20.6
PROCESS_NM = 16.0
PROCESS_POWER = 0.433
# Where a scheduler issues one instruction a clock to 32 lanes (128 lanes per multiprocessor, since Ampere's second edition), the loads and
# the address arithmetic of a matrix kernel's inner loop take slots from its multiply-adds: of 71, 64 are left.
SINGLE_ISSUE_LANES = 128
SINGLE_ISSUE_SINCE = 8.0
ISSUE_SHARE = 64 / 71

COLUMNS = (
    "compute_capability",
    "over_launch",
    "ideal_over_bound",
    "over_cache",
    "operand_over_cache",
    "weight_over_cache",
    "aligned",
    "log_m",
    "log_n",
    "log_k",
    "tile",
    "split",
    "waves",
    "last_wave",
    *(f"{name}_{tile.rows}x{tile.columns}" for tile in SEEN for name in ("unpadded", "last_wave", "traffic")),
    "tensors_read",
    "rows_per_unit",
    "element_waves",
    "last_element_wave",
    "window",
    "log_batch",
)
SCHEMA = hashlib.sha256(repr((COLUMNS, TILES, SPLITS, INNER, PROLOGUE, RESIDENT, THREADS)).encode()).hexdigest()[:12]
"""Changes whenever a column does."""

# Which model answers for a kind that was measured, and for one that was not; all others: as if they only moved their data.
ELEMENTWISE = "Elementwise"
MEASURED: Mapping[str, str] = {
    "Gemm": "Gemm",
    "MatMul": "MatMul",
    "Conv-dense": "Conv-dense",
    "Softmax": "Softmax",
    "LayerNormalization": "LayerNormalization",
    **dict.fromkeys(("Add", "Div", "Gelu", "Mul", "Pow", "Relu", "Tanh"), ELEMENTWISE),
}
STAND_INS: Mapping[str, str] = {
    "Conv-pointwise": "Gemm",
    "ConvTranspose-dense": "Gemm",
    "ConvTranspose-pointwise": "Gemm",
    "LogSoftmax": "Softmax",
    "GroupNormalization": "LayerNormalization",
    "InstanceNormalization": "LayerNormalization",
}
PRODUCTS = frozenset({"Gemm", "MatMul", "Conv-dense"})
BATCH, WINDOW, STRIDE, DILATION, RESIDUAL = (FEATURES.index(name) for name in ("batch", "window", "stride", "dilation", "residual"))


@dataclass(frozen=True, slots=True)
class Figures:
    """A specification's figures as numbers.

    Attributes:
        flops_per_s: float32, sustained (`sustained_flops`).
        bytes_per_s: of memory.
        units: streaming multiprocessors.
        cache_bytes: of the level-2 cache.
        capability: compute capability, such as 8.0.
    """

    flops_per_s: float
    bytes_per_s: float
    units: int
    cache_bytes: int
    capability: float

    @classmethod
    def of(cls, spec: DeviceSpec) -> Figures:
        """From a specification.

        Raises:
            UsageError: it does not say all of these.
        """
        if (
            spec.memory_bytes_per_s is None
            or spec.compute_capability is None
            or "fp32" not in spec.peak_flops
            or "l2" not in spec.caches_bytes
        ):
            raise UsageError(
                f"'{spec.model}' is described without float32 rate, memory rate, cache or compute capability; complete its device.toml"
            )
        return cls(sustained_flops(spec), spec.memory_bytes_per_s, spec.units, spec.caches_bytes["l2"], float(spec.compute_capability))


def sustained_flops(spec: DeviceSpec) -> float:
    """The float32 rate that a matrix kernel can hold: the peak, less what the power limit and the instruction issue take.

    The clock drops until the board draws its limit, but not below the base clock, which the maker guarantees.
    """
    peak = spec.peak_flops["fp32"]
    share = 1.0
    if spec.power_limit_w and spec.process_nm:
        watts = WATTS_PER_TFLOPS * (spec.process_nm / PROCESS_NM) ** PROCESS_POWER * peak / 1e12
        share = spec.power_limit_w / watts
        if spec.base_clock_hz and spec.clock_hz:
            share = max(share, spec.base_clock_hz / spec.clock_hz)
        share = min(share, 1.0)
    if spec.lanes == SINGLE_ISSUE_LANES and float(spec.compute_capability or 0) > SINGLE_ISSUE_SINCE:
        share *= ISSUE_SHARE
    return peak * share


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Kernels as a GPU sees them, row by row.

    Attributes:
        models: name of the model that answers for each.
        measured: whether its kind was measured, or another one stands in.
        bound_s: what no kernel beats, by the tiles that suit it best and by memory; without the launch.
        values: in the order of `COLUMNS`, [rows, columns].
    """

    models: NDArray[np.str_]
    measured: NDArray[np.bool_]
    bound_s: Matrix
    values: Matrix


def look(table: Table, spec: DeviceSpec) -> Seen:
    """Kernels on a device, from its specification alone."""
    figures = Figures.of(spec)
    models, measured = _models(table)
    product = np.isin(models, list(PRODUCTS))
    count, m, n, k = table.dims.T
    images = np.where(models == "Conv-dense", table.values[:, BATCH], 1.0)  # Winograd's algorithm takes them one by one
    count, m = count * images, m / images
    inner = np.where(product, k, 1.0)
    memory = table.bytes / figures.bytes_per_s
    best = _tiles(count, m, n, inner, figures)
    plain = table.counted / figures.flops_per_s
    compute = np.where(product, best.seconds, plain)
    bound = np.maximum(compute, memory)
    cache = float(figures.cache_bytes)
    elements = m * n * count / (figures.units * THREADS * 4)
    columns: dict[str, Matrix] = {
        "compute_capability": np.full(len(bound), figures.capability),
        "over_launch": np.log(bound / LAUNCH_S),
        "ideal_over_bound": np.log(plain / bound),
        "over_cache": np.log(memory * figures.bytes_per_s / cache),
        "operand_over_cache": np.log(4 * m * np.maximum(inner, 1) / cache),
        "weight_over_cache": np.log(4 * n * np.maximum(inner, 1) / cache),
        "aligned": (inner % 4 == 0) * 1.0 + (n % 4 == 0) * 2.0 + (m % 4 == 0) * 4.0,
        "log_m": np.log(m),
        "log_n": np.log(n),
        "log_k": np.log(inner),
        "tile": best.tile,
        "split": best.split,
        "waves": np.log(best.waves),
        "last_wave": best.waves / np.ceil(best.waves),
        "tensors_read": 1 + table.values[:, RESIDUAL],
        "rows_per_unit": np.log(count * m / figures.units),
        "element_waves": np.log(elements),
        "last_element_wave": elements / np.ceil(elements),
        "window": table.values[:, WINDOW],
        "log_batch": np.log(count),
    }
    for tile in SEEN:
        down, across = np.ceil(m / tile.rows), np.ceil(n / tile.columns)
        waves = down * across * count / figures.units
        across_wave = np.minimum(across, np.sqrt(np.minimum(down * across, RESIDENT * figures.units)))
        down_wave = np.minimum(down, np.minimum(down * across, RESIDENT * figures.units) / across_wave)
        traffic = 2 / figures.bytes_per_s * (1 / (down_wave * tile.rows) + 1 / (across_wave * tile.columns)) * figures.flops_per_s
        columns[f"unpadded_{tile.rows}x{tile.columns}"] = m / (down * tile.rows) * n / (across * tile.columns)
        columns[f"last_wave_{tile.rows}x{tile.columns}"] = waves / np.ceil(waves)
        columns[f"traffic_{tile.rows}x{tile.columns}"] = np.log(traffic)
    return Seen(models, measured, bound, np.column_stack([columns[name] for name in COLUMNS]))


def _models(table: Table) -> tuple[NDArray[np.str_], NDArray[np.bool_]]:
    """The model that answers for each row, and whether it learned from rows of that kind."""
    kinds = table.kinds
    names = {kind: MEASURED.get(kind, STAND_INS.get(kind, ELEMENTWISE)) for kind in np.unique(kinds).tolist()}
    models = np.array([names[kind] for kind in kinds.tolist()], dtype="<U24")
    measured = np.isin(kinds, list(MEASURED))
    models[(kinds == "MatMul") & (table.dims[:, 0] == 1)] = "Gemm"  # one product is what PyTorch calls linear
    usual = (table.values[:, WINDOW] == 9) & (table.values[:, STRIDE] == 1) & (table.values[:, DILATION] == 1)
    other = (kinds == "Conv-dense") & ~usual  # Winograd's algorithm, which most measured ones ran, needs 3x3 at stride 1
    models[other], measured[other] = "Gemm", False
    return models, measured


class _Best(NamedTuple):
    """The tile that suits each product best."""

    seconds: Matrix
    tile: Matrix
    split: Matrix
    waves: Matrix


def _tiles(count: Matrix, m: Matrix, n: Matrix, k: Matrix, figures: Figures) -> _Best:
    """Time of products on the tile, and the split of the inner dimension, that suits each best: whole waves of whole tiles."""
    rate = figures.flops_per_s / figures.units
    seconds, chosen, split, waves = np.full(len(m), np.inf), np.zeros(len(m)), np.ones(len(m)), np.ones(len(m))
    for index, tile in enumerate(TILES):
        tiles = np.ceil(m / tile.rows) * np.ceil(n / tile.columns) * count
        for parts in SPLITS:
            depth = np.ceil(k / parts / INNER) * INNER
            each = 2 * tile.rows * tile.columns * (depth + PROLOGUE) / rate / tile.efficiency
            taken = np.ceil(tiles * parts / figures.units) * each
            if parts > 1:  # the partial sums are written, read and added
                taken += parts * count * m * n * 4 / figures.bytes_per_s
                taken = np.where((tiles < 2 * figures.units) & (depth >= 8 * INNER), taken, np.inf)
            better = taken < seconds
            seconds, chosen = np.where(better, taken, seconds), np.where(better, index, chosen)
            split, waves = np.where(better, parts, split), np.where(better, tiles * parts / figures.units, waves)
    return _Best(seconds, chosen, split, waves)
