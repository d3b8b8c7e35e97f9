"""What ONNX Runtime shows of itself and of the processor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwnas.ir import Graph, GraphBuilder
from hwnas.runtimes.fusions import PATTERNS, Fusions
from hwnas.runtimes.ort import OrtRuntime
from hwnas.runtimes.ort_fusion import PlannedNode, plan
from hwnas.runtimes.ort_habits import HABITS
from hwnas.runtimes.ort_match import match
from hwnas.runtimes.ort_probe import call_overhead_s, fusions, optimized


class Unlike(OrtRuntime):
    """ONNX Runtime without some of its rewritings.

    Args:
        without: the library's names of rewritings.
        blocks: whether the layout may be blocked.
    """

    def __init__(self, *, without: Sequence[str] = (), blocks: bool = True) -> None:
        super().__init__()
        self._without = [*without, *([] if blocks else ["NchwcTransformer"])]

    def open(self, model: bytes, profile: Path | None = None, optimized: Path | None = None) -> Any:
        """A session that lacks them."""
        options = self._ort.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(optimized)
        return self._ort.InferenceSession(model, options, providers=["CPUExecutionProvider"], disabled_optimizers=self._without)


def agrees(told: Sequence[PlannedNode], found: Any) -> bool:
    """Whether a graph was optimised as it was foretold."""
    nodes = {node.name or f"#{index}": node for index, node in enumerate(found.node)}
    return match(told, nodes, [tensor.name for tensor in found.initializer]).whole


def test_every_pattern_has_a_network_that_shows_it() -> None:
    """No pattern is known to the rules that the probe would not ask for."""
    assert HABITS.keys() == PATTERNS


def test_this_version_fuses_what_the_defaults_say(ort_runtime: OrtRuntime) -> None:
    """The facts shipped with hwnas are those of the installed runtime, apart from the width of the processor's registers."""
    assert ort_runtime.version.startswith("1.32"), "read what this version fuses and bring the defaults up to date"
    found = ort_runtime.fusions
    if found.block == 1:
        pytest.skip("this processor has no blocked layout")
    assert found == Fusions(block=found.block)


def test_the_layout_is_a_known_one(ort_runtime: OrtRuntime) -> None:
    """Convolutions keep their data plain or in blocks of 8 or 16 channels, and the kernels say so."""
    assert ort_runtime.fusions.block in (1, 8, 16)
    b = GraphBuilder("one")
    graph = b.finish(b.conv(b.input("x", (1, 16, 4, 4)), 16))
    layouts = {call.kernel.layout for call in ort_runtime.build(graph).kernels()}
    assert layouts == {"nchw" if ort_runtime.fusions.block == 1 else f"nchwc{ort_runtime.fusions.block}"}


LACKING = {
    "BiasGeluFusion": Fusions(patterns=PATTERNS - {"BiasGelu"}),
    "ConvMulFusion": Fusions(patterns=PATTERNS - {"ConvMul"}),
    "GemmActivationFusion": Fusions(gemm_activations=frozenset()),
    "MatMulAddFusion": Fusions(patterns=PATTERNS - {"MatMulAdd"}),
    "SkipLayerNormFusion": Fusions(patterns=PATTERNS - {"SkipLayerNormalization", "BiasSkipLayerNormalization"}),
}


@pytest.mark.parametrize("optimizer", LACKING)
def test_what_a_runtime_lacks_shows(optimizer: str, ort_runtime: OrtRuntime) -> None:
    """A runtime without one rewriting is found to lack just that, and its kernels are told from what was found."""
    runtime = Unlike(without=[optimizer])
    found = fusions(runtime)
    assert found == replace(LACKING[optimizer], block=ort_runtime.fusions.block)
    graph = encoder()
    told = plan(graph, found)
    assert agrees(told, optimized(runtime, graph))
    assert not agrees(plan(graph, ort_runtime.fusions), optimized(runtime, graph))


def test_without_blocks_nothing_is_blocked() -> None:
    """A runtime that keeps every layout plain has facts to match, and its kernels are told from them."""
    runtime = Unlike(blocks=False)
    found = fusions(runtime)
    assert (found.block, found.blocked_activations, found.blocked_unary) == (1, frozenset(), frozenset())
    assert "BlockedScale" not in found.patterns
    assert agrees(plan(encoder(), found), optimized(runtime, encoder()))


def encoder() -> Graph:
    """A convolution that is scaled, a sequence, and a layer of a transformer."""
    b = GraphBuilder("encoder")
    x = b.op("Mul", [b.conv(b.op("Neg", [b.input("x", (1, 16, 4, 4))]), 8), b.weight("scale", (1, 8, 1, 1))])
    x = b.op("Transpose", [b.op("Reshape", [x], shape=(1, 8, 16))], perm=(0, 2, 1))
    y = b.op("Gelu", [b.op("Add", [b.op("MatMul", [x, b.op("Neg", [b.input("y", (1, 8, 8))])]), b.weight("bias", (8,))])])
    y = b.op("Add", [b.op("MatMul", [y, b.weight("w", (8, 8))]), b.weight("bias", (8,))])
    y = b.op("LayerNormalization", [b.op("Add", [x, y]), b.weight("scale", (8,)), b.weight("shift", (8,))])
    y = b.op("ReduceMean", [y], axes=(1,), keepdims=0)
    return b.finish(b.op("Relu", [b.linear(y, 4)]))


def test_an_empty_call_costs_something(ort_runtime: OrtRuntime) -> None:
    """The cost of a call that computes next to nothing is above 0."""
    assert call_overhead_s(ort_runtime) > 0
