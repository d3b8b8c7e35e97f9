"""int8 in the form that ONNX Runtime's CPU kernels are fast on: Q/DQ, unsigned activations, signed weights per channel.

What was tried, and the figures behind each choice below, stand in docs/adr/0002-int8-on-the-cpu.md.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from hwnas import __version__
from hwnas.errors import GraphError, UsageError, require
from hwnas.ir import Graph
from hwnas.ir.fold import fold
from hwnas.ir.node import Array
from hwnas.ir.onnx import from_model, to_model

if TYPE_CHECKING:
    import onnx

Feed = Mapping[str, Array]


def int8(model: Graph | onnx.ModelProto, calibration: Iterable[Feed], *, ends_in_fp32: bool = False) -> onnx.ModelProto:
    """A network with its arithmetic in 8 bits, calibrated on examples of what it will see.

    Activations are uint8 per tensor, between the smallest and the largest value that calibration saw. Weights are int8 per output
    channel, held to 7 bits: processors without VNNI add two products in 16 saturating bits, and full weights overflow there.

    Args:
        model: in fp32; batch normalisation is folded first.
        calibration: inputs by name, shaped as the network declares them; training data, never test data. A hundred will do.
        ends_in_fp32: leaves alone the nodes that read an input of the network or write an output. They are the most sensitive; whether
            the network is faster or slower so depends on what follows the first of them, and has to be measured.

    Raises:
        UsageError: when calibration is empty or does not fit the network's inputs.
        GraphError: when ONNX Runtime's quantiser refuses the network; gives its reason in one line.
    """
    require("onnxruntime")
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    graph = fold(model if isinstance(model, Graph) else from_model(model))
    plain = to_model(graph)
    add_pre_process_metadata(plain)  # folded and shape-inferred above, which is what its own pre-processing would do
    feeds = iter(calibration)
    first = next(feeds, None)
    if first is None:
        raise UsageError("int8 needs calibration data, got none; give inputs from the training split")
    reader = _Reader(graph, chain([first], feeds))
    with tempfile.TemporaryDirectory(prefix="hwnas-") as folder, _quiet():
        path = Path(folder, "int8.onnx")
        try:
            quantize_static(
                plain,
                path,
                reader,
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=True,
                calibrate_method=CalibrationMethod.MinMax,
                nodes_to_exclude=_ends(graph) if ends_in_fp32 else [],
            )
        except (UsageError, OSError):
            raise
        except Exception as error:
            raise GraphError(f"graph '{graph.name}' cannot be quantised: {' '.join(str(error).split())}") from error
        quantised = onnx.load(path)
    quantised.producer_name, quantised.producer_version = "hwnas", __version__
    del quantised.metadata_props[:]
    return quantised


def _ends(graph: Graph) -> list[str]:
    outside = {*graph.inputs, *graph.outputs}
    return [node.name for node in graph.nodes if outside & {*node.inputs, *node.outputs}]


class _Reader:
    """Hands calibration inputs to the quantiser one by one, each checked against the network."""

    def __init__(self, graph: Graph, feeds: Iterable[Feed]) -> None:
        self._graph = graph
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, Array] | None:
        """The next inputs, or None at the end."""
        feed = next(self._feeds, None)
        if feed is None:
            return None
        expected = {name: (spec.shape, spec.dtype) for name, spec in self._graph.inputs.items()}
        given = {name: (value.shape, str(value.dtype)) for name, value in feed.items()}
        if given != expected:
            raise UsageError(f"calibration does not fit graph '{self._graph.name}': it reads {_listed(expected)}, got {_listed(given)}")
        return dict(feed)


def _listed(inputs: Mapping[str, tuple[tuple[int, ...], str]]) -> str:
    return ", ".join(f"{name} {dtype}{list(shape)}" for name, (shape, dtype) in inputs.items()) or "nothing"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the quantiser from logging through the root logger, which would also configure it for the whole process."""
    handler, disabled = logging.NullHandler(), logging.root.manager.disable
    logging.root.addHandler(handler)
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        logging.root.removeHandler(handler)
