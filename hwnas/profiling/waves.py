"""Measuring many networks against a machine that changes its mind.

On a shared machine everything slows down by up to 10 % for seconds at a time (neighbours use the last-level cache and the memory), and a
network that is measured in one go gets whatever moment it meets. Two things help, each measured (docs/measuring.md):

- **Rounds.** Networks are visited briefly, each in several rounds that lie apart, so that every network sees many moments.
- **Canaries.** A few fixed networks are visited in every round, spread over it. They tie the rounds together: what a round did to all that
  ran in it, canaries and networks alike, is separated from what each of them takes by a robust two-way fit, and taken off. Raw samples and
  rounds are kept, so that this can be judged anew.

A machine may also be in another state for a while, as if its processors shared a core, or a neighbour computed on the other half of one.
All takes 1.2 to 1.8 times as long then, and not all alike, so no factor puts that right. What was visited in such rounds does not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hwnas.ir import Graph
from hwnas.ir.node import Array
from hwnas.profiling.slowdowns import SESSIONS, UNDISTURBED, Floats, Rounds, Slowdowns, low
from hwnas.runtimes.base import KernelTime, Model, Runtime, Session
from hwnas.runtimes.samples import Samples, StoppingRule

VISIT_S = 0.006  # time of one visit: 4 ms tell as much as 30, for what disturbs a machine lasts longer (ADR 0013)
PROFILED_S = 0.15  # time of the runs with the runtime's profiler on
FEWEST_PROFILED = 3  # of them: the first takes up to twice as long, and half of them are left out
FEWEST, MOST = 2, 20  # runs of one visit
WARM_S = 0.008  # at the start of a visit: a network that comes back is slower at first, by up to a sixth
COLDEST = 40  # runs after which none is slower any more, however short they are
OTHER_STATE = 1.2  # a round so many times slower than undisturbed is one of another machine
PATIENCE = 2  # times as many rounds as planned at most, where the machine is in another state again and again
ENOUGH = 2  # visits of the machine as it usually is; where a network has fewer, all its visits count
DEAR_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Visit:
    """Some runs of one network in one round; `seconds` are their durations."""

    network: int
    round: int
    seconds: Floats


@runtime_checkable
class Repeats(Protocol):
    """A session that can do many runs without waiting for each: what a meter of energy wants to see."""

    def repeat(self, feed: Mapping[str, Array]) -> Callable[[int], None]:
        """Does so many runs, and returns when the device has finished the last one."""
        ...


class Stage:
    """A network that is built and ready to be visited."""

    def __init__(self, session: Session, feed: Mapping[str, Array]) -> None:
        self.session = session
        self._feed = feed

    @classmethod
    def build(cls, runtime: Runtime, model: Model, *, precision: str, seed: int) -> Stage:
        """Builds a network and draws its inputs."""
        session = runtime.build(model, precision=precision)
        graph = model if isinstance(model, Graph) else session.graph
        return cls(session, graph.random_inputs(np.random.default_rng(seed)))

    @cached_property
    def _once_s(self) -> float:
        """Roughly what a run takes: every visit has as many runs as the first, since p10 of fewer is another figure."""
        return float(self.session.time(self._feed, StoppingRule(min_samples=2, max_samples=2, warmup=0)).seconds.min())

    def paced_like(self, other: Stage) -> None:
        """Visits will have as many runs as those of another session of the same network, which need not be found out again."""
        self._once_s = other._once_s

    def visit(self) -> Floats:
        """Durations in s of a few runs, about `VISIT_S` in all; those before them, for caches and predictors, do not count."""
        runs = int(np.clip(ceil(VISIT_S / self._once_s), FEWEST, MOST))
        warmup = int(np.clip(ceil(WARM_S / self._once_s), 1, COLDEST))
        return self.session.time(self._feed, StoppingRule(min_samples=runs, max_samples=runs, warmup=warmup)).seconds

    @cached_property
    def work(self) -> Callable[[int], None]:
        """So many runs in a row, for a meter of energy; the device has finished them when it returns."""
        return self.session.repeat(self._feed) if isinstance(self.session, Repeats) else self._one_by_one

    def _one_by_one(self, runs: int) -> None:
        if runs == 1:
            self.session.run(self._feed)  # a rule for samples wants two
        else:
            self.session.time(self._feed, StoppingRule(min_samples=runs, max_samples=runs, warmup=0))

    def kernel_times(self, runs: int) -> Sequence[KernelTime]:
        """As `Session.kernel_times`, with fewer runs where they would take longer than `PROFILED_S`."""
        return self.session.kernel_times(self._feed, int(np.clip(ceil(PROFILED_S / self._once_s), min(FEWEST_PROFILED, runs), runs)))


def by_round(seconds: Floats, rounds: NDArray[np.int64]) -> dict[int, Floats]:
    """The durations of each round."""
    return {int(number): seconds[rounds == number] for number in np.unique(rounds)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Pooled:
    """All visits of a network.

    Attributes:
        samples: raw durations.
        rounds: the round of each sample.
        slowdown: of that round; 1 where it was undisturbed.
    """

    samples: Samples
    rounds: NDArray[np.int64]
    slowdown: Floats

    @classmethod
    def of(cls, visits: Iterable[Visit], slow: Slowdowns) -> Pooled:
        """From visits and how disturbed every round was."""
        visits = list(visits)
        seconds = np.concatenate([visit.seconds for visit in visits])
        rounds = np.repeat([visit.round for visit in visits], [len(visit.seconds) for visit in visits])
        return cls.from_samples(seconds, rounds, slow)

    @classmethod
    def from_samples(cls, seconds: Floats, rounds: NDArray[np.int64], slow: Slowdowns) -> Pooled:
        """From durations in s and the round of each."""
        own = by_round(seconds, rounds)
        typical = float(np.median([low(visit) for visit in own.values()]))
        factor = {number: slow.factor(number, typical) for number in own}
        slowdown = np.array([factor[int(number)] for number in rounds])
        return cls(samples=Samples(seconds), rounds=rounds, slowdown=slowdown)

    @cached_property
    def latency_s(self) -> float:
        """p10 in s on the undisturbed machine: the median over the visits, each p10 divided by its round's slowdown.

        Visits of rounds in which the machine was in another state do not count where there are enough others; nor do visits that took
        so much longer than the quickest, for such a state may begin and end within a round. What is left over otherwise differs from visit
        to visit as if drawn, so every visit counts, but none much; a low quantile would pick the rounds that were corrected too much.
        """
        return float(np.median(self._counting))

    @property
    def scatter(self) -> float:
        """Standard deviation of the logarithm of what counts of the visits: what the rounds leave unexplained; nan of a single visit."""
        return float(np.std(np.log(self._counting), ddof=1)) if len(self._counting) > 1 else float("nan")

    @cached_property
    def _counting(self) -> Floats:
        slowdown, visits = [], []
        for number in np.unique(self.rounds):
            here = self.rounds == number
            slowdown.append(float(self.slowdown[here][0]))
            visits.append(low(self.samples.seconds[here]) / slowdown[-1])
        counting = _enough(np.array(visits), np.array(slowdown) < OTHER_STATE)
        return _enough(counting, counting < OTHER_STATE * counting.min())


def _enough(visits: Floats, usual: NDArray[np.bool_]) -> Floats:
    """The visits of the machine as it usually is, where there are enough of them; else all."""
    return visits[usual] if usual.sum() >= ENOUGH else visits


class Watch:
    """The canaries of a measurement, in several sessions each.

    Args:
        runtime: that builds them.
        canaries: fixed networks.
        precision: of the arithmetic.
        sessions: of each; one where building another set takes longer than `DEAR_S`.
    """

    def __init__(self, runtime: Runtime, canaries: Sequence[Graph], *, precision: str, sessions: int = SESSIONS) -> None:
        self._sessions: list[list[Stage]] = []
        while len(self._sessions) < sessions:
            began = time.perf_counter()
            built = [Stage.build(runtime, graph, precision=precision, seed=i) for i, graph in enumerate(canaries)]
            for stage, first in zip(built, self._sessions[0] if self._sessions else (), strict=False):
                stage.paced_like(first)
            self._sessions.append(built)
            if time.perf_counter() - began > DEAR_S:
                break
        self._log_s: dict[int, Floats] = {}

    def of(self, number: int) -> Sequence[Stage]:
        """The canaries of a round."""
        return self._sessions[number % len(self._sessions)]

    def other_state(self, rounds: Rounds, reference: Slowdowns | None = None) -> frozenset[int]:
        """The rounds in which the machine was in another state, as far as the canaries tell by now; a reference says what is usual."""
        for number, row in rounds.items():
            if number not in self._log_s:
                self._log_s[number] = np.log([low(seconds) for seconds in row])
        if not rounds:
            return frozenset()
        table = np.array([self._log_s[number] for number in rounds])
        usual = np.quantile(table, UNDISTURBED, axis=0) if reference is None else reference.level
        factor = np.median(table - usual, axis=1)
        return frozenset(number for number, log in zip(rounds, factor, strict=True) if log > np.log(OTHER_STATE))


Attend = Callable[[int, Callable[[], Floats]], Floats]
"""Makes a visit to a network of this number (canaries are -1, -2, ...): at once, or when the device is fit for it."""


def at_once(_: int, visit: Callable[[], Floats]) -> Floats:
    """For devices that are always as fit as they say."""
    return visit()


def visit_together(
    watch: Sequence[Stage], stages: Mapping[int, Stage], took: Callable[[int, Floats], None], attend: Attend = at_once
) -> list[Floats]:
    """One round: visits every network, with the canaries spread between them so that both see the same moments.

    Args:
        watch: the canaries.
        stages: the networks, by number.
        took: called with a network's number and its durations as soon as they are known.
        attend: makes every visit.

    Returns:
        The durations of every canary.
    """
    canaries: list[Floats] = []
    for i, (number, stage) in enumerate(stages.items()):
        while len(canaries) * len(stages) <= i * len(watch) and len(canaries) < len(watch):
            canaries.append(attend(-1 - len(canaries), watch[len(canaries)].visit))
        took(number, attend(number, stage.visit))
    return canaries + [attend(-1 - i, watch[i].visit) for i in range(len(canaries), len(watch))]


class Together(NamedTuple):
    """Networks measured in waves beside canaries: raw, and how disturbed the rounds were."""

    networks: list[Pooled]
    slowdowns: Slowdowns
    canaries: Rounds


class Visiting:
    """Networks that are visited beside canaries, round by round; for checks of a predictor, where a profile is not wanted.

    Args:
        runtime: that builds and times.
        graphs: networks to measure.
        canaries: fixed networks of the same kind.
        precision: of the arithmetic.
        reference: says what undisturbed is for the same canaries, where that is known already.
    """

    def __init__(
        self,
        runtime: Runtime,
        graphs: Sequence[Model],
        canaries: Sequence[Graph],
        *,
        precision: str = "fp32",
        reference: Slowdowns | None = None,
    ) -> None:
        self._runtime, self._graphs, self._precision, self._reference = runtime, graphs, precision, reference
        self._watch = Watch(runtime, canaries, precision=precision)
        self._visits: list[dict[int, Floats]] = [{} for _ in graphs]
        self._stages: dict[int, Stage] = {}
        self._seen: dict[int, Sequence[Floats]] = {}

    @property
    def rounds(self) -> int:
        """Rounds so far."""
        return len(self._seen)

    def open(self, networks: Iterable[int]) -> None:
        """Builds some of the networks, by number, each in a new session; the rounds that follow visit those and no others."""
        self._stages = {}  # before others are built, so that no two sets are held at once
        self._stages = {i: Stage.build(self._runtime, self._graphs[i], precision=self._precision, seed=i) for i in networks}

    def visit(self) -> None:
        """One round."""
        number = self.rounds

        def took(i: int, seconds: Floats) -> None:
            self._visits[i][number] = seconds

        self._seen[number] = visit_together(self._watch.of(number), self._stages, took)

    def usual(self, since: int = 0) -> int:
        """Rounds from this one on in which the machine was not in another state, as far as the canaries tell by now."""
        other = self._watch.other_state(self._seen, self._reference)
        return sum(number not in other for number in range(since, self.rounds))

    def together(self, reference: Slowdowns | None = None) -> Together:
        """What was measured, told by this reference where there is one, else by that from the beginning."""
        slow = Slowdowns.of(self._seen, self._visits, reference or self._reference)
        visits = ([Visit(network=i, round=n, seconds=seconds) for n, seconds in row.items()] for i, row in enumerate(self._visits))
        return Together([Pooled.of(row, slow) for row in visits], slow, self._seen)


def measure_together(
    runtime: Runtime,
    graphs: Sequence[Model],
    canaries: Sequence[Graph],
    *,
    rounds: int,
    wave: int = 20,
    reference: Slowdowns | None = None,
    precision: str = "fp32",
) -> Together:
    """Measures networks in waves beside canaries.

    Args:
        runtime: that builds and times.
        graphs: networks to measure.
        canaries: fixed networks of the same kind.
        rounds: visits of every network; up to twice as many where the machine is in another state meanwhile.
        wave: networks that are visited in turn.
        reference: says what undisturbed is for the same canaries, such as that of the profile that is to be checked.
        precision: of the arithmetic.
    """
    visiting = Visiting(runtime, graphs, canaries, precision=precision, reference=reference)
    for start in range(0, len(graphs), wave):
        visiting.open(range(start, min(start + wave, len(graphs))))
        first = visiting.rounds
        while visiting.rounds < first + PATIENCE * rounds and visiting.usual(first) < rounds:
            visiting.visit()
    return visiting.together()
