"""ONNX out and in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper, parser
from strategies import graphs

from hwnas.errors import GraphError
from hwnas.ir import Graph, GraphBuilder
from hwnas.ir.onnx import from_model, load, needed_opset, save, to_bytes, to_model
from hwnas.ir.ops import OPS


def assert_same(found: Graph, expected: Graph) -> None:
    assert found.nodes == expected.nodes
    assert dict(found.inputs) == dict(expected.inputs)
    assert found.outputs == expected.outputs
    assert found.name == expected.name
    used = {value for node in expected.nodes for value in node.inputs} | set(expected.outputs)
    assert set(found.weights) == used & set(expected.weights)
    for name, weight in found.weights.items():
        np.testing.assert_array_equal(weight.value, expected.weights[name].value)
        assert weight.spec == expected.weights[name].spec
    assert dict(found.specs) == {name: spec for name, spec in expected.specs.items() if name in found.specs}


def tiny(op: str = "Relu", **attrs: object) -> Graph:
    b = GraphBuilder("tiny")
    x = b.conv(b.input("x", (1, 2, 5, 5)), 3, kernel=3)
    return b.finish(b.op(op, [x], **attrs)).materialize(np.random.default_rng(0))


def text(body: str, *, opset: int = 17, inputs: str = "float[1,2,4,4] x", outputs: str = "float[1,2,4,4] y") -> onnx.ModelProto:
    """A model from ONNX's own textual form."""
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs}) {{ {body} }}')


def fails(model: onnx.ModelProto, *words: str, **options: int) -> None:
    with pytest.raises(GraphError) as caught:
        from_model(model, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


# ---- round trip


@pytest.mark.parametrize("op", sorted(OPS))
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_a_graph_survives_the_round_trip(op: str, data: st.DataObject) -> None:
    """Writing and reading any graph, at any opset that has its operators, gives the same nodes, attributes, specs and weights."""
    graph = data.draw(graphs(containing=op))
    opset = data.draw(st.integers(needed_opset(graph), 21))
    assert_same(from_model(onnx.ModelProto.FromString(to_bytes(graph, opset=opset))), graph)


@settings(max_examples=60, deadline=None)
@given(graph=graphs())
def test_shapes_are_those_that_onnx_infers(graph: Graph) -> None:
    """ONNX's own strict inference finds the specs that ours found; it knows none for GroupNormalization, which it defines as a function."""
    assume(all(node.op != "GroupNormalization" for node in graph.nodes))
    inferred = onnx.shape_inference.infer_shapes(to_model(graph), strict_mode=True)
    for info in inferred.graph.value_info:
        shape = tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)
        spec = graph.specs[info.name]
        assert (shape, info.type.tensor_type.elem_type) == (spec.shape, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)))


def test_names_survive() -> None:
    """Nodes and values are called in the file as in the graph."""
    graph = tiny()
    model = to_model(graph)
    assert [node.name for node in model.graph.node] == [node.name for node in graph.nodes]
    assert [list(node.output) for node in model.graph.node] == [list(node.outputs) for node in graph.nodes]


def test_attributes_equal_those_given_as_decimals() -> None:
    """An epsilon of 1e-5 reads back as 1e-5, not as the nearest single-precision number, so that equal nodes hash equally."""
    b = GraphBuilder("decimals")
    graph = b.finish(b.batch_norm(b.input("x", (1, 2, 3, 3)))).materialize(np.random.default_rng(0))
    assert from_model(to_model(graph)).nodes[0].attr("epsilon") == 1e-5


def test_a_constant_does_not_take_the_name_of_a_value() -> None:
    """Attributes that become inputs get names of their own."""
    b = GraphBuilder("names")
    x = b.op("Reshape", [b.input("reshape_0.shape", (2, 3))], shape=(3, 2))
    graph = b.finish(x)
    assert_same(from_model(to_model(graph)), graph)


def test_bfloat16_weights_survive() -> None:
    """Weights in a type that NumPy knows only through an extension."""
    b = GraphBuilder("bfloat16")
    c = b.constant("c", np.asarray([1.5, -2.0]).astype("bfloat16"))
    graph = b.finish(b.op("Add", [b.input("x", (2,), "bfloat16"), c]))
    assert_same(from_model(to_model(graph)), graph)


def test_an_input_or_a_weight_may_be_an_output() -> None:
    """Values that no node writes are returned all the same."""
    b = GraphBuilder("outputs")
    x, c = b.input("x", (2,)), b.constant("c", np.ones(3, np.float32))
    graph = b.finish(b.op("Relu", [x]), x, c)
    assert_same(from_model(to_model(graph)), graph)


# ---- opsets


def test_the_opset_is_the_oldest_that_has_the_operators() -> None:
    """17, unless an operator came later."""
    assert to_model(tiny()).opset_import[0].version == 17
    assert to_model(tiny("Gelu")).opset_import[0].version == 20


@pytest.mark.parametrize(
    ("op", "attrs", "since"),
    [
        ("Gelu", {}, 20),
        ("Mish", {}, 18),
        ("Pad", {"pads": (0, 0, 1, 1, 0, 0, 1, 1), "mode": "wrap"}, 19),
        ("AveragePool", {"kernel_shape": (2, 2), "dilations": (2, 2)}, 19),
    ],
)
def test_an_opset_that_is_too_old_names_the_node(op: str, attrs: dict[str, object], since: int) -> None:
    """The message says which node needs which opset."""
    with pytest.raises(GraphError, match=f"node '{op.lower()}_0' .* needs opset {since}; 17 was asked for"):
        to_model(tiny(op, **attrs), opset=17)
    onnx.checker.check_model(to_model(tiny(op, **attrs)), full_check=True)


@pytest.mark.parametrize("opset", [6, 16, 22])
def test_only_opsets_17_to_21_are_written(opset: int) -> None:
    """Others are refused with what there is."""
    with pytest.raises(GraphError, match="use 17 to 21"):
        to_model(tiny(), opset=opset)


@pytest.mark.parametrize("opset", [9, 11, 13, 16])
def test_older_files_are_converted(opset: int) -> None:
    """A Softmax of opset 12 and older worked on a matrix; converted, it does so still."""
    model = text("y = Softmax <axis = 1> (x)", opset=opset, inputs="float[2,3,4] x", outputs="float[2,3,4] y")
    graph = from_model(model)
    softmax = next(node for node in graph.nodes if node.op == "Softmax")
    assert graph.input_specs(softmax)[0].shape == ((2, 12) if opset < 13 else (2, 3, 4))


def test_newer_files_are_converted_where_onnx_can() -> None:
    """Opset 22 differs from 21 in element types only, for most operators."""
    model = text("y = Relu (x)", opset=22)
    model.ir_version = 10
    assert from_model(model).nodes[0].op == "Relu"


def test_a_file_that_is_too_old_is_refused() -> None:
    """Below opset 7 nothing converts."""
    fails(text("y = Relu (x)", opset=5), "opset 5 is too old", "17 to 21")


def test_a_model_without_opset_is_refused() -> None:
    """Whose operators they are is then unknown."""
    model = text("y = Relu (x)")
    del model.opset_import[:]
    fails(model, "states no opset")


# ---- what reading translates


def only(model: onnx.ModelProto) -> tuple[str, dict[str, object]]:
    (node,) = from_model(model).nodes
    return node.op, dict(node.attrs)


@pytest.mark.parametrize(
    ("mode", "pads"),
    [("SAME_UPPER", (0, 1, 1, 1)), ("SAME_LOWER", (1, 1, 0, 1)), ("VALID", (0, 0, 0, 0))],
)
def test_auto_pad_becomes_pads(mode: str, pads: tuple[int, ...]) -> None:
    """A 4 x 4 image under a 3 x 3 window with strides 2 and 1: one pad in height, on the side that the mode prefers, two in width."""
    out = "float[1,2,1,2] y" if mode == "VALID" else "float[1,2,2,4] y"
    model = text(f'y = MaxPool <kernel_shape = [3, 3], strides = [2, 1], auto_pad = "{mode}"> (x)', outputs=out)
    assert only(model)[1]["pads"] == pads


def test_output_shape_of_a_transposed_convolution_becomes_pads() -> None:
    """[1,2,4,4] with stride 2 and kernel 3 reaches 9; asking for 8 takes one away, at the end of SAME_UPPER."""
    weight = numpy_helper.from_array(np.ones((2, 2, 3, 3), np.float32), "w")
    for extra, pads in (("", (1, 1, 0, 0)), (', auto_pad = "SAME_UPPER"', (0, 0, 1, 1))):
        model = text(f"y = ConvTranspose <strides = [2, 2], output_shape = [8, 8]{extra}> (x, w)", outputs="float[1,2,8,8] y")
        model.graph.initializer.append(weight)
        assert only(model)[1]["pads"] == pads


def test_squeeze_and_unsqueeze_become_reshapes() -> None:
    """Both only rename the shape."""
    body = "a = Constant <value_ints = [0, 3]> () u = Unsqueeze (x, a) y = Squeeze (u)"
    graph = from_model(text(body, inputs="float[2,1] x", outputs="float[2] y"))
    assert [(node.op, node.attr("shape")) for node in graph.nodes] == [("Reshape", (1, 2, 1, 1)), ("Reshape", (2,))]


def test_dropout_is_removed() -> None:
    """Its readers read what it read; as an output of the network its name survives."""
    graph = from_model(text("d = Dropout (x) y = Relu (d)"))
    assert [(node.op, node.inputs) for node in graph.nodes] == [("Relu", ("x",))]
    graph = from_model(text("d = Relu (x) y = Dropout (d)"))
    assert [node.op for node in graph.nodes] == ["Relu", "Identity"]


def test_dropout_that_trains_is_refused() -> None:
    """It is no inference network then."""
    body = "r = Constant <value_float = 0.5> () t = Constant <value = bool {1}> () n: y = Dropout (x, r, t)"
    fails(text(body.replace("n: ", "")), "Dropout", "training mode")


@pytest.mark.parametrize(
    ("split", "parts"),
    [
        ("y, z = Split <axis = 1, num_outputs = 2> (x)", (3, 2)),
        ("s = Constant <value_ints = [1, 4]> () y, z = Split <axis = 1> (x, s)", (1, 4)),
    ],
)
def test_split_states_its_parts(split: str, parts: tuple[int, int]) -> None:
    """Given, or worked out from their number: the last part is the shorter one."""
    model = text(split, opset=18, inputs="float[1,5] x", outputs=f"float[1,{parts[0]}] y, float[1,{parts[1]}] z")
    assert only(model)[1]["split"] == parts


def test_axes_of_pad_are_spread() -> None:
    """Pads given for some axes become pads for all."""
    body = (
        "p = Constant <value_ints = [1, 2]> () v = Constant <value_float = 0.0> () a = Constant <value_ints = [-1]> () y = Pad (x, p, v, a)"
    )
    assert only(text(body, opset=18, outputs="float[1,2,4,7] y"))[1]["pads"] == (0, 0, 0, 1, 0, 0, 0, 2)


def test_axes_of_resize_are_spread() -> None:
    """Sizes given for some axes become sizes for all."""
    body = "s = Constant <value_ints = [8, 6]> () y = Resize <axes = [2, 3]> (x, , , s)"
    assert only(text(body, opset=18, outputs="float[1,2,8,6] y"))[1]["sizes"] == (1, 2, 8, 6)


def test_a_reduction_of_no_axes_is_an_identity() -> None:
    """When the file says so; else no axes stand for all."""
    body = "y = ReduceMean <noop_with_empty_axes = 1> (x)"
    assert only(text(body, opset=18))[0] == "Identity"
    assert only(text("y = ReduceMean (x)", opset=18, outputs="float[1,1,1,1] y"))[1]["axes"] == (0, 1, 2, 3)


def test_shapes_computed_by_the_file_are_evaluated() -> None:
    """What exporters write for view(batch, -1): Shape, Gather, Unsqueeze, Concat, Reshape."""
    body = """
        i = Constant <value = int64 {0}> ()
        a = Constant <value = int64[1] {0}> ()
        m = Constant <value = int64[1] {-1}> ()
        s = Shape (x)  n = Gather (s, i)  u = Unsqueeze (n, a)  t = Concat <axis = 0> (u, m)
        y = Reshape (x, t)
    """
    graph = from_model(text(body, outputs="float[1,32] y"))
    assert [(node.op, node.attr("shape")) for node in graph.nodes] == [("Reshape", (1, 32))]
    assert not graph.weights


def test_scales_computed_from_a_shape_are_evaluated() -> None:
    """Attention's 1 / sqrt(width), as the exporter writes it; it stays one weight that a Mul reads."""
    body = """
        i = Constant <value = int64 {3}> ()
        s = Shape (x)  n = Gather (s, i)  f = Cast <to = 1> (n)  q = Sqrt (f)  o = Constant <value = float {1}> ()  d = Div (o, q)
        y = Mul (x, d)
    """
    graph = from_model(text(body))
    assert [node.op for node in graph.nodes] == ["Mul"]
    assert graph.weights["d"].value == np.float32(0.5)


def test_arithmetic_on_single_numbers_is_evaluated() -> None:
    """A grid of patches, as exporters write the root of their number."""
    body = """
        n = Constant <value = float {16}> ()  h = Constant <value = float {0.5}> ()  r = Pow (n, h)  i = Cast <to = 7> (r)
        a = Constant <value = int64[1] {0}> ()  u = Unsqueeze (i, a)  m = Constant <value = int64[1] {-1}> ()
        s = Concat <axis = 0> (u, m)  y = Reshape (x, s)
    """
    assert only(text(body, outputs="float[4,8] y"))[1]["shape"] == (4, 8)


def test_elements_gathered_from_a_long_table_are_evaluated() -> None:
    """The kinds of tokens, as exporters look them up in a table of all positions."""
    numbers = ", ".join(str(i % 7) for i in range(512))
    body = f"""
        t = Constant <value = int64[1,512] {{{numbers}}}> ()  i = Constant <value = int64[1,4] {{500, 1, 2, -1}}> ()
        g = GatherElements <axis = 1> (t, i)  f = Cast <to = 1> (g)  y = Mul (x, f)
    """
    graph = from_model(text(body))
    assert [node.op for node in graph.nodes] == ["Mul"]
    assert graph.weights["f"].value is not None
    assert graph.weights["f"].value.tolist() == [[500 % 7, 1, 2, 511 % 7]]


def test_arithmetic_on_weights_is_not_evaluated() -> None:
    """The graph is as the file has it."""
    body = "c = Constant <value = float[4] {1, 2, 3, 4}> ()  d = Mul (c, c)  y = Add (x, d)"
    assert [node.op for node in from_model(text(body)).nodes] == ["Mul", "Add"]


def test_constants_that_do_not_fit_name_the_node() -> None:
    """An index outside the shape that it is taken from."""
    body = "i = Constant <value = int64 {7}> () s = Shape (x) n = Gather (s, i) y = Reshape (x, n)"
    model = text(body)
    model.graph.node[2].name = "pick"
    fails(model, "node 'pick' (Gather)")


def test_missing_and_repeated_node_names_are_made_unique() -> None:
    """Files may leave names out, or repeat them."""
    model = text("a = Relu (x) b = Relu (a) c = Relu (b) y = Relu (c)")
    model.graph.node[1].name = model.graph.node[2].name = "twin"
    assert [node.name for node in from_model(model).nodes] == ["relu_0", "twin", "twin_1", "relu_3"]


def test_local_functions_are_inlined() -> None:
    """A model may define its own operators by ONNX's."""
    source = """
        <ir_version: 8, opset_import: ["" : 17, "own" : 1]> g (float[1,4] x) => (float[1,4] y) { y = own.swish (x) }
        <domain: "own", opset_import: ["" : 17]> swish (a) => (c) { b = Sigmoid (a) c = Mul (a, b) }
    """
    assert [node.op for node in from_model(parser.parse_model(source)).nodes] == ["Sigmoid", "Mul"]


def test_weights_listed_as_inputs_are_weights() -> None:
    """As files of IR version 3 list them."""
    model = text("y = Add (x, w)", inputs="float[1,2,4,4] x, float[1] w")
    model.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "w"))
    graph = from_model(model)
    assert list(graph.inputs) == ["x"]
    assert list(graph.weights) == ["w"]


def test_unread_optional_outputs_vanish() -> None:
    """The indices of a MaxPool, when nobody reads them."""
    graph = from_model(text("y, i = MaxPool <kernel_shape = [1, 1]> (x)"))
    assert graph.nodes[0].outputs == ("y",)


def test_the_model_is_left_as_it_is() -> None:
    """Reading does not change what it reads."""
    model = text("d = Dropout (x) y = Relu (d)", inputs="float[N,2,4,4] x", outputs="float[N,2,4,4] y")
    before = model.SerializeToString()
    from_model(model, batch=2)
    assert model.SerializeToString() == before


# ---- batch


def test_a_dynamic_batch_needs_a_size() -> None:
    """The message names the input and its dimension, and says what to do."""
    model = text("y = Relu (x)", inputs="float[N,3] x", outputs="float[N,3] y")
    fails(model, "input 'x'", "dimension 0", "'N'", "batch=1")
    assert from_model(model, batch=4).inputs["x"].shape == (4, 3)


def test_other_dynamic_dimensions_are_refused() -> None:
    """A batch size does not fix them."""
    model = text("y = Relu (x)", inputs="float[1,3,H] x", outputs="float[1,3,H] y")
    fails(model, "input 'x'", "dimension 2", "'H'", "static", batch=1)


def test_a_static_batch_is_not_changed() -> None:
    """A file whose batch is fixed is not silently read at another one."""
    fails(text("y = Relu (x)"), "input 'x'", "batch 1", "3 was asked for", batch=3)
    assert from_model(text("y = Relu (x)"), batch=1).inputs["x"].shape[0] == 1


# ---- what cannot be read


def test_unsupported_operators_are_named() -> None:
    """With the node, and the operator that may have been meant."""
    model = text("y = StringNormalizer (x)")
    model.graph.node[0].name = "odd"
    fails(model, "node 'odd'", "'StringNormalizer'", "supported: ")


def test_foreign_operators_are_named() -> None:
    """Operators of other domains are nobody's business here."""
    node = helper.make_node("FusedConv", ["x"], ["y"], "fused", domain="com.microsoft")
    model = text("y = Relu (x)")
    del model.graph.node[:]
    model.graph.node.append(node)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    fails(model, "node 'fused'", "com.microsoft.FusedConv")


def test_control_flow_is_refused() -> None:
    """If, Loop and Scan hold subgraphs."""
    body = (
        "y = If (c) <then_branch = t () => (float[1,2,4,4] a) { a = Relu (x) }, else_branch = e () => (float[1,2,4,4] b) { b = Abs (x) }>"
    )
    fails(text(body, inputs="bool c, float[1,2,4,4] x"), "(If)", "subgraph")


def test_attributes_computed_at_run_time_are_refused() -> None:
    """A Reshape whose target depends on an input's values has no static shape."""
    fails(text("y = Reshape (x, s)", inputs="float[4] x, int64[2] s", outputs="float[2,2] y"), "(Reshape)", "'shape'", "'s'", "run time")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("y = Cast <to = 12> (x)", ("element type 'uint32'",)),
        ("y = MaxPool <kernel_shape = [9, 9]> (x)", ("MaxPool",)),
        ("y = Conv (x, x)", ("Conv",)),
        ("y = Add (x, nothing)", ("nothing",)),
        ("y = Relu (x) y = Abs (x)", ("y",)),
        ("z = Relu (x)", ("y",)),
        ("y = Relu <alpha = 1> (x)", ("alpha",)),
        ("s = Constant <value_ints = [1,2,4,4]> () y = Resize <antialias = 1> (x, , , s)", ("Resize", "antialias")),
        ("y = Clip (x, x)", ("Clip",)),
        ('y = Constant <value_string = "a"> ()', ("Constant",)),
    ],
)
def test_invalid_nodes_are_one_line_errors(body: str, words: tuple[str, ...]) -> None:
    """Whatever is wrong with a node, the message is one line that says where."""
    fails(text(body, opset=18), *words)


def test_sparse_weights_are_refused() -> None:
    """By name."""
    model = text("y = Relu (x)")
    sparse = model.graph.sparse_initializer.add()
    sparse.values.name = "thin"
    fails(model, "'thin'", "sparse")


def test_inputs_that_are_no_tensors_are_refused() -> None:
    """Sequences have no shape."""
    model = text("y = Relu (x)")
    model.graph.input.append(helper.make_tensor_sequence_value_info("list", onnx.TensorProto.FLOAT, [1]))
    fails(model, "input 'list'")


def test_input_types_that_are_unknown_name_the_input() -> None:
    """Strings are no numbers."""
    fails(text("y = Identity (x)", inputs="string[1] x", outputs="string[1] y"), "input 'x'", "'string'")


# ---- files


def broken(path: Path, *words: str) -> None:
    with pytest.raises(GraphError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    for word in words:
        assert word in message


def test_files_are_written_and_read(tmp_path: Path) -> None:
    """The graph that is loaded is the one that was saved."""
    path = save(tiny(), tmp_path / "model.onnx")
    assert_same(load(path), tiny())
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_external_data_is_written_beside_the_model(tmp_path: Path) -> None:
    """And read from there; saving again replaces it instead of growing it."""
    for _ in range(2):
        path = save(tiny(), tmp_path / "model.onnx", external_data=True)
        size = (tmp_path / "model.onnx.data").stat().st_size
        assert_same(load(path), tiny())
    assert size < 2 * sum(spec.nbytes for spec in (weight.spec for weight in tiny().weights.values())) + 8192
    save(tiny(), path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_missing_external_data_names_the_weight_and_the_file(tmp_path: Path) -> None:
    """So that one knows what to copy."""
    path = save(tiny(), tmp_path / "model.onnx", external_data=True)
    (tmp_path / "model.onnx.data").unlink()
    broken(path, "'w_0'", "'model.onnx.data'", "missing")


def test_truncated_external_data_is_an_error(tmp_path: Path) -> None:
    """Half a weight is no weight."""
    path = save(tiny(), tmp_path / "model.onnx", external_data=True)
    data = tmp_path / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:50])
    broken(path)


def test_external_data_that_was_not_loaded_is_an_error(tmp_path: Path) -> None:
    """A model in memory does not know its folder."""
    path = save(tiny(), tmp_path / "model.onnx", external_data=True)
    fails(onnx.load(str(path), load_external_data=False), "'w_0'", "another file")


def test_missing_empty_and_foreign_files(tmp_path: Path) -> None:
    """Each is a one-line error that names the file."""
    broken(tmp_path / "none.onnx", "cannot be read")
    broken(tmp_path, "cannot be read")
    path = tmp_path / "model.onnx"
    path.write_bytes(b"")
    broken(path, "empty")
    path.write_text("This is not a model.\n" * 10)
    broken(path)
    path.write_bytes(bytes(range(256)) * 40)
    broken(path)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_damaged_files_never_escape_as_tracebacks(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A file cut off anywhere, or with a byte changed, loads as a graph or is a GraphError of one line."""
    content = bytearray(to_bytes(tiny("Reshape", shape=(1, -1))))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "model.onnx"
    path.write_bytes(content)
    try:
        load(path)
    except GraphError as error:
        assert "\n" not in str(error)  # noqa: PT017  (either outcome is right)


def test_weights_without_values_are_not_written() -> None:
    """The message says how to get them."""
    b = GraphBuilder("blank")
    graph = b.finish(b.conv(b.input("x", (1, 1, 3, 3)), 1))
    with pytest.raises(GraphError, match=r"weight 'w_0' .*materialize"):
        to_bytes(graph)
