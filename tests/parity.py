"""Runs a graph in torch and in ONNX Runtime, to compare the two."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import torch

from hwnas.ir import Graph
from hwnas.ir.onnx import to_bytes
from hwnas.ir.torch import lower

torch.set_num_threads(1)


def run_ort(graph: Graph, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What ONNX Runtime computes, node by node: without its optimisations, which have bounds of their own."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(to_bytes(graph), options, providers=["CPUExecutionProvider"]).run(None, feed)


def run_torch(graph: Graph, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What the lowered module computes, in evaluation mode."""
    with torch.no_grad():
        found = lower(graph).eval()(*map(torch.from_numpy, feed.values()))
    return [value.numpy() for value in (found if isinstance(found, tuple) else (found,))]


def assert_agree(graph: Graph, seed: int = 0) -> None:
    """Torch and ONNX Runtime give the same values, to 1e-4 of the outputs' scale, of the shapes and types that the graph states."""
    feed = {key: value * 2 - 1 for key, value in graph.random_inputs(np.random.default_rng(seed)).items()}
    for name, ours, theirs in zip(graph.outputs, run_torch(graph, feed), run_ort(graph, feed), strict=True):
        assert ours.shape == theirs.shape == graph.specs[name].shape
        assert ours.dtype == theirs.dtype == graph.specs[name].dtype
        too_large = np.isinf(theirs)  # a product of many values
        assert np.array_equal(ours[too_large], theirs[too_large])
        ours, theirs = ours[~too_large], theirs[~too_large]
        assert np.isfinite(theirs).all()
        assert np.abs(ours - theirs).max(initial=0) <= 1e-4 * np.abs(theirs).max(initial=0.1)  # values on the way are about 1
