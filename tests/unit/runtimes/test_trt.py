"""TensorRT's runtime over engines that are replayed: what hwnas itself does, from the stream to the kernels."""

from __future__ import annotations

import gc
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas import spaces
from hwnas.devices.nvml import Card
from hwnas.errors import DeviceUnavailable
from hwnas.ir import Graph, Kernel
from hwnas.ir.onnx import to_bytes
from hwnas.runtimes.fusions import UNFUSED
from hwnas.runtimes.samples import StoppingRule
from hwnas.runtimes.trt import TrtRuntime, TrtSession
from hwnas.runtimes.trt_build import Engine, Options
from hwnas.runtimes.trt_run import Loaded
from hwnas.testing.conformance import GRAPHS, RuntimeConformance
from hwnas.testing.fake_cuda import FakeCuda
from hwnas.testing.fake_tensorrt import FakeBuilder, FakeTensorrt, RecordedEngine, made_up, record

UUID = "GPU-0a0a0a0a-0a0a-0a0a-0a0a-0a0a0a0a0a0a"
CARD = Card(index=0, name="NVIDIA A100-SXM4-40GB", uuid=UUID, compute_capability=(8, 0), memory_bytes=40 * 2**30, mig=False)


def replayed(cuda: FakeCuda, **how: object) -> TrtRuntime:
    return TrtRuntime(CARD, trt=FakeTensorrt(cuda), api=cuda, builder=FakeBuilder(), **how)


class TestTensorrtConforms(RuntimeConformance):
    moves = frozenset({"Reformat"})

    @pytest.fixture
    def runtime(self):
        return replayed(FakeCuda())


RULE = StoppingRule(min_samples=5, max_samples=5, warmup=2)


def session_of(graph: Graph, precision: str = "fp32", **how: Any) -> tuple[TrtSession, dict[str, np.ndarray]]:
    """A session with inputs for it."""
    session = replayed(FakeCuda(**how)).build(graph, precision=precision)
    return session, graph.random_inputs(np.random.default_rng(1))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_each_precision_has_its_kernels(name: str, precision: str) -> None:
    """The engine computes in the precision asked for, no node is lost or doubled, and the sum of the kernels is the sum of the layers."""
    graph = GRAPHS[name]()
    session, feed = session_of(graph, precision)
    outputs = session.run(feed)
    assert [value.shape for value in outputs] == [graph.specs[name].shape for name in graph.outputs]
    assert all(np.isfinite(value).all() and value.dtype == np.float32 for value in outputs)
    calls = session.kernels()
    computing = [call for call in calls if call.kernel.op != "Reformat"]
    assert max(Counter(node for call in computing for node in call.nodes).values()) == 1
    assert {call.kernel.precision for call in computing if call.kernel.op in ("Conv", "ForeignNode")} <= {precision}
    assert any(call.kernel.precision == precision for call in computing)
    engine = RecordedEngine.of(made_up(model_of(graph, precision)).plan())
    assert sum(row.seconds for row in session.kernel_times(feed, runs=4)) == pytest.approx(sum(ms for _, ms in engine.times_ms) / 1e3)


def model_of(graph: Graph, precision: str) -> bytes:
    """The model that the runtime hands to TensorRT."""
    models = []

    def builder(model: bytes, options: Options) -> Engine:
        models.append(model)
        return FakeBuilder()(model, options)

    cuda = FakeCuda()
    TrtRuntime(CARD, trt=FakeTensorrt(cuda), api=cuda, builder=builder).build(graph, precision=precision)
    return bytes(models[0])


def test_batch_is_part_of_a_kernels_identity() -> None:
    """Two batches of one network share no computing kernel, and two precisions of one neither."""
    space = spaces.load("mobilenet-small")
    genotype = space.sample(np.random.default_rng(0))

    def kernels(batch: int, precision: str) -> set[Kernel]:
        calls = session_of(space.graph(genotype, batch=batch), precision)[0].kernels()
        return {call.kernel for call in calls if call.kernel.op != "Reformat"}

    one = kernels(1, "fp16")
    assert one.isdisjoint(kernels(2, "fp16"))
    assert one.isdisjoint(kernels(1, "fp32"))


def test_runs_are_launched_as_a_cuda_graph_where_that_is_possible() -> None:
    """One launch a run; without graphs the same outputs and times, through the stream."""
    graph = GRAPHS["residual"]().materialize(np.random.default_rng(0))
    (one, feed), (other, _) = session_of(graph), session_of(graph, captures=False)
    assert (one.launch, other.launch) == ("graph", "stream")
    np.testing.assert_array_equal(one.run(feed)[0], other.run(feed)[0])
    np.testing.assert_allclose(one.time(feed, RULE).seconds, other.time(feed, RULE).seconds)


def test_time_is_the_cards() -> None:
    """Every sample is what the layers take on the card, whatever the host does; a run sees the inputs of its own call."""
    graph = GRAPHS["branches"]().materialize(np.random.default_rng(0))
    session, feed = session_of(graph)
    expected = sum(ms for _, ms in made_up(to_bytes(graph)).times_ms) / 1e3
    np.testing.assert_allclose(session.time(feed, RULE).seconds, expected, rtol=1e-4)
    first = session.run(feed)
    session.run({name: value * 0 for name, value in feed.items()})
    for one, again in zip(first, session.run(feed), strict=True):
        np.testing.assert_array_equal(one, again)


def test_work_for_a_meter_is_done_when_it_returns() -> None:
    """So many runs, of which the last one has finished."""
    cuda = FakeCuda()
    graph = GRAPHS["dense"]()
    work = replayed(cuda).build(graph).repeat(graph.random_inputs(np.random.default_rng(0)))
    before, launches = cuda.now_ms, cuda.launches
    work(7)
    assert cuda.launches == launches + 7
    assert cuda.now_ms - before == pytest.approx(7 * sum(ms for _, ms in made_up(model_of(graph, "fp32")).times_ms))


def test_memory_of_a_session_is_given_back() -> None:
    """Networks come and go: what one of them had on the card is free when it is gone."""
    cuda = FakeCuda()
    session = replayed(cuda).build(GRAPHS["dense"]())
    assert len(cuda.blocks) == 3
    del session
    gc.collect()
    assert not cuda.blocks


def test_a_layer_that_the_inspector_does_not_know_counts() -> None:
    """What the profiler tells besides goes to the kernel before it, so that nothing is lost of the sum."""
    graph = GRAPHS["dense"]().materialize(np.random.default_rng(0))
    engine = made_up(to_bytes(graph))
    odd = replace(engine, times_ms=(*engine.times_ms, ("[HostToDeviceCopy 0]", 0.5)))
    cuda = FakeCuda()
    builder = FakeBuilder({model_of(graph, "fp32"): odd})
    session = TrtRuntime(CARD, trt=FakeTensorrt(cuda), api=cuda, builder=builder).build(graph)
    times = session.kernel_times(graph.random_inputs(np.random.default_rng(0)), runs=3)
    assert sum(row.seconds for row in times) == pytest.approx(sum(ms for _, ms in odd.times_ms) / 1e3)
    assert [row.call for row in times] == list(session.kernels())


def test_a_recorded_engine_is_replayed() -> None:
    """What was recorded of a session makes one with the same kernels and times elsewhere."""
    graph = GRAPHS["residual"]()
    session, feed = session_of(graph, "int8")
    model = model_of(graph, "int8")
    engine = RecordedEngine.of(record(session, model, feed).plan())
    cuda = FakeCuda()
    again = TrtRuntime(CARD, trt=FakeTensorrt(cuda), api=cuda, builder=FakeBuilder({model: engine})).build(graph, precision="int8")
    assert again.kernels() == session.kernels()
    for one, other in zip(again.kernel_times(feed, runs=2), session.kernel_times(feed, runs=2), strict=True):
        assert (one.call, one.seconds) == (other.call, pytest.approx(other.seconds))


def test_an_engine_that_does_not_load_is_an_error() -> None:
    """Where the child could not load it, this process does not try; where TensorRT refuses it here, its reason is given."""
    cuda = FakeCuda()
    with pytest.raises(DeviceUnavailable, match=r"builds an engine for card 0 \(NVIDIA A100-SXM4-40GB\) that does not load there"):
        TrtRuntime(CARD, trt=FakeTensorrt(cuda), api=cuda, builder=FakeBuilder(loads=False)).build(GRAPHS["dense"]())
    with pytest.raises(DeviceUnavailable, match=r"does not load the engine on this card: .*magic tag does not match"):
        Loaded(FakeTensorrt(cuda), b"no plan")
    with pytest.raises(DeviceUnavailable, match="TensorRT's runtime does not start"):
        Loaded(FakeTensorrt(cuda, driver=False), made_up(to_bytes(GRAPHS["dense"]().materialize(np.random.default_rng(0)))).plan())


def test_nothing_of_tensorrt_is_touched_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver is asked first: without one TensorRT would crash the process."""

    def none() -> tuple[Card, ...]:
        raise DeviceUnavailable("no NVIDIA driver")

    monkeypatch.setattr("hwnas.devices.nvml.cards", none)
    monkeypatch.setattr("hwnas.runtimes.trt.require", lambda *_: pytest.fail("TensorRT was imported"))
    with pytest.raises(DeviceUnavailable, match="no NVIDIA driver"):
        TrtRuntime()
    monkeypatch.setattr("hwnas.devices.nvml.cards", tuple)
    with pytest.raises(DeviceUnavailable, match="lists no card"):
        TrtRuntime()


def test_engines_are_built_for_the_card_that_is_meant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The child process sees that card alone, and its timings are kept apart by the card's name."""
    asked: dict[str, Any] = {}

    def build(model: bytes, options: Options, **how: Any) -> Engine:
        asked.update(how)
        return FakeBuilder()(model, options)

    monkeypatch.setattr("hwnas.runtimes.trt_build.build", build)
    cuda = FakeCuda()
    TrtRuntime(CARD, trt=FakeTensorrt(cuda), api=cuda, caches=tmp_path).build(GRAPHS["dense"]())
    assert asked["environment"]["CUDA_VISIBLE_DEVICES"] == UUID
    assert (asked["caches"], asked["device"]) == (tmp_path, CARD.name)


def test_a_call_costs_something() -> None:
    """The smallest network takes time, and tells no facts of ONNX Runtime's fusions."""
    runtime = replayed(FakeCuda())
    assert runtime.call_s() == pytest.approx(2e-6)
    assert runtime.fusions == UNFUSED
