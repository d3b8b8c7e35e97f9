"""The kernels that ONNX Runtime's CUDA provider makes of a graph, told without a card. Not yet compared with one.

Its optimiser is the processor's (`ort_fusion`): the first stage (constants, what is needless, normalisations and biases into products,
Transposes) goes over every graph before a provider is chosen. Of the later stages most rules name the providers for which they hold, in
`GenerateTransformers` of https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/optimizer/graph_transformer_utils.cc:

- with CUDA: Gelu and its kin, layer normalisations with their residual and bias, scaled and transposed matrix products, Gathers and Slices
  that are a Split;
- without: activations behind a Gemm, and behind a convolution (older versions had CUDA in that list); residuals behind a convolution; the
  blocked layout and NHWC; Transposes past a Resize.

So a convolution is a kernel without what follows it. That it adds its bias inside, or in a second launch of the same node, is not told: a
node is a kernel here. A test holds the result equal to the graph of the processor's runtime with the latter rules switched off. Attention
in one operator, a Softmax with its mask, and the provider's own choice of layout (`prefer_nhwc`, not asked for) are not told.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from hwnas.ir import Graph, KernelCall
from hwnas.runtimes import ort_fusion
from hwnas.runtimes.fusions import PATTERNS, UNFUSED, Fusions

RULES = replace(UNFUSED, patterns=PATTERNS - {"BlockedResize", "BlockedScale", "BlockedTranspose", "ConvResidual", "LateTransposes"})
"""What it fuses, by the source as of commit 001290d (with MatMulNBits' fusion); a card is asked instead (`OrtGpuRuntime.fusions`)."""


def fuse(graph: Graph, fusions: Fusions | int = RULES, *, precision: str = "fp32") -> tuple[KernelCall, ...]:
    """The kernels of a graph, in an order in which they can run.

    Args:
        graph: the network; weights may still be recipes.
        fusions: what it fuses, as a profile keeps it; a mere number, the channels per block of a processor's layout, stands for `RULES`.
        precision: in which all of it computes. What a card converts at the ends belongs to the kernels there.
    """
    calls = ort_fusion.fuse(graph, RULES if isinstance(fusions, int) else fusions)
    return tuple(in_precision(call, precision) for call in calls)


def in_precision(call: KernelCall, precision: str) -> KernelCall:
    """A kernel as it computes in a precision, which is part of what it is."""
    return replace(call, kernel=replace(call.kernel, precision=precision))


FUSERS = {precision: partial(fuse, precision=precision) for precision in ("fp32", "fp16")}
"""By the precision that a network is profiled in."""
