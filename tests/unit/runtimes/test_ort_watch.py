"""What the profiler itself costs is found by comparing kernels that it watches with kernels that it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwnas.ir import GraphBuilder
from hwnas.ir.onnx import to_bytes
from hwnas.runtimes import ort_watch
from hwnas.runtimes.ort import OrtRuntime


def test_events_say_how_many_tensors_a_kernel_read(ort_runtime: OrtRuntime, tmp_path: Path) -> None:
    """Each input counts, but for weights that the runtime has packed away; there is one event for each run of each kernel."""
    b = GraphBuilder("tensors")
    x = b.input("x", (1, 8))
    graph = b.finish(b.linear(b.op("Max", [x, *(b.constant("c", np.full((1, 8), i, np.float32)) for i in range(3))]), 4))
    graph = graph.materialize(np.random.default_rng(0))
    session = ort_runtime.open(to_bytes(graph), profile=tmp_path / "profile")
    for _ in range(2):
        session.run(None, graph.random_inputs(np.random.default_rng(0)))
    events = ort_watch.kernel_events(Path(session.end_profiling()))
    assert [(event["args"]["op_name"], ort_watch.tensors(event)) for event in events] == [("Max", 4), ("Gemm", 2)] * 2


def test_costs_are_differences(ort_runtime: OrtRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """What 36 more tensors add tells the cost of one; what is left over at few tensors is the cost of an event."""
    monkeypatch.setattr(ort_watch, "_excess_s", lambda runtime, counts: 2e-6 + 1e-7 * float(np.mean(counts)))
    cost = ort_watch.watching_cost(ort_runtime)
    assert (cost.tensor_s, cost.event_s) == (pytest.approx(1e-7), pytest.approx(2e-6))


def test_noise_costs_nothing(ort_runtime: OrtRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs are never negative."""
    monkeypatch.setattr(ort_watch, "_excess_s", lambda runtime, counts: -1e-6 * float(np.mean(counts)))
    cost = ort_watch.watching_cost(ort_runtime)
    assert (cost.tensor_s, cost.event_s) == (0.0, 0.0)
