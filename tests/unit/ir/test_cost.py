"""Costs, against numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from strategies import graphs

from hwnas.ir import GraphBuilder, TensorSpec, cost
from hwnas.ir.ops import OPS


def small_network():
    """x[1,3,8,8] -> conv 3x3/2 to 4 channels -> batch norm -> relu -> pool -> flatten -> linear to 10."""
    b = GraphBuilder("small")
    x = b.input("x", (1, 3, 8, 8))
    x = b.op("Relu", [b.batch_norm(b.conv(x, 4, kernel=3, stride=2))])
    return b.finish(b.linear(b.op("Flatten", [b.op("GlobalAveragePool", [x])]), 10))


def one_node(op, shape, **attrs):
    b = GraphBuilder("one")
    x = b.input("x", shape)
    return b.finish(b.op(op, [x], **attrs))


def test_flops_of_a_small_network():
    """Conv 2*(4*4*4)*3*9 = 3456, batch norm 2*64, relu 64, mean 64, flatten 0, linear 2*10*4."""
    assert cost.flops(small_network()) == 3456 + 128 + 64 + 64 + 0 + 80


def test_flops_of_products_written_as_equations():
    """A product of two costs 2 for each combination of indices, a sum 1 for each element."""
    b = GraphBuilder("einsum")
    x = b.input("x", (2, 3, 5))
    graph = b.finish(b.op("Einsum", [x, b.weight("w", (7, 5))], equation="bid,ed->bie"), b.op("Einsum", [x], equation="bid->b"))
    assert [cost.node_flops(graph, node) for node in graph.nodes] == [2 * 2 * 3 * 5 * 7, 30]


@pytest.mark.parametrize(("turned", "moved", "shape"), [(0, 0, (6, 4, 5)), (1, 0, (6, 5, 4)), (0, 1, (4, 6, 5)), (1, 1, (5, 6, 4))])
def test_flops_of_a_product_that_transposes_what_it_reads(turned, moved, shape):
    """6 products of [4, 5] by [5, 3], however the first factor lies in memory."""
    attrs = (("transA", turned), ("transBatchA", moved))
    flops = cost.op_flops("FusedMatMul", attrs, [TensorSpec(shape), TensorSpec((6, 5, 3))], [TensorSpec((6, 4, 3))])
    assert flops == 2 * 6 * 4 * 5 * 3


def test_a_fusion_costs_what_its_parts_do():
    """A sum before a normalisation, a bias before a Gelu."""
    spec = TensorSpec((2, 4))
    counts = {op: cost.op_flops(op, (), [spec, spec], [spec]) for op in ("Add", "LayerNormalization", "Gelu")}
    assert cost.op_flops("SkipLayerNormalization", (), [spec, spec], [spec]) == counts["Add"] + counts["LayerNormalization"]
    assert cost.op_flops("BiasGelu", (), [spec, spec], [spec]) == counts["Add"] + counts["Gelu"]
    assert cost.op_flops("ReorderInput", (), [spec], [spec]) == 0


def test_parameters_of_a_small_network():
    """Conv 4*3*9 + 4, batch norm 4 + 4 (its running statistics do not count), linear 10*4 + 10."""
    assert cost.params(small_network()) == 108 + 4 + 8 + 50


def test_weight_bytes_count_running_statistics():
    """170 parameters and 8 running statistics, 4 bytes each."""
    assert cost.weight_bytes(small_network()) == 4 * (170 + 8)


def test_memory_is_weights_and_the_largest_live_set():
    """The first convolution holds its input (3*64) and its output (64) at once, which is the most."""
    assert cost.memory_bytes(small_network()) == 4 * (178 + 192 + 64)


def test_bytes_moved_of_a_small_network():
    """Conv 192+108+4+64, batch norm 64+16+64, relu 64+64, mean 64+4, flatten 0, linear 4+40+10+10 elements."""
    assert cost.bytes_moved(small_network()) == 4 * (368 + 144 + 128 + 68 + 0 + 64)


def test_a_residual_keeps_its_source_alive():
    """While the second relu of the branch runs, the source, its input and its output are live: 3 tensors of 16 elements."""
    b = GraphBuilder("residual")
    x = b.input("x", (1, 16))
    source = b.op("Relu", [x])
    branch = b.op("Relu", [b.op("Relu", [source])])
    assert cost.memory_bytes(b.finish(b.op("Add", [source, branch]))) == 3 * 16 * 4


def test_views_share_storage():
    """Reshapes between two activations of 16 elements add nothing to the two."""
    b = GraphBuilder("views")
    x = b.op("Relu", [b.input("x", (1, 16))])
    assert cost.memory_bytes(b.finish(b.op("Relu", [b.op("Reshape", [b.op("Reshape", [x], shape=(4, 4))], shape=(2, 8))]))) == 2 * 16 * 4


def test_an_output_stays_live():
    """An early output lives beside what is computed after it: 3 tensors, not 2."""
    b = GraphBuilder("outputs")
    first = b.op("Relu", [b.input("x", (4, 4))])
    last = b.op("Relu", [b.op("Relu", [first])])
    assert cost.memory_bytes(b.finish(first, last)) == 3 * 64


def test_a_shared_weight_counts_once():
    """Two nodes that read one weight of 8 elements: 8 parameters."""
    b = GraphBuilder("shared")
    w = b.weight("w", (8,))
    x = b.op("Add", [b.op("Add", [b.input("x", (1, 8)), w]), w])
    graph = b.finish(x)
    assert (cost.params(graph), cost.weight_bytes(graph)) == (8, 32)


def test_integer_constants_are_no_parameters():
    """They take bytes, but nobody trains them."""
    b = GraphBuilder("integers")
    x = b.op("Add", [b.input("x", (3,), "int64"), b.constant("c", np.arange(3))])
    graph = b.finish(x)
    assert (cost.params(graph), cost.weight_bytes(graph)) == (0, 24)


@pytest.mark.parametrize(
    ("op", "shape", "attrs", "expected"),
    [
        ("MaxPool", (1, 2, 4, 4), {"kernel_shape": (2, 2), "strides": (2, 2)}, 8 * 4),
        ("AveragePool", (1, 2, 4, 4), {"kernel_shape": (3, 3), "strides": (1, 1)}, 8 * 9),
        ("Softmax", (2, 3, 5), {}, 5 * 30),
        ("ReduceMean", (2, 3, 5), {"axes": (2,)}, 30),
        ("Gelu", (2, 3), {}, 6),
        ("LRN", (1, 4, 2, 2), {"size": 5}, 16 * 9),
        ("Transpose", (2, 3), {}, 0),
        ("Resize", (1, 1, 2, 2), {"scales": (1.0, 1.0, 2.0, 2.0)}, 0),
        ("Resize", (1, 1, 2, 2), {"scales": (1.0, 1.0, 2.0, 2.0), "mode": "linear"}, 2 * 16 * 4),
        ("Resize", (1, 1, 2, 2), {"scales": (1.0, 1.0, 1.0, 2.0), "mode": "cubic"}, 2 * 8 * 4),
        ("Split", (2, 4), {"split": (4,), "axis": 1}, 0),
        ("CumSum", (2, 5), {"axis": 1}, 10),
        ("ArgMax", (2, 5), {"axis": 1}, 10),
        ("TopK", (2, 16), {"k": 4}, 32 * 3),
        ("DFT", (3, 8, 1), {}, 5 * 3 * 8 * 3),
    ],
)
def test_flops_of_single_operators(op, shape, attrs, expected):
    """The module's conventions, one operator at a time."""
    assert cost.flops(one_node(op, shape, **attrs)) == expected


def test_grouped_and_transposed_convolutions():
    """Depthwise 3x3 on [1,6,5,5]: 2*150*9; transposed 2x2 with stride 2 from 6 to 4 channels: every input element times 4*4."""
    b = GraphBuilder("convolutions")
    x = b.conv(b.input("x", (1, 6, 5, 5)), 6, kernel=3, groups=6)
    y = b.op("ConvTranspose", [x, b.weight("w", (6, 4, 2, 2))], strides=(2, 2))
    graph = b.finish(y)
    assert [cost.node_flops(graph, node) for node in graph.nodes] == [2 * 150 * 9, 2 * 150 * 16]


def test_recurrent_layers():
    """4 steps of 2 sequences, both ways: 4 gates of 3 numbers from 5 and 3 each."""
    b = GraphBuilder("recurrent")
    inputs = [b.input("x", (4, 2, 5)), b.weight("w", (2, 12, 5)), b.weight("r", (2, 12, 3))]
    graph = b.finish(b.op("LSTM", inputs, direction="bidirectional"))
    assert cost.flops(graph) == 2 * 4 * 2 * 2 * 12 * (5 + 3)


def test_samples_of_a_grid():
    """Each of 2 x 6 numbers is the weighted sum of 4 neighbours."""
    b = GraphBuilder("grid")
    x, grid = b.input("x", (1, 2, 5, 5)), b.input("g", (1, 2, 3, 2))
    graph = b.finish(b.op("GridSample", [x, grid]), b.op("GridSample", [x, grid], mode="nearest"))
    assert [cost.node_flops(graph, node) for node in graph.nodes] == [2 * 12 * 4, 0]


def test_matrix_products():
    """[2,3,4] @ [4,5]: 2*2*3*5*4; a Gemm with its first factor turned, [4,3]^T @ [4,5]: 2*3*5*4."""
    b = GraphBuilder("products")
    first = b.op("MatMul", [b.input("x", (2, 3, 4)), b.weight("w", (4, 5))])
    second = b.op("Gemm", [b.input("y", (4, 3)), b.weight("w", (4, 5))], transA=1)
    graph = b.finish(first, second)
    assert [cost.node_flops(graph, node) for node in graph.nodes] == [240, 120]


def test_a_runtimes_own_operator_only_moves_data():
    """A layout reorder has no arithmetic."""
    spec = TensorSpec((1, 8, 4, 4))
    assert cost.op_flops("ReorderInput", (), [spec], [spec]) == 0


@settings(max_examples=60, deadline=None)
@given(graph=graphs())
def test_bounds_that_hold_for_every_graph(graph):
    """Memory holds the weights and the largest node's activations; nothing is negative; flops are the sum over nodes."""
    views = {node.name for node in graph.nodes if node.op in cost.VIEWS}
    activations = [
        sum(graph.specs[value].nbytes for value in {*node.inputs, *node.outputs} - {""} - set(graph.weights))
        for node in graph.nodes
        if node.name not in views
    ]
    assert cost.memory_bytes(graph) >= cost.weight_bytes(graph) + max(activations, default=0)
    total = sum(spec.nbytes for name, spec in graph.specs.items())
    assert cost.memory_bytes(graph) <= total
    assert cost.flops(graph) >= 0
    assert cost.bytes_moved(graph) >= 0


def test_every_operator_is_counted_or_known_to_move_data():
    """Only operators that move data are free of operations: a new operator has to choose."""
    free = {"Cast", "Concat", "Flatten", "Identity", "Pad", "Reshape", "Slice", "Split", "Transpose"}
    free |= {"DepthToSpace", "Expand", "Gather", "GatherElements", "GatherND", "SpaceToDepth", "Tile"}
    free |= {"OneHot", "ScatterElements", "ScatterND", "Trilu"}
    spec = TensorSpec((2, 4))
    plain = set(OPS) - free - {"Conv", "ConvTranspose", "Einsum", "Gemm", "LRN", "MaxPool", "AveragePool", "Resize"}
    plain -= {"DFT", "GRU", "GridSample", "LSTM", "RNN", "TopK"}
    assert all(cost.op_flops(op, (), [spec, spec], [spec]) > 0 for op in plain)
    assert all(cost.op_flops(op, (), [spec], [spec]) == 0 for op in free)
