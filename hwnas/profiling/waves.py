"""Measuring many networks against a machine that changes its mind.

On a shared machine everything slows down by up to 10 % for seconds at a time (neighbours use the last-level cache and the memory), and a
network that is measured in one go gets whatever moment it meets. Two things help, each measured (docs/measuring.md):

- **Waves.** Networks are measured in groups: each is visited briefly, round after round, so that every network sees many moments.
- **Canaries.** A few fixed networks are visited in every round. How much slower than at their best they run tells how disturbed the
  round was, and the samples of the round are divided by it. Raw samples and rounds are kept, so that this can be judged anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil

import numpy as np
from numpy.typing import NDArray

from hwnas.ir import Graph
from hwnas.ir.node import Array
from hwnas.runtimes.base import KernelTime, Runtime, Session
from hwnas.runtimes.samples import LOW_QUANTILE, Samples, StoppingRule

VISIT_S = 0.03  # time of one visit
FEWEST, MOST = 3, 40  # runs of one visit
WARMUP = 1  # runs at the start of a visit, for the caches
UNDISTURBED = 0.1  # quantile of a canary's rounds that counts as its best

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Visit:
    """Some runs of one network in one round; `seconds` are their durations."""

    network: int
    round: int
    seconds: Floats


class Stage:
    """A network that is built and ready to be visited."""

    def __init__(self, session: Session, feed: Mapping[str, Array]) -> None:
        self.session = session
        self._feed = feed
        self._runs = FEWEST

    @classmethod
    def build(cls, runtime: Runtime, graph: Graph, *, precision: str, seed: int) -> Stage:
        """Builds a network and draws its inputs."""
        return cls(runtime.build(graph, precision=precision), graph.random_inputs(np.random.default_rng(seed)))

    def visit(self) -> Floats:
        """Durations in s of a few runs, about `VISIT_S` in all."""
        rule = StoppingRule(min_samples=self._runs, max_samples=self._runs, warmup=WARMUP)
        seconds = self.session.time(self._feed, rule).seconds
        self._runs = int(np.clip(ceil(VISIT_S / float(np.median(seconds))), FEWEST, MOST))
        return seconds

    def kernel_times(self, runs: int) -> Sequence[KernelTime]:
        """As `Session.kernel_times`."""
        return self.session.kernel_times(self._feed, runs)


def _log_p10(canaries: Mapping[int, Sequence[Floats]]) -> Floats:
    return np.log([[np.quantile(seconds, LOW_QUANTILE) for seconds in row] for row in canaries.values()])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slowdowns:
    """How disturbed each round was, by canaries of several sizes.

    Attributes:
        log_best: log of each canary's latency in s at its best, ascending.
        log_ratio: by round, log of (p10 in the round / its best) of each canary, in the same order.
    """

    log_best: Floats
    log_ratio: Mapping[int, Floats]

    @classmethod
    def of(cls, canaries: Mapping[int, Sequence[Floats]], reference: Mapping[int, Sequence[Floats]] | None = None) -> Slowdowns:
        """From the durations of every canary in each round; a canary's best is a low quantile over all rounds.

        Args:
            canaries: by round, the durations of every canary in s.
            reference: rounds of the same canaries that say what undisturbed is, such as those of a profile; by default the same rounds.
        """
        if not canaries:
            return cls(log_best=np.zeros(1), log_ratio={})
        table = _log_p10(canaries)
        best = np.quantile(_log_p10(reference) if reference else table, UNDISTURBED, axis=0)
        order = np.argsort(best)
        return cls(log_best=best[order], log_ratio=dict(zip(canaries, (table - best)[:, order], strict=True)))

    def factor(self, number: int, latency_s: float) -> float:
        """How many times slower than undisturbed a network of about this latency ran in a round; 1 for a round without canaries.

        Large networks suffer more than small ones, so the canaries of the nearest sizes count.
        """
        ratios = self.log_ratio.get(number)
        return 1.0 if ratios is None else float(np.exp(np.interp(np.log(latency_s), self.log_best, ratios)))


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
        samples = Samples(seconds)
        factors = {int(number): slow.factor(int(number), samples.p10_s) for number in np.unique(rounds)}
        return cls(samples=samples, rounds=rounds, slowdown=np.array([factors[int(number)] for number in rounds]))

    @cached_property
    def latency_s(self) -> float:
        """p10 in s on the undisturbed machine: the median of the calmer half of the visits, each p10 divided by its round's slowdown.

        A low quantile over all corrected samples would pick the rounds that were corrected too much.
        """
        visits = []
        for number in np.unique(self.rounds):
            here = self.rounds == number
            slow = float(self.slowdown[here][0])
            visits.append((slow, float(np.quantile(self.samples.seconds[here], LOW_QUANTILE)) / slow))
        calm = sorted(visits)[: len(visits) // 2 + 1]
        return float(np.median([latency for _, latency in calm]))


def measure_together(
    runtime: Runtime,
    graphs: Sequence[Graph],
    canaries: Sequence[Graph],
    *,
    rounds: int,
    wave: int = 20,
    reference: Mapping[int, Sequence[Floats]] | None = None,
) -> list[Pooled]:
    """Measures networks in waves beside canaries; for checks of a predictor, where a profile is not wanted.

    Args:
        runtime: that builds and times.
        graphs: to measure.
        canaries: fixed networks of the same kind.
        rounds: visits of every network.
        wave: networks that are visited in turn.
        reference: rounds of the same canaries that say what undisturbed is, such as those of the profile that is to be checked.
    """
    watch = [Stage.build(runtime, graph, precision="fp32", seed=i) for i, graph in enumerate(canaries)]
    visits: dict[int, list[Visit]] = {i: [] for i in range(len(graphs))}
    seen: dict[int, Sequence[Floats]] = {}
    for start in range(0, len(graphs), wave):
        stages = {i: Stage.build(runtime, graphs[i], precision="fp32", seed=i) for i in range(start, min(start + wave, len(graphs)))}
        for _ in range(rounds):
            number = len(seen)
            seen[number] = [stage.visit() for stage in watch]
            for i, stage in stages.items():
                visits[i].append(Visit(network=i, round=number, seconds=stage.visit()))
    slow = Slowdowns.of(seen, reference)
    return [Pooled.of(visits[i], slow) for i in range(len(graphs))]
