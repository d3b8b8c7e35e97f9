"""Tensors, weights and nodes: what a graph is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import GraphError

Array = NDArray[Any]
AttrValue = int | float | str | tuple[int, ...] | tuple[float, ...]
Attrs = tuple[tuple[str, AttrValue], ...]
Init = Literal["he", "zeros", "ones", "fixed"]

DTYPE_BYTES: Mapping[str, int] = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """The shape and the element type of a tensor.

    Attributes:
        shape: every dimension, all known and positive; `()` is a scalar.
        dtype: a NumPy name (`float32`, `int8`, ...), or `bfloat16`.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_BYTES:
            raise GraphError(f"element type '{self.dtype}' is not supported; use one of {', '.join(DTYPE_BYTES)}")
        if any(d < 1 for d in self.shape):
            raise GraphError(f"every dimension must be at least 1, got {list(self.shape)}")

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in bytes, densely stored."""
        return self.numel * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Weight:
    """A constant tensor of a network: given values, or a recipe by which they are drawn when somebody needs them.

    A search looks at a million networks and runs a few, so weights stay recipes until `Graph.materialize`.

    Attributes:
        spec: shape and element type.
        init: `he` (normal, variance 2 / fan-in), `zeros`, `ones`, or `fixed` for given values.
        value: the values, present exactly when they are known.
    """

    spec: TensorSpec
    init: Init = "he"
    value: Array | None = None

    def __post_init__(self) -> None:
        if self.init == "fixed" and self.value is None:
            raise GraphError("a weight with init 'fixed' needs its values")
        if self.value is not None and self.value.shape != self.spec.shape:
            raise GraphError(f"a weight of shape {list(self.spec.shape)} was given values of shape {list(self.value.shape)}")

    @classmethod
    def of(cls, value: Array) -> Weight:
        """A weight that holds these values."""
        return cls(spec=TensorSpec(value.shape, str(value.dtype)), init="fixed", value=value)

    def draw(self, rng: np.random.Generator) -> Array:
        """The values: the known ones, or new ones drawn from `rng`."""
        if self.value is not None:
            return self.value
        if self.init == "zeros":
            return np.zeros(self.spec.shape, self.spec.dtype)
        if self.init == "ones":
            return np.ones(self.spec.shape, self.spec.dtype)
        fan_in = prod(self.spec.shape[1:]) if len(self.spec.shape) > 1 else self.spec.numel
        noise = rng.standard_normal(self.spec.shape, dtype=np.float32)
        noise *= np.float32(np.sqrt(2 / fan_in))
        return noise.astype(self.spec.dtype, copy=False)

    def drawn(self, rng: np.random.Generator) -> Weight:
        """This weight with its values present."""
        return self if self.value is not None else replace(self, value=self.draw(rng))


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operator application.

    Attributes:
        name: unique in its graph.
        op: ONNX operator type, such as `Conv`.
        inputs: names of the values read; `""` stands for an optional input that is left out.
        outputs: names of the values written.
        attrs: canonical attributes as sorted `(name, value)` pairs; `ops.canonical` fills the defaults in.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Attrs = ()

    def attr(self, key: str) -> Any:
        """The value of an attribute; `KeyError` where the operator has no such attribute."""
        for name, value in self.attrs:
            if name == key:
                return value
        raise KeyError(f"node '{self.name}' ({self.op}) has no attribute '{key}'")

    def ints(self, key: str) -> tuple[int, ...]:
        """An attribute that is a list of integers."""
        return cast("tuple[int, ...]", self.attr(key))
