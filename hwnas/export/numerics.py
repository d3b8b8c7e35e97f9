"""Runs a model on the CPU exactly as its types state: what an engine that keeps these types will answer, but for the order of sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from hwnas.errors import GraphError, one_line, require
from hwnas.ir.node import Array


class Runs(Protocol):
    """Whatever gives a network's outputs for its inputs."""

    def run(self, feed: Mapping[str, Array]) -> Sequence[Array]:
        """The outputs for these inputs."""
        ...


class Numerics:
    """A model in ONNX Runtime without the fusions that change arithmetic; its time means nothing.

    ONNX Runtime would make 8-bit kernels of Q/DQ, which add two products in 16 saturating bits on processors without VNNI. TensorRT adds
    in 32 bits. So Q/DQ stay what they say here: rounding, and products of floats.

    Args:
        model: serialised ONNX.

    Raises:
        GraphError: ONNX Runtime does not load it.
    """

    def __init__(self, model: bytes) -> None:
        ort = require("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.log_severity_level = 4
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no narrower base class
            raise GraphError(f"ONNX Runtime does not load the model: {one_line(error)}") from error

    def run(self, feed: Mapping[str, Array]) -> Sequence[Array]:
        """The outputs for these inputs.

        Raises:
            GraphError: the model does not run on them.
        """
        try:
            outputs: Sequence[Any] = self._session.run(None, dict(feed))
        except Exception as error:  # its exceptions share no narrower base class
            raise GraphError(f"ONNX Runtime does not run the model: {one_line(error)}") from error
        return outputs


def answers(session: Runs, feeds: Sequence[Mapping[str, Array]]) -> Array:
    """The first output for many inputs, one after the other along the batch, in float64."""
    return np.concatenate([np.asarray(session.run(feed)[0], np.float64) for feed in feeds])


def output_error(expected: Array, found: Array) -> float:
    """How far answers are off, relative to how much they vary between inputs (root mean square); infinite where one is no number.

    What all answers have in common tells nothing, and a network has much of it before it is trained. A single answer, or answers that
    are all alike, are taken relative to their size.
    """
    off = float(np.sqrt(np.mean((found - expected) ** 2)))
    varies = float(np.sqrt(np.mean((expected - expected.mean(axis=0)) ** 2)))
    scale = varies or float(np.sqrt(np.mean(expected**2))) or 1.0
    return off / scale if np.isfinite(off) else float("inf")
