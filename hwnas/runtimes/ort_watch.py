"""What ONNX Runtime's profiler adds to the times that it shows.

Between the start and the end of a kernel it writes down the type and shape of every tensor that the kernel reads. That costs about
0.17 us a tensor, and an 8-bit convolution reads nine (data, weights, bias, and scales and zero points), where a Sigmoid reads one: enough
to turn the shares of short kernels upside down. What it adds to every kernel alike is found from whole networks (`hwnas.profiling`).
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.ir import Graph, GraphBuilder
from hwnas.ir.onnx import to_bytes
from hwnas.runtimes.samples import LOW_QUANTILE

if TYPE_CHECKING:
    from hwnas.runtimes.ort import OrtRuntime

EVENT = "_kernel_time"
_LAYERS = 20
_FEW, _MANY = 2, 42  # tensors that a kernel reads
_RUNS = 60


def kernel_events(path: Path) -> list[dict[str, Any]]:
    """The runs of kernels in a file that the profiler wrote, in the order in which they ran."""
    events: list[dict[str, Any]] = json.loads(path.read_text())
    return [event for event in events if event.get("cat") == "Node" and event["name"].endswith(EVENT)]


def tensors(event: dict[str, Any]) -> int:
    """How many tensors a kernel read."""
    return len(event["args"].get("input_type_shape", ()))


def tensor_cost_s(runtime: OrtRuntime) -> float:
    """What each tensor that a kernel reads adds to its time by the profiler, in s.

    Kernels that read few tensors and kernels that read many are timed with the profiler and without it.
    """
    few, many = (_excess_s(runtime, _concatenations(count)) for count in (_FEW, _MANY))
    return max(0.0, (many - few) / (_MANY - _FEW))


def _concatenations(count: int) -> Graph:
    builder = GraphBuilder("watch")
    x = builder.input("x", (1, 1, 1))
    others = [builder.constant("c", np.full((1, 1, 1), i, np.float32)) for i in range(count - 1)]
    for _ in range(_LAYERS):
        x = builder.op("Concat", [x, *others], axis=0)
        x = builder.op("Slice", [x], axes=(0,), starts=(0,), ends=(1,))
    return builder.finish(x)


def _excess_s(runtime: OrtRuntime, graph: Graph) -> float:
    """How much longer a concatenation takes by the profiler than without it, but for what both networks have in common."""
    model, feed = to_bytes(graph), graph.random_inputs(np.random.default_rng(0))
    session = runtime.open(model)
    durations = []
    for _ in range(_RUNS):
        start = time.perf_counter_ns()
        session.run(None, feed)
        durations.append(time.perf_counter_ns() - start)
    with tempfile.TemporaryDirectory(prefix="hwnas-") as folder:
        watched = runtime.open(model, profile=Path(folder, "profile"))
        for _ in range(_RUNS):
            watched.run(None, feed)
        events = kernel_events(Path(watched.end_profiling()))
    shown = sorted(event["dur"] for event in events if event["args"]["op_name"] == "Concat")
    usual = float(np.mean(shown[: len(shown) // 2])) * 1e-6
    return usual - float(np.quantile(durations, LOW_QUANTILE)) * 1e-9 / _LAYERS
