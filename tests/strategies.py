"""The Hypothesis vocabulary of the tests."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import steps_layers
import steps_maths
import steps_moves
from grower import Grower, Step
from hypothesis import strategies as st

from hwnas.ir import Graph, GraphBuilder
from hwnas.ir.ops import OPS
from hwnas.spaces import Genotype, SearchSpace

STEPS: Mapping[str, Step] = {**steps_layers.STEPS, **steps_maths.STEPS, **steps_moves.STEPS}
assert set(STEPS) == set(OPS), set(STEPS) ^ set(OPS)

CNN = (
    "Conv",
    "ConvTranspose",
    "BatchNormalization",
    "Relu",
    "Clip",
    "HardSwish",
    "MaxPool",
    "AveragePool",
    "Add",
    "Mul",
    "Concat",
    "Resize",
)
TRANSFORMER = (
    "MatMul",
    "Gemm",
    "LayerNormalization",
    "Softmax",
    "Gelu",
    "Transpose",
    "Reshape",
    "Split",
    "Add",
    "Erf",
    "ReduceMean",
    "Slice",
)


@st.composite
def graphs(draw: st.DrawFn, *, containing: str | None = None, max_steps: int = 5) -> Graph:
    """Small valid graphs with weights: images through CNN-like operators, or sequences through transformer-like ones, at times mixed.

    Args:
        draw: supplied by Hypothesis.
        containing: an operator that is among the steps.
        max_steps: most steps; a step is one operator of interest, at times with a helper before it.
    """
    builder = GraphBuilder("random")
    grower = Grower(draw, np.random.default_rng(draw(st.integers(0, 2**32 - 1))), builder)
    image = grower.flag()
    if image:
        shape = (grower.integer(1, 2), grower.integer(1, 6), grower.integer(3, 8), grower.integer(3, 8))
    else:
        shape = (grower.integer(1, 2), grower.integer(2, 5), grower.choice([4, 6, 8]))
    value = builder.input("x", shape)
    family = st.sampled_from(CNN if image else TRANSFORMER)
    steps = draw(st.lists(family | st.sampled_from(sorted(STEPS)), max_size=max_steps - 1, min_size=0 if containing else 1))
    if containing is not None:
        steps.insert(grower.integer(0, len(steps)), containing)
    for op in steps:
        value = grower.shrunk(STEPS[op](grower, value))
    return builder.finish(value)


def archs(space: SearchSpace) -> st.SearchStrategy[Genotype]:
    """Any genotype of a space; shrinks towards the first choice of every gene."""
    return st.tuples(*(st.integers(0, len(gene.choices) - 1) for gene in space.genes))
