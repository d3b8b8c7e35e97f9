"""Timing: when to stop sampling, what to keep, how to compare (the rules are those of docs/measuring.md)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Clock = Callable[[], int]
EndedBy = Literal["settled", "time", "count"]
Grade = Literal["A", "B", "C"]

LOW_QUANTILE = 0.1  # what the device does undisturbed; the statistic that predictors learn


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppingRule:
    """When enough samples were taken.

    Attributes:
        relative_error: target for the standard error of p10, relative to p10.
        min_samples: never fewer.
        max_seconds: accumulated time after which sampling ends, once `min_samples` are there.
        max_samples: never more.
        warmup: runs before the first sample.
    """

    relative_error: float = 0.01
    min_samples: int = 10
    max_seconds: float = 2.0
    max_samples: int = 100_000
    warmup: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.relative_error < 1 or self.min_samples < 2 or self.max_seconds <= 0 or self.max_samples < self.min_samples:
            raise ValueError(f"a stopping rule needs 0 < relative_error < 1, 2 <= min_samples <= max_samples, max_seconds > 0; got {self}")


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Raw durations of repeated runs; every statistic derives from them.

    Attributes:
        seconds: one duration per run, in the order taken, in s.
        ended_by: `settled` (p10 known to the target), `time` or `count`.
    """

    seconds: NDArray[np.float64]
    ended_by: EndedBy = "count"

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.seconds)

    def quantile_s(self, q: float) -> float:
        """The q-quantile, in s."""
        return float(np.quantile(self.seconds, q))

    @property
    def p10_s(self) -> float:
        """10th percentile in s."""
        return self.quantile_s(LOW_QUANTILE)

    @property
    def median_s(self) -> float:
        """Median in s."""
        return self.quantile_s(0.5)

    @property
    def p90_s(self) -> float:
        """90th percentile in s."""
        return self.quantile_s(0.9)

    @property
    def p99_s(self) -> float:
        """99th percentile in s."""
        return self.quantile_s(0.99)

    @property
    def p10_error(self) -> float:
        """Relative standard error of p10, from the binomial spread of its order statistic."""
        return quantile_error(self.seconds, LOW_QUANTILE)

    @property
    def spread(self) -> float:
        """p90 / p10: 1 on an undisturbed machine."""
        return self.p90_s / self.p10_s

    @property
    def grade(self) -> Grade:
        """How undisturbed the samples were: A (spread under 1.1), B (under 1.3), C."""
        return "A" if self.spread < 1.1 else "B" if self.spread < 1.3 else "C"


def faster_half_s(durations: Sequence[float]) -> float:
    """Mean of the faster half of some durations in s: what a kernel takes undisturbed, finer than a profiler's ticks.

    >>> faster_half_s([4.0, 1.0, 9.0, 2.0])
    1.5
    """
    return float(np.mean(sorted(durations)[: max(1, len(durations) // 2)]))


def quantile_error(seconds: NDArray[np.float64], q: float) -> float:
    """Relative standard error of a quantile, without assuming a distribution.

    The number of samples below the true quantile is binomial (n, q); one standard deviation of it to either side in the
    sorted samples brackets the quantile's own standard error (David & Nagaraja, Order Statistics, 2003, section 7.1).
    """
    ordered = np.sort(seconds)
    n = len(ordered)
    spread = sqrt(n * q * (1 - q))
    low = ordered[max(0, floor(n * q - spread))]
    high = ordered[min(n - 1, ceil(n * q + spread))]
    return float((high - low) / 2 / ordered[min(n - 1, int(n * q))])


def sample(run: Callable[[], object], rule: StoppingRule, clock: Clock = time.perf_counter_ns) -> Samples:
    """Runs until p10 has settled, the time is up, or enough samples are there.

    Args:
        run: one unit of work; whatever it returns is dropped.
        rule: when to stop.
        clock: nanoseconds, monotonic.
    """
    for _ in range(rule.warmup):
        run()
    taken: list[int] = []
    check = rule.min_samples
    limit_ns = rule.max_seconds * 1e9
    start = clock()
    while True:
        before = clock()
        run()
        after = clock()
        taken.append(after - before)
        n = len(taken)
        if n < rule.min_samples:
            continue
        if n >= rule.max_samples:
            return Samples(np.array(taken) / 1e9, "count")
        if after - start >= limit_ns:
            return Samples(np.array(taken) / 1e9, "time")
        if n >= check:
            if quantile_error(np.array(taken) / 1e9, LOW_QUANTILE) <= rule.relative_error:
                return Samples(np.array(taken) / 1e9, "settled")
            check = ceil(n * 1.25)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How many times one thing takes the time of another: the median over interleaved pairs and its 95 % interval."""

    median: float
    low: float
    high: float


def interleave(
    runs: Mapping[str, Callable[[], object]], *, rounds: int = 30, warmup: int = 3, clock: Clock = time.perf_counter_ns
) -> dict[str, Samples]:
    """Samples several things A B C A B C ..., so that whatever disturbs the machine disturbs them alike.

    Returns:
        For each name its samples; the i-th samples of all names were taken side by side.
    """
    for run in runs.values():
        for _ in range(warmup):
            run()
    taken: dict[str, list[int]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            before = clock()
            run()
            taken[name].append(clock() - before)
    return {name: Samples(np.array(values) / 1e9) for name, values in taken.items()}


def ratio(a: Samples, b: Samples) -> Ratio:
    """The time of a over the time of b, from samples taken side by side by `interleave`.

    The interval is that of the median's order statistics (binomial, 95 %).
    """
    if a.n != b.n:
        raise ValueError(f"a ratio needs samples taken in pairs, got {a.n} and {b.n}")
    pairs = np.sort(a.seconds / b.seconds)
    half = 1.96 * sqrt(len(pairs)) / 2
    middle = (len(pairs) - 1) / 2
    low, high = max(0, floor(middle - half)), min(len(pairs) - 1, ceil(middle + half))
    return Ratio(median=float(np.median(pairs)), low=float(pairs[low]), high=float(pairs[high]))
