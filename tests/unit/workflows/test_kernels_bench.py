"""Whether the kernels pay, measured with a clock that a test winds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from virtual_clock import VirtualClock

from hwnas.devices import DeviceState
from hwnas.errors import MeasurementError, UsageError
from hwnas.ir import Graph, GraphBuilder
from hwnas.kernels import Case, KernelSource, Tuning, find
from hwnas.kernels.chain import Chain
from hwnas.kernels.match import matches
from hwnas.profiling.steady import Guard
from hwnas.workflows.kernels_bench import bench, measure
from hwnas.workflows.kernels_card import RUNS, Launch, Work

PRODUCT_US = 3.0  # of whatever is no work for the kernels
CALL_US = {"kernel": 7.0, "runtime": 40.0}  # of a launch by the host, different on both sides


class Scripted:
    """Both sides, with work that takes as long as it is told, give or take drift, which all share, and noise, which they do not.

    Args:
        kernel_us: of a launch, by the kernel's warps.
        runtime_us: of what the runtime does.
        noise: standard deviation of each sample, relative.
        launch: of the runtime's networks.
    """

    where, what = "a clock", "a runtime"

    def __init__(self, kernel_us: dict[int, float], runtime_us: float, noise: float = 0.0, launch: Launch = "graph") -> None:
        self.now = 0
        self._kernel_us, self._runtime_us, self._launch = kernel_us, runtime_us, launch
        self._noise, self._rng = noise, np.random.default_rng(0)
        self.tried: list[tuple[int, bool]] = []

    def clock(self) -> int:
        return self.now

    def _takes(self, micros: float) -> Callable[[], object]:
        def run() -> None:
            drift = 1 + self.now / 1e12
            self.now += round(RUNS * micros * 1e3 * drift * max(0.1, self._rng.normal(1, self._noise)))

        return run

    def row(self, source: KernelSource, case: Case, tuning: Tuning, chain: Chain, *, bare: bool) -> Callable[[], object]:
        self.tried.append((tuning.warps, bare))
        works = 1 if bare else len(chain.places)
        return self._takes(CALL_US["kernel"] + len(chain.places) * PRODUCT_US + works * self._kernel_us[tuning.warps])

    def network(self, graph: Graph) -> Work:
        works = len(matches(graph))
        products = sum(node.op in ("MatMul", "Conv") and dict(node.attrs).get("group", 1) == 1 for node in graph.nodes)
        run = self._takes(CALL_US["runtime"] + products * PRODUCT_US + works * self._runtime_us)
        return Work(run=run, launch=self._launch)


def source(*warps: int) -> KernelSource:
    """A kernel with these ways to launch it."""
    return replace(find("layer_norm_residual"), tunings=tuple(Tuning(warps=count, sizes={"tile": 256}) for count in warps))


def case() -> tuple[KernelSource, Case, int]:
    return source(4), source(4).cases[0], 1


def test_the_fastest_launch_meets_the_runtime() -> None:
    """Times are those of a place, without products and calls; drift that all share does not move the speed-up."""
    both = Scripted({4: 6.0, 8: 4.0}, 8.0)
    found = measure(both, both, [(source(4, 8), source(4).cases[0], 3)], clock=both.clock)
    (timing,) = found.timings
    assert both.tried == [(4, False), (8, False), (8, True)]
    assert timing.tuning.warps == 8
    assert timing.kernel_s == pytest.approx(4e-6, rel=0.02)
    assert timing.baseline_s == pytest.approx(8e-6, rel=0.02)
    assert timing.speedup.median == pytest.approx(2.0, rel=1e-3)
    assert (timing.verdict, timing.fusion) == ("pays", None)
    assert (found.network_s, found.verdict, found.notes) == (None, None, ())


@pytest.mark.parametrize(
    ("runtime_us", "noise", "verdict"),
    [
        (8.0, 0.02, "pays"),
        (4.0, 0.005, "does not pay"),
        (5.05, 0.0005, "does not pay"),
        (5.2, 0.3, "not resolved"),
        (0.0, 0.01, "does not pay"),
    ],
)
def test_verdicts(runtime_us: float, noise: float, verdict: str) -> None:
    """A kernel pays where all of the interval is above 1.02; one percent is not worth it; wide noise resolves nothing."""
    both = Scripted({4: 5.0}, runtime_us, noise=noise)
    (timing,) = measure(both, both, [case()], clock=both.clock).timings
    assert timing.verdict == verdict
    assert 0 < timing.speedup.low <= timing.speedup.median <= timing.speedup.high


def test_a_kernel_that_cannot_be_told_from_nothing() -> None:
    """It has no speed-up; the machine is blamed, in one line."""
    both = Scripted({4: 0.0}, 5.0)
    with pytest.raises(MeasurementError, match="too unsteady to tell what 'layer_norm_residual' takes"):
        measure(both, both, [case()], clock=both.clock)


def test_a_network_gains_what_its_places_save() -> None:
    """Ten places of 4 us become 2 us each; the network's time is the runtime's own, with all that is no work for the kernels."""
    both = Scripted({4: 2.0}, 4.0)
    found = measure(both, both, [(source(4), source(4).cases[0], 10)], norms(10), clock=both.clock)
    whole_s = (CALL_US["runtime"] + 10 * PRODUCT_US + 10 * 4.0) * 1e-6
    assert found.network_s == pytest.approx(whole_s, rel=0.01)
    assert found.speedup is not None
    assert found.speedup.median == pytest.approx(whole_s / (whole_s - 10 * 2e-6), rel=0.02)
    assert (found.verdict, found.as_json()["verdict"]) == ("pays", "pays")


def norms(places: int) -> Graph:
    b = GraphBuilder("norms")
    x, residual = b.input("x", (1, 4, 16)), b.input("residual", (1, 4, 16))
    for _ in range(places):
        residual = b.op("Add", [x, residual])
        y = b.op("LayerNormalization", [residual, b.weight("s", (16,), "ones"), b.weight("t", (16,), "zeros")], axis=-1)
        x = b.op("MatMul", [y, b.weight("w", (16, 16))])
    return b.finish(x)


def test_a_runtime_that_launches_kernel_by_kernel() -> None:
    """Its host counts against it, so that nothing pays, and that is said."""
    both = Scripted({4: 2.0}, 4.0, launch="stream")
    found = measure(both, both, [case()], clock=both.clock)
    assert [timing.verdict for timing in found.timings] == ["not resolved"]
    assert found.notes == ("a runtime could not be launched as a whole, so its host counts against it: no kernel can be said to pay",)


def guarded(states: Sequence[tuple[str, ...]]) -> Guard:
    """A card that says these events, one after the other, and the last one from then on."""
    told: Iterator[tuple[str, ...]] = iter(states)
    last = states[-1]
    return Guard(lambda: DeviceState(clock_hz=1e9, clock_events=next(told, last)), VirtualClock(), remedy="let it cool")


def test_a_card_that_is_slowed_down() -> None:
    """What was sampled meanwhile is taken again, and that is said; a card that stays slow ends it in one line."""
    both = Scripted({4: 2.0}, 4.0)
    hot, capped = ("hardware thermal slowdown",), ("software power cap",)
    found = measure(both, both, [case()], clock=both.clock, guard=guarded([hot, (), capped]))
    assert [note.partition(" batches")[0] + note.partition("samples")[2] for note in found.notes] == [
        "1 of 3 were dropped and taken again: slowed down (hardware thermal slowdown)",
        "1 of 3 are flagged: software power cap",
    ]
    with pytest.raises(MeasurementError, match=r"stays slow: slowed down .*; let it cool"):
        measure(both, both, [case()], clock=both.clock, guard=guarded([hot]))


def test_a_network_without_places() -> None:
    """It is refused before a card is looked for."""
    b = GraphBuilder("plain")
    with pytest.raises(UsageError, match="network 'plain' has no place for"):
        bench(b.finish(b.conv(b.input("x", (1, 4, 5, 5)), 4)), device="a100", precision="fp16")
