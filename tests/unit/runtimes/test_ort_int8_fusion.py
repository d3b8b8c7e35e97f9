"""The rules of int8 one by one, on graphs of a few nodes; tests/integration/test_ort_int8_kernels.py holds them against the runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from hwnas import spaces
from hwnas.ir import Graph, GraphBuilder
from hwnas.runtimes.ort_int8_fusion import fuse
from hwnas.runtimes.ort_int8_kernels import MOVES

Step = Callable[[GraphBuilder, str], str]

Q, DQ, IN, OUT = "QuantizeLinear", "DequantizeLinear", "ReorderInput nhwc", "ReorderOutput nhwc"
CONV = "Conv nhwc"


def told(graph: Graph) -> list[str]:
    """The kernels in words, in order: `Conv nhwc`, `Tanh fp32`."""
    return [
        " ".join(
            [call.kernel.op, *(["fp32"] if call.kernel.precision == "fp32" else [])] + [call.kernel.layout] * (call.kernel.layout != "nchw")
        )
        for call in fuse(graph)
    ]


def chain(*steps: Step, channels: int = 16, side: int = 6) -> Graph:
    """A graph whose steps follow one another."""
    b = GraphBuilder("chain")
    x = b.input("x", (1, channels, side, side))
    for step in steps:
        x = step(b, x)
    return b.finish(x)


def op(name: str, **attrs: object) -> Step:
    return lambda b, x: b.op(name, [x], **attrs)


def conv(b: GraphBuilder, x: str) -> str:
    return b.conv(x, 16, kernel=3)


pool = op("MaxPool", kernel_shape=(2, 2))


def test_convolutions_work_on_channels_last() -> None:
    """Data is converted and re-ordered once at each end of the network."""
    assert told(chain(conv, conv)) == [Q, IN, CONV, CONV, OUT, DQ]


@pytest.mark.parametrize("limit", [op("Relu"), op("Clip", min=0.0, max=6.0)], ids=["Relu", "Clip"])
def test_limits_cost_nothing(limit: Step) -> None:
    """They belong to the convolution and leave no trace in its kernel."""
    calls = fuse(chain(lambda b, x: b.batch_norm(conv(b, x)), limit))
    (call,) = [call for call in calls if call.kernel.op == "Conv"]
    assert [name.split("_")[0] for name in call.nodes][:2] == ["conv", "batchnormalization"]
    assert len(call.nodes) == 3
    assert call.kernel.fused == ()


def test_kernels_tell_their_types() -> None:
    """An 8-bit kernel reads and writes bytes; what stays in fp32 reads and writes floats, between conversions."""
    kernels = {call.kernel.op: call.kernel for call in fuse(chain(conv, op("Tanh"), conv))}
    assert [spec.dtype for spec in (*kernels["Conv"].inputs, *kernels["Conv"].weights, *kernels["Conv"].outputs)] == [
        "uint8",
        "int8",
        "uint8",
    ]
    assert (kernels["Conv"].precision, kernels["Tanh"].precision) == ("int8", "fp32")
    assert [spec.dtype for spec in (*kernels["Tanh"].inputs, *kernels["Tanh"].outputs)] == ["float32", "float32"]
    assert (kernels[Q].inputs[0].dtype, kernels[Q].outputs[0].dtype) == ("float32", "uint8")
    assert (kernels[DQ].inputs[0].dtype, kernels[DQ].outputs[0].dtype) == ("uint8", "float32")


@pytest.mark.parametrize("name", ["Tanh", "HardSwish", "HardSigmoid", "Gelu", "Elu"])
def test_floats_between_convolutions_keep_their_order(name: str) -> None:
    """Re-orders pass element-wise operators and conversions where they meet and cancel behind them."""
    assert told(chain(conv, op(name), conv)) == [Q, IN, CONV, DQ, f"{name} fp32 nhwc", Q, CONV, OUT, DQ]


def test_a_reorder_stops_where_nothing_is_gained() -> None:
    """Nobody behind an activation at the end wants the other layout; a global pool makes the data small, so that it goes behind that."""
    assert told(chain(conv, op("Sigmoid"), op("Flatten"))) == [Q, IN, CONV, OUT, "Sigmoid", "Flatten", DQ]
    assert told(chain(conv, op("GlobalAveragePool"), op("Flatten"))) == [Q, IN, CONV, "GlobalAveragePool nhwc", OUT, "Flatten", DQ]
    assert told(chain(conv, op("GlobalAveragePool"), op("Flatten"), channels=16, side=1))[2:5] == [CONV, OUT, "GlobalAveragePool"]


def test_pools_have_a_form_of_their_own() -> None:
    """Max pools always take channels-last data where it comes so, average pools where it pays."""
    assert told(chain(conv, pool)) == [Q, IN, CONV, "MaxPool nhwc", OUT, DQ]
    assert told(chain(conv, op("AveragePool", kernel_shape=(2, 2)))) == [Q, IN, CONV, OUT, "AveragePool", DQ]
    assert told(chain(conv, op("AveragePool", kernel_shape=(2, 2)), conv)) == [Q, IN, CONV, "AveragePool nhwc", CONV, OUT, DQ]
    assert told(chain(pool, conv)) == [Q, "MaxPool", IN, CONV, OUT, DQ]


def test_residuals_are_added_in_8_bits() -> None:
    """Both branches come with channels last, and so goes the sum."""
    b = GraphBuilder("residual")
    x = b.conv(b.input("x", (1, 16, 6, 6)), 16)
    assert told(b.finish(b.conv(b.op("Relu", [b.op("Add", [b.conv(x, 16), x])]), 8))) == [Q, IN, CONV, CONV, "Add nhwc", CONV, OUT, DQ]


def test_a_gate_multiplies_in_8_bits() -> None:
    """The squeeze-excite gate of a channels-last value; its HardSigmoid has no 8-bit kernel."""
    b = GraphBuilder("gate")
    x = b.conv(b.input("x", (1, 16, 6, 6)), 16)
    gate = b.op("HardSigmoid", [b.conv(b.op("GlobalAveragePool", [x]), 16)])
    graph = b.finish(b.conv(b.op("Mul", [x, gate]), 8))
    assert told(graph) == [Q, IN, CONV, "GlobalAveragePool nhwc", CONV, DQ, "HardSigmoid fp32 nhwc", Q, "Mul nhwc", CONV, OUT, DQ]


def test_a_limit_that_stays_is_a_conversion() -> None:
    """Where its input is read elsewhere too, a Relu is done by the conversion to the range behind it."""
    b = GraphBuilder("twice")
    x = b.conv(b.input("x", (1, 16, 6, 6)), 16)
    calls = fuse(b.finish(b.op("Add", [b.conv(b.op("Relu", [x]), 16), x])))
    (limit,) = [call for call in calls if "relu_0" in call.nodes and call.output == "relu_0_out"]
    assert (limit.kernel.op, limit.nodes) == (Q, ("relu_0",))


def test_moves_belong_to_who_needs_them() -> None:
    """Conversions and re-orders name the first kernel that reads what they write; at the network's end the one before them."""
    graph = chain(conv, op("Tanh"), conv, op("Relu"))
    moves = {(call.kernel.op, call.output): call.nodes for call in fuse(graph) if call.kernel.op in (Q, DQ) or "Reorder" in call.kernel.op}
    assert moves == {
        (Q, "x"): ("conv_0",),
        ("ReorderInput", "x"): ("conv_0",),
        (DQ, "conv_0_out"): ("tanh_0",),
        (Q, "tanh_0_out"): ("conv_1", "relu_0"),
        ("ReorderOutput", "relu_0_out"): ("conv_1", "relu_0"),
        (DQ, "relu_0_out"): ("conv_1", "relu_0"),
    }


def test_two_readers_in_floats_convert_for_themselves() -> None:
    """Each gets a conversion of its own, as the runtime does it."""
    b = GraphBuilder("readers")
    x = b.conv(b.input("x", (1, 16, 6, 6)), 16)
    calls = fuse(b.finish(b.op("Tanh", [x]), b.op("Elu", [x])))
    assert {call.nodes for call in calls if call.kernel.op == DQ and call.output == "conv_0_out"} == {("tanh_0",), ("elu_0",)}


def test_copies_and_constants_cost_nothing() -> None:
    """An Identity is looked through."""
    assert told(chain(conv, op("Identity"), conv)) == [Q, IN, CONV, CONV, OUT, DQ]


def test_a_network_without_8_bit_operators_stays_as_it_is() -> None:
    """Nothing is converted where nothing is gained."""
    assert told(chain(op("Tanh"), op("Erf"))) == ["Tanh fp32", "Erf fp32"]


def test_every_carrier_is_told() -> None:
    """Transposes of all kinds of networks meet conversions, constants and each other; every node that computes has its kernel, once."""
    space = spaces.load("generic")
    families = set()
    for i in range(130):  # the 124th turns a constant
        genotype = space.canonical(space.sample(np.random.default_rng([3, i])))
        families.add(space.family(genotype))
        graph = space.graph(genotype)
        names = Counter(name for call in fuse(graph) for name in call.nodes if call.kernel.op not in (Q, DQ, *MOVES))
        assert names.keys() <= {node.name for node in graph.nodes}
        assert sum(node.op in ("Conv", "Gemm", "MatMul") for node in graph.nodes) == sum(
            names[node.name] == 1 for node in graph.nodes if node.op in ("Conv", "Gemm", "MatMul")
        )
    assert len(families) > 15
