"""Networks whose times differ by the work of a kernel, and by nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from parity import assert_agree

from hwnas.ir.kernel import FREE
from hwnas.kernels import Case, all_kernels
from hwnas.kernels.chain import LINKS, chain
from hwnas.kernels.match import matches

CASES = [(source.name, case) for source in all_kernels() for case in source.cases]
SIDES = {"x": (2, 8, 5, 6), "residual": (2, 8, 5, 6)}
WINDOW = {"weight": (8, 1, 3, 3), "bias": (8,)}
DENSE = {"reduce": (3, 8), "reduce_bias": (3,), "expand": (8, 3), "expand_bias": (8,)}
SMALL = [
    *(
        ("depthwise_conv", {"stride": stride, "pad": 1, "activation": activation, "add": "none"}, {"x": SIDES["x"], **WINDOW})
        for stride, activation in ((1, "relu"), (2, "relu6"), (1, "hardswish"), (2, "silu"), (1, "none"))
    ),
    *(
        ("depthwise_conv", {"stride": 1, "pad": 1, "activation": activation, "add": add}, {**SIDES, **WINDOW})
        for activation, add in (("relu", "before"), ("silu", "after"), ("none", "after"))
    ),
    *(
        ("squeeze_excite", {"activation": a, "gate": g}, {"x": SIDES["x"], **DENSE})
        for a, g in (("relu", "hardsigmoid"), ("silu", "sigmoid"))
    ),
    *(
        ("layer_norm_residual", {"epsilon": 1e-5}, {"x": shape, "residual": shape, "weight": (6,), "bias": (6,)})
        for shape in ((4, 6), (2, 3, 6), (1, 2, 3, 6))
    ),
]


@pytest.mark.parametrize(("kernel", "case"), CASES, ids=[f"{kernel}, {case.name}" for kernel, case in CASES])
def test_the_work_is_that_of_the_case(kernel: str, case: Case) -> None:
    """What looks for work that a kernel does finds this case at each place and nowhere else, in the other network once."""
    row = chain(kernel, case)
    found = matches(row.whole)
    assert [match.nodes for match in found] == [tuple(n.name for n in row.whole.nodes if n.name in place) for place in row.places]
    assert {(match.kernel, match.case.key) for match in found} == {(kernel, case.key)}
    assert [(match.kernel, match.case.key) for match in matches(row.bare)] == [(kernel, case.key)]
    assert row.links == LINKS == len(found) - 1


@pytest.mark.parametrize(("kernel", "case"), CASES, ids=[f"{kernel}, {case.name}" for kernel, case in CASES])
def test_nothing_else_differs(kernel: str, case: Case) -> None:
    """Inputs, outputs and all other nodes are as many and of the same shapes; each place reads another value, with weights of its own."""
    row = chain(kernel, case)
    assert row.whole.inputs == row.bare.inputs
    assert [row.whole.specs[name] for name in row.whole.outputs] == [row.bare.specs[name] for name in row.bare.outputs]
    inside = frozenset().union(*row.places[1:])
    rest = [(node.op, row.whole.specs[node.outputs[0]]) for node in row.whole.nodes if node.name not in inside]
    assert rest == [(node.op, row.bare.specs[node.outputs[0]]) for node in row.bare.nodes]
    weights = [value for node in row.whole.nodes if node.op not in FREE for value in node.inputs if value in row.whole.constants]
    assert len(weights) == len(set(weights))


@pytest.mark.parametrize(("kernel", "attrs", "shapes"), SMALL)
def test_they_run(kernel: str, attrs: dict[str, int | float | str], shapes: dict[str, tuple[int, ...]]) -> None:
    """ONNX Runtime and torch agree on them, for every activation, addition and rank."""
    row = chain(kernel, Case(name="", shapes=shapes, attrs=attrs))
    for graph in (row.whole, row.bare):
        known = graph.materialize(np.random.default_rng(1))
        assert_agree(known)
