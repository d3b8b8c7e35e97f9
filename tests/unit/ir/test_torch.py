"""Lowering to torch."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from parity import assert_agree, run_ort, run_torch
from strategies import graphs

from hwnas.errors import GraphError
from hwnas.ir import Graph, GraphBuilder, cost
from hwnas.ir.onnx import to_model
from hwnas.ir.ops import OPS
from hwnas.ir.torch import lower


@pytest.mark.parametrize("op", sorted(OPS))
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_agrees_with_onnx_runtime(op: str, data: st.DataObject) -> None:
    """On random graphs that hold an operator, torch and ONNX Runtime give the same values, of the inferred shape and type."""
    assert_agree(data.draw(graphs(containing=op)))


def small(batch: int = 4) -> Graph:
    """Convolution, batch norm, an activation, a gate and a classifier, on [batch, 3, 8, 8]."""
    b = GraphBuilder("small")
    x = b.input("x", (batch, 3, 8, 8))
    x = b.op("HardSwish", [b.batch_norm(b.conv(x, 6, kernel=3, stride=2))])
    x = b.op("Mul", [x, b.op("Sigmoid", [b.conv(b.op("GlobalAveragePool", [x]), 6)])])
    return b.finish(b.linear(b.op("Flatten", [x]), 5)).materialize(np.random.default_rng(0))


def test_weights_are_the_graphs() -> None:
    """Lowering and going back gives the same weights, none of them shared with the graph's arrays."""
    graph = small()
    module = lower(graph)
    back = module.to_graph()
    for name, weight in graph.weights.items():
        np.testing.assert_array_equal(back.weights[name].value, weight.value)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert np.abs(graph.weights["w_0"].value).max() > 0
    assert np.abs(module.to_graph().weights["w_0"].value).max() == 0


def test_parameters_are_what_trains() -> None:
    """Everything of a floating type but the running statistics."""
    module = lower(small())
    assert sum(parameter.numel() for parameter in module.parameters()) == cost.params(module.graph)
    assert sorted(name.split(".")[-1] for name, _ in module.named_buffers()) == ["running_mean", "running_var"]


def test_layers_are_reachable_by_node_name() -> None:
    """With their constants under torch's usual names."""
    module = lower(small())
    assert module.layers["conv_0"].weight.shape == (6, 3, 3, 3)
    assert module.layers["conv_0"].bias.shape == (6,)
    assert module.layers["batchnormalization_0"].running_var.shape == (6,)
    assert module.layers["gemm_0"].weight.shape == (5, 96)
    assert set(module.layers) == {node.name for node in module.graph.nodes}


def test_every_value_can_be_seen() -> None:
    """All at once, or through a hook on the layer that writes it."""
    module = lower(small()).eval()
    x = torch.rand(4, 3, 8, 8)
    seen = {}
    for name, layer in module.layers.items():
        layer.register_forward_hook(lambda layer, inputs, output, name=name: seen.update({name: output}))
    values = module.forward_values(x)
    assert set(values) == {value for node in module.graph.nodes for value in node.outputs}
    for node in module.graph.nodes:
        torch.testing.assert_close(values[node.outputs[0]], seen[node.name])
        assert values[node.outputs[0]].shape == module.graph.specs[node.outputs[0]].shape
    torch.testing.assert_close(module(x), values[module.graph.outputs[0]])


def test_training_updates_running_statistics() -> None:
    """By momentum 0.1 towards those of the batch, and they come back in the graph; evaluation leaves them alone."""
    module = lower(small())
    x = torch.rand(4, 3, 8, 8)
    module.eval()(x)
    np.testing.assert_array_equal(module.to_graph().weights["bn_mean_0"].value, np.zeros(6))
    batch = module.train().forward_values(x)["conv_0_out"]
    graph = module.to_graph()
    np.testing.assert_allclose(graph.weights["bn_mean_0"].value, 0.1 * batch.mean((0, 2, 3)).detach().numpy(), rtol=1e-5)
    np.testing.assert_allclose(graph.weights["bn_var_0"].value, 0.9 + 0.1 * batch.var((0, 2, 3)).detach().numpy(), rtol=1e-5)


def test_it_trains() -> None:
    """A few steps of gradient descent lower the loss, every parameter moves, and what was learned survives the way to ONNX Runtime."""
    torch.manual_seed(0)
    module = lower(small())
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    x, target = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(module.train()(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert all((parameter != before[name]).any() for name, parameter in module.named_parameters())
    trained = module.to_graph()
    expected = module.eval()(x).detach().numpy()
    np.testing.assert_allclose(run_ort(trained, {"x": x.numpy()})[0], expected, rtol=1e-4, atol=1e-4)


def test_other_batch_sizes_go_through() -> None:
    """A graph for one image runs on seven, giving each what it gives alone."""
    module = lower(small(batch=1)).eval()
    x = torch.rand(7, 3, 8, 8)
    torch.testing.assert_close(module(x), torch.cat([module(image[None]) for image in x]))


def test_a_module_can_be_copied_and_moved() -> None:
    """A deep copy is independent; double precision comes back in the graph's own types."""
    module = lower(small()).eval()
    twin = copy.deepcopy(module)
    with torch.no_grad():
        twin.layers["conv_0"].weight.add_(1)
    x = torch.rand(4, 3, 8, 8)
    assert not torch.allclose(module(x), twin(x))
    assert twin.double()(x.double()).dtype == torch.float64
    assert twin.to_graph().weights["w_0"].value.dtype == np.float32
    torch.testing.assert_close(lower(twin.to_graph()).eval()(x).double(), twin(x.double()), rtol=1e-4, atol=1e-4)


def test_state_survives_saving_and_loading() -> None:
    """The state dictionary holds all weights."""
    module = lower(small())
    module.train()(torch.rand(4, 3, 8, 8))
    other = lower(small())
    other.load_state_dict(module.state_dict())
    for name, weight in module.to_graph().weights.items():
        np.testing.assert_array_equal(other.to_graph().weights[name].value, weight.value)


def test_a_shared_weight_stays_one() -> None:
    """Two nodes that read one weight train it together."""
    b = GraphBuilder("shared")
    w = b.weight("w", (3, 3))
    x = b.op("MatMul", [b.op("MatMul", [b.input("x", (2, 3)), w]), w])
    module = lower(b.finish(x).materialize(np.random.default_rng(0)))
    assert len(list(module.parameters())) == 1
    module(torch.rand(2, 3)).sum().backward()
    assert module.layers["matmul_0"].weight.grad is module.layers["matmul_1"].weight.grad


def test_inputs_and_weights_can_be_outputs() -> None:
    """Several outputs come as a tuple, in order."""
    b = GraphBuilder("outputs")
    x, c = b.input("x", (2,)), b.constant("c", np.arange(3, dtype=np.float32))
    found = lower(b.finish(b.op("Neg", [x]), x, c))(torch.ones(2))
    assert [value.tolist() for value in found] == [[-1, -1], [1, 1], [0, 1, 2]]


def test_bfloat16_goes_there_and_back() -> None:
    """Torch reads such weights by their bits."""
    b = GraphBuilder("bfloat16")
    c = b.constant("c", np.asarray([1.5, -2.0]).astype("bfloat16"))
    module = lower(b.finish(b.op("Add", [b.input("x", (2,), "bfloat16"), c])))
    assert module(torch.ones(2, dtype=torch.bfloat16)).tolist() == [2.5, -1.0]
    assert module.to_graph().weights["c_0"].value.tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    ("op", "shape", "attrs", "match"),
    [
        ("Pad", (4,), {"pads": (1, 1), "mode": "mirror"}, "mode 'mirror'"),
        ("Pad", (4,), {"pads": (-1, 1), "mode": "edge"}, "negative pads"),
        ("MaxPool", (1, 1, 2, 2, 2, 2), {"kernel_shape": (1, 1, 1, 1)}, "4 spatial dimensions"),
    ],
)
def test_what_torch_lacks_names_the_node(op: str, shape: tuple[int, ...], attrs: dict[str, object], match: str) -> None:
    """Refused when the graph is lowered, not when it runs."""
    b = GraphBuilder("lacks")
    graph = b.finish(b.op(op, [b.input("x", shape)], **attrs))
    with pytest.raises(GraphError, match=f"node '{op.lower()}_0' .*{match}"):
        lower(graph)


def test_weights_without_values_are_not_lowered() -> None:
    """The message says how to get them."""
    b = GraphBuilder("blank")
    with pytest.raises(GraphError, match="weight 'w_0' has no values"):
        lower(b.finish(b.conv(b.input("x", (1, 1, 3, 3)), 1)))


def test_a_wrong_number_of_inputs_is_refused() -> None:
    """The message says how many there are."""
    with pytest.raises(GraphError, match="takes 1 inputs, got 2"):
        lower(small())(torch.rand(4, 3, 8, 8), torch.rand(1))


def test_pads_that_wrap_agree_with_the_reference() -> None:
    """ONNX Runtime has no kernel for them at this opset; ONNX's reference implementation has."""
    b = GraphBuilder("wrap")
    graph = b.finish(b.op("Pad", [b.input("x", (1, 5, 3, 4))], pads=(0, 0, 1, 2, 0, 0, 2, 1), mode="wrap"))
    feed = graph.random_inputs(np.random.default_rng(0))
    np.testing.assert_array_equal(run_torch(graph, feed)[0], ReferenceEvaluator(to_model(graph)).run(None, feed)[0])


def test_products_that_overflow_agree() -> None:
    """Both runtimes say infinity, of the same sign, where a product of many values is too large."""
    b = GraphBuilder("overflow")
    many = b.op("Mul", [b.input("x", (1, 2, 63)), b.constant("k", np.full((1, 1, 1), 1e3, np.float32))])
    graph = b.finish(b.op("ReduceProd", [many], axes=(2,), keepdims=0))
    feed = {key: value * 2 - 1 for key, value in graph.random_inputs(np.random.default_rng(0)).items()}
    assert np.isinf(run_ort(graph, feed)[0]).all()
    assert_agree(graph)


def test_local_response_normalisation_of_even_size() -> None:
    """ONNX Runtime takes odd sizes only. Size 2 sums a channel and the next: 2 / (1 + 0.5 / 2 * (4 + 9)) and 3 / (1 + 0.5 / 2 * 9)."""
    b = GraphBuilder("even")
    graph = b.finish(b.op("LRN", [b.input("x", (1, 2, 1, 1))], size=2, alpha=0.5, beta=1.0, bias=1.0))
    found = run_torch(graph, {"x": np.asarray([2, 3], np.float32).reshape(1, 2, 1, 1)})[0]
    np.testing.assert_allclose(found.ravel(), [2 / 4.25, 3 / 3.25], rtol=1e-6)


def test_without_torch_the_error_names_the_extra() -> None:
    """A plain installation reads and writes graphs, and says what lowering needs."""
    code = "import sys; sys.modules['torch'] = None; import hwnas.ir, hwnas.ir.onnx, hwnas.ir.cost; import hwnas.ir.torch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtraError" in done.stderr
    assert "pip install 'hwnas[cpu]'" in done.stderr
