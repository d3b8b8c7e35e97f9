"""Operators: canonical attributes and shape inference."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import graphs

from hwnas.errors import GraphError
from hwnas.ir import Graph, GraphBuilder, TensorSpec
from hwnas.ir.op_shapes import broadcast, window_output
from hwnas.ir.ops import canonical


def node_of(op: str, *shapes: tuple[int, ...], outputs: int = 1, **attrs: object) -> tuple[dict[str, object], list[tuple[int, ...]]]:
    """Attributes and output shapes of one node."""
    b = GraphBuilder("one")
    values = b.ops(op, [b.input(f"x{i}", shape) for i, shape in enumerate(shapes)], outputs=outputs, **attrs)
    graph = b.finish(*values)
    return dict(graph.nodes[0].attrs), [graph.specs[value].shape for value in values]


def refused(match: str, op: str, *shapes: tuple[int, ...], **attrs: object) -> None:
    with pytest.raises(GraphError, match=match) as caught:
        node_of(op, *shapes, **attrs)
    assert f"'{op.lower()}_0'" in str(caught.value)


@settings(max_examples=80, deadline=None)
@given(graph=graphs())
def test_canonical_form_is_a_fixed_point(graph: Graph) -> None:
    """Bringing a canonical node into canonical form changes nothing."""
    for node in graph.nodes:
        assert canonical(node, graph.input_specs(node)) == node


@given(
    size=st.integers(1, 30),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 3),
    pads=st.tuples(st.integers(0, 4), st.integers(0, 4)),
)
def test_windows_are_counted(size: int, kernel: int, stride: int, dilation: int, pads: tuple[int, int]) -> None:
    """As many windows as start positions from which the last element still lies inside the padded input."""
    reach = dilation * (kernel - 1)
    starts = range(0, size + sum(pads) - reach, stride)
    if starts:
        assert window_output(size, kernel, stride, dilation, sum(pads)) == len(starts)
    else:
        with pytest.raises(GraphError, match="does not fit"):
            window_output(size, kernel, stride, dilation, sum(pads))


def test_numbers_are_kept_in_single_precision() -> None:
    """1/3 is what a file would hold of it, and a whole number given for a real one is real."""
    assert node_of("HardSigmoid", (1,), alpha=1 / 3, beta=1)[0] == {"alpha": 0.33333334, "beta": 1.0}


def test_shapes_broadcast_as_in_numpy() -> None:
    """Ones stretch, other differences are errors."""
    assert broadcast((2, 1, 3), (4, 1)) == (2, 4, 3)
    assert broadcast((), (2,)) == (2,)
    with pytest.raises(GraphError, match="do not broadcast"):
        broadcast((2,), (3,))


@pytest.mark.parametrize(
    ("op", "shapes", "attrs", "expected"),
    [
        ("Conv", [(1, 4, 7, 9), (6, 2, 3, 1)], {"group": 2, "strides": (2, 1), "pads": (1, 0, 0, 0)}, (1, 6, 3, 9)),
        ("Conv", [(2, 3, 10), (5, 3, 3)], {"dilations": (2,)}, (2, 5, 6)),
        ("ConvTranspose", [(1, 4, 3, 3), (4, 2, 3, 3)], {"strides": (2, 2), "output_padding": (1, 1), "pads": (1, 1, 1, 1)}, (1, 2, 6, 6)),
        ("MaxPool", [(1, 2, 5, 5)], {"kernel_shape": (2, 2), "strides": (2, 2), "ceil_mode": 1}, (1, 2, 3, 3)),
        ("ReduceMean", [(2, 3, 4)], {"axes": (-1, 0), "keepdims": 0}, (3,)),
        ("Reshape", [(2, 3, 4)], {"shape": (0, -1)}, (2, 12)),
        ("Slice", [(10, 4)], {"starts": (-4,), "ends": (2**63 - 1,), "axes": (0,), "steps": (3,)}, (2, 4)),
        ("Flatten", [(2, 3, 4)], {"axis": -1}, (6, 4)),
        ("Flatten", [(2, 3, 4)], {"axis": 3}, (24, 1)),
        ("Gemm", [(4, 2), (3, 4)], {"transA": 1, "transB": 1}, (2, 3)),
        ("MatMul", [(5, 1, 2, 3), (7, 3, 4)], {}, (5, 7, 2, 4)),
        ("Pad", [(2, 3)], {"pads": (0, -1, 1, 2)}, (3, 4)),
        ("Resize", [(1, 1, 5, 5)], {"scales": (1.0, 1.0, 1.5, 0.5)}, (1, 1, 7, 2)),
        ("Gather", [(2, 3, 4)], {"axis": 1}, None),
        ("Expand", [(3, 1)], {"shape": (2, 1, 4)}, (2, 3, 4)),
        ("SpaceToDepth", [(1, 2, 4, 6)], {"blocksize": 2}, (1, 8, 2, 3)),
        ("DepthToSpace", [(1, 8, 2, 3)], {"blocksize": 2}, (1, 2, 4, 6)),
        ("Transpose", [(2, 3, 4)], {}, (4, 3, 2)),
        ("Tile", [(2, 3)], {"repeats": (2, 1)}, (4, 3)),
        ("Col2Im", [(2, 12, 9)], {"image_shape": (4, 4), "block_shape": (2, 2)}, (2, 3, 4, 4)),
        ("Col2Im", [(1, 4, 4)], {"image_shape": (3, 3), "block_shape": (2, 2), "strides": (2, 2), "pads": (1, 1, 0, 0)}, (1, 1, 3, 3)),
        ("Einsum", [(2, 3, 5), (7, 5)], {"equation": "...d, ed -> ...e"}, (2, 3, 7)),
        ("Einsum", [(2, 3), (3, 4)], {"equation": "zb,ba"}, (4, 2)),
        ("Einsum", [(1, 3), (2, 3)], {"equation": "ab,ab->a"}, (2,)),
        ("Slice", [(5,)], {"starts": (-1,), "ends": (-100,), "steps": (-2,)}, (3,)),
        ("ArgMax", [(2, 3, 4)], {"axis": -1, "keepdims": 0}, (2, 3)),
        ("TopK", [(2, 7)], {"k": 3}, (2, 3)),
        ("DFT", [(2, 9, 1)], {"onesided": 1}, (2, 5, 2)),
        ("DFT", [(2, 9, 2)], {"dft_length": 4, "axis": 0}, (4, 9, 2)),
        ("GridSample", [(1, 3, 8, 8), (1, 5, 6, 2)], {}, (1, 3, 5, 6)),
        ("LSTM", [(7, 2, 5), (2, 12, 5), (2, 12, 3)], {"direction": "bidirectional"}, (7, 2, 2, 3)),
    ],
)
def test_shapes(op: str, shapes: list[tuple[int, ...]], attrs: dict[str, object], expected: tuple[int, ...] | None) -> None:
    """Shapes worked out by hand."""
    if expected is None:
        refused("takes 2 inputs", op, *shapes, **attrs)
    else:
        assert node_of(op, *shapes, **attrs)[1] == [expected]


def test_ceil_mode_becomes_pads() -> None:
    """5 under windows of 2 in steps of 2: the third window needs one more element at the end, which is then padding."""
    attrs, _ = node_of("MaxPool", (1, 1, 5), kernel_shape=(2,), strides=(2,), ceil_mode=1)
    assert (attrs["ceil_mode"], attrs["pads"]) == (0, (0, 1))


def test_ceil_mode_adds_no_window_that_starts_in_the_padding() -> None:
    """6 with 2 pads at both ends, windows of 3 in steps of 3: a fourth window would start at the last pad."""
    attrs, shapes = node_of("MaxPool", (1, 1, 6), kernel_shape=(3,), strides=(3,), pads=(2, 2), ceil_mode=1)
    assert (attrs["ceil_mode"], attrs["pads"], shapes) == (0, (2, 2), [(1, 1, 3)])


def test_a_window_larger_than_all_it_slides_over() -> None:
    """With ceil_mode it is as large as that, as in an average over everything that exporters write with a huge window."""
    attrs, shapes = node_of("AveragePool", (1, 1, 7, 7), kernel_shape=(640, 640), strides=(640, 640), ceil_mode=1, count_include_pad=1)
    assert (attrs["kernel_shape"], attrs["strides"], attrs["ceil_mode"], shapes) == ((7, 7), (7, 7), 0, [(1, 1, 1, 1)])
    refused("does not fit into 7", "AveragePool", (1, 1, 7), kernel_shape=(640,), strides=(640,))


def test_ceil_mode_stays_in_an_average_over_pads() -> None:
    """Such an average counts stated pads and does not count what ceil_mode adds, so that it cannot be stated as pads."""
    attrs, _ = node_of("AveragePool", (1, 1, 5), kernel_shape=(2,), strides=(2,), ceil_mode=1, count_include_pad=1)
    assert (attrs["ceil_mode"], attrs["pads"]) == (1, (0, 0))


@pytest.mark.parametrize(
    ("match", "op", "shapes", "attrs"),
    [
        ("operator 'Rleu' is not supported .did you mean 'Relu'", "Rleu", [(1,)], {}),
        ("takes 1 inputs, got 2", "Relu", [(1,), (1,)], {}),
        ("takes 2 to 3 inputs, got 1", "Conv", [(1, 1, 1)], {}),
        ("attribute 'slope' is not supported", "Relu", [(1,)], {"slope": 1}),
        ("attribute 'axis' is required", "Concat", [(1,)], {}),
        ("do not fit the weight", "Conv", [(1, 3, 4), (2, 2, 1)], {}),
        ("bias needs shape", "Conv", [(1, 3, 4), (2, 3, 1), (3,)], {}),
        ("must be positive", "Conv", [(1, 3, 4), (2, 3, 1)], {"strides": (0,)}),
        ("needs 1 values", "Conv", [(1, 3, 4), (2, 3, 1)], {"strides": (1, 1)}),
        ("does not accept", "Conv", [(1, 3, 4), (2, 3, 1)], {"group": 0}),
        ("does not fit into", "MaxPool", [(1, 1, 3)], {"kernel_shape": (5,)}),
        ("do not broadcast", "Add", [(2,), (3,)], {}),
        ("does not broadcast to", "LayerNormalization", [(2, 3), (4, 2, 3)], {}),
        ("expected parameters of shape", "InstanceNormalization", [(1, 3, 4), (2,), (2,)], {}),
        ("do not divide into 2 groups", "GroupNormalization", [(1, 3, 4), (3,), (3,)], {"num_groups": 2}),
        ("outside a tensor of rank 2", "Softmax", [(1, 3)], {"axis": 2}),
        ("all dimensions but axis 0 must agree", "Concat", [(1, 3), (1, 4)], {"axis": 0}),
        ("do not add up to 3", "Split", [(3,)], {"split": (1, 1)}),
        ("2 parts need as many outputs, got 1", "Split", [(3,)], {"split": (1, 2)}),
        ("slice step cannot be zero", "Slice", [(3,)], {"starts": (0,), "ends": (2,), "steps": (0,)}),
        ("differ in length", "Slice", [(3,)], {"starts": (2,), "ends": (0, 1)}),
        ("does not reshape", "Reshape", [(2, 3)], {"shape": (4, -1)}),
        ("does not reshape", "Reshape", [(2, 3)], {"shape": (5,)}),
        ("at most one", "Reshape", [(2, 3)], {"shape": (-1, -1)}),
        ("not a permutation", "Transpose", [(2, 3)], {"perm": (0, 0)}),
        ("inner dimensions 3 and 4 differ", "Gemm", [(2, 3), (4, 5)], {}),
        ("inner dimensions 3 and 4 differ", "MatMul", [(2, 3), (4, 5)], {}),
        ("rank 1", "MatMul", [(3,), (3, 5)], {}),
        ("exactly one of", "Resize", [(1, 1, 2, 2)], {}),
        ("every dimension must be at least 1", "Pad", [(2, 3)], {"pads": (0, -3, 0, 0)}),
        ("index 'd' of 'bd,dc->bc' stands for 3 and for 4", "Einsum", [(2, 3), (4, 5)], {"equation": "bd,dc"}),
        ("has 2 terms for 1 inputs", "Einsum", [(2, 3)], {"equation": "bd,dc"}),
        ("does not fit inputs of ranks", "Einsum", [(2,)], {"equation": "...ab"}),
        ("does not fit a tensor of rank 2", "Einsum", [(2, 3)], {"equation": "b"}),
        ("names an index twice, or one that no input has", "Einsum", [(2, 3)], {"equation": "bd->be"}),
        ("4 rows and 4 windows do not make an image", "Col2Im", [(1, 4, 4)], {"image_shape": (4, 4), "block_shape": (2, 2)}),
        ("'strides' needs 2 values", "Col2Im", [(1, 4, 9)], {"image_shape": (4, 4), "block_shape": (2, 2), "strides": (1,)}),
        ("indices must be int64", "GatherND", [(2, 3), (2, 1)], {}),
        ("do not divide into blocks", "DepthToSpace", [(1, 3, 2, 2)], {"blocksize": 2}),
        ("k = 9 is more than the 3 there are", "TopK", [(2, 3)], {"k": 9}),
        ("it takes matrices", "Trilu", [(3,)], {}),
        ("real and imaginary parts", "DFT", [(2, 9, 3)], {}),
        ("one-sided inverse", "DFT", [(2, 9, 2)], {"inverse": 1, "onesided": 1}),
        ("does not fit", "GridSample", [(1, 3, 8, 8), (2, 5, 6, 2)], {}),
        ("do not fit a state of 3", "LSTM", [(7, 2, 5), (2, 12, 5), (1, 12, 3)], {}),
        ("direction 'up' does not exist", "RNN", [(7, 2, 5), (1, 3, 5), (1, 3, 3)], {"direction": "up"}),
    ],
)
def test_misfits_name_the_node(match: str, op: str, shapes: list[tuple[int, ...]], attrs: dict[str, object]) -> None:
    """Whatever does not fit is an error that says what, and where."""
    refused(match, op, *shapes, **attrs)


def test_types_must_agree() -> None:
    """Unless the operator mixes them, as Gather and Where do."""
    b = GraphBuilder("types")
    x, y = b.input("x", (2,)), b.input("y", (2,), "int64")
    with pytest.raises(GraphError, match="types differ: float32, int64"):
        b.op("Add", [x, y])
    assert b.shape(b.op("Gather", [x, y])) == (2,)
    with pytest.raises(GraphError, match="indices must be integers"):
        b.op("Gather", [x, x])


def test_picks_along_several_axes() -> None:
    """The last dimension of the indices vanishes with the axes that it picks along; shared leading dimensions stay."""
    b = GraphBuilder("picks")
    x = b.input("x", (2, 5, 6, 7))
    assert b.shape(b.op("GatherND", [x, b.input("i", (3, 2), "int64")])) == (3, 6, 7)
    assert b.shape(b.op("GatherND", [x, b.input("j", (2, 4, 2), "int64")], batch_dims=1)) == (2, 4, 7)
    with pytest.raises(GraphError, match="4 indices and 1 shared dimensions do not fit"):
        b.op("GatherND", [x, b.input("k", (2, 4), "int64")], batch_dims=1)


def test_elements_are_picked_one_by_one() -> None:
    """The result has the shape of the indices, which reach outside the data along the axis alone."""
    b = GraphBuilder("elements")
    x = b.input("x", (2, 5))
    assert b.shape(b.op("GatherElements", [x, b.input("i", (2, 9), "int64")], axis=-1)) == (2, 9)
    with pytest.raises(GraphError, match="reach outside"):
        b.op("GatherElements", [x, b.input("j", (3, 5), "int64")], axis=1)
    with pytest.raises(GraphError, match="indices must be integers"):
        b.op("GatherElements", [x, x])


def test_elements_are_put_back() -> None:
    """The data keeps its shape; updates have that of the indices, or of the slices that the indices name."""
    b = GraphBuilder("scatter")
    x, row = b.input("x", (4, 5)), b.input("row", (2, 5))
    assert b.shape(b.op("ScatterND", [x, b.input("i", (2, 1), "int64"), row])) == (4, 5)
    assert b.shape(b.op("ScatterElements", [x, b.input("j", (2, 5), "int64"), row])) == (4, 5)
    with pytest.raises(GraphError, match="updates of shape"):
        b.op("ScatterND", [x, b.input("k", (3, 1), "int64"), row])
    with pytest.raises(GraphError, match="updates of shape"):
        b.op("ScatterElements", [x, b.input("l", (1, 5), "int64"), row])
    with pytest.raises(GraphError, match="indices must be int64"):
        b.op("ScatterND", [x, b.input("m", (2, 1), "int32"), row])


def test_a_new_axis_tells_places() -> None:
    """Of as many places as its depth, between two values whose type is the result's."""
    b = GraphBuilder("hot")
    indices, values = b.input("i", (2, 3), "int64"), b.input("v", (2,))
    assert b.shape(b.op("OneHot", [indices, values], depth=7, axis=1)) == (2, 7, 3)
    with pytest.raises(GraphError, match="two values"):
        b.op("OneHot", [indices, b.input("w", (3,))], depth=7)


def test_specs_are_checked() -> None:
    """No dimension is unknown or empty, no element type unheard of."""
    assert TensorSpec((2, 3), "float16").nbytes == 12
    with pytest.raises(GraphError, match="at least 1"):
        TensorSpec((2, 0))
    with pytest.raises(GraphError, match="'float8' is not supported"):
        TensorSpec((2,), "float8")
