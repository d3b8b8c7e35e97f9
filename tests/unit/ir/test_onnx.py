"""ONNX out and in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx_texts import fails, text
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
