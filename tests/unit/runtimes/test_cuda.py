"""One card, one stream, memory and graphs, over a CUDA that only does what is waited for."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from hwnas.devices.nvml import Card
from hwnas.errors import DeviceUnavailable, MeasurementError
from hwnas.runtimes.cuda import Cuda, only
from hwnas.testing.fake_cuda import FakeCuda

UUIDS = ("GPU-0a0a0a0a-0a0a-0a0a-0a0a-0a0a0a0a0a0a", "GPU-0B0B0B0B-0b0b-0b0b-0b0b-0b0b0b0b0b0b")


def card(index: int) -> Card:
    """A card by its number in the driver's order."""
    return Card(index=index, name="NVIDIA T4", uuid=UUIDS[index], compute_capability=(7, 5), memory_bytes=2**34, mig=None)


def test_a_card_is_found_by_its_uuid() -> None:
    """Where CUDA numbers cards the other way round, the one that is meant becomes the current one."""
    api = FakeCuda(UUIDS[::-1])
    assert Cuda(card(0), api).ordinal == 1
    assert api.current == 1
    assert Cuda(card(1), api).ordinal == 0


def test_a_card_that_cuda_does_not_see() -> None:
    """It is refused with what is seen; a CUDA that does not start says why."""
    with pytest.raises(
        DeviceUnavailable, match=r"does not see card 1 \(NVIDIA T4, GPU-0B.*\); it sees: gpu-0a0a0a0a.*CUDA_VISIBLE_DEVICES"
    ):
        Cuda(card(1), FakeCuda(UUIDS[:1]))
    with pytest.raises(DeviceUnavailable, match="CUDA does not start on this machine: no CUDA-capable device is detected"):
        Cuda(card(0), FakeCuda(()))


def test_a_child_sees_one_card_alone() -> None:
    """Its environment names the card by its UUID and keeps the rest."""
    environment = only(card(1), {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "0"})
    assert environment == {"PATH": "/bin", "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": UUIDS[1]}


def test_arrays_go_to_the_card_and_come_back() -> None:
    """What is uploaded is what is downloaded, laid out densely; what does not fit is refused."""
    cuda = Cuda(card(0), FakeCuda(UUIDS))
    stream, values = cuda.stream(), np.arange(12, dtype=np.float32).reshape(3, 4).T
    buffer = cuda.buffer(values.nbytes)
    stream.upload(buffer, values)
    np.testing.assert_array_equal(stream.download(buffer, (4, 3), "float32"), values)
    with pytest.raises(MeasurementError, match="48 bytes does not fit into 8 bytes"):
        stream.upload(cuda.buffer(8), values)


def test_memory_is_given_back() -> None:
    """A buffer that nobody holds is freed; one that there is no memory for is an error of one line."""
    api = FakeCuda(UUIDS, memory_bytes=1000)
    cuda = Cuda(card(0), api)
    buffer = cuda.buffer(900)
    with pytest.raises(MeasurementError, match=r"cudaMalloc fails on card 0 \(NVIDIA T4\): out of memory"):
        cuda.buffer(200)
    del buffer
    gc.collect()
    assert not api.blocks


def test_time_is_that_of_the_stream() -> None:
    """Events tell what the queued work takes, not what queueing takes; a graph of it takes as long in one launch."""
    api = FakeCuda(UUIDS)
    stream = Cuda(card(0), api).stream()

    def pass_by() -> None:
        api.now_ms += 2.5

    def work() -> None:
        api.queue(stream.handle, pass_by)

    assert stream.timed_s(work) == pytest.approx(2.5e-3)
    launch = stream.captured(work)
    assert launch is not None
    assert api.now_ms == pytest.approx(2.5)
    assert stream.timed_s(launch) == pytest.approx(2.5e-3)
    assert api.launches == 1


@pytest.mark.parametrize("captures", [True, False])
def test_what_cannot_be_captured_is_none(captures: bool) -> None:
    """Where the work fails while it is captured, or CUDA refuses the graph, the stream still works afterwards."""
    api = FakeCuda(UUIDS, captures=captures)
    stream = Cuda(card(0), api).stream()

    def work() -> None:
        raise MeasurementError("TensorRT does not run")

    assert stream.captured(work if captures else lambda: None) is None
    assert stream.timed_s(lambda: api.queue(stream.handle, lambda: None)) == 0
