"""What a predictor sees of a kernel: one extractor, for training and for predicting.

A kernel has a kind, which chooses its model, and local features, which depend on nothing but the kernel. What surrounds it
in its network acts through the network's context (design.md, "Measuring in context").
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

import numpy as np
from numpy.typing import NDArray

from hwnas.ir import Kernel, TensorSpec
from hwnas.ir.cost import op_flops

Matrix = NDArray[np.float64]

ACTIVATIONS = ("", "Relu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "LeakyRelu", "Gelu")
FEATURES = (
    "batch",
    "channels_in",
    "channels_out",
    "height_in",
    "height_out",
    "width_out",
    "window",
    "stride",
    "dilation",
    "groups",
    "residual",
    "activation",
    "blocked",
    "flops",
    "weight_numel",
    "input_numel",
    "output_numel",
    "flops_per_byte",
)
DETAILS = (
    "products",
    "product_rows",
    "product_columns",
    "product_depth",
    "window_height",
    "window_width",
    "stride_height",
    "group_channels_in",
    "group_channels_out",
    "fill_of_8",
    "fill_of_32",
    "rank",
    "last_axis",
    "kept_inner",
    "moves",
    "moved_axis",
    "behind_axis",
    "alignment",
    "smallest_input",
    "inputs",
    "outputs",
    "fused",
)
"""What convolutions of usual networks do not need, and other operators do: their axes and matrix products; since format 2 of predictors."""
SHAPE = (
    "blocked",
    "weight_numel",
    "input_numel",
    "output_numel",
    "products",
    "product_columns",
    "product_depth",
    "window_height",
    "window_width",
)
"""What tells how a kernel does its work, of `FEATURES` and `DETAILS`: beyond what was measured of it, times cannot be relied upon.

Carriers whose family was held out, errors weighed by time: kernels beyond twice what was measured of the depth or columns of a product, the
window or the number of products were off by a factor of 2 to 4, of rows, batch and stride by 20 to 40 %, all others by 10 %.
"""
CONTEXT = ("weight_bytes", "largest_activation_bytes", "kernels", "sum_of_kernels")
PICKS = ("Gather", "GatherElements", "GatherND", "Slice")
"""Of their data they read what they write, however much there is."""
PRODUCTS = ("Gemm", "MatMul", "FusedMatMul", "Einsum")
INT8 = "int8-"
"""Before a kind: its model of 8-bit kernels."""
GROUPED_INT8 = f"{INT8}Conv-grouped"
BLOCK_FLOPS = 400.0
"""Operations that fit into the time for which a runtime looks for the next piece of memory that it moves, however small it is.

Measured on one thread: 4.1 to 5.1 ns an element where several axes of an image move, 8 ns for each place that a Gather picks.
"""
ROW_FLOPS = 8000.0
"""Operations that fit into the time that a processor takes for one row of one group of an 8-bit grouped convolution, however few it has.

Measured on one thread with AVX2: 52 to 57 ns a row for 1 to 8 channels of a group, and for 18 to 72 products of each.
"""
SCHEMA = hashlib.sha256(repr((FEATURES, CONTEXT, ACTIVATIONS)).encode()).hexdigest()[:12]
"""Changes whenever a column does: a predictor whose card has another schema is refused."""


@dataclass(frozen=True, slots=True)
class Described:
    """A kernel as a predictor sees it.

    Attributes:
        kind: which model answers for it.
        values: in the order of `FEATURES`.
        flops: of the kernel, as it runs (`ROW_FLOPS`, `BLOCK_FLOPS`).
        bytes: that it reads and writes, weights included; of data that it picks from, what it picks.
        weight_bytes: of its weights alone, likewise.
        activation_bytes: of its inputs and outputs, likewise.
        dims: the matrix products that it amounts to, `(how many, m, n, k)`: each of an [m, k] by a [k, n] matrix; of what is no product
            its rows, `(1, rows, elements of a row, 0)`, a row being what a normalisation reduces, else the last axis.
        details: in the order of `DETAILS`.
    """

    kind: str
    values: tuple[float, ...]
    flops: float
    bytes: float
    weight_bytes: float
    activation_bytes: float
    dims: tuple[float, float, float, float]
    details: tuple[float, ...]


def kind_of(kernel: Kernel) -> str:
    """The model that answers for a kernel.

    >>> x = TensorSpec((1, 8, 4, 4))
    >>> kind_of(Kernel(op="Relu", inputs=(x,), outputs=(x,)))
    'Relu'
    """
    if kernel.precision == "int8":
        return f"{INT8}{kind_of(replace(kernel, precision='fp32'))}"
    if kernel.op in ("Conv", "ConvTranspose"):
        group = int(kernel.attr("group", 1))
        weight = kernel.weights[0].shape
        shape = (
            "depthwise"
            if weight[:2] == (group, 1) and group > 1
            else "grouped"
            if group > 1
            else "pointwise"
            if prod(weight[2:]) == 1
            else "dense"
        )
        return f"{kernel.op}-{shape}"
    return kernel.op


@lru_cache(maxsize=200_000)
def describe(kernel: Kernel) -> Described:
    """Kind and local features of a kernel; remembered, since networks of a space share most of theirs."""
    data, out = kernel.inputs[0], kernel.outputs[0]
    flops = float(max(op_flops(kernel.op, kernel.attrs, (*kernel.inputs, *kernel.weights), kernel.outputs), out.numel))
    weights_read, inputs_read = _read(kernel, kernel.weights), _read(kernel, kernel.inputs)
    weights = float(sum(spec.numel for spec in weights_read))
    reads = float(sum(spec.numel for spec in inputs_read))
    writes = float(sum(spec.numel for spec in kernel.outputs))
    weight_bytes = float(sum(spec.nbytes for spec in weights_read))
    activation_bytes = float(sum(spec.nbytes for spec in (*inputs_read, *kernel.outputs)))
    volume = weight_bytes + activation_bytes
    window = prod(kernel.weights[0].shape[2:]) if kernel.weights else prod(_ints(kernel, "kernel_shape"))
    activation = next((op for op in kernel.fused if op in ACTIVATIONS), "")
    values = (
        float(_axis(data, 0)),
        float(_axis(data, 1)),
        float(_axis(out, 1)),
        float(_axis(data, 2)),
        float(_axis(out, 2)),
        float(_axis(out, 3)),
        float(window),
        float(prod(_ints(kernel, "strides"))),
        float(prod(_ints(kernel, "dilations"))),
        float(kernel.attr("group", 1)),
        float(len(kernel.inputs) - 1),
        float(ACTIVATIONS.index(activation)),
        float(kernel.layout != "nchw"),
        flops,
        weights,
        reads,
        writes,
        flops / volume,
    )
    kind, dims = kind_of(kernel), _dims(kernel, flops)
    return Described(
        kind=kind,
        values=values,
        flops=max(flops, ROW_FLOPS * dims[0] * dims[1]) if kind == GROUPED_INT8 else max(flops, BLOCK_FLOPS * _blocks(kernel)),
        bytes=volume,
        weight_bytes=weight_bytes,
        activation_bytes=activation_bytes,
        dims=dims,
        details=(*dims, *_details(kernel)),
    )


def _read(kernel: Kernel, specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """What a kernel reads of its inputs or weights: of a table of which it picks rows, no more than these."""
    picked = _picked(kernel)
    return [kernel.outputs[0] if spec is picked and spec.numel > kernel.outputs[0].numel else spec for spec in specs]


def _picked(kernel: Kernel) -> TensorSpec | None:
    """The data that a kernel picks from, an input or a weight; None where it does not. Places are told from it by their type."""
    if kernel.op not in PICKS:
        return None
    specs = (*kernel.inputs, *kernel.weights)
    return next((spec for spec in specs if spec.dtype == kernel.outputs[0].dtype), specs[0])


def _details(kernel: Kernel) -> tuple[float, ...]:
    """See `DETAILS`, after the four of the matrix products."""
    data, out = kernel.inputs[0], kernel.outputs[0]
    window = kernel.weights[0].shape[2:] if kernel.weights else _ints(kernel, "kernel_shape")
    groups = int(kernel.attr("group", 1))
    channels_out = _axis(out, 1)
    rank = len(data.shape)
    permutation = kernel.attr("perm")
    kept, moves, moved = (1, 0, 1) if permutation is None else _moves(data.shape, permutation)
    axes = kernel.attr("axes") or (kernel.attr("axis", -1),)
    behind = prod(data.shape[max(axis % rank for axis in axes) + 1 :]) if rank else 1
    return (
        float(window[0] if window else 1),
        float(window[-1] if window else 1),
        float(_ints(kernel, "strides")[0]),
        float(_axis(data, 1) // groups),
        float(channels_out // groups),
        channels_out / (-(-channels_out // 8) * 8),
        channels_out / (-(-channels_out // 32) * 32),
        float(rank),
        float(_last(data)),
        float(kept),
        float(moves),
        float(moved),
        float(behind),
        float(_even(behind if permutation is None else _last(data))),
        min(spec.numel for spec in kernel.inputs) / max(1, out.numel),
        float(len(kernel.inputs)),
        float(len(kernel.outputs)),
        float(len(kernel.fused)),
    )


def _even(count: int) -> int:
    """The largest power of two that divides it. Of rows that lie so far apart, few fit into a cache at a time."""
    return count & -count


def _moves(shape: Sequence[int], permutation: Sequence[int]) -> tuple[int, int, int]:
    """What a permutation asks of a runtime; axes of one element do not count, and those that stay neighbours are one.

    Returns:
        How many elements stay together, behind the last axis that moves; 0 where none moves, 1 where one moves past others, 2 where several
        do; elements of the first axis written of those that move.

    >>> _moves((1, 64, 7, 7), (0, 2, 3, 1)), _moves((1, 49, 3, 32), (0, 2, 1, 3)), _moves((1, 4, 36, 80), (0, 3, 2, 1))
    ((1, 1, 49), (32, 1, 3), (1, 2, 80))
    """
    runs: list[list[int]] = []
    large = [axis for axis, size in enumerate(shape) if size > 1]
    for axis in (large.index(axis) for axis in permutation if shape[axis] > 1):
        if runs and axis == runs[-1][-1] + 1:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    order = [sorted(runs).index(run) for run in runs]
    sizes = [prod(shape[large[axis]] for axis in run) for run in runs]
    if len(order) < 2:
        return prod(shape), 0, 1
    stays = order[-1] == len(order) - 1
    moving = order[order[0] == 0 : len(order) - stays]
    single = any(rest == sorted(rest) for rest in (moving[1:], moving[:-1]))
    return sizes[-1] if stays else 1, 1 if single else 2, sizes[int(order[0] == 0)]


def _blocks(kernel: Kernel) -> float:
    """Pieces of memory that are moved one by one; 0 where a runtime moves them in bulk."""
    permutation, out = kernel.attr("perm"), kernel.outputs[0]
    if kernel.op == "Transpose" and permutation is not None:
        kept, moves, _ = _moves(kernel.inputs[0].shape, permutation)
        return out.numel / kept if moves > 1 else 0.0
    data = _picked(kernel)
    if kernel.op == "Gather" and data is not None:
        return out.numel / max(1, prod(data.shape[kernel.attr("axis", 0) % max(1, len(data.shape)) + 1 :]))
    return 0.0


def _dims(kernel: Kernel, flops: float) -> tuple[float, float, float, float]:
    """See `Described.dims`."""
    data, out = kernel.inputs[0], kernel.outputs[0]
    if kernel.op in ("Conv", "ConvTranspose"):
        groups = int(kernel.attr("group", 1))
        places = out if kernel.op == "Conv" else data
        m = places.shape[0] * prod(places.shape[2:])  # the images of a batch lie side by side
        k = flops / 2 / out.numel if kernel.op == "Conv" else data.numel / m / groups
        return float(groups), float(m), flops / 2 / (groups * m * k), k
    if kernel.op in PRODUCTS:
        n, k = _last(out), flops / 2 / out.numel
        operands = [spec for spec in (*kernel.inputs, *kernel.weights) if len(spec.shape) > 2]
        count = prod(out.shape[:-2]) if len(operands) > 1 else 1
        return float(count), out.numel / n / count, float(n), k
    axis = kernel.attr("axis")
    length = _last(data)
    if kernel.op in ("Softmax", "LogSoftmax") and axis is not None:
        length = data.shape[axis]
    elif kernel.op == "LayerNormalization" and axis is not None:
        length = prod(data.shape[axis:])
    return 1.0, out.numel / length, float(length), 0.0


def _last(spec: TensorSpec) -> int:
    return spec.shape[-1] if spec.shape else 1


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The kernels of many networks as arrays, row by row.

    Attributes:
        kinds: name of each row's model, [rows].
        values: features, [rows, len(FEATURES)].
        flops: as `Described.flops`, [rows].
        bytes: [rows].
        owner: index of the network that each row belongs to, [rows], ascending.
        context: of each network: bytes of all weights, bytes of the largest activation, number of kernels, bytes that all kernels read
            and write; [networks, 4].
        dims: as `Described.dims`, [rows, 4].
        details: as `Described.details`, [rows, len(DETAILS)].
    """

    kinds: NDArray[np.str_]
    values: Matrix
    flops: Matrix
    bytes: Matrix
    owner: NDArray[np.int64]
    context: Matrix
    dims: Matrix
    details: Matrix

    def columns(self, rows: NDArray[np.bool_], *, detailed: bool) -> Matrix:
        """What the model of a kind sees of its kernels, [rows, columns]; without details for predictors of format 1."""
        return np.column_stack([self.values[rows], self.details[rows]]) if detailed else self.values[rows]

    @property
    def counted(self) -> Matrix:
        """Operations of each row as they are counted, whatever a processor makes of them (`ROW_FLOPS`, `BLOCK_FLOPS`); [rows]."""
        counted: Matrix = self.values[:, FEATURES.index("flops")]
        return counted

    @property
    def sizes(self) -> Matrix:
        """What must have been measured of a kind for a kernel to be covered: operations, bytes, `SHAPE`; [rows, 2 + len(SHAPE)]."""
        columns = dict(zip((*FEATURES, *DETAILS), (*self.values.T, *self.details.T), strict=True))
        return np.column_stack([self.flops, self.bytes, *(columns[name] for name in SHAPE)])

    @property
    def networks(self) -> int:
        """Number of networks."""
        return len(self.context)

    def total(self, rows: Matrix) -> Matrix:
        """The sum of a value of each row, per network."""
        sums: Matrix = np.bincount(self.owner, rows, self.networks).astype(np.float64)
        return sums

    def take(self, networks: NDArray[np.int64]) -> Table:
        """The rows of some networks, given by ascending index."""
        rows = np.isin(self.owner, networks)
        renumbered = np.searchsorted(networks, self.owner[rows])
        return Table(
            kinds=self.kinds[rows],
            values=self.values[rows],
            flops=self.flops[rows],
            bytes=self.bytes[rows],
            owner=renumbered,
            context=self.context[networks],
            dims=self.dims[rows],
            details=self.details[rows],
        )


def tabulate(networks: Sequence[Sequence[Kernel]]) -> Table:
    """The table of networks given by their kernels; every network needs at least one."""
    rows = [describe(kernel) for kernels in networks for kernel in kernels]
    owner = np.repeat(np.arange(len(networks)), [len(kernels) for kernels in networks])
    weight_bytes = np.array([row.weight_bytes for row in rows])
    activation_bytes = np.array([row.activation_bytes for row in rows])
    starts = np.searchsorted(owner, np.arange(len(networks)))
    moved = np.array([row.bytes for row in rows])
    context = np.column_stack(
        [
            np.add.reduceat(weight_bytes, starts),
            np.maximum.reduceat(activation_bytes, starts),
            np.bincount(owner, minlength=len(networks)),
            np.add.reduceat(moved, starts),
        ]
    )
    return Table(
        kinds=np.array([row.kind for row in rows]),
        values=np.array([row.values for row in rows]),
        flops=np.array([row.flops for row in rows]),
        bytes=moved,
        owner=owner,
        context=context,
        dims=np.array([row.dims for row in rows]),
        details=np.array([row.details for row in rows]),
    )


def _axis(spec: TensorSpec, axis: int) -> int:
    return spec.shape[axis] if len(spec.shape) > axis else 1


def _ints(kernel: Kernel, key: str) -> Sequence[int]:
    values: Sequence[int] = kernel.attr(key, (1,))
    return values
