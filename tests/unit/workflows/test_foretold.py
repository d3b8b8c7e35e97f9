"""What a predictor learns of a card has the kernels that it will be asked about."""

from __future__ import annotations

from dataclasses import replace

from paper_device import measured

from hwnas import spaces
from hwnas.profiling import Setting
from hwnas.runtimes import ort_cuda_fusion
from hwnas.runtimes.ort_cuda_fusion import RULES
from hwnas.runtimes.trt_fusion import FUSERS
from hwnas.workflows.foretold import as_foretold

CARD = Setting(device="a100", runtime="tensorrt", precision="fp16")


def test_a_card_is_learned_by_what_is_foretold() -> None:
    """Kernels are those of the rules, and every nanosecond is where it was: in a kernel or in the call."""
    networks = measured(3)
    space = spaces.load("mobilenet-small")
    for network, before in zip(as_foretold(networks, CARD, "mobilenet-small"), networks, strict=True):
        assert [kernel.call for kernel in network.kernels] == list(FUSERS["fp16"](space.graph(network.genotype), 0))
        assert network.total_ns == before.total_ns
        assert network.call_ns == before.call_ns
        assert len(network.kernels) != len(before.kernels)


def test_what_a_card_said_it_fuses_is_kept_to() -> None:
    """Kernels of ONNX Runtime on a card are those of the facts that its profile holds, else of the rules that stand for them."""
    networks = measured(1)
    space = spaces.load("mobilenet-small")
    card = replace(CARD, runtime="onnxruntime-cuda")
    graph = space.graph(networks[0].genotype)
    for facts in (0, replace(RULES, conv_activations=frozenset({"Relu"}))):
        (found,) = as_foretold(networks, card, "mobilenet-small", facts)
        assert [kernel.call for kernel in found.kernels] == list(ort_cuda_fusion.FUSERS["fp16"](graph, facts))
        assert found.total_ns == networks[0].total_ns


def test_what_is_exact_or_gone_stays() -> None:
    """A processor's kernels are told exactly; without the space there is nothing to tell them from."""
    networks = measured(2)
    assert as_foretold(networks, replace(CARD, device="cpu", runtime="onnxruntime-cpu", precision="fp32"), "mobilenet-small") is networks
    assert as_foretold(networks, CARD, "a space that is gone") is networks
