"""GPT-2 variants that others measured on eight GPUs, as kernels.

A variant has an embedding of 192, 384 or 768, 10 to 12 layers, in each layer 4, 8 or 12 heads of 64 and a gated MLP of 2 to 4 times the
embedding, biases or none; 8 sequences of 1,024 tokens in 16-bit autocast. The counts of parameters in the data are those of this
structure to the last one: Q, K and V in one matrix; two matrices into the MLP, SiLU of one times the other, one matrix back; embedding
and head apart.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from _common import data_folder

from hwnas.ir import Kernel, TensorSpec

BATCH, TOKENS, VOCABULARY, HEAD = 8, 1024, 50254, 64
ROWS = BATCH * TOKENS
DEVICES = ("P100", "v100", "rtx2080", "rtx3080", "a40", "a6000", "a100", "h100")
SOURCE = "nvml-power"  # power readings, integrated over one forward pass; 50 passes


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What was measured of all variants on one GPU, [variants] each.

    Attributes:
        joules: median over the passes.
        spread: of the passes: quartile distance over median.
        seconds: median of the GPU time of a forward pass.
    """

    joules: np.ndarray
    spread: np.ndarray
    seconds: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Variants:
    """The variants in the order in which they were measured.

    Attributes:
        networks: the kernels of each.
        sizes: embedding, layers, bias, sum of heads, sum of MLP ratios: variants alike in these do the same work, [variants, 5].
        devices: what each GPU took.
    """

    networks: Sequence[tuple[Kernel, ...]]
    sizes: np.ndarray
    devices: dict[str, Measured]


def load(folder: Path | None = None) -> Variants:
    """The 10,000 variants of scale `s`, the only one whose latency and energy were measured at the same batch."""
    folder = folder or data_folder("hwgpt")
    rows = pq.read_table(folder / "gpt_archs.parquet", filters=pc.field("scale") == "s").sort_by("arch_id").to_pylist()
    measured = pq.read_table(folder / "gpt_latency_energy.parquet", filters=pc.field("scale") == "s")
    ids = np.array([row["arch_id"] for row in rows])
    devices = {}
    for name in DEVICES:
        part = measured.filter(pc.equal(measured["device"].cast("string"), name)).sort_by("arch_id")
        if not np.array_equal(part["arch_id"].to_numpy(), ids):
            print(f"'{folder}' has not all variants for '{name}'; nothing was run", file=sys.stderr)
            raise SystemExit(1)
        median, low, high = (part[f"energy_j_{name}"].to_numpy().astype(float) for name in ("med", "p25", "p75"))
        devices[name] = Measured(median, (high - low) / median, part["lat_ms_med"].to_numpy().astype(float) / 1e3)
    networks = [kernels(row["embed_dim"], row["bias"], row["n_head"], row["mlp_ratio"]) for row in rows]
    sizes = np.array([[row["embed_dim"], row["n_layer"], row["bias"], sum(row["n_head"]), sum(row["mlp_ratio"])] for row in rows])
    return Variants(networks, sizes, devices)


def kernels(embedding: int, bias: bool, heads: Sequence[int], ratios: Sequence[int]) -> tuple[Kernel, ...]:
    """The kernels of a variant, operator by operator, as an eager framework runs them."""
    layers = [kernel for count, ratio in zip(heads, ratios, strict=True) for kernel in _layer(embedding, bias, count, ratio)]
    return (*layers, *_ends(embedding))


def _tensor(*shape: int, dtype: str = "float16") -> TensorSpec:
    return TensorSpec(shape, dtype)


def _kernel(op: str, inputs: Sequence[TensorSpec], output: TensorSpec, weights: Sequence[TensorSpec] = (), **attrs: int | float) -> Kernel:
    return Kernel(
        op=op, inputs=tuple(inputs), outputs=(output,), weights=tuple(weights), attrs=tuple(sorted(attrs.items())), precision="fp16"
    )


def _cast(*shape: int) -> Kernel:
    return _kernel("Cast", [_tensor(*shape, dtype="float32")], _tensor(*shape))


def _norm(width: int) -> list[Kernel]:
    """Autocast normalises in 32 bits, and what reads the result casts it."""
    x = _tensor(ROWS, width, dtype="float32")
    return [_kernel("LayerNormalization", [x], x, axis=-1), _cast(ROWS, width)]


def _linear(width: int, to: int, bias: bool = False) -> list[Kernel]:
    """A matrix, which autocast casts from 32 bits at every call, and its bias likewise."""
    weight = _tensor(to, width)
    product = _kernel("Gemm", [_tensor(ROWS, width)], _tensor(ROWS, to), [weight], alpha=1.0, beta=1.0, transA=0, transB=1)
    return [_cast(to, width), *([_cast(to)] if bias else []), product]


@cache
def _layer(width: int, bias: bool, heads: int, ratio: int) -> tuple[Kernel, ...]:
    x, inner, wide = _tensor(ROWS, width), heads * HEAD, _tensor(ROWS, ratio * width)
    each = _tensor(BATCH, heads, TOKENS, HEAD)
    scores = _tensor(BATCH, heads, TOKENS, TOKENS)
    rotated = _kernel("Concat", [each], each, axis=-1)  # rotary embedding of Q and of K
    return (
        *_norm(width),
        *_linear(width, 3 * inner, bias),
        _kernel("Transpose", [_tensor(BATCH, TOKENS, 3 * heads, HEAD)], _tensor(BATCH, 3 * heads, TOKENS, HEAD)),
        rotated,
        rotated,
        _kernel("MatMul", [each, _tensor(BATCH, heads, HEAD, TOKENS)], scores),
        _kernel("Softmax", [scores], scores, axis=-1),
        _kernel("MatMul", [scores, each], each),
        *_linear(inner, width, bias),
        *_norm(width),
        *_linear(width, ratio * width, bias),
        *_linear(width, ratio * width, bias),
        _kernel("Sigmoid", [wide], wide),
        _kernel("Mul", [wide, wide], wide),
        *_linear(ratio * width, width, bias),
        _kernel("Add", [x, x], x),
        _kernel("Add", [x, x], x),
    )


@cache
def _ends(width: int) -> tuple[Kernel, ...]:
    """The embedding before the layers, the norm and the head behind them."""
    table, found = _tensor(VOCABULARY, width, dtype="float32"), _tensor(ROWS, width, dtype="float32")
    return (
        _kernel("Gather", [table, _tensor(ROWS, dtype="int64")], found, axis=0),
        *_norm(width),
        *_linear(width, VOCABULARY),
    )
