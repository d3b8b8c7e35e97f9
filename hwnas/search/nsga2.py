"""NSGA-II (Deb et al., IEEE TEC 6(2), 2002) over a search space: pymoo's selection and survival, the space's own variation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import UsageError, require
from hwnas.search.archive import Archive
from hwnas.search.evaluator import Evaluation, Evaluator
from hwnas.search.loop import Progress, Result, run
from hwnas.search.problem import Problem
from hwnas.spaces.base import Genotype, SearchSpace

POPULATION = 24
CROSSOVER = 0.9
"""Probability that a child has two parents; every child is mutated."""
ATTEMPTS = 100
"""Rounds of mating after which a generation is taken as it is."""
RELAXED_GENERATIONS = 10
RELAXED_BELOW = 0.1
"""Limits are relaxed in so many generations at first, while a smaller share than this keeps them (`relaxation`)."""


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
    """Searches by NSGA-II: crossover and mutation of the space, no network twice in a population, feasible networks first.

    The same problem, evaluator and arguments give the same result. An archive that holds the beginning of the run, however it was cut
    off, is played again without evaluating anything anew, and the search goes on from there.

    Args:
        problem: with absolute limits (`Problem.resolve`).
        evaluator: of canonical genotypes.
        archive: opened for writing; new, or of the same run.
        population: networks per generation, at least 4.
        initial: networks to begin with, beside random ones: such as the smallest one, when the limits are tight.
        on_generation: called after every generation, also after replayed ones.
        stop_early: whether to stop when the hypervolume gains less than 0.1 % over max(10 generations, 20 % of the budget).

    Raises:
        UsageError: when the archive is of another run (names the difference), a limit is still relative, or `initial` is no part of
            the space.
        DiskError: when the archive cannot be written; everything recorded until then stays.
        KeyboardInterrupt: as it came; the archive is consistent and the run can be resumed.
    """
    if population < 4:
        raise UsageError(f"NSGA-II needs a population of at least 4, got {population}")
    return run(
        problem,
        evaluator,
        archive,
        Nsga2,
        algorithm="nsga2",
        population=population,
        initial=initial,
        on_generation=on_generation,
        stop_early=stop_early,
    )


def relaxation(violations: NDArray[np.float64], generation: int) -> float:
    """How much violation passes as none in a generation.

    In the first generations, while fewer than a tenth of the candidates keep the limits: so much that the best fifth of them pass,
    shrinking to nothing with the square of the generations left (the epsilon constraint method of Takahama and Sakai, 2006).
    Without it the few feasible candidates would crowd all variety out.
    """
    if generation > RELAXED_GENERATIONS or np.mean(violations == 0) >= RELAXED_BELOW:
        return 0.0
    finite = np.sort(violations[np.isfinite(violations)])
    if len(finite) == 0:
        return 0.0
    return float(finite[len(finite) // 5] * (1 - (generation - 1) / RELAXED_GENERATIONS) ** 2)


class Nsga2:
    """The strategy; see `search`. pymoo holds genotypes as integer vectors, its `ask` and `tell` carry the generations."""

    def __init__(self, problem: Problem, population: int, initial: Sequence[Genotype], known: Mapping[Genotype, Evaluation]) -> None:
        self._problem, self._known = problem, known
        self._population: Any = require("pymoo.core.population").Population
        require("pymoo.config").Config.warnings["not_compiled"] = False
        nsga2, core = require("pymoo.algorithms.moo.nsga2"), require("pymoo.core.problem")
        rng = np.random.default_rng(problem.seed)
        select = require("pymoo.operators.selection.tournament").TournamentSelection(func_comp=nsga2.binary_tournament)
        self._algorithm = nsga2.NSGA2(
            pop_size=population,
            sampling=self._population.new(X=np.array(_first(problem.space, population, initial, rng))),
            mating=_Mating(problem.space, select, self._population),
            eliminate_duplicates=False,
            output=None,
        )
        shape = core.Problem(n_var=len(problem.space.genes), n_obj=len(problem.objectives), n_ieq_constr=1)
        self._algorithm.setup(shape, termination=require("pymoo.core.termination").NoTermination())
        self._algorithm.random_state = rng
        self._generation = 0

    def ask(self) -> Sequence[Genotype]:
        """The first population, then children of the present one."""
        proposed = self._algorithm.ask()
        return [] if proposed is None else _genotypes(proposed)

    def tell(self, genotypes: Sequence[Genotype]) -> None:
        """Lets the fittest of parents and children survive."""
        self._generation += 1
        children = self._population.new(X=np.array(genotypes).reshape(-1, len(self._problem.space.genes)))
        parents = self._algorithm.pop if self._generation > 1 else self._population.create()
        self._score(self._population.merge(parents, children))
        self._algorithm.tell(children)

    def survivors(self) -> Sequence[Genotype]:
        """The present population."""
        return [self._problem.space.canonical(genotype) for genotype in _genotypes(self._algorithm.pop)]

    def renew(self, best: Sequence[Genotype]) -> None:
        """Scores the population anew, together with the best of all that was seen, and lets the fittest survive."""
        present = set(self.survivors())
        back = [genotype for genotype in best if genotype not in present]
        merged = self._algorithm.pop
        if back:
            merged = self._population.merge(merged, self._population.new(X=np.array(back)))
        self._score(merged)
        algorithm = self._algorithm
        algorithm.pop = algorithm.survival.do(
            algorithm.problem, merged, n_survive=algorithm.pop_size, algorithm=algorithm, random_state=algorithm.random_state
        )

    def _score(self, individuals: Any) -> None:
        evaluations = [self._known[self._problem.space.canonical(genotype)] for genotype in _genotypes(individuals)]
        violations = np.array([self._problem.violation(evaluation) for evaluation in evaluations])
        excess = np.maximum(0, violations - relaxation(violations, self._generation))
        individuals.set(F=np.array([self._problem.values(evaluation) for evaluation in evaluations]), CV=excess[:, None])


class _Mating:
    """Makes children that differ from one another and from the population as networks, not merely as genotypes."""

    def __init__(self, space: SearchSpace, select: Any, population: Any) -> None:
        self._space, self._select, self._population = space, select, population

    def do(self, problem: Any, pop: Any, n_offsprings: int, *, algorithm: Any, random_state: np.random.Generator) -> Any:
        """So many children of `pop`, or fewer when the space holds no more nearby (the interface of pymoo's `Mating`)."""
        space, rng = self._space, random_state
        parents = _genotypes(pop)
        taken = {space.canonical(genotype) for genotype in parents}
        children: list[Genotype] = []
        for _ in range(ATTEMPTS):
            missing = n_offsprings - len(children)
            if missing == 0:
                break
            for a, b in self._select.do(problem, pop, missing, 2, to_pop=False, random_state=rng, algorithm=algorithm):
                child = space.crossover(parents[a], parents[b], rng) if rng.random() < CROSSOVER else parents[a]
                child = space.mutate(child, rng)
                key = space.canonical(child)
                if key not in taken:
                    taken.add(key)
                    children.append(child)
        return self._population.new(X=np.array(children)) if children else self._population.create()


def _first(space: SearchSpace, count: int, initial: Sequence[Genotype], rng: np.random.Generator) -> list[Genotype]:
    """The given genotypes and random ones, all different networks; fewer where the space is smaller than that."""
    found = {space.canonical(genotype): genotype for genotype in initial}
    for _ in range(ATTEMPTS * count):
        if len(found) >= count:
            break
        genotype = space.sample(rng)
        found.setdefault(space.canonical(genotype), genotype)
    return list(found.values())[:count]


def _genotypes(individuals: Any) -> list[Genotype]:
    return [tuple(individual.X.tolist()) for individual in individuals]
