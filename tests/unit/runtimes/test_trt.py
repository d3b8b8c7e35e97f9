"""TensorRT's runtime over engines that are replayed: what hwnas itself does, from the stream to the kernels."""

from __future__ import annotations

import pytest

from hwnas.devices.nvml import Card
from hwnas.runtimes.trt import TrtRuntime
from hwnas.testing.conformance import RuntimeConformance
from hwnas.testing.fake_cuda import FakeCuda
from hwnas.testing.fake_tensorrt import FakeBuilder, FakeTensorrt

UUID = "GPU-0a0a0a0a-0a0a-0a0a-0a0a-0a0a0a0a0a0a"
CARD = Card(index=0, name="NVIDIA A100-SXM4-40GB", uuid=UUID, compute_capability=(8, 0), memory_bytes=40 * 2**30, mig=False)


def replayed(cuda: FakeCuda, **how: object) -> TrtRuntime:
    return TrtRuntime(CARD, trt=FakeTensorrt(cuda), api=cuda, builder=FakeBuilder(), **how)


class TestTensorrtConforms(RuntimeConformance):
    moves = frozenset({"Reformat"})

    @pytest.fixture
    def runtime(self):
        return replayed(FakeCuda())
