"""Sampling by a clock that the tests turn themselves."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.runtimes.samples import Samples, StoppingRule, interleave, quantile_error, ratio, sample


class Machine:
    """Work that takes scripted durations in ns, over and over, and the clock that shows them."""

    def __init__(self, durations: Iterable[int]) -> None:
        self.now = 0
        self.runs = 0
        self._durations = cycle(durations)

    def run(self) -> None:
        self.now += next(self._durations)
        self.runs += 1

    def clock(self) -> int:
        return self.now


def noisy(seed: int = 0, n: int = 5000) -> list[int]:
    """About 1 ms with a long tail, as a shared machine gives it."""
    rng = np.random.default_rng(seed)
    return (1e6 * (1 + rng.gamma(1.0, 0.05, n))).astype(int).tolist()


# ---- the stopping rule


def test_steady_work_settles_at_once() -> None:
    """When every run takes as long as the last, the fewest samples are enough."""
    machine = Machine([1000])
    samples = sample(machine.run, StoppingRule(min_samples=10, warmup=3), machine.clock)
    assert (samples.n, samples.ended_by, samples.p10_s) == (10, "settled", 1e-6)
    assert machine.runs == 13  # the warm-up is not among the samples


def test_noisy_work_goes_on_until_it_settles() -> None:
    """Sampling ends as settled once p10 is known to the target, and not before."""
    machine = Machine(noisy())
    rule = StoppingRule(relative_error=0.002, min_samples=10, max_seconds=60)
    samples = sample(machine.run, rule, machine.clock)
    assert samples.ended_by == "settled"
    assert samples.n > 30
    assert samples.p10_error <= 0.002


def test_a_tighter_target_takes_more_samples() -> None:
    """The number of samples follows the target."""
    taken = []
    for target in (0.01, 0.003, 0.001):
        machine = Machine(noisy())
        taken.append(sample(machine.run, StoppingRule(relative_error=target, max_seconds=60), machine.clock).n)
    assert taken[0] < taken[1] < taken[2]


def test_time_ends_it() -> None:
    """After the rule's seconds sampling ends, with whatever there is; the last run may reach beyond them."""
    machine = Machine(noisy())
    samples = sample(machine.run, StoppingRule(relative_error=1e-6, max_seconds=0.05), machine.clock)
    assert samples.ended_by == "time"
    assert 0.05 <= samples.seconds.sum() < 0.05 + samples.seconds[-1]


def test_never_fewer_than_asked_for() -> None:
    """The smallest number of samples is taken even where the time is up."""
    machine = Machine([10_000_000_000])
    samples = sample(machine.run, StoppingRule(min_samples=5, max_seconds=0.001), machine.clock)
    assert (samples.n, samples.ended_by) == (5, "time")


def test_count_ends_it() -> None:
    """Never more than the largest number of samples."""
    machine = Machine(noisy())
    samples = sample(machine.run, StoppingRule(relative_error=1e-6, max_samples=17, max_seconds=60), machine.clock)
    assert (samples.n, samples.ended_by) == (17, "count")


@pytest.mark.parametrize(
    "wrong",
    [{"relative_error": 0}, {"relative_error": 1}, {"min_samples": 1}, {"max_seconds": 0}, {"min_samples": 10, "max_samples": 9}],
)
def test_impossible_rules(wrong: dict[str, float]) -> None:
    """A rule that can never end, or ends before it began, is refused."""
    with pytest.raises(ValueError, match="a stopping rule needs"):
        StoppingRule(**wrong)


@settings(max_examples=50, deadline=None)
@given(
    durations=st.lists(st.integers(1, 10**7), min_size=1, max_size=30),
    least=st.integers(2, 20),
    extra=st.integers(0, 50),
    seconds=st.floats(1e-6, 0.1),
    error=st.floats(1e-3, 0.5),
)
def test_every_end_is_what_it_says(durations: list[int], least: int, extra: int, seconds: float, error: float) -> None:
    """Whatever the durations: `count` means the largest number, `time` that the seconds are over, `settled` that p10 is known."""
    machine = Machine(durations)
    rule = StoppingRule(relative_error=error, min_samples=least, max_samples=least + extra, max_seconds=seconds)
    samples = sample(machine.run, rule, machine.clock)
    assert least <= samples.n <= least + extra
    expected = [durations[(rule.warmup + i) % len(durations)] for i in range(samples.n)]
    assert np.round(samples.seconds * 1e9).astype(int).tolist() == expected
    if samples.ended_by == "count":
        assert samples.n == least + extra
    elif samples.ended_by == "time":
        assert samples.seconds.sum() >= seconds * (1 - 1e-9)
    else:
        assert samples.p10_error <= error


# ---- statistics


def test_statistics_derive_from_the_samples() -> None:
    """Quantiles are those of the raw durations, in s."""
    samples = Samples(np.arange(1, 102) / 1e3)
    assert samples.n == 101
    assert samples.p10_s == pytest.approx(0.011)
    assert samples.median_s == pytest.approx(0.051)
    assert samples.p90_s == pytest.approx(0.091)
    assert samples.p99_s == pytest.approx(0.1)
    assert samples.spread == pytest.approx(0.091 / 0.011)


@pytest.mark.parametrize(("p90", "grade"), [(1.0, "A"), (1.09, "A"), (1.11, "B"), (1.29, "B"), (1.31, "C")])
def test_grades(p90: float, grade: str) -> None:
    """The grade falls as the machine disturbs: a spread under 1.1, under 1.3, above."""
    assert Samples(np.array([1.0] * 50 + [p90] * 50)).grade == grade


@pytest.mark.parametrize("n", [40, 200])
def test_the_error_of_p10_is_its_standard_error(n: int) -> None:
    """Over many repetitions the stated error agrees with how far p10 scatters: the same within a factor of 1.3."""
    rng = np.random.default_rng(3)
    runs = rng.lognormal(0.0, 0.2, (2000, n))
    scatter = np.quantile(runs, 0.1, axis=1).std() / np.quantile(runs, 0.1)
    stated = np.median([quantile_error(run, 0.1) for run in runs])
    assert scatter / 1.3 < stated < scatter * 1.3


def test_the_error_of_few_samples_is_defined() -> None:
    """Even two samples have an error, and it is not 0 when they differ."""
    assert quantile_error(np.array([1.0, 2.0]), 0.1) > 0
    assert quantile_error(np.array([1.0, 1.0]), 0.1) == 0


# ---- comparing


def test_interleaving_takes_turns() -> None:
    """A B A B ...: every round runs each thing once, in the order given, after all have warmed up."""
    order: list[str] = []
    machine = Machine([1000])

    def work(name: str):
        def run() -> None:
            order.append(name)
            machine.run()

        return run

    samples = interleave({"a": work("a"), "b": work("b")}, rounds=4, warmup=2, clock=machine.clock)
    assert order == ["a", "a", "b", "b", *["a", "b"] * 4]
    assert {name: value.n for name, value in samples.items()} == {"a": 4, "b": 4}


def test_a_disturbance_cancels_out_of_the_ratio() -> None:
    """When the machine slows down by a half in the middle, side-by-side samples still give the true ratio."""
    machine = Machine([1])
    speed = iter([1.0] * 30 + [1.5] * 30)
    now = [0.0]

    def run_a() -> None:
        now[0] = next(speed)
        machine.now += int(2000 * now[0])

    def run_b() -> None:
        machine.now += int(1000 * now[0])

    samples = interleave({"a": run_a, "b": run_b}, rounds=60, warmup=0, clock=machine.clock)
    found = ratio(samples["a"], samples["b"])
    assert (found.low, found.median, found.high) == (2.0, 2.0, 2.0)


def test_the_interval_of_a_ratio_covers() -> None:
    """The 95 % interval holds the true median ratio in about 95 % of comparisons, and narrows as rounds are added."""
    rng = np.random.default_rng(11)
    inside, widths = 0, {}
    for n in (30, 300):
        found = []
        for _ in range(400):
            a, b = rng.lognormal(0.0, 0.1, n) * 1.2, rng.lognormal(0.0, 0.1, n)
            found.append(ratio(Samples(a), Samples(b)))
        widths[n] = np.mean([r.high - r.low for r in found])
        inside = np.mean([r.low <= 1.2 <= r.high for r in found])
        assert 0.92 <= inside <= 1.0
        assert all(r.low <= r.median <= r.high for r in found)
    assert widths[300] < widths[30] / 2.5


def test_a_ratio_needs_pairs() -> None:
    """Samples that were not taken side by side are refused."""
    with pytest.raises(ValueError, match="in pairs, got 3 and 4"):
        ratio(Samples(np.ones(3)), Samples(np.ones(4)))


def test_a_ratio_of_few_rounds_spans_them_all() -> None:
    """With too few rounds for 95 % the interval is everything that was seen."""
    found = ratio(Samples(np.array([1.0, 2.0, 3.0])), Samples(np.ones(3)))
    assert (found.low, found.median, found.high) == (1.0, 2.0, 3.0)
