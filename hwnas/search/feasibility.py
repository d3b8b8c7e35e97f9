"""Can anything in a space keep a limit? Asked before anything is spent.

A cheap metric (a prediction, a count) is minimised on its own: descent along single genes, all improving genes changed at once, from
the best of a random sample, then again from children of the best optima found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from math import inf

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InfeasibleError
from hwnas.search.evaluator import Bounded
from hwnas.search.problem import METRICS, Constraint
from hwnas.spaces.base import Genotype, Population, SearchSpace
from hwnas.units import format_quantity

Floats = NDArray[np.float64]
Bounds = Floats
"""[n, 3]: value, low and high of n networks."""

EVALUATIONS = 2000
SAMPLE = 64
ELITES = 8
PATIENCE = 4
"""Descents in a row without a new optimum after which the search ends."""


def smallest(
    space: SearchSpace,
    evaluate: Callable[[Population], Bounds],
    rng: np.random.Generator,
    *,
    evaluations: int = EVALUATIONS,
    seconds: float = inf,
) -> tuple[Genotype, Bounded]:
    """The network of a space whose metric is smallest at the upper end of its interval, since limits are kept there.

    Args:
        space: the networks.
        evaluate: from a matrix of canonical genotypes [n, genes], all different, to `Bounds`; called with up to a few hundred rows.
        rng: decides the starts.
        evaluations: how many distinct networks at most.
        seconds: how long at most; checked between calls.

    Returns:
        A canonical genotype and its metric: a local optimum, the best of several, which is no proof that there is none smaller.
    """
    genotype, _ = _minimize(space, lambda rows: evaluate(rows)[:, 2], rng, evaluations=evaluations, seconds=seconds)
    value, low, high = evaluate(np.array([genotype], np.int64))[0].tolist()
    return genotype, Bounded(value, low, high)


def check(
    space: SearchSpace,
    constraints: Sequence[Constraint],
    evaluate: Callable[[Population], Mapping[str, Bounds]],
    rng: np.random.Generator,
    *,
    evaluations: int = EVALUATIONS,
    seconds: float = inf,
) -> Genotype:
    """A network that keeps all limits, found by minimising their violation; stops at the first one.

    Args:
        space: the networks.
        constraints: absolute limits on metrics that `evaluate` gives.
        evaluate: as for `smallest`, for every metric by its name.
        rng: decides the starts.
        evaluations: as for `smallest`, and again for every limit when no network keeps them all.
        seconds: likewise.

    Returns:
        Its canonical genotype: a good network to begin a search with.

    Raises:
        InfeasibleError: when none was found; gives the smallest reachable value of the limit that fails, or says that the limits fail
            only together.
    """

    def violation(limits: Sequence[Constraint], rows: Population) -> Floats:
        bounds = evaluate(rows)
        total: Floats = np.sum([np.maximum(0, _excess(limit, bounds[limit.metric])) for limit in limits], axis=0)
        return total

    if not constraints:
        return space.reference()
    genotype, left = _minimize(space, lambda rows: violation(constraints, rows), rng, evaluations=evaluations, seconds=seconds, enough=0.0)
    if left <= 0:
        return genotype
    for limit in constraints:

        def excess(rows: Population, limit: Constraint = limit) -> Floats:
            return _excess(limit, evaluate(rows)[limit.metric])

        best, left = _minimize(space, excess, rng, evaluations=evaluations, seconds=seconds, enough=0.0)
        if left > 0:
            value, low, high = evaluate(np.array([best], np.int64))[limit.metric][0].tolist()
            raise InfeasibleError(_unreachable(space, limit, Bounded(value, low, high)))
    closest = evaluate(np.array([genotype], np.int64))
    broken = {str(limit): float(_excess(limit, closest[limit.metric])[0]) for limit in constraints}
    by = ", ".join(f"'{text}' by {format_quantity(excess, 'fraction')}" for text, excess in broken.items() if excess > 0)
    together = " and ".join(f"'{limit}'" for limit in constraints)
    raise InfeasibleError(f"no network of '{space.name}' keeps {together} together; the closest one found breaks {by}: loosen one")


def _excess(limit: Constraint, bounds: Bounds) -> Floats:
    """By which share of the limit each network breaks it; negative where it is kept with room."""
    excess: Floats = bounds[:, 2] - limit.limit if limit.op == "<=" else limit.limit - bounds[:, 1]
    return excess / limit.limit


def _unreachable(space: SearchSpace, limit: Constraint, best: Bounded) -> str:
    kind = METRICS[limit.metric].kind
    extreme, end, at = ("smallest", "upper", best.high) if limit.op == "<=" else ("largest", "lower", best.low)
    interval = "" if at == best.value else f" ({format_quantity(at, kind, 4)} at the {end} end of its interval, which counts)"
    return (
        f"no network of '{space.name}' keeps '{limit}': the {extreme} reachable {limit.metric} is {format_quantity(best.value, kind, 4)}"
        f"{interval}; loosen the limit beyond that, or choose another space"
    )


class _Scores:
    """Scores of canonical genotypes, each asked for once and within a budget."""

    def __init__(self, space: SearchSpace, score: Callable[[Population], Floats], evaluations: int, seconds: float) -> None:
        self._space, self._score = space, score
        self._known: dict[bytes, float] = {}
        self._left, self._end = evaluations, time.perf_counter() + seconds
        self._dtype = np.min_scalar_type(max(len(gene.choices) for gene in space.genes))
        self.best: tuple[float, Population] = (inf, np.zeros(len(space.genes), np.int64))

    @property
    def spent(self) -> bool:
        """Whether nothing more may be asked."""
        return self._left <= 0 or time.perf_counter() >= self._end

    def __call__(self, rows: Population) -> tuple[Population, Floats]:
        """The canonical rows and their scores; infinite for what the budget no longer allowed."""
        rows = self._space.canonical_batch(rows)
        keys = [row.tobytes() for row in rows.astype(self._dtype)]
        new = {key: i for i, key in enumerate(keys) if key not in self._known}
        asked = list(new.items())[: 0 if self.spent else self._left]
        if asked:
            fresh = rows[[i for _, i in asked]]
            scores = self._score(fresh)
            self._known.update(zip([key for key, _ in asked], scores.tolist(), strict=True))
            self._left -= len(asked)
            i = int(np.argmin(scores))
            if scores[i] < self.best[0]:
                self.best = float(scores[i]), fresh[i]
        return rows, np.array([self._known.get(key, inf) for key in keys])


def _minimize(
    space: SearchSpace,
    score: Callable[[Population], Floats],
    rng: np.random.Generator,
    *,
    evaluations: int,
    seconds: float,
    enough: float = -inf,
) -> tuple[Genotype, float]:
    """The canonical genotype of the lowest score found, and that score; ends at once when it is no higher than `enough`."""
    scores = _Scores(space, score, evaluations, seconds)
    sizes = np.array([len(gene.choices) for gene in space.genes])
    sample = min(SAMPLE, max(1, evaluations // 10))
    reference = np.array([space.reference()], np.int64)
    rows, found = scores(np.concatenate([reference, np.zeros_like(reference), sizes[None] - 1, space.sample_batch(rng, sample)]))
    elites: list[tuple[float, Population]] = []
    start, idle = rows[np.argmin(found)], 0
    while not scores.spent and scores.best[0] > enough and idle < PATIENCE:
        before = scores.best[0]
        elites.append(_descend(start, sizes, scores, enough))
        elites = sorted(elites, key=lambda elite: elite[0])[:ELITES]
        idle = 0 if scores.best[0] < before else idle + 1
        children = _children(np.array([row for _, row in elites]), space.sample_batch(rng, sample), rng)
        rows, found = scores(children)
        # The best optimum itself comes back among its children: go on from the best other one.
        other = np.where((rows == elites[0][1]).all(axis=1), inf, found)
        start = rows[np.argmin(other)]
    best, row = scores.best
    return tuple(row.tolist()), best


def _descend(row: Population, sizes: NDArray[np.int64], scores: _Scores, enough: float) -> tuple[float, Population]:
    """The local optimum below a genotype. Costs of genes mostly add up, so all genes that improve it alone are changed together."""
    (row,), (here,) = scores(row[None])
    genes = np.repeat(np.arange(len(sizes)), sizes)
    choices = np.concatenate([np.arange(size) for size in sizes])
    while not scores.spent and here > enough:
        around = np.repeat(row[None], len(genes), axis=0)
        around[np.arange(len(genes)), genes] = choices
        rows, found = scores(around)
        by_gene = np.full((len(sizes), int(sizes.max())), inf)
        by_gene[genes, choices] = found
        together = np.where(by_gene.min(axis=1) < here, by_gene.argmin(axis=1), row)
        combined, (value,) = scores(together[None])
        i = int(np.argmin(found))
        if min(value, found[i]) >= here:
            break
        row, here = (combined[0], value) if value <= found[i] else (rows[i], found[i])
    return float(here), row


def _children(elites: Population, strangers: Population, rng: np.random.Generator) -> Population:
    """As many as there are strangers: each gene from one of two elites, or with a chance of 10 % from a stranger."""
    count, genes = strangers.shape
    mother, father = elites[rng.integers(len(elites), size=(2, count))]
    child = np.where(rng.random((count, genes)) < 0.5, mother, father)
    return np.where(rng.random((count, genes)) < 0.1, strangers, child)
