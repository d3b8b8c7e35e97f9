"""What ONNX Runtime shows of the processor."""

from __future__ import annotations

from hwnas.ir import GraphBuilder
from hwnas.runtimes.ort import OrtRuntime
from hwnas.runtimes.ort_probe import call_overhead_s, channel_block


def test_the_layout_is_a_known_one(ort_runtime: OrtRuntime) -> None:
    """Convolutions keep their data plain or in blocks of 8 or 16 channels, and the kernels say so."""
    assert channel_block(ort_runtime) == ort_runtime.block
    assert ort_runtime.block in (1, 8, 16)
    b = GraphBuilder("one")
    graph = b.finish(b.conv(b.input("x", (1, 16, 4, 4)), 16))
    layouts = {call.kernel.layout for call in ort_runtime.build(graph).kernels()}
    assert layouts == {"nchw" if ort_runtime.block == 1 else f"nchwc{ort_runtime.block}"}


def test_an_empty_call_costs_something(ort_runtime: OrtRuntime) -> None:
    """The cost of a call that computes next to nothing is above 0."""
    assert call_overhead_s(ort_runtime) > 0
