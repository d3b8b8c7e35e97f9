"""The kernels of int8: told from a graph alone, made with scales that are made up, and shipped with calibrated ones, they are the same."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from cnns import networks, repeats
from hypothesis import given, settings
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata
from strategies import graphs

from hwnas import spaces
from hwnas.export.quantize import int8, ranges
from hwnas.ir import Graph, GraphBuilder, KernelCall
from hwnas.ir.fold import fold
from hwnas.ir.kernel import FREE, copied
from hwnas.ir.onnx import to_model
from hwnas.runtimes.ort import OrtRuntime, OrtSession
from hwnas.runtimes.ort_int8 import LIMITS, scheme
from hwnas.runtimes.ort_int8_fusion import fuse
from hwnas.runtimes.ort_int8_kernels import MOVES
from hwnas.runtimes.ort_int8_write import write

RUNTIME = OrtRuntime(1)
SPACES = [("mobilenet-small", 5), ("resnet-small", 8), ("mobilenet", 1), ("resnet", 2)]


def listed(calls: Counter) -> list[tuple[object, ...]]:
    """What a failure should show."""
    return sorted((call.nodes, call.kernel.op, call.kernel.layout, call.kernel.precision, call.output) for call in calls.elements())


def assert_complete(graph: Graph, calls: Counter) -> None:
    """Every node is in exactly one kernel that computes; only copies, folded normalisations and constants are in none."""
    computing = [call for call in calls.elements() if call.kernel.op not in MOVES or limits(graph, call)]
    nodes = Counter(name for call in computing for name in call.nodes)
    missing = {node.op for node in graph.nodes if node.name not in nodes and node.outputs[0] not in graph.constants}
    assert missing <= FREE | LIMITS
    assert set(nodes.values()) <= {1}


def limits(graph: Graph, call: KernelCall) -> bool:
    """Whether a conversion to 8 bits does what a limit would; one back, such as at an output of the network, does nothing of it."""
    written = {node.outputs[0] for node in graph.nodes if call.nodes == (node.name,) and node.op in LIMITS}
    return call.kernel.op == "QuantizeLinear" and call.output in written


def assert_told(graph: Graph) -> None:
    """The runtime's list and ours agree in every kernel."""
    runs, told = Counter(RUNTIME.build(graph, precision="int8").kernels()), Counter(fuse(graph))
    assert listed(told - runs) == listed(runs - told)
    assert told == runs
    assert_complete(graph, runs)


@pytest.mark.parametrize(("name", "count"), SPACES, ids=lambda value: str(value))
def test_networks_of_the_spaces(name: str, count: int) -> None:
    """Random networks of every shipped space."""
    space = spaces.load(name)
    for index in range(count):
        assert_told(space.graph(space.sample(np.random.default_rng([19, index]))))


def test_a_batch_of_several() -> None:
    """The batch decides with which kernels a re-order pays."""
    space = spaces.load("mobilenet-small")
    for index in range(3):
        assert_told(space.graph(space.sample(np.random.default_rng([23, index])), batch=4))


@pytest.mark.parametrize(("name", "count"), [("mobilenet-small", 3), ("resnet-small", 3), ("mobilenet", 1), ("resnet", 1)])
def test_what_is_profiled_is_what_ships(name: str, count: int) -> None:
    """Made-up scales and scales from calibration give the same kernels: what is measured of one holds for the other."""
    space = spaces.load(name)
    for index in range(count):
        rng = np.random.default_rng([29, index])
        graph = space.graph(space.sample(rng)).materialize(rng)
        folded = fold(graph)
        plan = scheme(folded)
        seen = ranges(folded, set(plan.ranged.values()) - set(folded.weights), [graph.random_inputs(rng) for _ in range(2)])
        shipped = OrtSession(RUNTIME, write(plan, seen, rng).SerializeToString(), graph, plan)
        assert Counter(shipped.kernels()) == Counter(RUNTIME.build(graph, precision="int8").kernels())


def is_plain(graph: Graph) -> bool:
    """Whether the rules claim a random network: no equal nodes, no copy of its input, and none that it returns."""
    copies = [node for node in graph.nodes if node.op == "Identity"]
    return not repeats(graph) and not any(node.inputs[0] in graph.inputs or node.outputs[0] in graph.outputs for node in copies)


WINDOW = {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1), "strides": (2, 2)}


@pytest.mark.parametrize("op", ["MaxPool", "Reshape"])
@pytest.mark.parametrize("readers", [1, 2])
def test_limits_behind_what_hands_a_scale_on(op: str, readers: int) -> None:
    """What is converted for limits alone: by one conversion where there is one limit, by two in a row where there are several."""
    b = GraphBuilder("limits")
    x = b.conv(b.input("x", (1, 8, 8, 8)), 8)
    x = b.op("MaxPool", [x], **WINDOW) if op == "MaxPool" else b.op("Reshape", [x], shape=(1, 16, 8, 4))
    limited = [b.op("Relu", [x]), b.op("Clip", [x], min=0.0, max=6.0)][:readers]
    assert_told(b.finish(*(b.conv(value, 8) for value in limited)))


def test_a_limit_of_an_input_that_is_returned() -> None:
    """It is computed once: by the conversion to 8 bits, not by that back."""
    b = GraphBuilder("returned")
    x = b.input("x", (1, 4, 8, 8))
    limited = b.op("Relu", [x])
    assert_told(b.finish(limited, b.op("GlobalAveragePool", [limited]), b.op("MaxPool", [x], **WINDOW)))


@settings(max_examples=80, deadline=None)
@given(networks().filter(is_plain))
def test_convolutional_networks(graph: Graph) -> None:
    """Branches, residuals, gates, groups, odd channel counts, several outputs and every activation."""
    assert_told(graph)


@settings(max_examples=40, deadline=None)
@given(graphs(max_steps=4))
def test_every_node_is_accounted_for(graph: Graph) -> None:
    """Whatever operators a network has, each run of the profiler finds a kernel, and each kernel names its nodes."""
    session = RUNTIME.build(graph, precision="int8")
    times = session.kernel_times(graph.random_inputs(np.random.default_rng(0)), runs=1)
    known = {node.name for node in graph.nodes}
    assert all(row.seconds > 0 and set(row.call.nodes) <= known for row in times)
    assert all(copied(graph, row.call.output) == row.call.output or row.call.output in graph.outputs for row in times)


class Reader:
    """Hands inputs to the runtime's quantiser."""

    def __init__(self, feeds: list[dict[str, np.ndarray]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def test_the_quantiser_does_as_onnx_runtimes_own() -> None:
    """The same operators in 8 bits, the same integers up to rounding: the runtime's quantiser with the same settings is the reference."""
    for name in ("mobilenet-small", "resnet-small"):
        space = spaces.load(name)
        rng = np.random.default_rng(31)
        graph = space.graph(space.sample(rng)).materialize(rng)
        feeds = [graph.random_inputs(rng) for _ in range(3)]
        plain = to_model(fold(graph))
        add_pre_process_metadata(plain)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "theirs.onnx")
            quantize_static(
                plain,
                path,
                Reader(feeds),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=True,
                calibrate_method=CalibrationMethod.MinMax,
            )
            theirs = onnx.load(path)
        ours = int8(graph, feeds)
        assert Counter(node.op_type for node in ours.graph.node) == Counter(node.op_type for node in theirs.graph.node)
        answers = [
            np.concatenate([RUNTIME.build(model.SerializeToString()).run(feed)[0] for feed in feeds])
            for model in (ours, theirs, to_model(graph))
        ]
        rounding = np.abs(answers[1] - answers[2]).max()
        assert np.abs(answers[0] - answers[1]).max() <= rounding
