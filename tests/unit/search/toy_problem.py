"""A search problem small enough to enumerate: 7 genes of 4 choices, two of them without effect half of the time.

Latency and accuracy conflict, interact across genes and carry a rough part that is fixed for each network, so that the true front is
neither known by construction nor a straight line.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from hwnas.search.archive import Archive
from hwnas.search.evaluator import Bounded, Evaluation
from hwnas.search.front import nondominated
from hwnas.search.problem import Budget, Constraint, Objective, Problem
from hwnas.spaces.base import Gene, Genotype, SearchSpace

CHOICES = (0, 1, 2, 3)


class ToySpace(SearchSpace):
    """Genes `e` and `f` have an effect only while `d` is 2 or 3."""

    name = "toy"
    genes = (
        *(Gene(name, CHOICES) for name in "abcd"),
        Gene("e", CHOICES, when=("d", (2, 3))),
        Gene("f", CHOICES, when=("d", (2, 3))),
        Gene("g", CHOICES),
    )

    def graph(self, genotype, *, batch=1):
        raise NotImplementedError("the toy has no networks behind its genotypes")


SPACE = ToySpace()
REFERENCE_POINT = (0.02, 0.0)  # s, -accuracy


def table(rows) -> tuple[np.ndarray, np.ndarray]:
    """Latency in s and accuracy of canonical genotypes [n, 7]."""
    x = np.asarray(rows, np.int64)
    mixed = ((x + 1) * np.array([129, 782, 377, 939, 515, 234, 671])).sum(axis=1) * 2654435761
    rough = mixed % 2**32 / 2**32
    # Sums along rows, not matrix products: a network's values do not depend on what it is looked up with, to the last bit.
    latency = 1e-3 * (1 + (x * np.array([1.0, 0.6, 1.4, 0.5, 0.4, 0.3, 0.8])).sum(axis=1) + 0.15 * x[:, 0] * x[:, 2] + 0.4 * rough)
    capacity = (np.sqrt(x) * np.array([0.5, 0.9, 0.6, 0.8, 0.3, 0.5, 0.4])).sum(axis=1)
    capacity = capacity + 0.2 * (x[:, 1] == x[:, 3]) + 0.3 * (x[:, 6] == 1) + 0.3 * rough
    return latency, 1 - np.exp(-0.35 * capacity)


@lru_cache(maxsize=1)
def everything() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All distinct networks, their latencies and their accuracies."""
    rows = np.unique(SPACE.canonical_batch(np.array(list(itertools.product(range(4), repeat=7)))), axis=0)
    return (rows, *table(rows))


def true_front(limit_s: float = 1.0) -> np.ndarray:
    """The objectives of the true front under a latency limit, [n, 2]: latency, -accuracy."""
    _, latency, accuracy = everything()
    points = np.stack([latency, -accuracy], axis=1)[latency <= limit_s]
    return points[nondominated(points)]


class TableEvaluator:
    """Looks networks up; keeps count of what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Genotype] = []

    def evaluate(self, genotypes: Sequence[Genotype]) -> list[Evaluation]:
        self.asked.extend(genotypes)
        latency, accuracy = table(genotypes)
        return [
            Evaluation(
                genotype=genotype,
                metrics={"latency": Bounded(t, 0.95 * t, 1.05 * t), "accuracy": Bounded.exact(a)},
                source={"latency": "predicted", "accuracy": "trained"},
            )
            for genotype, t, a in zip(genotypes, latency.tolist(), accuracy.tolist(), strict=True)
        ]

    def refine(self, archive: Archive) -> bool:
        return False


class LearningEvaluator(TableEvaluator):
    """Estimates accuracies too high, less so with every training, and knows what it trained: two of the front every second generation.

    Training goes through the archive's memo; `computed` lists what was really trained.
    """

    def __init__(self, problem: Problem, archive: Archive) -> None:
        super().__init__()
        self.problem, self.archive = problem, archive
        self.trained: dict[Genotype, float] = {}
        self.computed: list[Genotype] = []
        self.refinements = 0

    def evaluate(self, genotypes: Sequence[Genotype]) -> list[Evaluation]:
        return [
            Evaluation(
                genotype=evaluation.genotype,
                metrics={**evaluation.metrics, "accuracy": Bounded.exact(self._estimate(evaluation))},
                source=evaluation.source,
            )
            for evaluation in super().evaluate(genotypes)
        ]

    def _estimate(self, evaluation: Evaluation) -> float:
        if evaluation.genotype in self.trained:
            return self.trained[evaluation.genotype]
        proxy = self.archive.remember("proxies", evaluation.genotype, "synflow", lambda: float(np.sin(sum(evaluation.genotype))))
        return evaluation.metrics["accuracy"].value * (1 + 0.05 / (1 + len(self.trained)) * (1 + proxy))

    def refine(self, archive: Archive) -> bool:
        self.refinements += 1
        if self.refinements % 2:
            return False
        untrained = [e.genotype for e in archive.front(self.problem) if e.genotype not in self.trained]
        for genotype in untrained[:2]:
            self.trained[genotype] = self.archive.remember("training", genotype, "recipe/0", lambda g=genotype: self.train(g))
        return bool(untrained)

    def train(self, genotype: Genotype) -> float:
        self.computed.append(genotype)
        return float(table([genotype])[1][0])


class Cut(LearningEvaluator):
    """Is interrupted, as by Ctrl-C, at the n-th thing it does: around evaluations, in the middle of a batch, around trainings."""

    def __init__(self, asked, archive, at: int) -> None:
        super().__init__(asked, archive)
        self.left = at

    def tick(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

    def evaluate(self, genotypes):
        self.tick()
        found = super().evaluate(genotypes)
        self.tick()
        return found

    def _estimate(self, evaluation):
        self.tick()
        return super()._estimate(evaluation)

    def train(self, genotype):
        self.tick()
        found = super().train(genotype)
        self.tick()
        return found

    def refine(self, archive):
        changed = super().refine(archive)
        self.tick()
        return changed


def problem(*, evaluations: int | None = 200, seconds: float | None = None, seed: int = 0, limits: Sequence[str] = ()) -> Problem:
    """The toy problem: latency against accuracy."""
    return Problem(
        space=SPACE,
        objectives=Objective.parse(minimize=["latency"], maximize=["accuracy"]),
        constraints=tuple(Constraint.parse(limit) for limit in limits),
        budget=Budget(evaluations=evaluations, seconds=seconds),
        seed=seed,
    )


def content(archive: Archive) -> list[tuple]:
    """Everything that a run decided, without when."""
    trials = [(t.id, t.generation, t.epoch, t.evaluation) for t in archive.trials()]
    return [*trials, *((r.kind, r.genotype, r.variant, r.payload) for r in archive.results("training"))]
