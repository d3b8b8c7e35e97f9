"""Lowering to torch."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import graphs

from hwnas.ir import Graph
from hwnas.ir.onnx import to_bytes
from hwnas.ir.ops import OPS
from hwnas.ir.torch import lower

torch.set_num_threads(1)


def run_ort(graph: Graph, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(to_bytes(graph), options, providers=["CPUExecutionProvider"]).run(None, feed)


def run_torch(graph: Graph, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    with torch.no_grad():
        found = lower(graph).eval()(*map(torch.from_numpy, feed.values()))
    return [value.numpy() for value in (found if isinstance(found, tuple) else (found,))]


def assert_agree(graph: Graph, seed: int = 0) -> None:
    feed = {key: value * 2 - 1 for key, value in graph.random_inputs(np.random.default_rng(seed)).items()}
    for name, ours, theirs in zip(graph.outputs, run_torch(graph, feed), run_ort(graph, feed), strict=True):
        assert ours.shape == theirs.shape == graph.specs[name].shape
        assert ours.dtype == theirs.dtype == graph.specs[name].dtype
        assert np.isfinite(theirs).all()
        assert np.abs(ours - theirs).max() <= 1e-4 * max(np.abs(theirs).max(), 1e-2)


@pytest.mark.parametrize("op", sorted(OPS))
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_agrees_with_onnx_runtime(op: str, data: st.DataObject) -> None:
    """On random graphs that hold an operator, torch and ONNX Runtime give the same values, of the inferred shape and type."""
    assert_agree(data.draw(graphs(containing=op)))
