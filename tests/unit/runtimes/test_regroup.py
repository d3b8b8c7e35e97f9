"""Times of what ran become times of what was foretold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwnas import spaces
from hwnas.devices.nvml import Card
from hwnas.runtimes.base import KernelTime
from hwnas.runtimes.regroup import regroup
from hwnas.runtimes.trt import TrtRuntime
from hwnas.runtimes.trt_fusion import FUSERS
from hwnas.runtimes.trt_kernels import kernel_of
from hwnas.testing.conformance import GRAPHS
from hwnas.testing.fake_cuda import FakeCuda
from hwnas.testing.fake_tensorrt import FakeBuilder, FakeTensorrt

GRAPH = GRAPHS["residual"]()
FORETOLD = FUSERS["fp32"](GRAPH, 0)


def test_what_ran_as_foretold_keeps_its_time() -> None:
    """Equal kernels have equal times, in the foretold order."""
    times = [KernelTime(call=call, seconds=float(i + 1)) for i, call in enumerate(FORETOLD)]
    assert regroup(times[::-1], FORETOLD) == tuple(times)


def test_copies_parts_and_blocks() -> None:
    """A copy and two halves add up in the kernel that they belong to; a block is split by bytes moved; the sum stays."""
    first, second, *rest = FORETOLD
    copy = replace(first, kernel=replace(first.kernel, op="Reformat", fused=()))
    halves = [kernel_of(GRAPH, names, "fp32") for names in (first.nodes[:1], first.nodes[1:])]
    block = kernel_of(GRAPH, [*second.nodes, *rest[0].nodes], "fp32")
    times = [KernelTime(call=call, seconds=1.0) for call in (copy, *halves, block, *rest[1:])]
    found = regroup(times, FORETOLD)
    assert found[0].seconds == 3.0
    assert found[1].seconds + found[2].seconds == pytest.approx(1.0)
    assert found[1].seconds > 0.1
    assert sum(row.seconds for row in found) == pytest.approx(len(times))


def test_what_was_not_foretold_at_all_is_refused() -> None:
    """A kernel of another network is a mistake of the caller."""
    stranger = KernelTime(call=replace(FORETOLD[0], nodes=("elsewhere",)), seconds=1.0)
    with pytest.raises(ValueError, match="computes elsewhere, of which nothing was foretold"):
        regroup([stranger], FORETOLD)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_engine_with_copies_becomes_what_was_foretold(precision: str) -> None:
    """Of a whole network on TensorRT: every foretold kernel has some time, and all of it is there."""
    card = FakeCuda()
    space = spaces.load("mobilenet-small")
    graph = space.graph(space.sample(np.random.default_rng(2)))
    session = _runtime(card).build(graph, precision=precision)
    times = session.kernel_times(graph.random_inputs(np.random.default_rng(0)), runs=2)
    found = regroup(times, FUSERS[precision](graph, 0))
    assert any(row.call.kernel.op == "Reformat" for row in times)
    assert all(row.seconds > 0 for row in found)
    assert sum(row.seconds for row in found) == pytest.approx(sum(row.seconds for row in times))


def _runtime(cuda: FakeCuda) -> TrtRuntime:
    uuid = "GPU-0a0a0a0a-0a0a-0a0a-0a0a-0a0a0a0a0a0a"
    card = Card(index=0, name="NVIDIA A100", uuid=uuid, compute_capability=(8, 0), memory_bytes=2**35, mig=None)
    return TrtRuntime(card, trt=FakeTensorrt(cuda), api=cuda, builder=FakeBuilder())
