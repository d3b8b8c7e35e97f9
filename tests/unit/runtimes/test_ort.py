"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os
import re
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from hwnas.errors import GraphError, MissingExtraError, UsageError
from hwnas.ir import Graph, GraphBuilder, KernelCall
from hwnas.ir.onnx import to_bytes, to_model
from hwnas.runtimes import ort
from hwnas.runtimes.ort import OrtRuntime, pinned
from hwnas.runtimes.samples import StoppingRule
from hwnas.testing.conformance import RuntimeConformance

ALLOWED = os.sched_getaffinity(0)  # before any test measures


class TestOrtConforms(RuntimeConformance):
    @pytest.fixture
    def runtime(self, ort_runtime):
        return ort_runtime


def small(batch: int = 1) -> Graph:
    """Two convolutions, of which the first absorbs the activation."""
    b = GraphBuilder("small")
    x = b.op("Relu", [b.conv(b.input("x", (batch, 3, 8, 8)), 16, kernel=3)])
    return b.finish(b.conv(x, 8)).materialize(np.random.default_rng(0))


def computing(calls) -> list[KernelCall]:
    return [call for call in calls if not call.kernel.op.startswith("Reorder")]


@pytest.mark.parametrize("threads", [0, -1, 10_000])
def test_threads_must_fit_the_machine(threads: int) -> None:
    """More threads than processors, or none, are refused with the bounds."""
    with pytest.raises(UsageError, match=f"between 1 and {len(os.sched_getaffinity(0))}.*got {threads}"):
        OrtRuntime(threads)


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without onnxruntime the error says what to install."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hwnas\[cpu\]'"):
        OrtRuntime(1)


def test_other_precisions_are_refused(ort_runtime: OrtRuntime) -> None:
    """fp16 would be emulated; the error names what there is."""
    with pytest.raises(UsageError, match="computes in fp32 or int8, not in 'fp16'"):
        ort_runtime.build(small(), precision="fp16")


def test_a_network_that_it_does_not_load(ort_runtime: OrtRuntime) -> None:
    """What ONNX Runtime rejects is a GraphError of one line that holds its version and its reason."""
    model = to_model(small())
    model.graph.node[0].op_type = "Nonsense"
    with pytest.raises(GraphError, match=f"ONNX Runtime {re.escape(ort_runtime.version)} does not load.*Nonsense") as caught:
        ort_runtime.build(model.SerializeToString())
    assert "\n" not in str(caught.value)


def test_a_file_without_node_names(ort_runtime: OrtRuntime) -> None:
    """Serialised models whose nodes have no names are told apart all the same."""
    model = to_model(small())
    for node in model.graph.node:
        node.name = ""
    calls = computing(ort_runtime.build(model.SerializeToString()).kernels())
    assert [(call.kernel.op, call.kernel.fused) for call in calls] == [("Conv", ("Relu",)), ("Conv", ())]


def test_the_processor_stays_pinned_while_measuring(ort_runtime: OrtRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples are taken on one processor, and afterwards the thread may run where it could before."""
    during = []

    def sample(run, rule, clock):
        during.append(os.sched_getaffinity(0))
        raise KeyboardInterrupt

    monkeypatch.setattr(ort, "sample", sample)
    session, graph = ort_runtime.build(small()), small()
    with pytest.raises(KeyboardInterrupt):
        session.time(graph.random_inputs(np.random.default_rng(0)), StoppingRule())
    assert during == [{max(ALLOWED)}]
    assert os.sched_getaffinity(0) == ALLOWED


def test_several_threads() -> None:
    """With as many threads as the machine has, outputs are the same and the calling thread keeps the first processor."""
    threads = len(os.sched_getaffinity(0))
    runtime, graph = OrtRuntime(threads), small()
    feed = graph.random_inputs(np.random.default_rng(0))
    (expected,), (found,) = OrtRuntime(1).build(graph).run(feed), runtime.build(graph).run(feed)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    with pinned(threads):
        assert os.sched_getaffinity(0) == {max(ALLOWED)}
    assert os.sched_getaffinity(0) == ALLOWED


def test_time_uses_the_clock_it_is_given(ort_runtime: OrtRuntime) -> None:
    """Durations are differences of the clock, in s."""
    graph, ticks = small(), count(step=500)
    samples = ort_runtime.build(graph).time(
        graph.random_inputs(np.random.default_rng(0)), StoppingRule(min_samples=3, max_samples=3, warmup=0), lambda: next(ticks)
    )
    assert samples.seconds.tolist() == [500e-9] * 3


def test_the_parts_of_an_operator_add_up(ort_runtime: OrtRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator that runs as several nodes takes the time of all of them, less what the profiler adds to each but the first."""
    monkeypatch.setattr(ort, "_undisturbed_s", lambda values: 1.0)
    b = GraphBuilder("parts")
    graph = b.finish(b.op("HardSwish", [b.op("Neg", [b.input("x", (1, 8))])]))
    times = ort_runtime.build(graph).kernel_times(graph.random_inputs(np.random.default_rng(0)), runs=2)
    cost = ort_runtime.watching_cost.event_s
    assert {row.call.kernel.op: row.seconds for row in times} == {"Neg": 1.0, "HardSwish": pytest.approx(2.0 - cost)}


def test_undisturbed_runs_count() -> None:
    """A kernel's time is the mean of the faster half of its runs, and half the microsecond that the profiler cuts off."""
    assert ort._undisturbed_s([9e-6, 2e-6, 4e-6, 700e-6]) == pytest.approx(3.5e-6)
    assert ort._undisturbed_s([5e-6]) == pytest.approx(5.5e-6)


def test_a_stored_network(ort_runtime: OrtRuntime, tmp_path: Path) -> None:
    """A file is read as a graph; a missing one is a GraphError."""
    (tmp_path / "small.onnx").write_bytes(to_bytes(small()))
    assert ort_runtime.build(tmp_path / "small.onnx").graph.name == "small"
    with pytest.raises(GraphError, match="cannot be read"):
        ort_runtime.build(tmp_path / "none.onnx")
