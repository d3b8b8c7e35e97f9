"""What the kernels meet, on which card, and what is refused before a card is touched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from hwnas.devices import catalogue
from hwnas.devices.nvidia import NvidiaDevice
from hwnas.devices.nvml import Card
from hwnas.errors import DeviceUnavailable, HwnasError, UsageError
from hwnas.kernels import Case, find
from hwnas.kernels.chain import Chain, chain
from hwnas.runtimes.fusions import Fusions
from hwnas.runtimes.ort_gpu import CPU, OrtGpuRuntime, Target
from hwnas.workflows import kernels_card
from hwnas.workflows.kernels_bench import bench
from hwnas.workflows.kernels_card import RUNS, CudaTorch, Fused, chosen_side
from hwnas.workflows.kernels_worth import Fusion


def test_kernels_meet_the_runtime_that_profiles() -> None:
    """Unless another is named: a runtime of the device, torch, or torch compiled."""
    assert chosen_side(None, "a100", "fp16") == "tensorrt"
    assert chosen_side("onnxruntime-cuda", "a100", "fp32") == "onnxruntime-cuda"
    assert [chosen_side(name, "cuda:1", "bf16") for name in ("torch", "compile")] == ["torch", "compile"]


@pytest.mark.parametrize(
    ("against", "device", "precision", "complaint"),
    [
        (
            None,
            "a100",
            "bf16",
            r"hwnas drives tensorrt in fp32 or fp16, not in bf16; change --precision, or give --against torch or compile",
        ),
        ("onnxruntime-cuda", "a100", "bf16", "hwnas drives onnxruntime-cuda in fp32 or fp16, not in bf16"),
        ("tensorr", "a100", "fp16", r"unknown 'tensorr' \(did you mean 'tensorrt'\?\); .*onnxruntime-tensorrt, torch, compile$"),
        ("onnxruntime-cpu", "a100", "fp32", "unknown 'onnxruntime-cpu'"),
        ("torch", "a100", "int8", "kernels are measured in fp32, fp16, bf16; got 'int8'"),
        ("torch", "a10000", "fp16", "unknown device 'a10000'"),
        (None, "cpu", "fp16", "run on NVIDIA cards"),
    ],
)
def test_what_is_refused(against: str | None, device: str, precision: str, complaint: str) -> None:
    """Before a card is looked for, with what there is instead."""
    with pytest.raises(UsageError, match=complaint):
        bench(None, device=device, precision=precision, against=against)


def test_measuring_needs_a_card() -> None:
    """Said in one line, with what is needed."""
    with pytest.raises(
        DeviceUnavailable, match=r"needs the card, its driver, a CUDA build of torch and 'hwnas\[triton\]'; no 'b200' on this"
    ):
        bench(None, device="b200", precision="fp16")


def test_the_card_is_the_one_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch counts cards in an order of its own, so the UUID decides; a card that torch does not see is said."""
    card = Card(index=0, name="NVIDIA H100 PCIe", uuid="GPU-aaaa-01", compute_capability=(9, 0), memory_bytes=80 * 2**30, mig=False)
    monkeypatch.setattr(kernels_card, "find_device", lambda _: NvidiaDevice(card, catalogue.entry("h100").part()))
    uuids, seen = ["bbbb-02", "aaaa-01"], []
    cuda = SimpleNamespace(
        device_count=lambda: len(uuids), get_device_properties=lambda i: SimpleNamespace(uuid=uuids[i]), set_device=seen.append
    )
    monkeypatch.setattr(kernels_card, "require", lambda *_: SimpleNamespace(cuda=cuda, __version__="9"))
    device, kernels, against = kernels_card.sides("h100", "fp16", "compile")
    assert (kernels.where, against.what) == ("NVIDIA H100 PCIe, torch 9, triton 9, fp16", "torch compiled")
    assert (device.card, seen) == (card, [1])
    made = []
    monkeypatch.setattr(
        kernels_card.registry, "make", lambda *asked: made.append(asked) or SimpleNamespace(name="tensorrt", version="11.4")
    )
    assert kernels_card.sides("h100", "fp16", "tensorrt")[2].what == "tensorrt 11.4"
    assert made == [("tensorrt", 1, device, None)]
    uuids.pop()
    with pytest.raises(DeviceUnavailable, match="'h100' is here, but torch 9 sees 1 cards and not this one"):
        kernels_card.sides("h100", "fp16", "compile")


class RecordingCuda:
    """Stands in for `torch.cuda`: what is run while a graph is recorded is counted, and so are launches of graphs and waits."""

    def __init__(self, refuses: str = "") -> None:
        self.did: list[str] = []
        self._refuses = refuses

    def Stream(self) -> RecordingCuda:  # noqa: N802  (a class of the module)
        """A stream."""
        return self

    current_stream = Stream
    CUDAGraph = Stream

    def wait_stream(self, _: object) -> None:
        """Streams wait for each other."""

    @contextmanager
    def stream(self, _: object) -> Iterator[None]:
        """Work on a side stream, before anything is recorded."""
        self.did.append("warm up")
        yield

    @contextmanager
    def graph(self, _: object) -> Iterator[None]:
        """Records."""
        self.did.append("record")
        if self._refuses:
            raise RuntimeError(self._refuses)
        yield

    def replay(self) -> None:
        """Launches what was recorded."""
        self.did.append("launch")

    def synchronize(self) -> None:
        """Waits."""
        self.did.append("wait")


def on_processor(cuda: RecordingCuda, precision: str = "bf16") -> CudaTorch:
    return CudaTorch("a card", precision, device="cpu", cuda=cuda)


def test_a_sample_is_many_launches_and_one_wait() -> None:
    """Whatever torch runs is warmed up, recorded once, and launched as a whole: both sides have as many launches by the host."""
    cuda, ran = RecordingCuda(), []
    run = on_processor(cuda).recorded(lambda: ran.append(1))
    assert (cuda.did, len(ran)) == (["warm up", "record"], 4)
    run()
    assert cuda.did[2:] == ["launch"] * RUNS + ["wait"]


def test_networks_by_torch() -> None:
    """In the precision of the kernels; what torch made of the work is not known."""
    work = on_processor(RecordingCuda()).network(row_of("silu").whole)
    work.run()
    assert (work.launch, work.calls) == ("graph", None)


@pytest.mark.parametrize("bare", [True, False])
def test_rows_of_launches(monkeypatch: pytest.MonkeyPatch, bare: bool) -> None:
    """The kernel's results are checked once, then a row is recorded that has as many launches and products as the network."""
    asked: list[dict[str, object]] = []
    checked: list[str] = []
    monkeypatch.setattr(kernels_card, "prepare", lambda *_: lambda: ())
    monkeypatch.setattr(kernels_card, "check", lambda source, *_: checked.append(source.name))
    monkeypatch.setattr(kernels_card, "row", lambda *_, **how: asked.append(how) or (lambda: None))
    source = find("depthwise_conv")
    on_processor(RecordingCuda(), "fp16").row(source, source.cases[0], source.tunings[1], row_of("relu"), bare=bare)
    assert checked == ["depthwise_conv"]
    assert [(how["products"], how["works"], how["precision"], how["tuning"]) for how in asked] == [
        (3, 1 if bare else 3, "fp16", source.tunings[1])
    ]


def test_a_card_that_refuses() -> None:
    """One line, with its own words."""
    with pytest.raises(HwnasError, match=r"the card refuses to run or record it \(out of memory; try less\)"):
        on_processor(RecordingCuda("out of memory;\n try less")).recorded(lambda: None)


def row_of(activation: str) -> Chain:
    """Depthwise convolutions that are quickly done."""
    shapes = {"x": (1, 8, 6, 6), "weight": (8, 1, 3, 3), "bias": (8,)}
    attrs = {"stride": 1, "pad": 1, "activation": activation, "add": "none"}
    return chain("depthwise_conv", Case(name="", shapes=shapes, attrs=attrs), links=2)


@pytest.mark.parametrize(("activation", "said"), [("relu", "fused"), ("silu", "2 kernels")])
def test_what_onnx_runtime_made_of_it(activation: str, said: str) -> None:
    """Told by ONNX Runtime itself, with the processor in the card's place, which knows how a convolution absorbs a Relu."""
    runtime = OrtGpuRuntime("onnxruntime-cuda", target=Target(provider=CPU, memory="cpu"), fusions=Fusions())
    row = row_of(activation)
    work = Fused(runtime, "fp32").network(row.whole)
    work.run()
    assert work.launch == "stream"
    assert work.calls is not None
    free = frozenset(node.name for node in row.whole.nodes if node.op == "BatchNormalization")
    assert str(Fusion.of(work.calls(), row.places, free)).partition(",")[0] == said
