"""The custom kernels on a card: `make test-gpu`. Nothing here runs without one; docs/gpu.md is the checklist around it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwnas import spaces
from hwnas.devices import Unavailable
from hwnas.devices.registry import nvidia_cards
from hwnas.errors import MissingExtraError
from hwnas.kernels import Case, KernelSource, all_kernels
from hwnas.kernels.launch import check, prepare, random_tensors
from hwnas.kernels.source import PRECISIONS
from hwnas.runtimes.samples import interleave, ratio
from hwnas.workflows.kernels_bench import bench, measure
from hwnas.workflows.kernels_card import RUNS, CudaTorch, Fused, Kernels, sides

pytestmark = pytest.mark.gpu
CASES = [(source, case) for source in all_kernels() for case in source.cases]
NAMES = [f"{source.name}, {case.name}" for source, case in CASES]
RUNTIMES = [("tensorrt", "fp16"), ("onnxruntime-cuda", "fp16"), ("torch", "fp16")]


@pytest.fixture(scope="module")
def device() -> str:
    """The first card of this machine."""
    cards = nvidia_cards()
    if isinstance(cards, Unavailable) or not cards:
        pytest.skip(cards.reason if isinstance(cards, Unavailable) else "the NVIDIA driver lists no card")
    pytest.importorskip("triton")
    return "cuda:0"


def both(device: str, precision: str, against: str) -> tuple[Kernels, CudaTorch | Fused]:
    """Both sides, where the runtime is installed; a card that is there and does not work fails the test."""
    try:
        _, kernels, other = sides(device, precision, against)
    except MissingExtraError as error:
        pytest.skip(str(error))
    assert isinstance(other, CudaTorch | Fused)
    return kernels, other


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("source", "case"), CASES, ids=NAMES)
def test_results(device: str, source: KernelSource, case: Case, precision: str) -> None:
    """Every case, in every precision, by every way to launch it, is within the tolerance of `kernel.toml`."""
    tensors = random_tensors(case, precision, "cuda")
    for tuning in source.tunings:
        assert check(source, prepare(source, tensors, case.attrs, tuning)(), tensors, case.attrs, precision) <= 1


@pytest.mark.parametrize(("against", "precision"), RUNTIMES)
def test_runtimes_are_launched_as_a_whole(device: str, against: str, precision: str) -> None:
    """Rows of all kernels are captured as CUDA graphs: launches by the host must not count against one side alone."""
    kernels, other = both(device, precision, against)
    found = measure(kernels, other, [(source, source.cases[0], 1) for source in all_kernels()], rounds=20)
    assert {timing.kernel: timing.launch for timing in found.timings} == {source.name: "graph" for source in all_kernels()}
    assert all(timing.kernel_s > 1e-7 and timing.baseline_s > 1e-7 for timing in found.timings)
    assert all((timing.fusion is None) == (against == "torch") for timing in found.timings)


def test_what_a_launch_adds_is_what_it_takes(device: str) -> None:
    """What a kernel adds to a row of products is between half and twice what it takes in a row of nothing else."""
    kernels, other = both(device, "fp16", "torch")
    assert isinstance(kernels, CudaTorch)
    for source in all_kernels():
        case = source.cases[0]
        tensors = random_tensors(case, "fp16", "cuda")
        launch = prepare(source, tensors, case.attrs, source.tunings[0])
        runs = {
            name: kernels.recorded(lambda n=n, launch=launch: [launch() for _ in range(n)]) for name, n in (("long", 80), ("short", 40))
        }
        samples = interleave(runs, rounds=30)
        alone_s = (samples["long"].median_s - samples["short"].median_s) / 40 / RUNS
        (timing,) = measure(kernels, other, [(replace(source, tunings=source.tunings[:1]), case, 1)], rounds=30).timings
        assert 0.5 < timing.kernel_s / alone_s < 2


@pytest.mark.parametrize(("against", "precision"), RUNTIMES)
def test_a_network_takes_as_long_as_itself(device: str, against: str, precision: str) -> None:
    """The same work on both sides of a comparison comes out as no speed-up: 1 is within 3 % of the interval."""
    _, other = both(device, precision, against)
    space = spaces.load("mobilenet")
    graph = space.graph(space.reference())
    samples = interleave({"one": other.network(graph).run, "other": other.network(graph).run})
    found = ratio(samples["one"], samples["other"])
    assert found.low / 1.03 < 1 < found.high * 1.03


@pytest.mark.parametrize(("against", "precision"), RUNTIMES)
def test_verdicts_on_a_network(device: str, against: str, precision: str) -> None:
    """The places take less time than the whole network, so that something can be said of it."""
    both(device, precision, against)
    space = spaces.load("mobilenet")
    found = bench(space.graph(space.reference()), device=device, precision=precision, against=against, names=["depthwise_conv"])
    assert found.verdict in ("pays", "does not pay", "not resolved")
    assert found.network_s is not None
    assert 0 < sum(timing.places * timing.baseline_s for timing in found.timings) < found.network_s
