"""What every implementation of a seam must do, as pytest classes: a supplier subclasses one and gives a fixture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from hwnas.devices import Energy, EnergyMeter
from hwnas.errors import GraphError, UsageError
from hwnas.ir import Graph, GraphBuilder, KernelCall
from hwnas.ir.kernel import FREE
from hwnas.ir.node import Array
from hwnas.ir.torch import lower
from hwnas.runtimes.base import Model, Runtime
from hwnas.runtimes.samples import StoppingRule


def residual() -> Graph:
    """Convolutions with their normalisations, an activation, a residual and a gate on a colour image, then a classifier."""
    b = GraphBuilder("residual")
    x = b.op("Relu", [b.batch_norm(b.conv(b.input("image", (1, 3, 16, 16)), 16, kernel=3, stride=2, bias=False))])
    y = b.op("HardSwish", [b.batch_norm(b.conv(x, 32, bias=False))])
    y = b.op("Clip", [b.batch_norm(b.conv(y, 32, kernel=3, groups=32, bias=False))], min=0.0, max=6.0)
    gate = b.op("HardSigmoid", [b.conv(b.op("Relu", [b.conv(b.op("GlobalAveragePool", [y]), 8)]), 32)], alpha=1 / 6, beta=0.5)
    x = b.op("Add", [b.batch_norm(b.conv(b.op("Mul", [y, gate]), 16, bias=False)), x])
    return b.finish(b.linear(b.op("Flatten", [b.op("GlobalAveragePool", [x])]), 10))


def branches() -> Graph:
    """Odd channel counts, groups, pools, branches that meet again, and two outputs, for a batch of two."""
    b = GraphBuilder("branches")
    x = b.op("Relu", [b.conv(b.input("x", (2, 6, 9, 7)), 12, kernel=3)])
    left = b.op("MaxPool", [b.op("Tanh", [b.conv(x, 8, groups=2)])], kernel_shape=(2, 2), strides=(2, 2))
    right = b.op("AveragePool", [b.conv(x, 5, kernel=3)], kernel_shape=(2, 2), strides=(2, 2))
    joined = b.op("Concat", [left, right], axis=1)
    return b.finish(b.op("Sigmoid", [b.conv(joined, 4)]), b.op("ReduceMean", [joined], axes=(2, 3), keepdims=0))


def dense() -> Graph:
    """Fully connected layers on two inputs."""
    b = GraphBuilder("dense")
    x = b.op("Add", [b.op("Relu", [b.linear(b.input("x", (3, 8)), 16)]), b.input("shift", (3, 16))])
    return b.finish(b.op("Softmax", [b.linear(b.op("Gelu", [x]), 4)]))


GRAPHS: Mapping[str, Callable[[], Graph]] = {"residual": residual, "branches": branches, "dense": dense}


class RuntimeConformance:
    """What the profiler, the export and the search rely on in a `hwnas.runtimes.base.Runtime`.

    A supplier's test file holds a subclass whose fixture `runtime` gives one, and may put other graphs in place by overriding `recipe`:

        class TestMyRuntime(RuntimeConformance):
            @pytest.fixture
            def runtime(self):
                return MyRuntime(threads=1)

    Attributes:
        tolerance: largest difference of an output from torch's, relative to the largest output.
        moves: kinds of kernels that only re-arrange a value for another one; they name the nodes of the kernel that needs them.
        refused: a model that no runtime builds.
        unknown_precision: a precision that no runtime has.
    """

    tolerance: float = 1e-4
    moves: frozenset[str] = frozenset({"ReorderInput", "ReorderOutput"})
    refused: Model = b"this is no model"
    unknown_precision: str = "fp7"

    @pytest.fixture
    def runtime(self) -> Runtime:
        """The runtime under test."""
        raise NotImplementedError("a subclass of RuntimeConformance overrides the fixture 'runtime'")

    @pytest.fixture(params=sorted(GRAPHS))
    def recipe(self, request: pytest.FixtureRequest) -> Graph:
        """A network to build, its weights not drawn yet."""
        return GRAPHS[request.param]()

    @pytest.fixture
    def graph(self, recipe: Graph) -> Graph:
        """It with its weights drawn."""
        return recipe.materialize(np.random.default_rng(5))

    @pytest.fixture
    def feed(self, graph: Graph) -> dict[str, Array]:
        """Inputs for it."""
        return graph.random_inputs(np.random.default_rng(6))

    def computing(self, calls: tuple[KernelCall, ...]) -> list[KernelCall]:
        """The kernels that compute something."""
        return [call for call in calls if call.kernel.op not in self.moves]

    def test_identity(self, runtime: Runtime) -> None:
        """A runtime says its name, the version of its library and how many threads compute."""
        assert runtime.name == runtime.name.strip() != ""
        assert runtime.version
        assert runtime.threads >= 1

    def test_run_computes_the_network(self, runtime: Runtime, graph: Graph, feed: dict[str, Array]) -> None:
        """`run` gives the graph's outputs in their order, equal to those of the same weights in torch."""
        import torch

        with torch.no_grad():
            expected = lower(graph).eval()(*(torch.from_numpy(feed[name]) for name in graph.inputs))
        expected = expected if isinstance(expected, tuple) else (expected,)
        found = runtime.build(graph).run(feed)
        for name, ours, theirs in zip(graph.outputs, found, expected, strict=True):
            assert np.asarray(ours).shape == graph.specs[name].shape
            assert np.abs(ours - theirs.numpy()).max() <= self.tolerance * np.abs(theirs.numpy()).max()

    def test_weights_not_drawn_yet(self, runtime: Runtime, recipe: Graph, feed: dict[str, Array]) -> None:
        """A graph whose weights are still recipes builds, and they are drawn alike every time."""
        first, second = (runtime.build(recipe).run(feed) for _ in range(2))
        for one, other in zip(first, second, strict=True):
            assert np.isfinite(one).all()
            np.testing.assert_array_equal(one, other)

    def test_time_takes_as_many_samples_as_it_may(self, runtime: Runtime, graph: Graph, feed: dict[str, Array]) -> None:
        """`time` gives positive durations and stops at the rule's largest number."""
        samples = runtime.build(graph).time(feed, StoppingRule(min_samples=7, max_samples=7, max_seconds=60, warmup=1))
        assert samples.n == 7
        assert samples.ended_by == "count"
        assert (samples.seconds > 0).all()

    def test_time_stops_when_time_is_up(self, runtime: Runtime, graph: Graph, feed: dict[str, Array]) -> None:
        """Once the rule's seconds are over, `time` stops at the rule's smallest number of samples."""
        rule = StoppingRule(min_samples=4, max_samples=1000, max_seconds=1e-9, warmup=1)
        samples = runtime.build(graph).time(feed, rule)
        assert samples.n == 4
        assert samples.ended_by == "time"

    def test_time_settles(self, runtime: Runtime, graph: Graph, feed: dict[str, Array]) -> None:
        """Samples that ended as settled are as certain as the rule asked for."""
        rule = StoppingRule(relative_error=0.5, min_samples=10, max_samples=200, max_seconds=1, warmup=1)
        samples = runtime.build(graph).time(feed, rule)
        assert 10 <= samples.n <= 200
        assert samples.ended_by != "settled" or samples.p10_error <= 0.5

    def test_every_node_is_in_one_kernel(self, runtime: Runtime, graph: Graph) -> None:
        """Each node belongs to exactly one kernel, unless it was folded into its neighbours when the network was built."""
        calls = self.computing(runtime.build(graph).kernels())
        times = Counter(name for call in calls for name in call.nodes)
        assert max(times.values()) == 1
        ops = {node.name: node.op for node in graph.nodes if node.outputs[0] not in graph.constants}
        assert set(times) <= set(ops)
        assert {ops[name] for name in set(ops) - set(times)} <= FREE

    def test_kernels_run_in_order(self, runtime: Runtime, graph: Graph) -> None:
        """A kernel reads only what the network is given or what kernels before it wrote, with the specs that the graph has."""
        written = {*graph.inputs, *graph.weights, *(node.outputs[0] for node in graph.nodes if node.op in FREE)}
        nodes = {node.name: node for node in graph.nodes}
        for call in self.computing(runtime.build(graph).kernels()):
            members = [nodes[name] for name in call.nodes]
            written.update(value for node in members for value in node.outputs)
            assert {value for node in members for value in node.inputs if value} <= written
            assert call.output in members[-1].outputs
            assert call.kernel.outputs == tuple(graph.specs[value] for value in members[-1].outputs)

    def test_moves_have_an_owner(self, runtime: Runtime, graph: Graph) -> None:
        """A kernel that only re-arranges a value names that value and the nodes of the kernel that needs it."""
        calls = runtime.build(graph).kernels()
        owners = {call.nodes for call in self.computing(calls)}
        for call in calls:
            if call.kernel.op in self.moves:
                assert call.nodes in owners
                assert call.kernel.inputs == (graph.specs[call.output],)

    def test_kernel_times_are_those_of_the_kernels(self, runtime: Runtime, graph: Graph, feed: dict[str, Array]) -> None:
        """`kernel_times` gives the kernels of `kernels`, each once, with a positive time."""
        session = runtime.build(graph)
        times = session.kernel_times(feed, runs=3)
        assert Counter(row.call for row in times) == Counter(session.kernels())
        assert all(0 < row.seconds < np.inf for row in times)

    def test_serialised_and_stored_models(self, runtime: Runtime, graph: Graph, feed: dict[str, Array], tmp_path: Any) -> None:
        """A graph, its serialised ONNX and its ONNX file are one network with the same kernels."""
        from hwnas.ir.onnx import save, to_bytes

        save(graph, tmp_path / "model.onnx")
        expected = runtime.build(graph)
        for model in (to_bytes(graph), tmp_path / "model.onnx"):
            session = runtime.build(model)
            for one, other in zip(session.run(feed), expected.run(feed), strict=True):
                np.testing.assert_allclose(one, other, rtol=self.tolerance, atol=self.tolerance)
            assert Counter(session.kernels()) == Counter(expected.kernels())

    def test_refuses_in_one_line(self, runtime: Runtime) -> None:
        """What the runtime cannot build is a `GraphError` of one line."""
        with pytest.raises(GraphError) as caught:
            runtime.build(self.refused)
        assert "\n" not in str(caught.value)

    def test_refuses_an_unknown_precision(self, runtime: Runtime, graph: Graph) -> None:
        """A precision that the runtime does not have is a `UsageError` that names it."""
        with pytest.raises(UsageError, match=self.unknown_precision):
            runtime.build(graph, precision=self.unknown_precision)


class EnergyMeterConformance:
    """What `hwnas.devices.energy.measure` relies on in a `hwnas.devices.EnergyMeter`.

    A supplier's test file holds a subclass whose fixture `meter` gives one on a device that uses some power, and whose method `wait` lets
    so many seconds pass there.
    """

    @pytest.fixture
    def meter(self) -> EnergyMeter:
        """The meter under test."""
        raise NotImplementedError("a subclass of EnergyMeterConformance overrides the fixture 'meter'")

    def wait(self, seconds: float) -> None:
        """Lets time pass on the device of the meter."""
        raise NotImplementedError("a subclass of EnergyMeterConformance overrides 'wait'")

    def test_identity(self, meter: EnergyMeter) -> None:
        """A meter says what it reads, and how its reading follows the truth."""
        assert meter.source == meter.source.strip() != ""
        assert 0 < meter.cadence.seen_s <= meter.cadence.period_s

    def test_windows_follow_one_another(self, meter: EnergyMeter) -> None:
        """A window gives energy with its uncertainty, in which the window before it has no part."""
        energies = []
        for _ in range(2):
            meter.start()
            self.wait(10.0)
            energies.append(meter.stop())
        first, second = energies
        assert isinstance(first, Energy)
        assert isinstance(second, Energy)
        assert 0 < first.uncertainty < first.joules
        assert abs(first.joules - second.joules) <= first.uncertainty + second.uncertainty

    def test_one_window_at_a_time(self, meter: EnergyMeter) -> None:
        """A window that is open is not begun again, one that is not open is not ended: both are mistakes of the caller."""
        with pytest.raises(RuntimeError, match="no window"):
            meter.stop()
        meter.start()
        with pytest.raises(RuntimeError, match="open already"):
            meter.start()
        self.wait(10.0)
        assert isinstance(meter.stop(), Energy)
