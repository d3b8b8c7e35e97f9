"""What ONNX Runtime's profiler adds to the times that it shows.

Between the start and the end of a kernel it writes down the type and shape of every tensor that the kernel reads. That costs about
0.17 us a tensor, and an 8-bit convolution reads nine (data, weights, bias, and scales and zero points), where a Sigmoid reads one: enough
to turn the shares of short kernels upside down. What it adds to every kernel alike is found from whole networks (`hwnas.profiling`).
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.errors import DiskError
from hwnas.ir import GraphBuilder
from hwnas.ir.onnx import to_bytes
from hwnas.runtimes.samples import LOW_QUANTILE

if TYPE_CHECKING:
    from hwnas.runtimes.ort import OrtRuntime

EVENT = "_kernel_time"
_LAYERS = 100
_FEW, _MANY = range(2, 7), range(38, 43)  # tensors that kernels read; several counts, since the profiler rounds down to whole microseconds
_TICK_S = 1e-6
_RUNS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchingCost:
    """What the profiler adds, in s.

    Attributes:
        tensor_s: for each tensor that a kernel reads.
        event_s: for each run of a kernel that it shows.
    """

    tensor_s: float
    event_s: float


def kernel_events(path: Path) -> list[dict[str, Any]]:
    """The runs of kernels in a file that the profiler wrote, in the order in which they ran.

    Raises:
        DiskError: the file is cut short: the profiler says nothing when the disk is full.
    """
    try:
        events: list[dict[str, Any]] = json.loads(path.read_text())
    except ValueError as error:
        raise DiskError(
            f"cannot write to '{path.parents[1]}', where ONNX Runtime's profiler keeps its figures for a moment; make room or give another "
            f"place with TMPDIR; what was measured before is kept: run again with --resume"
        ) from error
    return [event for event in events if event.get("cat") == "Node" and event["name"].endswith(EVENT)]


def tensors(event: dict[str, Any]) -> int:
    """How many tensors a kernel read."""
    return len(event["args"].get("input_type_shape", ()))


def watching_cost(runtime: OrtRuntime) -> WatchingCost:
    """Times kernels that read few tensors, and kernels that read many, with the profiler and without it."""
    few, many = (_excess_s(runtime, counts) for counts in (_FEW, _MANY))
    tensor_s = max(0.0, (many - few) / (_MANY.start - _FEW.start))
    return WatchingCost(tensor_s=tensor_s, event_s=max(0.0, few - tensor_s * float(np.mean(_FEW))))


def _excess_s(runtime: OrtRuntime, counts: Sequence[int]) -> float:
    """How much longer a kernel takes by the profiler than without it: the mean over kernels that read so many tensors."""
    builder = GraphBuilder("watch")
    x = builder.input("x", (1,))
    for i in range(_LAYERS):
        x = builder.op("Max", [x, *(builder.constant("c", np.full(1, i + j, np.float32)) for j in range(counts[i % len(counts)] - 1))])
    graph = builder.finish(x)
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
    shown = np.array([event["dur"] for event in events], float).reshape(_RUNS, _LAYERS)
    calm = np.sort(shown, axis=0)[: _RUNS // 2].mean() * 1e-6 + _TICK_S / 2
    return float(calm - np.quantile(durations, LOW_QUANTILE) * 1e-9 / _LAYERS)
