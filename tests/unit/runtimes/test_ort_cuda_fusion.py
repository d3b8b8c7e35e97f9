"""What the CUDA provider would fuse, held against the real optimiser without the rules that are for the processor alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from hwnas import spaces
from hwnas.ir import Graph, GraphBuilder
from hwnas.ir.onnx import to_bytes
from hwnas.runtimes.fusions import Fusions
from hwnas.runtimes.ort_cuda_fusion import FUSERS, RULES, fuse
from hwnas.runtimes.ort_fusion import plan
from hwnas.runtimes.ort_match import match
from hwnas.testing.conformance import GRAPHS

PROCESSORS_ALONE = ["ConvActivationFusion", "ConvAddActivationFusion", "GemmActivationFusion", "NchwcTransformer", "NhwcTransformer"]
ON_PROCESSOR = replace(RULES, patterns=RULES.patterns | {"LateTransposes"})  # cannot be switched off alone


def optimized(graph: Graph, folder: Path) -> Any:
    """The graph as ONNX Runtime leaves it without those rules."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    model = to_bytes(graph.materialize(np.random.default_rng(0)))
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"], disabled_optimizers=PROCESSORS_ALONE)
    return onnx.load(folder / "optimized.onnx").graph


def networks() -> list[Graph]:
    """Networks of several spaces, and those of the conformance suite."""
    found = [make() for make in GRAPHS.values()]
    for name in spaces.names():
        space = spaces.load(name)
        found += [space.graph(space.sample(np.random.default_rng([9, i]))) for i in range(2)]
    return found


@pytest.mark.parametrize("graph", networks(), ids=lambda graph: graph.name)
def test_the_optimiser_without_what_is_for_processors(graph: Graph, tmp_path: Path) -> None:
    """Every node of the graph that it leaves is one that was foretold, and no other was."""
    found = optimized(graph, tmp_path)
    nodes = {node.name or f"#{index}": node for index, node in enumerate(found.node)}
    matched = match(plan(graph, ON_PROCESSOR), nodes, [tensor.name for tensor in found.initializer])
    assert matched.missing == ()
    assert matched.surplus == ()


def test_a_convolution_stands_alone() -> None:
    """With its normalisation inside; what follows it is another kernel, as is what follows a fully connected layer."""
    b = GraphBuilder("alone")
    x = b.op("Relu", [b.batch_norm(b.conv(b.input("x", (1, 3, 8, 8)), 16, bias=False))])
    x = b.op("Relu", [b.op("Add", [b.conv(x, 16), x])])
    graph = b.finish(b.op("Relu", [b.linear(b.op("Flatten", [x]), 4)]))
    calls = fuse(graph)
    assert [call.kernel.op for call in calls] == ["Conv", "Relu", "Conv", "Add", "Relu", "Flatten", "Gemm", "Relu"]
    assert calls[0].nodes == ("conv_0", "batchnormalization_0")
    assert {call.kernel.layout for call in calls} == {"nchw"}
    assert all(not call.kernel.fused for call in calls)


def test_transposes_do_not_pass_a_resize() -> None:
    """That is a rule of the processor's, which knows its own kernel for it."""
    b = GraphBuilder("enlarged")
    x = b.op("Transpose", [b.input("x", (1, 4, 4, 16))], perm=(0, 3, 1, 2))
    y = b.op("Resize", [x], scales=(1.0, 1.0, 2.0, 2.0), mode="linear")
    graph = b.finish(b.op("Transpose", [y], perm=(0, 2, 3, 1)))
    assert Counter(call.kernel.op for call in fuse(graph)) == {"Transpose": 2, "Resize": 1}
    assert Counter(call.kernel.op for call in fuse(graph, ON_PROCESSOR)) == {"Resize": 1}


def test_precision_is_part_of_every_kernel() -> None:
    """The same kernels in each precision, and no two precisions share one."""
    graph = GRAPHS["residual"]()
    wide, half = (FUSERS[precision](graph, 0) for precision in ("fp32", "fp16"))
    assert {call.kernel.precision for call in half} == {"fp16"}
    assert [replace(call, kernel=replace(call.kernel, precision="fp32")) for call in half] == list(wide)


def test_what_a_profile_says_is_kept_to() -> None:
    """Facts of another version go before the rules of this one."""
    graph = GRAPHS["residual"]()
    older = replace(RULES, conv_activations=frozenset({"Relu"}))
    assert ("Relu",) in {call.kernel.fused for call in fuse(graph, older)}
    assert fuse(graph, Fusions().block) == fuse(graph)
