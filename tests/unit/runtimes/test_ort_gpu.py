"""ONNX Runtime's path to a card: refusals for real, and all else with the processor in the card's place."""

from __future__ import annotations

import pytest

from hwnas.runtimes.fusions import Fusions
from hwnas.runtimes.ort_gpu import CPU, OrtGpuRuntime, Target
from hwnas.testing.conformance import RuntimeConformance

PROCESSOR = Target(provider=CPU, memory="cpu")


class TestOrtGpuConforms(RuntimeConformance):
    """The same code with the processor's provider: binding, timing, the profiled child and the way back to the graph."""

    @pytest.fixture
    def runtime(self):
        return OrtGpuRuntime("onnxruntime-cuda", target=PROCESSOR, fusions=Fusions())
