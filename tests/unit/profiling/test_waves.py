"""Rounds, canaries, and what a network takes on the machine undisturbed."""

from __future__ import annotations

import numpy as np
import pytest

from hwnas.ir import Graph, GraphBuilder
from hwnas.profiling.slowdowns import Slowdowns
from hwnas.profiling.waves import COLDEST, FEWEST, MOST, VISIT_S, WARM_S, Pooled, Stage, Visit, Visiting, Watch, measure_together
from hwnas.runtimes.base import KernelTime
from hwnas.runtimes.ort_fusion import fuse
from hwnas.testing import Recording, ReplayRuntime


def canaries(*factors: float, best: tuple[float, ...] = (1e-4, 1e-3)) -> dict[int, list[np.ndarray]]:
    """Rounds in which every canary runs so many times slower than at its best."""
    return {i: [np.full(5, factor * seconds) for seconds in best] for i, factor in enumerate(factors)}


# ---- pooling


def test_visits_are_pooled() -> None:
    """All durations are kept, each with its round and how disturbed that was."""
    slow = Slowdowns.of(canaries(*[1.0] * 9, 1.5))
    visits = [Visit(network=0, round=0, seconds=np.array([1.0, 2.0])), Visit(network=0, round=9, seconds=np.array([3.0]))]
    found = Pooled.of(visits, slow)
    assert found.samples.seconds.tolist() == [1.0, 2.0, 3.0]
    assert found.rounds.tolist() == [0, 0, 9]
    assert found.slowdown.tolist() == pytest.approx([1.0, 1.0, 1.5])
    again = Pooled.from_samples(found.samples.seconds, found.rounds, slow)
    assert again.latency_s == found.latency_s


def test_disturbed_rounds_are_divided_out() -> None:
    """Visits at different moments of a machine that changes its mind give the latency of the machine undisturbed."""
    rng = np.random.default_rng(0)
    factors = np.repeat(rng.uniform(1.0, 1.2, 12), 2)
    factors[:6] = 1.0
    slow = Slowdowns.of(canaries(*factors))
    disturbed = [Visit(network=0, round=i, seconds=np.full(5, 2e-4 * factors[i])) for i in range(8, 12)]
    assert Pooled.of(disturbed, slow).latency_s == pytest.approx(2e-4, rel=1e-3)


def test_a_single_visit() -> None:
    """One visit is enough for a latency: its p10."""
    (seconds,) = ([1.0, 1.1, 1.2, 1.3, 1.4],)
    found = Pooled.of([Visit(network=0, round=0, seconds=np.array(seconds))], Slowdowns.of({}))
    assert found.latency_s == pytest.approx(1.04)


def test_visits_of_another_machine_do_not_count() -> None:
    """In a round that is half as slow again no factor holds for all, so its visits are left out where two others are there."""
    slow = Slowdowns.of(canaries(*[1.0] * 9, 1.5, 1.5))
    calm = [Visit(network=0, round=i, seconds=np.full(5, 2e-4)) for i in range(2)]
    other = [Visit(network=0, round=i, seconds=np.full(5, 4e-4)) for i in (9, 10)]
    assert Pooled.of([*calm, *other, *other], slow).latency_s == pytest.approx(2e-4)
    assert Pooled.of([*calm[:1], *other], slow).latency_s == pytest.approx(4e-4 / 1.5)


@pytest.mark.parametrize(
    ("visits", "latency"),
    [([2.0, 3.2, 2.1, 3.0], 2.05), ([2.0, 2.1, 2.2, 2.3], 2.15), ([2.0, 3.0, 3.1, 3.2], 3.05), ([2.0, 3.0], 2.5)],
    ids=["two of four", "as usual", "one alone", "too few"],
)
def test_another_state_within_a_round(visits: list[float], latency: float) -> None:
    """Of visits that took a fifth longer than the quickest none counts, where another visit agrees with the quickest."""
    found = Pooled.of([Visit(network=0, round=i, seconds=np.full(5, seconds)) for i, seconds in enumerate(visits)], Slowdowns.of({}))
    assert found.latency_s == pytest.approx(latency)


# ---- visiting


def tiny(channels: int = 4) -> Graph:
    b = GraphBuilder(f"tiny-{channels}")
    return b.finish(b.op("Relu", [b.conv(b.input("x", (1, 3, 8, 8)), channels)]))


def runtime(seconds: float) -> ReplayRuntime:
    def recording(graph: Graph) -> Recording:
        return Recording(seconds=[seconds], kernels=tuple(KernelTime(call=call, seconds=1e-6) for call in fuse(graph, 8)))

    return ReplayRuntime(recording)


@pytest.mark.parametrize(("seconds", "runs"), [(VISIT_S, FEWEST), (VISIT_S / 9.5, 10), (1e-6, MOST)])
def test_a_visit_takes_about_its_time(seconds: float, runs: int) -> None:
    """Every visit, the first one too, has as many runs as fit, within bounds: p10 of fewer is another figure."""
    stage = Stage.build(runtime(seconds), tiny(), precision="fp32", seed=0)
    assert [len(stage.visit()) for _ in range(3)] == [runs] * 3
    assert len(stage.kernel_times(1)) == len(fuse(tiny(), 8))


@pytest.mark.parametrize(("seconds", "left_out"), [(1e-6, COLDEST), (WARM_S / 30, 30), (WARM_S / 3, 3), (1e-1, 1)])
def test_the_first_runs_of_a_visit_do_not_count(seconds: float, left_out: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that comes back is slower at first: so many runs are left out, and no more than it takes where runs are long."""
    stage, rules = Stage.build(runtime(seconds), tiny(), precision="fp32", seed=0), []
    take = stage.session.time
    monkeypatch.setattr(stage.session, "time", lambda feed, rule: rules.append(rule) or take(feed, rule))
    stage.visit()
    assert rules[-1].warmup == left_out


def test_canaries_are_visited_in_several_sessions_by_turns() -> None:
    """Another session in the next round, and the first one again after the last."""
    watch = Watch(runtime(1e-3), [tiny(4), tiny(8)], precision="fp32", sessions=3)
    assert [len(watch.of(number)) for number in range(3)] == [2, 2, 2]
    assert len({id(stage) for number in range(3) for stage in watch.of(number)}) == 6
    assert watch.of(3) is watch.of(0)


def test_canaries_tell_another_state() -> None:
    """Rounds in which most canaries take a fifth longer than in the calmest quarter; one that had bad luck does not tell."""
    watch = Watch(runtime(1e-3), [], precision="fp32")
    assert watch.other_state({}) == frozenset()
    rounds = canaries(1.0, 1.1, 1.6, 1.0, 1.5, best=(1e-4, 1e-3, 2e-3))
    rounds[0][1] = rounds[0][1] * 2
    assert watch.other_state({0: rounds[0]}) == frozenset()
    assert watch.other_state(rounds) == {2, 4}


def test_networks_are_measured_together() -> None:
    """Every network is visited in every round of its wave, beside the canaries, and comes back in its place."""
    graphs = [tiny(channels) for channels in (4, 8, 12, 16, 20)]
    found, *_ = measure_together(runtime(1e-3), graphs, [tiny(24)], rounds=3, wave=2)
    assert [pooled.latency_s for pooled in found] == pytest.approx([1e-3] * 5)
    assert [sorted(set(pooled.rounds.tolist())) for pooled in found] == [[0, 1, 2], [0, 1, 2], [3, 4, 5], [3, 4, 5], [6, 7, 8]]


def test_another_state_of_the_machine_is_waited_for() -> None:
    """By an earlier measurement's canaries rounds of another machine are known and made again, up to twice as many in all."""
    reference = Slowdowns.of({i: [np.full(5, 1e-3)] for i in range(20)})
    for seconds, rounds in ((1.1e-3, 3), (1.5e-3, 6)):
        (found,), *_ = measure_together(runtime(seconds), [tiny()], [tiny(24)], rounds=3, reference=reference)
        assert sorted(set(found.rounds.tolist())) == list(range(rounds))


def test_earlier_rounds_tell_what_undisturbed_is() -> None:
    """With canaries known from before, a machine that is disturbed all along is seen to be."""
    reference = Slowdowns.of({i: [np.full(5, 1e-3)] for i in range(20)})
    (pooled,), slow, _ = measure_together(runtime(1.25e-3), [tiny()], [tiny(24)], rounds=2, reference=reference)
    assert pooled.latency_s == pytest.approx(1e-3, rel=1e-6)
    assert slow.factor(0, 1e-3) == pytest.approx(1.25)
    (alone,), *_ = measure_together(runtime(1.25e-3), [tiny()], [tiny(24)], rounds=2)
    assert alone.latency_s == pytest.approx(1.25e-3, rel=1e-6)


def test_a_measurement_is_made_round_by_round() -> None:
    """Rounds may lie far apart and networks be built anew between them; what undisturbed is may be known at the end only."""
    reference = Slowdowns.of({i: [np.full(5, 1e-3)] for i in range(20)})
    visiting = Visiting(runtime(1.1e-3), [tiny(), tiny(8)], [tiny(24)])
    made = 0
    for networks, rounds in ((range(2), 3), (range(2), 2), ([1], 1)):
        visiting.open(networks)
        for _ in range(rounds):
            visiting.visit()
        made += rounds
        assert visiting.rounds == visiting.usual() == made
    assert visiting.usual(since=4) == 2
    found = visiting.together(reference)
    assert [sorted(set(one.rounds.tolist())) for one in found.networks] == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]]
    assert [found.slowdowns.factor(i, 1e-3) for i in range(6)] == pytest.approx([1.1] * 6, rel=1e-6)
    assert [one.latency_s for one in found.networks] == pytest.approx([1e-3] * 2, rel=1e-6)
