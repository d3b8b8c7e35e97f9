"""Small networks that make ONNX Runtime show how it works on this processor."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwnas.ir import GraphBuilder
from hwnas.ir.onnx import to_bytes
from hwnas.runtimes.samples import StoppingRule

if TYPE_CHECKING:
    from hwnas.runtimes.ort import OrtRuntime

_CHANNELS = 20  # divides by no block size in use, so that padding shows


def channel_block(runtime: OrtRuntime) -> int:
    """Channels per block of the NCHWc layout: 8 with AVX2, 16 with AVX-512, 1 where convolutions stay in NCHW.

    A convolution to 20 channels writes 24 or 32 where the layout pads them.
    """
    builder = GraphBuilder("block-probe")
    x = builder.input("x", (1, 16, 4, 4))
    graph = builder.finish(builder.conv(builder.conv(x, _CHANNELS), 16)).materialize(np.random.default_rng(0))
    with tempfile.TemporaryDirectory(prefix="hwnas-") as folder:
        session = runtime.open(to_bytes(graph), profile=Path(folder, "profile"))
        session.run(None, graph.random_inputs(np.random.default_rng(0)))
        events = json.loads(Path(session.end_profiling()).read_text())
    written = [
        next(iter(event["args"]["output_type_shape"][0].values()))[1] for event in events if event.get("args", {}).get("op_name") == "Conv"
    ]
    padded = written[0]
    return 1 if padded == _CHANNELS else 8 if padded % 16 else 16


def call_overhead_s(runtime: OrtRuntime) -> float:
    """What a call costs that computes next to nothing: p10 of one Identity on one element, in s."""
    builder = GraphBuilder("empty")
    graph = builder.finish(builder.op("Relu", [builder.input("x", (1, 1))]))
    session = runtime.build(graph)
    rule = StoppingRule(relative_error=0.01, min_samples=200, max_seconds=0.5)
    return session.time(graph.random_inputs(np.random.default_rng(0)), rule).p10_s
