"""Random search: the rival that every search has to beat at equal budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hwnas.search.archive import Archive
from hwnas.search.evaluator import Evaluation, Evaluator
from hwnas.search.loop import Progress, Result, run
from hwnas.search.problem import Problem
from hwnas.spaces.base import Genotype

POPULATION = 24


def search(
    problem: Problem,
    evaluator: Evaluator,
    archive: Archive,
    *,
    population: int = POPULATION,
    initial: Sequence[Genotype] = (),
    on_generation: Callable[[Progress], None] | None = None,
    stop_early: bool = True,
) -> Result:
    """Searches by drawing networks at random, `population` at a time; everything else is as in `nsga2.search`."""
    return run(
        problem,
        evaluator,
        archive,
        RandomStrategy,
        algorithm="random",
        population=population,
        initial=initial,
        on_generation=on_generation,
        stop_early=stop_early,
    )


class RandomStrategy:
    """The strategy: learns nothing."""

    def __init__(self, problem: Problem, population: int, initial: Sequence[Genotype], known: Mapping[Genotype, Evaluation]) -> None:
        self._space, self._count, self._waiting = problem.space, population, list(initial)
        self._rng = np.random.default_rng(problem.seed)

    def ask(self) -> Sequence[Genotype]:
        """The given genotypes first, then random ones."""
        given, self._waiting = self._waiting[: self._count], self._waiting[self._count :]
        return [*given, *(self._space.sample(self._rng) for _ in range(self._count - len(given)))]

    def tell(self, genotypes: Sequence[Genotype]) -> None:
        """Nothing to learn."""

    def survivors(self) -> Sequence[Genotype]:
        """Nothing to build on."""
        return ()

    def renew(self, best: Sequence[Genotype]) -> None:
        """Nothing to learn."""
