"""`hwnas kernels`: what is at stake on a network, and whether the kernels pay; measured with a clock that a test winds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hwnas import spaces
from hwnas.assets import Workspace
from hwnas.devices import catalogue
from hwnas.devices.nvidia import NvidiaDevice
from hwnas.devices.nvml import Card
from hwnas.errors import DeviceUnavailable, UsageError
from hwnas.ir import Graph, GraphBuilder
from hwnas.ir.onnx import save
from hwnas.kernels import Case, KernelSource, Tuning, find
from hwnas.runtimes.samples import Ratio
from hwnas.workflows import kernels_bench
from hwnas.workflows.kernels import build, find_uses, network, uses
from hwnas.workflows.kernels_bench import LAUNCHES, Bench, Benched, Timing, bench, measure
from hwnas.workflows.predict import load_predictor


class FakeBench(Bench):
    """Work that takes as long as it is told, give or take what disturbs a machine: drift that both sides share, noise that they do not.

    Args:
        kernel_us: of a launch, by the kernel's warps.
        baseline_us: of what the runtime does.
        network_us: of the network.
        noise: standard deviation of each sample, relative.
    """

    where = "a clock"

    def __init__(self, kernel_us: dict[int, float], baseline_us: float, network_us: float = 0.0, noise: float = 0.0) -> None:
        self.now = 0
        self._kernel_us, self._baseline_us, self._network_us = kernel_us, baseline_us, network_us
        self._noise, self._rng = noise, np.random.default_rng(0)
        self.tried: list[int] = []

    def clock(self) -> int:
        return self.now

    def _takes(self, micros: float) -> Callable[[], object]:
        def run() -> None:
            drift = 1 + self.now / 1e12
            self.now += round(micros * 1e3 * drift * max(0.1, self._rng.normal(1, self._noise)))

        return run

    def kernel(self, source: KernelSource, case: Case, tuning: Tuning) -> Callable[[], object]:
        self.tried.append(tuning.warps)
        return self._takes(self._kernel_us[tuning.warps] * LAUNCHES)

    def baseline(self, source: KernelSource, case: Case) -> Callable[[], object]:
        return self._takes(self._baseline_us * LAUNCHES)

    def network(self, graph: Graph) -> Callable[[], object]:
        return self._takes(self._network_us)


def source(*warps: int) -> KernelSource:
    """A kernel with these ways to launch it."""
    real = find("layer_norm_residual")
    fields = {name: getattr(real, name) for name in ("name", "summary", "fuses", "layout", "attrs", "tolerance", "cases", "folder")}
    return KernelSource(**fields, tunings=tuple(Tuning(warps=count, sizes={"tile": 256}) for count in warps))


def small() -> Graph:
    """A network with three depthwise convolutions, two of which are the same work."""
    b = GraphBuilder("net")
    x = b.input("x", (1, 8, 6, 6))
    for stride in (1, 1, 2):
        x = b.op("Relu", [b.batch_norm(b.conv(x, 8, kernel=3, stride=stride, groups=8, bias=False))])
    return b.finish(b.conv(x, 4))


def test_the_fastest_launch_meets_the_baseline() -> None:
    """Times are per launch; drift that both share does not move the speed-up."""
    clock = FakeBench({4: 6.0, 8: 4.0}, 8.0)
    (timing,) = measure(clock, [(source(4, 8), source(4).cases[0], 3)], clock=clock.clock).timings
    assert clock.tried == [4, 8]
    assert timing.tuning.warps == 8
    assert timing.kernel_s == pytest.approx(4e-6, rel=0.1)
    assert timing.baseline_s == pytest.approx(8e-6, rel=0.1)
    assert timing.speedup.median == pytest.approx(2.0, rel=1e-3)
    assert timing.verdict == "pays"


@pytest.mark.parametrize(
    ("baseline_us", "noise", "verdict"),
    [(8.0, 0.05, "pays"), (4.0, 0.05, "does not pay"), (5.05, 0.001, "does not pay"), (5.2, 0.5, "not resolved")],
)
def test_verdicts(baseline_us: float, noise: float, verdict: str) -> None:
    """A kernel pays where all of the interval is above 1.02; one percent is not worth it; wide noise resolves nothing."""
    clock = FakeBench({4: 5.0}, baseline_us, noise=noise)
    (timing,) = measure(clock, [(source(4), source(4).cases[0], 1)], clock=clock.clock).timings
    assert timing.verdict == verdict
    assert timing.speedup.low <= timing.speedup.median <= timing.speedup.high


def test_a_network_gains_what_its_places_save() -> None:
    """100 us, of which 10 places of 4 us become 2 us each: 1.25 times as fast. Without a network nothing is said of one."""
    clock, case = FakeBench({4: 2.0}, 4.0, network_us=100.0), source(4).cases[0]
    found = measure(clock, [(source(4), case, 10)], small(), clock=clock.clock)
    assert found.speedup is not None
    assert found.speedup.median == pytest.approx(1.25, rel=0.01)
    assert found.verdict == "pays"
    alone = measure(clock, [(source(4), case, 10)], clock=clock.clock)
    assert (alone.speedup, alone.verdict, alone.network_s) == (None, None, None)


def test_kernels_that_lose_are_left_out() -> None:
    """Nobody would use them, so a network with none that pays is not made faster, nor slower."""
    case, tuning = source(4).cases[0], Tuning(warps=4, sizes={})
    slow = Timing(
        kernel="a", case=case, places=9, tuning=tuning, kernel_s=2.0, baseline_s=1.0, speedup=Ratio(median=0.5, low=0.4, high=0.6)
    )
    found = Benched(where="", timings=(slow,), network_s=20.0)
    assert found.speedup == Ratio(median=1.0, low=1.0, high=1.0)
    assert found.verdict == "does not pay"


def test_uses_of_a_network() -> None:
    """The same work is one row, with all its places; without a predictor there is no share."""
    first, second = uses(small(), None)
    assert [len(use.places) for use in (first, second)] == [2, 1]
    assert first.places[0] == ("conv_0", "batchnormalization_0", "relu_0")
    assert first.share is second.share is None


def test_shares_of_the_predicted_time(tmp_path: Path) -> None:
    """They add up to those of the kernels that lie within the places; the rest of the network has the rest."""
    space = spaces.load("mobilenet-small")
    graph = space.graph(space.reference())
    found = find_uses(Workspace.at(tmp_path), graph, device="a100", batch=1)
    inside = {node for use in found.uses for nodes in use.places for node in nodes}
    predictor = load_predictor(Workspace.at(tmp_path), "a100", threads=1, batch=1)
    expected = sum(kernel.share for kernel in predictor.explain(graph) if inside.issuperset(kernel.call.nodes))
    assert 0 < expected < 1
    assert sum(found.share(name) or 0 for name in {use.kernel for use in found.uses}) == pytest.approx(expected)
    assert found.notes


def test_without_a_predictor(tmp_path: Path) -> None:
    """The places are found all the same, and why there are no shares is said."""
    found = find_uses(Workspace.at(tmp_path), small(), device="b200", batch=1)
    assert len(found.uses) == 2
    assert found.share("depthwise_conv") is None
    assert found.source.startswith("no shares: ")
    assert found.as_json()["kernels"] == {"depthwise_conv": {"places": 3, "share": None}}


def test_networks_are_named_in_two_ways(tmp_path: Path) -> None:
    """A file, or a genotype of a space; never both, never neither."""
    path = tmp_path / "net.onnx"
    save(small().materialize(np.random.default_rng(0)), path)
    assert len(uses(network(model=path, space=None, genotype=None, batch=1), None)) == 2
    space = spaces.load("mobilenet-small")
    text = ",".join(str(gene) for gene in space.sample(np.random.default_rng(3)))
    assert network(model=None, space="mobilenet-small", genotype=text, batch=2).inputs["x"].shape[0] == 2
    for wrong in ({"model": path, "space": "resnet"}, {}, {"model": path, "genotype": "1"}, {"space": "resnet", "genotype": "a,b"}):
        with pytest.raises(UsageError):
            network(**{"model": None, "space": None, "genotype": None, **wrong}, batch=1)  # type: ignore[arg-type]  # wrong on purpose


def test_building_writes_what_a_launcher_needs(tmp_path: Path) -> None:
    """PTX and machine code of every case, and an index with name, threads, shared memory and inputs."""
    found = build(archs=["sm90"], precisions=["bf16"], names=["layer_norm_residual"], out=tmp_path / "out")
    index = json.loads((tmp_path / "out" / "kernels.json").read_text())
    assert index["format"] == 1
    assert index["triton"]
    assert [row["case"] for row in index["kernels"]] == [case.name for case in find("layer_norm_residual").cases]
    for row, built in zip(index["kernels"], found, strict=True):
        assert row["symbol"] in (tmp_path / "out" / f"{row['file']}.ptx").read_text()
        assert (tmp_path / "out" / f"{row['file']}.cubin").read_bytes() == built.code.cubin
        assert row["threads"] == 128
        assert row["registers"] == built.code.usage.registers


def test_measuring_needs_a_card() -> None:
    """Said in one line, with what is needed; the processor is no card."""
    with pytest.raises(
        DeviceUnavailable, match=r"needs the card, its driver, a CUDA build of torch and 'hwnas\[triton\]'; no 'b200' on this"
    ):
        bench(None, device="b200", precision="fp16", baseline="compile")
    with pytest.raises(UsageError, match="run on NVIDIA cards"):
        bench(None, device="cpu", precision="fp16", baseline="compile")


def test_the_card_is_the_one_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch counts cards in an order of its own, so the UUID decides; a card that torch does not see is said."""
    card = Card(index=0, name="NVIDIA H100 PCIe", uuid="GPU-aaaa-01", compute_capability=(9, 0), memory_bytes=80 * 2**30, mig=False)
    monkeypatch.setattr(kernels_bench, "find_device", lambda _: NvidiaDevice(card, catalogue.entry("h100").part()))
    uuids, chosen = ["bbbb-02", "aaaa-01"], []
    cuda = SimpleNamespace(
        device_count=lambda: len(uuids), get_device_properties=lambda i: SimpleNamespace(uuid=uuids[i]), set_device=chosen.append
    )
    monkeypatch.setattr(kernels_bench, "require", lambda *_: SimpleNamespace(cuda=cuda, __version__="9"))
    assert (
        "NVIDIA H100 PCIe, torch 9, triton 9, fp16, against torch compiled" in kernels_bench.CudaBench.of("h100", "fp16", "compile").where
    )
    assert chosen == [1]
    uuids.pop()
    with pytest.raises(DeviceUnavailable, match="'h100' is here, but torch 9 sees 1 cards and not this one"):
        kernels_bench.CudaBench.of("h100", "fp16", "compile")


def test_a_network_without_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused instead of measured."""
    monkeypatch.setattr(kernels_bench.CudaBench, "of", lambda *_: FakeBench({}, 1.0))
    b = GraphBuilder("plain")
    with pytest.raises(UsageError, match="network 'plain' has no place for"):
        bench(b.finish(b.conv(b.input("x", (1, 4, 5, 5)), 4)), device="a100", precision="fp16", baseline="eager")
