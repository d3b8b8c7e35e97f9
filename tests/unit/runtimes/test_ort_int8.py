"""What is held in 8 bits, operator by operator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hwnas.ir import Graph, GraphBuilder
from hwnas.ir.fold import fold
from hwnas.runtimes.ort_int8 import Scheme, scheme

Step = Callable[[GraphBuilder, str], str]


def chain(*steps: Step, channels: int = 8) -> Graph:
    """A graph whose steps follow one another."""
    b = GraphBuilder("chain")
    x = b.input("x", (1, channels, 6, 6))
    for step in steps:
        x = step(b, x)
    return b.finish(x)


def op(name: str, **attrs: object) -> Step:
    return lambda b, x: b.op(name, [x], **attrs)


def conv(b: GraphBuilder, x: str) -> str:
    return b.conv(x, 8)


def ops(plan: Scheme) -> list[str]:
    return [node.op for node in plan.graph.nodes]


pool = op("MaxPool", kernel_shape=(2, 2))


def test_a_network_is_quantised_from_its_input_to_its_output() -> None:
    """Every value between operators with 8-bit kernels is held in 8 bits; the weights of both are quantised."""
    plan = scheme(chain(conv, op("GlobalAveragePool"), op("Flatten"), lambda b, x: b.linear(x, 4)))
    assert set(plan.ranged) == {"x", "conv_0_out", "globalaveragepool_0_out", "flatten_0_out", "gemm_0_out"}
    assert plan.weighted == {"conv_0", "gemm_0"}


@pytest.mark.parametrize("limit", [op("Relu"), op("Clip", min=0.0, max=6.0)], ids=["Relu", "Clip"])
def test_a_limit_becomes_a_matter_of_range(limit: Step) -> None:
    """What an 8-bit operator writes for a Relu or a Clip alone takes that one's name and range."""
    plan = scheme(chain(conv, limit, conv))
    assert ops(plan) == ["Conv", "Conv"]
    first, second = plan.graph.nodes
    assert first.outputs == second.inputs[:1]
    assert first.outputs[0].startswith(("relu", "clip"))
    assert plan.ranged[first.outputs[0]] == first.outputs[0]
    assert "conv_0_out" not in plan.ranged


def test_a_limit_of_a_value_that_is_needed_itself_is_a_conversion() -> None:
    """The sum that a block passes on without its activation keeps all of its range; what is limited is converted from it."""
    b = GraphBuilder("twice")
    x = b.conv(b.input("x", (1, 8, 6, 6)), 8)
    graph = b.finish(b.op("Add", [b.conv(b.op("Relu", [x]), 8), x]))
    plan = scheme(graph)
    assert ops(plan) == ["Conv", "Conv", "Add"]
    assert plan.limited == {"relu_0_out": "conv_0_out"}
    assert {plan.ranged["relu_0_out"], plan.ranged["conv_0_out"]} == {"relu_0_out", "conv_0_out"}


def test_a_limit_of_floats_is_a_conversion() -> None:
    """Behind an operator in fp32, too, the conversion to a range does what a limit would."""
    assert scheme(chain(op("Elu"), op("Clip", min=-1.0, max=1.0), conv)).limited == {"clip_0_out": "elu_0_out"}


def test_limits_that_conversions_cannot_do_stay() -> None:
    """A limit between operators in fp32, and one that shuts 0 out, which every range contains."""
    assert ops(scheme(chain(op("Elu"), op("Relu"), op("Elu")))) == ["Elu", "Relu", "Elu"]
    assert ops(scheme(chain(op("Elu"), op("Clip", min=1.0, max=2.0), conv))) == ["Elu", "Clip", "Conv"]


@pytest.mark.parametrize("step", [pool, op("Flatten"), op("Transpose", perm=(0, 2, 3, 1)), op("AveragePool", kernel_shape=(2, 2))])
def test_some_operators_keep_the_scale(step: Step) -> None:
    """What only moves or picks values hands their scale on."""
    plan = scheme(chain(conv, step))
    (written,) = plan.graph.nodes[-1].outputs
    assert plan.ranged[written] == "conv_0_out"


def test_a_scale_is_handed_back_as_well() -> None:
    """A Reshape before an 8-bit operator is done in 8 bits, although nothing before it is; between others it is left alone."""
    plan = scheme(chain(op("Elu"), op("Reshape", shape=(1, 8, 4, 9)), conv))
    assert plan.ranged["reshape_0_out"] == "elu_0_out"
    assert plan.ranged["elu_0_out"] == "elu_0_out"
    assert not scheme(chain(op("Elu"), op("Reshape", shape=(1, 8, 4, 9)), op("Elu"))).ranged


def test_pools_are_always_quantised() -> None:
    """A pool has an 8-bit kernel and uses it wherever it stands; one with dilated windows that only fp32 has does not."""
    assert scheme(chain(op("Elu"), pool)).ranged == {"elu_0_out": "elu_0_out", "maxpool_0_out": "elu_0_out"}
    assert not scheme(chain(op("AveragePool", kernel_shape=(2, 2), dilations=(2, 2)))).ranged


@pytest.mark.parametrize("name", ["HardSwish", "HardSigmoid", "Gelu", "Elu", "Tanh", "Erf"])
def test_operators_without_an_8_bit_kernel_stay_in_floats(name: str) -> None:
    """Their neighbours are quantised, so that they stand between conversions; alone they change nothing."""
    plan = scheme(chain(conv, op(name), conv))
    assert {f"{name.lower()}_0_out", "conv_0_out"} <= set(plan.ranged)
    assert not scheme(chain(op(name))).ranged


@pytest.mark.parametrize("mode", ["nearest", "cubic"])
def test_resizing_by_cubes_stays_in_floats(mode: str) -> None:
    """Only the other modes have an 8-bit kernel."""
    plan = scheme(chain(conv, op("Resize", mode=mode, scales=(1.0, 1.0, 2.0, 2.0))))
    assert ("resize_0_out" in plan.ranged) == (mode == "nearest")


def test_what_is_to_be_left_is_left() -> None:
    """Named nodes stay in fp32, limits among them."""
    assert ops(scheme(chain(conv, op("Relu"), conv), leave={"conv_0", "relu_0"})) == ["Conv", "Relu", "Conv"]
    plan = scheme(chain(conv, op("Relu"), conv), leave={"conv_0"})
    assert plan.limited == {"relu_0_out": "conv_0_out"}
    assert plan.weighted == {"conv_1"}
    assert set(plan.ranged) == {"relu_0_out", "conv_1_out"}


def test_constants_of_elementwise_operators_are_quantised() -> None:
    """A weight that is added is held like an activation."""
    plan = scheme(chain(conv, lambda b, x: b.op("Add", [x, b.constant("shift", np.ones((1, 8, 1, 1), np.float32))])))
    assert plan.ranged["shift_0"] == "shift_0"


def test_matrix_products() -> None:
    """Products with weights and of two activations are quantised; one whose weights stand on the left is not."""
    b = GraphBuilder("products")
    x = b.input("x", (1, 4, 6))
    y = b.op("MatMul", [x, b.weight("w", (6, 6))])
    graph = b.finish(b.op("MatMul", [y, b.op("Transpose", [x], perm=(0, 2, 1))]))
    plan = scheme(graph)
    assert plan.weighted == {"matmul_0"}
    assert {"x", "matmul_0_out", "transpose_0_out", "matmul_1_out"} == set(plan.ranged)
    b = GraphBuilder("left")
    assert not scheme(b.finish(b.op("MatMul", [b.weight("w", (6, 4)), b.input("x", (4, 3))]))).ranged


@pytest.mark.parametrize(("alpha", "bias"), [(0.5, (4,)), (1.0, (1, 4))])
def test_unusual_gemms_stay_in_floats(alpha: float, bias: tuple[int, ...]) -> None:
    """A factor, or a bias that is no vector, has no 8-bit form."""
    b = GraphBuilder("gemm")
    y = b.op("Gemm", [b.input("x", (1, 8)), b.weight("w", (8, 4)), b.constant("b", np.zeros(bias, np.float32))], alpha=alpha)
    assert not scheme(b.finish(y)).ranged


def test_convolutions_with_computed_weights_stay_in_floats() -> None:
    """Weights that are no constants have no integers."""
    b = GraphBuilder("dynamic")
    assert not scheme(b.finish(b.op("Conv", [b.input("x", (1, 4, 5, 5)), b.input("w", (4, 4, 1, 1))]))).weighted


def test_other_types_are_left_alone() -> None:
    """Integers and booleans are no activations."""
    b = GraphBuilder("integers")
    x = b.input("x", (1, 4), "int64")
    assert not scheme(b.finish(b.op("Add", [x, x]))).ranged


def test_recipes_suffice() -> None:
    """What is quantised is told without drawing a weight."""
    b = GraphBuilder("recipes")
    graph = b.finish(b.op("Relu", [b.batch_norm(b.conv(b.input("x", (1, 8, 6, 6)), 8, bias=False))]))
    plan = scheme(fold(graph, drafts=True))
    assert [(node.op, node.outputs) for node in plan.graph.nodes] == [("Conv", graph.outputs)]
