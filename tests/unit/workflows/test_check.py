"""Whether a profile still holds, on a device on paper whose times the tests change."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from paper_device import BLOCK, CALL_S, SETTING, kernel_s

from hwnas import spaces
from hwnas.assets import Workspace
from hwnas.devices import DeviceState
from hwnas.errors import MeasurementError, NotFoundError, UsageError
from hwnas.ir import Graph, Kernel
from hwnas.predict.features import kind_of
from hwnas.profiling import Look, Plan, Profile, Profiler, ProfileStore, profiler
from hwnas.profiling.profiler import canaries
from hwnas.runtimes.base import KernelTime
from hwnas.runtimes.fusions import Fusions
from hwnas.runtimes.ort_fusion import fuse
from hwnas.spaces import Gene, Genotype, SearchSpace
from hwnas.testing import FakeDevice, Recording, ReplayRuntime
from hwnas.workflows import check
from hwnas.workflows.check import Again, Checked, compare

SPACE = spaces.load("mobilenet-small")
FOUND = cache(canaries)
VERSIONS = {"onnxruntime": "1.22.0", "os": "Linux 6"}
QUIET = DeviceState(clock_hz=2e9, load=0.0, governor="performance")
CLOCKS = {"clock": "2000 MHz", "governor": "performance"}

Factor = Callable[[Kernel], float]


def unchanged(kernel: Kernel) -> float:
    """Every kernel takes what it took."""
    return 1.0


def device_on_paper(
    factor: Factor = unchanged, *, call: float = 1.0, seen: Callable[[Kernel], Kernel] = lambda kernel: kernel
) -> ReplayRuntime:
    """A runtime on which kernels take so many times what the device on paper takes.

    Args:
        factor: of each kernel.
        call: of an empty call.
        seen: what the runtime makes of each kernel.
    """

    def record(graph: Graph) -> Recording:
        calls = fuse(graph, BLOCK)
        seconds = [kernel_s(call.kernel) * factor(call.kernel) for call in calls]
        whole = call * CALL_S + sum(seconds)
        kernels = tuple(
            KernelTime(call=replace(one, kernel=seen(one.kernel)), seconds=time) for one, time in zip(calls, seconds, strict=True)
        )
        return Recording(seconds=[whole, 1.01 * whole], kernels=kernels)

    return ReplayRuntime(record)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finds the canaries once for all tests, and visits networks less often."""
    monkeypatch.setattr(profiler, "canaries", FOUND)
    monkeypatch.setattr(check, "canaries", FOUND)
    monkeypatch.setattr(check, "ROUNDS", 4)


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Profile]:
    """Thirty networks of the small space, as the device on paper was when it was profiled."""
    spec = FakeDevice().spec
    empty = Profile(
        setting=SETTING,
        space=SPACE.name,
        seed=0,
        fingerprint=spec.fingerprint,
        device=spec.as_dict(),
        environment=VERSIONS | CLOCKS,
        fusions=Fusions(block=BLOCK),
        networks=(),
    )
    ticks = count(step=0.001)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profiler, "canaries", FOUND)
        patch.setattr(os, "fsync", lambda descriptor: None)
        store = ProfileStore(tmp_path_factory.mktemp("profile") / "cpu")
        look = Look(mape=0.5, within_10=0.5, worth=lambda graphs: [0.0] * len(graphs))
        made = Profiler(device_on_paper(), SPACE, store, lambda train, test: look, lambda: next(ticks))
        plan = Plan(max_time_s=1e6, max_networks=30, wave=15)
        yield made.run(empty, plan, call_s=CALL_S, resume=False)


def checked(
    profile: Profile,
    runtime: ReplayRuntime,
    *,
    device: FakeDevice | None = None,
    environment: Mapping[str, str] = VERSIONS,
    networks: int = 10,
) -> Checked:
    """The profile compared with the machine as the test wants it."""
    device = device or FakeDevice(states=(QUIET,))
    return compare(profile, SPACE, device, runtime, environment=environment, networks=networks)


# ---- verdicts


def test_nothing_has_changed(profile: Profile) -> None:
    """Every ratio is 1, nothing is to be done."""
    found = checked(profile, device_on_paper())
    assert found.verdict == "holds"
    assert found.holds
    assert (found.changes, found.moved_kinds, found.other_kernels, found.remedy) == ((), {}, 0, "")
    assert found.factor == pytest.approx(1, abs=0.01)
    assert found.canaries == pytest.approx([1] * len(found.canaries), abs=0.01)
    assert all(network.ratio == pytest.approx(1, abs=0.01) for network in found.networks)


@pytest.mark.parametrize(("factor", "words"), [(1.2, "20 % slower"), (0.8, "20 % faster")])
def test_everything_by_one_factor(profile: Profile, factor: float, words: str) -> None:
    """`scaled`: networks and canaries agree; the remedy says by how much, what to look at, and how to profile again."""
    found = checked(profile, device_on_paper(lambda kernel: factor, call=factor))
    assert found.verdict == "scaled"
    assert not found.holds
    assert found.factor == pytest.approx(factor, rel=0.01)
    assert found.machine == pytest.approx(factor, rel=0.01)
    low, high = found.interval
    assert low <= found.factor <= high
    assert found.spread < 0.01
    assert found.moved_kinds == {}
    assert words in found.remedy
    assert "governor" in found.remedy
    assert "'hwnas profile --device cpu --threads 1 --batch 1 --space mobilenet-small'" in found.remedy


@pytest.mark.parametrize("factor", [0.98, 1.02])
def test_a_small_factor_is_none(profile: Profile, factor: float) -> None:
    """Within the noise of sessions a profile holds."""
    assert checked(profile, device_on_paper(lambda kernel: factor, call=factor)).verdict == "holds"


def test_one_kind_of_kernel_is_slower(profile: Profile) -> None:
    """`drifted`: the kind is named, and the canaries do not make up for it."""
    found = checked(profile, device_on_paper(lambda kernel: 3.0 if kind_of(kernel) == "Conv-depthwise" else 1.0))
    assert found.verdict == "drifted"
    assert list(found.moved_kinds) == ["Conv-depthwise"]
    assert found.moved_kinds["Conv-depthwise"] == pytest.approx(3, rel=0.05)
    assert found.factor > 1.1
    assert "unevenly" in found.remedy
    assert found.command in found.remedy


def test_networks_that_change_each_by_another_factor(profile: Profile) -> None:
    """`drifted`, even where they are as fast as before in the median."""
    found = checked(profile, device_on_paper(call=40.0))  # which small networks suffer from, and large ones hardly
    ratios = [network.ratio for network in found.networks]
    assert ratios == sorted(ratios, reverse=True)
    assert found.spread > check.SPREAD
    assert found.verdict == "drifted"


def test_a_runtime_that_makes_other_kernels(profile: Profile) -> None:
    """`drifted`, however long they take: predictions are made of the kernels that were learned."""
    found = checked(profile, device_on_paper(seen=lambda kernel: replace(kernel, fused=())))
    assert found.other_kernels == len(found.networks)
    assert found.verdict == "drifted"


# ---- what else has changed


def test_software_that_was_updated_is_listed_and_does_not_decide(profile: Profile) -> None:
    """Versions that differ, appeared or went; measurements say whether it matters."""
    found = checked(profile, device_on_paper(), environment={"onnxruntime": "1.32.0", "numpy": "2.4"})
    assert [(change.what, change.then, change.now) for change in found.changes] == [
        ("numpy", "nothing", "2.4"),
        ("onnxruntime", "1.22.0", "1.32.0"),
        ("os", "Linux 6", "nothing"),
    ]
    assert found.verdict == "holds"


def test_another_machine_and_another_clock_are_listed(profile: Profile) -> None:
    """The device by its model and fingerprint, its governor, and its clock where it is more than a little off."""
    spec = replace(FakeDevice().spec, model="another processor")
    near, far = (DeviceState(clock_hz=clock, governor="powersave") for clock in (2.05e9, 1.5e9))
    found = checked(profile, device_on_paper(), device=FakeDevice(spec, states=(near,)))
    assert [change.what for change in found.changes] == ["device", "governor"]
    assert "another processor" in found.changes[0].now
    assert spec.fingerprint in found.changes[0].now
    found = checked(profile, device_on_paper(), device=FakeDevice(states=(far,)))
    assert [(change.what, change.now) for change in found.changes] == [("clock", "1500 MHz"), ("governor", "powersave")]


def test_what_others_do_is_said(profile: Profile) -> None:
    """The load just before; None where the device does not say, which is no change either."""
    busy = FakeDevice(states=(DeviceState(clock_hz=2e9, load=0.7, governor="performance"),))
    assert checked(profile, device_on_paper(), device=busy).load == 0.7
    silent = checked(replace(profile, environment=VERSIONS), device_on_paper(), device=FakeDevice(states=(DeviceState(),)))
    assert (silent.load, silent.changes) == (None, ())


# ---- what is measured


def test_networks_are_spread_over_latencies(profile: Profile) -> None:
    """From fast to slow, all different; all there are where more are asked for."""
    found = checked(profile, device_on_paper())
    then = [network.then_s for network in found.networks]
    every = sorted(network.latency_s for network in profile.networks)
    assert then == [every[1 + 3 * i] for i in range(10)]
    assert len({network.id for network in checked(profile, device_on_paper(), networks=500).networks}) == len(profile.networks)


class Renewed(SearchSpace):
    """A space that makes other networks of the same genotypes than it did, or that has other genes."""

    name = SPACE.name

    def __init__(self, genes: tuple[Gene, ...]) -> None:
        self.genes = genes

    def graph(self, genotype: Genotype, *, batch: int = 1) -> Graph:
        return SPACE.graph(SPACE.reference(), batch=batch)


@pytest.mark.parametrize("genes", [SPACE.genes, SPACE.genes[1:]], ids=["other networks", "other genes"])
def test_a_space_that_has_changed_cannot_be_measured_again(profile: Profile, genes: tuple[Gene, ...]) -> None:
    """One line says so, rather than a comparison of different networks."""
    expected = r"space 'mobilenet-small' makes other networks than when 'cpu' was profiled .*; profile again$"
    with pytest.raises(MeasurementError, match=expected):
        compare(profile, Renewed(genes), FakeDevice(), device_on_paper(), environment=VERSIONS, networks=5)


def test_a_profile_beside_other_canaries_cannot_be_compared(profile: Profile) -> None:
    """Such as one of an earlier version: one line before anything is measured, and no pairing of different networks."""
    level = profile.slowdowns.level
    earlier = replace(profile, canaries={number: row[:4] for number, row in profile.canaries.items()})
    with pytest.raises(MeasurementError, match=rf"beside 4 canaries and this hwnas measures beside {len(level)}, .*; profile again"):
        checked(earlier, device_on_paper())


def test_a_check_needs_a_profile_and_some_networks(tmp_path: Path) -> None:
    """Both are one line with a remedy."""
    with pytest.raises(NotFoundError, match="run 'hwnas profile --device cpu"):
        check.check(Workspace(tmp_path), device="cpu")
    with pytest.raises(UsageError, match="at least 3 networks, got 2; try --networks 10"):
        check.check(Workspace(tmp_path), device="cpu", networks=2)


# ---- figures


def made_of(*ratios: float) -> Checked:
    """A check whose networks took so many times what they took."""
    return Checked(
        setting=SETTING,
        space="my/space.py:It's mine",
        changes=(),
        load=None,
        networks=tuple(Again(id=i, then_s=1e-3, now_s=1e-3 * ratio, same_kernels=True) for i, ratio in enumerate(ratios)),
        canaries=(1.0, 1.1, 1.3),
        kinds={"Conv-dense": 1.0, "Gemm": 1.1, "Softmax": 2.0},
        spent_s=90.0,
    )


def test_the_interval_holds_the_true_median_as_often_as_it_says() -> None:
    """Of random ratios about a known median, 10 at a time; not much more often either, as far as so few values allow."""
    rng = np.random.default_rng(0)
    hits = [low <= 1.5 <= high for low, high in (made_of(*(1.5 * np.exp(rng.normal(0, 0.1, 10)))).interval for _ in range(1500))]
    assert 0.9 <= np.mean(hits) < 0.995
    assert made_of(1.0, 1.2, 1.4).interval == (1.0, 1.4)


def test_one_disturbed_network_does_not_decide() -> None:
    """Median and spread are those of most networks."""
    found = made_of(*[1.0] * 9, 3.0)
    assert (found.factor, found.spread, found.verdict) == (1.0, 0.0, "holds")
    assert found.machine == 1.1


def test_the_result_for_scripts() -> None:
    """Setting, verdict, figures and remedy as plain values; a space that is a path is quoted for a shell."""
    found = made_of(*[1.3] * 10)
    said = found.as_json()
    assert said["device"] == "cpu"
    assert said["verdict"] == "drifted"
    assert said["factor"] == {"value": pytest.approx(1.3), "low": pytest.approx(1.3), "high": pytest.approx(1.3)}
    assert said["moved_kinds"] == {"Softmax": pytest.approx(2 / 1.1)}
    assert said["networks"][0] == {
        "id": 0,
        "then_s": 1e-3,
        "now_s": pytest.approx(1.3e-3),
        "same_kernels": True,
        "ratio": pytest.approx(1.3),
    }
    assert """--space 'my/space.py:It'"'"'s mine'""" in said["remedy"]
