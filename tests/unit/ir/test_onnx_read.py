"""What reading makes of a file's nodes: attributes completed, shapes evaluated, and refusals of one line."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser
from onnx_texts import fails, text

from hwnas.ir.onnx import from_model


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


# ---- operators whose form changed, or of which a part is read


def test_a_transform_states_its_axis() -> None:
    """As an attribute until opset 19, which stands for the second dimension where it is left out; as an input since."""
    old = text("y = DFT (x)", inputs="float[1,8,3,1] x", outputs="float[1,8,3,2] y")
    assert only(old) == ("DFT", {"axis": 1, "dft_length": 8, "inverse": 0, "onesided": 0})
    body = "a = Constant <value = int64 {-2}> () n = Constant <value = int64 {4}> () y = DFT <onesided = 1> (x, n, a)"
    new = text(body, opset=20, inputs="float[1,8,3,1] x", outputs="float[1,8,3,2] y")
    assert only(new) == ("DFT", {"axis": 2, "dft_length": 4, "inverse": 0, "onesided": 1})


def test_a_sample_of_a_grid_has_todays_modes() -> None:
    """`bilinear` until opset 19 is `linear`."""
    model = text('y = GridSample <mode = "bilinear"> (x, g)', inputs="float[1,2,4,4] x, float[1,3,3,2] g", outputs="float[1,2,3,3] y")
    assert only(model)[1]["mode"] == "linear"


def test_counts_and_axes_given_as_inputs_become_attributes() -> None:
    """K of TopK and Trilu, the axis of CumSum, the depth of OneHot, whose values stay an input."""
    k = "k = Constant <value_ints = [2]> ()"
    model = text(f"{k} v, y = TopK (x, k)", outputs="int64[1,2,4,2] y")
    graph = from_model(model)
    assert (graph.nodes[0].attr("k"), graph.nodes[0].outputs, graph.specs["v"].shape) == (2, ("v", "y"), (1, 2, 4, 2))
    assert only(text("k = Constant <value = int64 {-9}> () y = Trilu <upper = 0> (x, k)"))[1] == {"k": -4, "upper": 0}
    assert only(text("a = Constant <value = int32 {-1}> () y = CumSum (x, a)"))[1] == {"axis": 3, "exclusive": 0, "reverse": 0}
    body = "d = Constant <value = int64 {5}> () v = Constant <value = float[2] {0, 1}> () y = OneHot (x, d, v)"
    graph = from_model(text(body, inputs="int64[2] x", outputs="float[2,5] y"))
    assert (graph.nodes[0].attr("depth"), graph.nodes[0].inputs, graph.specs["y"].dtype) == (5, ("x", "v"), "float32")


def test_steps_backwards_survive() -> None:
    """Through the first element, which -1 does not name, and to one before it."""
    body = """s = Constant <value_ints = [-1, 3]> () e = Constant <value_ints = [-100, 0]> () a = Constant <value_ints = [2, 3]> ()
              t = Constant <value_ints = [-1, -2]> () y = Slice (x, s, e, a, t)"""
    graph = from_model(text(body, outputs="float[1,2,4,2] y"))
    assert graph.specs["y"].shape == (1, 2, 4, 2)
    assert (graph.nodes[0].attr("starts"), graph.nodes[0].attr("ends")) == ((3, 3), (-5, 0))


def recurrent(extra: str = "", tail: str = "") -> onnx.ModelProto:
    """An LSTM of 3 steps, from 4 numbers to 5."""
    model = text(
        f"y, h = LSTM <hidden_size = 5{extra}> (x, w, r{tail})",
        inputs="float[3,1,4] x, int32[1] n",
        outputs="float[3,1,1,5] y, float[1,1,5] h",
    )
    for name, shape in (("w", (1, 20, 4)), ("r", (1, 20, 5)), ("b", (1, 40)), ("p", (1, 15))):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    return model


def test_recurrent_layers_as_exporters_write_them() -> None:
    """The default activations may be stated; outputs that nobody reads vanish from the end."""
    assert only(recurrent()) == ("LSTM", {"direction": "forward", "hidden_size": 5})
    assert only(recurrent(', activations = ["Sigmoid", "Tanh", "Tanh"]'))[0] == "LSTM"
    assert from_model(recurrent(tail=", b")).nodes[0].outputs == ("y", "h")


@pytest.mark.parametrize(
    ("extra", "tail", "words"),
    [
        (', activations = ["Relu", "Tanh", "Tanh"]', "", ("activations Relu",)),
        (", clip = 1.0", "", ("clipping",)),
        (", layout = 1", "", ("layout = 0",)),
        (', direction = "sideways"', "", ("direction 'sideways'",)),
    ],
)
def test_other_recurrent_layers_are_refused(extra: str, tail: str, words: tuple[str, ...]) -> None:
    """What no exporter writes is not represented."""
    fails(recurrent(extra, tail), "(LSTM)", *words)


def test_places_found_in_constants_are_evaluated() -> None:
    """A mask of zeros and ones that the file holds: how many there are is known."""
    body = """m = Constant <value = int64[1,4] {1, 0, 0, 1}> () i = NonZero (m) a = Constant <value_ints = [1]> ()
              p = Constant <value = int64 {1}> () s = Gather <axis = 0> (i, p) y = Gather <axis = 3> (x, s)"""
    graph = from_model(text(body, outputs="float[1,2,4,2] y"))
    assert [node.op for node in graph.nodes] == ["Gather"]
    assert graph.weights["s"].value is not None
    assert graph.weights["s"].value.tolist() == [0, 3]


@pytest.mark.parametrize(
    ("body", "op"),
    [
        ("y = NonZero (x)", "NonZero"),
        ("y = Unique <axis = 0> (x)", "Unique"),
        ("s = Cast <to = 7> (x) y = ConstantOfShape (s)", "ConstantOfShape"),
    ],
)
def test_shapes_that_depend_on_the_input_are_refused(body: str, op: str) -> None:
    """The message names the node and says why."""
    model = text(body, inputs="float[3] x", outputs="float[N] y")
    model.graph.node[-1].name = "culprit"
    fails(model, f"node 'culprit' ({op})", "depends on the network's input", "static shapes")


# ---- what cannot be read


def test_unsupported_operators_are_named() -> None:
    """With the node, and the operator that may have been meant."""
    model = text("y = StringNormalizer (x)")
    model.graph.node[0].name = "odd"
    fails(model, "node 'odd'", "'StringNormalizer'", "supported: ")


def test_operators_of_newer_opsets_have_a_remedy() -> None:
    """Exporters write them in older operators at older opsets."""
    model = text("y = RMSNormalization (x, w)", opset=23, inputs="float[1,4] x, float[4] w", outputs="float[1,4] y")
    fails(model, "operator 'RMSNormalization'", "export the model at opset 17 to 21")


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
