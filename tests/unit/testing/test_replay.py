"""Replaying what was recorded."""

from __future__ import annotations

import numpy as np
import pytest
from paper_device import measured

from hwnas import spaces
from hwnas.errors import NotFoundError, UsageError
from hwnas.ir import Graph, GraphBuilder
from hwnas.runtimes.base import KernelTime
from hwnas.runtimes.ort import OrtRuntime
from hwnas.runtimes.ort_fusion import fuse
from hwnas.runtimes.samples import StoppingRule
from hwnas.testing import Recording, ReplayRuntime, digest, record
from hwnas.testing.conformance import GRAPHS, RuntimeConformance

RULE = StoppingRule(min_samples=5, max_samples=5, warmup=0)


def made_up(graph: Graph) -> Recording:
    """A recording of any graph: three durations, and kernels that take longer the later they come."""
    calls = fuse(graph, 8)
    return Recording(
        seconds=[1e-3, 1.2e-3, 1.1e-3], kernels=tuple(KernelTime(call=call, seconds=1e-5 * (i + 1)) for i, call in enumerate(calls))
    )


class TestReplayConforms(RuntimeConformance):
    @pytest.fixture
    def runtime(self) -> ReplayRuntime:
        return ReplayRuntime(made_up)


class TestARecordingConforms(RuntimeConformance):
    """What was recorded of a real runtime passes as that runtime."""

    @pytest.fixture
    def runtime(self, recipe: Graph) -> ReplayRuntime:
        real = OrtRuntime(1)
        found = record(real, [recipe], rule=StoppingRule(min_samples=3, max_samples=3), runs=2)
        return ReplayRuntime(found, name=real.name, version=real.version)


def tiny(channels: int = 4) -> Graph:
    b = GraphBuilder("tiny")
    return b.finish(b.op("Relu", [b.conv(b.input("x", (1, 3, 8, 8)), channels)]))


def feed(graph: Graph) -> dict[str, np.ndarray]:
    return graph.random_inputs(np.random.default_rng(0))


def test_the_samples_come_back() -> None:
    """Durations are replayed in order, from the start for every measurement, over and over; no clock is read."""
    session = ReplayRuntime(made_up).build(tiny())
    for _ in range(2):
        samples = session.time(feed(tiny()), RULE)
        assert samples.seconds.tolist() == [1e-3, 1.2e-3, 1.1e-3, 1e-3, 1.2e-3]


def test_recordings_by_graph() -> None:
    """Each graph has its own recording, whatever its weights; another graph was not recorded."""
    recorded = {digest(tiny()): made_up(tiny()), digest(tiny(8)): Recording(seconds=[5e-3], kernels=())}
    runtime = ReplayRuntime(recorded)
    assert runtime.build(tiny()).time(feed(tiny()), RULE).seconds[0] == 1e-3
    assert runtime.build(tiny(8).materialize(np.random.default_rng(3))).time(feed(tiny()), RULE).seconds[0] == 5e-3
    with pytest.raises(NotFoundError, match=r"graph 'tiny' \([0-9a-f]{12}\) is not among the 2 recorded ones; record it first"):
        runtime.build(tiny(16))


def test_the_digest_is_of_the_structure() -> None:
    """Equal structures have equal digests, whatever weights and name; any difference in structure shows."""
    assert digest(tiny()) == digest(tiny().materialize(np.random.default_rng(0)))
    assert len({digest(make()) for make in GRAPHS.values()} | {digest(tiny()), digest(tiny(8))}) == len(GRAPHS) + 2
    b = GraphBuilder("renamed")
    assert digest(b.finish(b.op("Relu", [b.conv(b.input("x", (1, 3, 8, 8)), 4)]))) == digest(tiny())


def test_a_network_of_a_profile_replays() -> None:
    """A profile's network gives its samples and its kernels' times back."""
    (network,) = measured(1)
    recording = Recording.of(network)
    graph = spaces.load("mobilenet-small").graph(network.genotype)
    session = ReplayRuntime({digest(graph): recording}).build(graph)
    assert session.time(feed(graph), RULE).seconds.tolist() == pytest.approx(network.samples.seconds[:5].tolist(), abs=1e-9)
    assert [row.call for row in session.kernel_times(feed(graph), 1)] == [kernel.call for kernel in network.kernels]


def test_other_precisions() -> None:
    """It builds the precisions that it was told to, and no other."""
    runtime = ReplayRuntime(made_up, precisions=("fp32", "fp16"))
    runtime.build(tiny(), precision="fp16")
    with pytest.raises(UsageError, match="replays fp32, fp16, not 'int8'"):
        runtime.build(tiny(), precision="int8")


@pytest.mark.parametrize("seconds", [[], [1e-3, 0.0]])
def test_a_recording_takes_time(seconds: list[float]) -> None:
    """A recording without durations, or of no duration, is refused."""
    with pytest.raises(ValueError, match="a recording needs durations above 0 s"):
        Recording(seconds=seconds, kernels=())
