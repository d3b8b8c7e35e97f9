"""Grows random graphs: the tool by which every operator of the tests' vocabulary takes its step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from hypothesis import strategies as st

from hwnas.ir import GraphBuilder

MAX_ELEMENTS = 1500  # of one activation: tests run on small tensors


@dataclass
class Grower:
    """Grows a random graph step by step; every step takes a value of any shape and brings it to the rank that it needs."""

    draw: st.DrawFn
    rng: np.random.Generator
    builder: GraphBuilder

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def choice(self, options: Sequence) -> object:
        return self.draw(st.sampled_from(options))

    def flag(self) -> bool:
        return self.draw(st.booleans())

    def shape(self, value: str) -> tuple[int, ...]:
        return self.builder.shape(value)

    def normal(self, shape: Sequence[int], *, fan_in: int = 1) -> str:
        values = self.rng.standard_normal(tuple(shape)) / np.sqrt(fan_in)
        return self.builder.constant("c", values.astype(np.float32))

    def positive(self, shape: Sequence[int]) -> str:
        return self.builder.constant("p", self.rng.uniform(0.5, 2, tuple(shape)).astype(np.float32))

    def ranked(self, value: str, low: int, high: int) -> str:
        """The value reshaped to a rank between `low` and `high`."""
        shape = self.shape(value)
        if len(shape) > high:
            shape = (*shape[: high - 1], prod(shape[high - 1 :]))
        if len(shape) < low:
            missing = (1,) * (low - len(shape))
            shape = (*missing, *shape) if self.flag() else (*shape, *missing)
        return value if shape == self.shape(value) else self.builder.op("Reshape", [value], shape=shape)

    def shrunk(self, value: str) -> str:
        """The value with its largest dimension averaged away while it is too large."""
        while prod(self.shape(value)) > MAX_ELEMENTS:
            axis = int(np.argmax(self.shape(value)))
            value = self.builder.op("ReduceMean", [value], axes=(axis,), keepdims=1)
        return value


Step = Callable[[Grower, str], str]


def operand(g: Grower, x: str, make: Callable[[Sequence[int]], str]) -> str:
    """A constant that broadcasts with x."""
    shape = [size if g.flag() else 1 for size in g.shape(x)]
    return make(shape[g.integer(0, len(shape)) :])
