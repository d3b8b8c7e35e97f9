"""Profiling: when it ends, what it keeps, how it goes on. The runtime is replayed and the clock is turned by the tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from paper_device import BLOCK, SETTING, kernel_s, latency_s

from hwnas import spaces
from hwnas.errors import UsageError
from hwnas.ir import Graph
from hwnas.ir.cost import flops
from hwnas.ir.node import Array
from hwnas.profiling import Look, NetworkRecord, Plan, Profile, Profiler, ProfileStore, Progress, profiler
from hwnas.profiling.profiler import CANARIES, PLATEAU_ROUNDS, canaries
from hwnas.profiling.store import Journal
from hwnas.runtimes.base import KernelTime, Model
from hwnas.runtimes.fusions import Fusions
from hwnas.runtimes.ort import OrtRuntime
from hwnas.runtimes.ort_fusion import fuse
from hwnas.runtimes.samples import Samples, StoppingRule
from hwnas.spaces import Genotype
from hwnas.testing import FakeDevice, Recording, ReplayRuntime
from hwnas.testing.replay import ReplaySession

SPACE = spaces.load("mobilenet-small")
CALL_S = 5e-6
FOUND = cache(canaries)


class Clock:
    """Seconds that pass each time somebody looks."""

    def __init__(self, step_s: float = 0.001) -> None:
        self.now = 0.0
        self.step_s = step_s

    def __call__(self) -> float:
        self.now += self.step_s
        return self.now


def on_paper(graph: Graph) -> Recording:
    """What the device on paper takes for any network."""
    calls = fuse(graph, BLOCK)
    latency = latency_s([call.kernel for call in calls])
    return Recording(seconds=[latency, 1.01 * latency], kernels=tuple(KernelTime(call=c, seconds=kernel_s(c.kernel)) for c in calls))


class Judge:
    """Follows a script of errors, the last one repeated, and remembers what it was shown."""

    def __init__(self, *errors: float) -> None:
        self._errors = errors
        self.seen: list[tuple[list[int], list[int]]] = []

    def __call__(self, train: Sequence[NetworkRecord], test: Sequence[NetworkRecord]) -> Look:
        self.seen.append(([record.id for record in train], [record.id for record in test]))
        error = self._errors[min(len(self.seen), len(self._errors)) - 1]
        return Look(mape=error, within_10=0.5, worth=lambda graphs: [flops(graph) for graph in graphs])


def empty(seed: int = 0) -> Profile:
    spec = FakeDevice().spec
    return Profile(
        setting=SETTING,
        space=SPACE.name,
        seed=seed,
        fingerprint=spec.fingerprint,
        device=spec.as_dict(),
        environment={},
        fusions=Fusions(block=BLOCK),
        networks=(),
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finds the canaries once for all tests, and does not wait for the disk."""
    monkeypatch.setattr(profiler, "canaries", FOUND)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    return ProfileStore(tmp_path / "cpu")


def run(
    store: ProfileStore,
    plan: Plan,
    judge: Judge | None = None,
    *,
    clock: Clock | None = None,
    resume: bool = False,
    seed: int = 0,
    report: Callable[[Progress], None] = lambda _: None,
) -> Profile:
    judge, clock = judge or Judge(0.5, 0.3, 0.2, 0.1), clock or Clock()
    return Profiler(ReplayRuntime(on_paper), SPACE, store, judge, clock).run(empty(seed), plan, call_s=CALL_S, resume=resume, report=report)


# ---- when it ends


def test_enough_networks(store: ProfileStore) -> None:
    """At the largest number of networks it ends, each of them visited as often as the plan says, each in another round."""
    profile = run(store, Plan(max_time_s=1e6, max_networks=7, wave=8, visits=4))
    assert (profile.ended_by, len(profile.networks)) == ("count", 7)
    for network in profile.networks:
        assert len(set(network.pooled.rounds.tolist())) == 4
    assert sorted(profile.canaries) == list(range(max(profile.canaries) + 1))
    assert all(len(row) == CANARIES for row in profile.canaries.values())


def test_visits_lie_apart(store: ProfileStore) -> None:
    """A network is visited again some rounds later, beside others each time; in the end, all that lack visits in every round."""
    profile = run(store, Plan(max_time_s=1e6, max_networks=60, wave=8, visits=4, apart=3, target_error=1e-6), Judge(0.1))
    rounds = [sorted(set(network.pooled.rounds.tolist())) for network in profile.networks]
    assert rounds[:2] == [[0, 3, 6, 9]] * 2
    assert rounds[2:4] == [[1, 4, 7, 10]] * 2
    assert rounds[-1] == list(range(rounds[-1][0], rounds[-1][0] + 4))
    assert all(sum(number in seen for seen in rounds) == 8 for number in range(9, rounds[-1][0]))


class Moody(ReplayRuntime):
    """A machine that is another at times: all is slower, kernels each by another factor."""

    def __init__(self, slow: Callable[[int], bool]) -> None:
        super().__init__(on_paper)
        self.slow, self.moments = slow, 0
        self.timed_slow: list[bool] = []

    def build(self, model: Model, *, precision: str = "fp32") -> ReplaySession:
        runtime, session = self, super().build(model, precision=precision)
        luck = 1.4 + 0.4 * np.random.default_rng(len(session.graph.nodes)).random()

        class Session(ReplaySession):
            def time(self, feed: Mapping[str, Array], rule: StoppingRule) -> Samples:
                runtime.moments += 1
                return Samples(super().time(feed, rule).seconds * (luck if runtime.slow(runtime.moments) else 1.0))

            def kernel_times(self, feed: Mapping[str, Array], runs: int) -> tuple[KernelTime, ...]:
                slow = runtime.slow(runtime.moments)
                runtime.timed_slow.append(slow)
                times = super().kernel_times(feed, runs)
                return tuple(replace(time, seconds=time.seconds * (1.5 if slow and i % 2 else 1.0)) for i, time in enumerate(times))

        return Session(session.graph, on_paper(session.graph))


def test_another_state_of_the_machine_is_waited_for(store: ProfileStore) -> None:
    """What was visited and timed while the machine was another is measured again, and the profile is that of the usual one."""
    runtime = Moody(lambda moment: 40 < moment % 200 < 110)
    plan = Plan(max_time_s=1e6, max_networks=24, wave=8, visits=4)
    profile = Profiler(runtime, SPACE, store, Judge(0.5, 0.4, 0.3, 0.2, 0.1), Clock()).run(empty(), plan, call_s=CALL_S, resume=False)
    assert sum(runtime.timed_slow) > 5
    assert len(runtime.timed_slow) > len(profile.networks) == 24
    for network in profile.networks:
        calls = fuse(SPACE.graph(network.genotype), BLOCK)
        assert network.latency_s == pytest.approx(latency_s([call.kernel for call in calls]), rel=0.02)
        shares = [kernel_s(call.kernel) for call in calls]
        assert [kernel.profiled_s for kernel in network.kernels] == pytest.approx(shares)


def test_a_machine_that_is_another_for_good(store: ProfileStore) -> None:
    """Visits are made again only so often: a profile comes to its end whatever the machine does."""
    profile = Profiler(Moody(lambda moment: moment > 150), SPACE, store, Judge(0.5), Clock()).run(
        empty(), Plan(max_time_s=1e6, max_networks=12, wave=4, visits=2), call_s=CALL_S, resume=False
    )
    assert len(profile.networks) == 12
    assert all(2 <= len(set(network.pooled.rounds.tolist())) <= 4 for network in profile.networks)


def test_the_target_must_be_met_twice(store: ProfileStore) -> None:
    """One lucky look does not end it; two looks in a row at an error below the target do."""
    judge = Judge(0.01, 0.03, 0.01, 0.012, 0.5)
    profile = run(store, Plan(max_time_s=1e6, max_networks=500, wave=2, visits=1, target_error=0.015), judge)
    assert profile.ended_by == "target"
    assert [point.mape for point in profile.curve] == [0.01, 0.03, 0.01, 0.012]


def test_a_plateau_ends_it(store: ProfileStore) -> None:
    """When the error has not fallen by a tenth for some looks, more networks would not help."""
    judge = Judge(0.2, 0.1, *[0.095] * 20)
    profile = run(store, Plan(max_time_s=1e6, max_networks=500, wave=1, visits=1, target_error=0.001), judge)
    assert profile.ended_by == "plateau"
    assert len(profile.curve) == 2 + PLATEAU_ROUNDS


def test_while_it_improves_it_goes_on(store: ProfileStore) -> None:
    """An error that keeps falling by more than a tenth is no plateau."""
    judge = Judge(*(0.5 * 0.7**i for i in range(20)))
    assert run(store, Plan(max_time_s=1e6, max_networks=40, wave=1, visits=1, target_error=0.001), judge).ended_by == "count"


def test_time_ends_it(store: ProfileStore) -> None:
    """It ends within its time, with the networks that were measured until then, all of them visited."""
    profile = run(store, Plan(max_time_s=20, max_networks=10_000, wave=5, visits=3), clock=Clock(step_s=0.1))
    assert profile.ended_by == "time"
    assert 10 < profile.spent_s <= 20
    assert 10 < len(profile.networks) < 100
    assert [network.id for network in profile.networks] == list(range(len(profile.networks)))
    assert store.load(SETTING).spent_s == profile.spent_s


def test_a_slow_machine_stops_in_the_middle_of_a_wave(store: ProfileStore) -> None:
    """When visits take so long that another round does not fit, every network of the wave has been visited at least once."""
    profile = run(store, Plan(max_time_s=40, max_networks=10_000, wave=4, visits=50), clock=Clock(step_s=0.5))
    assert profile.ended_by == "time"
    assert profile.networks
    assert all(1 <= len(set(network.pooled.rounds.tolist())) <= 50 for network in profile.networks)


# ---- the looks at the error


def test_looks_at_unseen_networks(store: ProfileStore) -> None:
    """Each look learns from the networks of the looks before and judges on those since that were drawn, not chosen."""
    judge = Judge(0.5, 0.3, 0.2, 0.1, 0.05)
    profile = run(store, Plan(max_time_s=1e6, max_networks=24, wave=4, visits=1, target_error=0.001), judge)
    for train, test in judge.seen:
        assert train == list(range(len(train)))
        assert test == list(range(len(train), len(train) + 2 * len(test), 2))
        assert 2 * len(test) >= max(4, len(train) // 2)
    assert [point.networks for point in profile.curve] == [len(train) for train, _ in judge.seen]
    assert [point.seconds for point in profile.curve] == sorted(point.seconds for point in profile.curve)


def test_every_other_network_is_the_most_uncertain_of_several(store: ProfileStore) -> None:
    """After the first look, odd numbers take the candidate that the judge says is worth most: here the largest."""
    profile = run(store, Plan(max_time_s=1e6, max_networks=24, wave=4, visits=1, target_error=0.001))
    chosen = [flops(SPACE.graph(network.genotype)) for network in profile.networks if network.id >= 12 and network.id % 2]
    drawn = [flops(SPACE.graph(network.genotype)) for network in profile.networks if network.id % 2 == 0]
    assert np.median(chosen) > np.quantile(drawn, 0.75)


def test_progress_is_reported(store: ProfileStore) -> None:
    """Progress never goes back, and shows the error once there is one."""
    seen: list[Progress] = []
    run(store, Plan(max_time_s=1e6, max_networks=6, wave=2, visits=2, apart=1), report=seen.append)
    assert [step.networks for step in seen] == sorted(step.networks for step in seen)
    assert seen[-1].networks == 6
    assert seen[0].error is None
    assert seen[-1].error == 0.3


# ---- what it measures


def test_records_hold_what_was_measured(store: ProfileStore) -> None:
    """A network's latency and its kernels' parts are those of the device; kernels and call add up to the latency exactly."""
    for network in run(store, Plan(max_time_s=1e6, max_networks=4, wave=4, visits=3)).networks:
        calls = fuse(SPACE.graph(network.genotype), BLOCK)
        assert network.latency_s == pytest.approx(latency_s([call.kernel for call in calls]), rel=0.011)
        assert [kernel.call for kernel in network.kernels] == list(calls)
        assert network.call_ns == 5000
        assert network.call_ns + sum(kernel.nanoseconds for kernel in network.kernels) == network.total_ns


def test_the_plan_determines_the_networks(store: ProfileStore, tmp_path: Path) -> None:
    """The same seed draws the same networks whatever the waves and the time; another seed gives others; all are canonical."""
    plan = Plan(max_time_s=1e6, max_networks=6, wave=6, visits=1)
    first = [network.genotype for network in run(store, plan).networks]
    again = run(ProfileStore(tmp_path / "b"), Plan(max_time_s=1e6, max_networks=6, wave=2, visits=3))
    other = run(ProfileStore(tmp_path / "c"), plan, seed=1)
    assert [network.genotype for network in again.networks[::2]] == first[::2]
    assert [network.genotype for network in other.networks] != first
    assert all(genotype == SPACE.canonical(genotype) for genotype in first)


def test_the_canaries_are_fixed() -> None:
    """The canaries of a space are the same in every profile, from small to large."""
    one, two = canaries(SPACE), canaries(SPACE)
    assert [flops(graph) for graph in one] == [flops(graph) for graph in two]
    assert len({flops(graph) for graph in one}) == CANARIES
    assert [flops(graph) for graph in one] == sorted(flops(graph) for graph in one)
    assert canaries(SPACE, batch=4)[0].inputs["x"].shape[0] == 4


def test_a_real_runtime(store: ProfileStore) -> None:
    """On ONNX Runtime, too, every kernel is measured and every nanosecond belongs to somebody."""
    runtime = OrtRuntime(1)
    plan = Plan(max_time_s=1e6, max_networks=2, wave=2, visits=2, kernel_runs=3)
    profile = Profiler(runtime, SPACE, store, Judge(0.5)).run(empty(), plan, call_s=CALL_S, resume=False)
    for network in profile.networks:
        assert [kernel.call.kernel.op for kernel in network.kernels].count("Gemm") == 1
        assert {kernel.call for kernel in network.kernels} == set(fuse(SPACE.graph(network.genotype), runtime.fusions))
        assert all(kernel.nanoseconds > 0 for kernel in network.kernels)
        assert network.call_ns + sum(kernel.nanoseconds for kernel in network.kernels) == network.total_ns
    found = store.load(SETTING)
    assert [network.kernels for network in found.networks] == [network.kernels for network in profile.networks]


# ---- interrupted


class KilledError(BaseException):
    """Stands for a kill: nothing catches it."""


class DyingClock(Clock):
    """Kills whoever looks once too often: at any moment of profiling, since that looks at every step."""

    def __init__(self, looks: int, step_s: float = 0.001) -> None:
        super().__init__(step_s)
        self.looks = looks

    def __call__(self) -> float:
        self.looks -= 1
        if self.looks < 0:
            raise KilledError
        return super().__call__()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[Genotype]:
    """The networks of a profile that nobody kills."""
    store = ProfileStore(tmp_path_factory.mktemp("uninterrupted"))
    return [network.genotype for network in run(store, Plan(max_time_s=1e6, max_networks=8, wave=3, visits=1)).networks]


@pytest.mark.parametrize("looks", [1, 6, 13, 14, 15, 16, 17, 30, 47, 60])
def test_a_resumed_profile_measures_the_same_networks(store: ProfileStore, uninterrupted: list[Genotype], looks: int) -> None:
    """Whenever it is killed, resuming goes on where it was: the same networks with as many visits as without the kill."""
    plan = Plan(max_time_s=1e6, max_networks=8, wave=3, visits=3)
    with pytest.raises(KilledError):
        run(store, plan, clock=DyingClock(looks))
    assert store.journal(SETTING, SPACE.name).exists()
    assert not store.spaces(SETTING)
    found = run(store, plan, resume=True)
    assert [network.genotype for network in found.networks] == uninterrupted
    assert all(len(set(network.pooled.rounds.tolist())) == 3 for network in found.networks)
    assert found.ended_by == "count"
    assert not store.journal(SETTING, SPACE.name).exists()


def test_a_kill_in_the_middle_of_a_round(store: ProfileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that the broken round had visited already are not visited once more than the others."""
    plan = Plan(max_time_s=1e6, max_networks=3, wave=3, visits=3)
    keep, left = Journal.visit, [4]

    def visit(self: Journal, *values: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KilledError
        keep(self, *values)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "visit", visit)
        with pytest.raises(KilledError):
            run(store, plan)
    assert [len(visits) for visits in store.journal(SETTING, SPACE.name).read()[1].visits.values()] == [2, 1, 1]
    assert [len(set(network.pooled.rounds.tolist())) for network in run(store, plan, resume=True).networks] == [3, 3, 3]


def test_a_profile_killed_again_and_again(store: ProfileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is made between kills, and no network's kernels are timed twice."""
    timed: list[int] = []
    keep = Journal.network

    def network(self: Journal, number: int, *values: object) -> None:
        timed.append(number)
        keep(self, number, *values)

    monkeypatch.setattr(Journal, "network", network)
    plan = Plan(max_time_s=1e6, max_networks=6, wave=2, visits=2)
    runs = 0
    while True:
        runs += 1
        try:
            profile = run(store, plan, resume=runs > 1, clock=DyingClock(12))
            break
        except KilledError:
            continue
    assert runs > 3
    assert timed == list(range(6))
    assert all(len(set(network.pooled.rounds.tolist())) == 2 for network in profile.networks)


def test_time_counts_over_all_sessions(store: ProfileStore) -> None:
    """A resumed profile has only the time that is left."""
    plan = Plan(max_time_s=20, max_networks=10_000, wave=5, visits=3)
    with pytest.raises(KilledError):
        run(store, plan, clock=DyingClock(100, step_s=0.1))
    _, measured = store.journal(SETTING, SPACE.name).read()
    assert 9 < measured.spent_s < 10.1
    clock = Clock(step_s=0.1)
    profile = run(store, plan, clock=clock, resume=True)
    assert profile.ended_by == "time"
    assert profile.spent_s == pytest.approx(measured.spent_s + clock.now, abs=0.3)
    assert profile.spent_s <= 20


def test_an_unfinished_profile_is_not_overwritten(store: ProfileStore) -> None:
    """Without --resume, an unfinished profile is refused with both ways out, and stays."""
    plan = Plan(max_time_s=1e6, max_networks=4, wave=2, visits=2)
    with pytest.raises(KilledError):
        run(store, plan, clock=DyingClock(16))
    before = store.journal(SETTING, SPACE.name).path.read_bytes()
    with pytest.raises(
        UsageError, match=r"an unfinished profile of 'cpu' with 1 network is in '.*'; go on with --resume, or drop it with --restart"
    ):
        run(store, plan)
    assert store.journal(SETTING, SPACE.name).path.read_bytes() == before


def test_another_plan_cannot_resume(store: ProfileStore) -> None:
    """A profile of another seed is not mixed into an unfinished one."""
    plan = Plan(max_time_s=1e6, max_networks=4, wave=2, visits=2)
    with pytest.raises(KilledError):
        run(store, plan, clock=DyingClock(16))
    with pytest.raises(UsageError, match="the unfinished profile of 'cpu' has seed '0', this call '1'; give the same, or --restart"):
        run(store, plan, resume=True, seed=1)


def test_resuming_nothing_begins(store: ProfileStore) -> None:
    """With nothing to resume, profiling begins."""
    assert len(run(store, Plan(max_time_s=1e6, max_networks=2, wave=2, visits=1), resume=True).networks) == 2


# ---- plans


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"max_time_s": 0}, "--max-time 90s"), ({"target_error": 0}, "--target-error 4%"), ({"target_error": 1}, "--target-error 4%")],
)
def test_impossible_plans(wrong: dict[str, float], said: str) -> None:
    """A plan that cannot be is the user's mistake, and the message shows one that can."""
    with pytest.raises(UsageError, match=said):
        Plan(**wrong)
