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
from math import ceil

import numpy as np
from numpy.typing import NDArray

from hwnas.ir import Graph
from hwnas.ir.node import Array
from hwnas.runtimes.base import KernelTime, Runtime, Session
from hwnas.runtimes.samples import LOW_QUANTILE, Samples, StoppingRule

VISIT_S = 0.03  # time of one visit
FEWEST, MOST = 3, 40  # runs of one visit
WARMUP = 2  # runs at the start of a visit, for the caches
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


def slowdowns(canaries: Mapping[int, Sequence[Floats]]) -> dict[int, float]:
    """How many times slower than undisturbed each round was.

    Args:
        canaries: for each round the durations of every canary in it, in the same order.

    Returns:
        The geometric mean over canaries of (p10 in the round / the canary's best), by round; the best is a low quantile over all rounds.
    """
    if not canaries:
        return {}
    table = np.log([[np.quantile(seconds, LOW_QUANTILE) for seconds in row] for row in canaries.values()])
    best = np.quantile(table, UNDISTURBED, axis=0)
    return dict(zip(canaries, np.exp((table - best).mean(axis=1)).tolist(), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
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
    def of(cls, visits: Iterable[Visit], slow: Mapping[int, float]) -> Pooled:
        """From visits and the slowdown of every round; 1 for rounds without canaries."""
        visits = list(visits)
        seconds = np.concatenate([visit.seconds for visit in visits])
        rounds = np.repeat([visit.round for visit in visits], [len(visit.seconds) for visit in visits])
        slowdown = np.array([slow.get(int(number), 1.0) for number in rounds])
        return cls(samples=Samples(seconds), rounds=rounds, slowdown=slowdown)

    @property
    def latency_s(self) -> float:
        """p10 in s, each sample divided by the slowdown of its round."""
        return float(np.quantile(self.samples.seconds / self.slowdown, LOW_QUANTILE))


def measure_together(
    runtime: Runtime,
    graphs: Sequence[Graph],
    canaries: Sequence[Graph],
    *,
    rounds: int,
    wave: int = 20,
    known: Mapping[int, Sequence[Floats]] | None = None,
) -> list[Pooled]:
    """Measures networks in waves beside canaries; for checks of a predictor, where a profile is not wanted.

    Args:
        runtime: that builds and times.
        graphs: to measure.
        canaries: fixed networks of the same kind.
        rounds: visits of every network.
        wave: networks that are visited in turn.
        known: earlier rounds of the same canaries, such as those of a profile: all together tell what undisturbed is.
    """
    watch = [Stage.build(runtime, graph, precision="fp32", seed=i) for i, graph in enumerate(canaries)]
    visits: dict[int, list[Visit]] = {i: [] for i in range(len(graphs))}
    seen: dict[int, Sequence[Floats]] = dict(known or {})
    for start in range(0, len(graphs), wave):
        stages = {i: Stage.build(runtime, graphs[i], precision="fp32", seed=i) for i in range(start, min(start + wave, len(graphs)))}
        for _ in range(rounds):
            number = max(seen, default=-1) + 1
            seen[number] = [stage.visit() for stage in watch]
            for i, stage in stages.items():
                visits[i].append(Visit(network=i, round=number, seconds=stage.visit()))
    slow = slowdowns(seen)
    return [Pooled.of(visits[i], slow) for i in range(len(graphs))]
