"""Fronts: which networks are not dominated, how much a front dominates, and which of its members to look at closely."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwnas.errors import UsageError, require
from hwnas.search.evaluator import Evaluation
from hwnas.search.problem import Objective, Problem


def nondominated(points: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other point dominates; of equal points the first.

    Args:
        points: [n, objectives], all to be minimised.

    >>> nondominated([[1, 2], [2, 1], [2, 2], [1, 2]]).tolist()
    [True, True, False, False]
    """
    array = np.asarray(points, np.float64)
    if len(array) == 0:
        return np.zeros(0, bool)
    mask: NDArray[np.bool_] = require("moocore").is_nondominated(array)
    return mask


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """The volume between the points and a reference point; points that are not better than it everywhere add nothing.

    Args:
        points: [n, objectives], all to be minimised; need not be a front.
        reference: [objectives].

    >>> hypervolume([[1, 2], [2, 1]], [3, 3])
    3.0
    """
    array, corner = np.asarray(points, np.float64), np.asarray(reference, np.float64)
    if len(array) == 0:
        return 0.0
    inside = array[(array < corner).all(axis=1)]
    return float(require("moocore").hypervolume(inside, ref=corner)) if len(inside) else 0.0


def front(evaluations: Iterable[Evaluation], problem: Problem) -> tuple[Evaluation, ...]:
    """The feasible networks that no other feasible one dominates, best in the first objective first."""
    feasible = [evaluation for evaluation in evaluations if problem.feasible(evaluation)]
    mask = nondominated([problem.values(evaluation) for evaluation in feasible])
    kept = [evaluation for evaluation, keep in zip(feasible, mask, strict=True) if keep]
    return tuple(sorted(kept, key=lambda evaluation: (problem.values(evaluation), evaluation.genotype)))


def select(members: Sequence[Evaluation], k: int, objectives: Sequence[Objective]) -> tuple[Evaluation, ...]:
    """The most accurate member of a front and k - 1 more, spread over it.

    Each next one is the member whose nearest chosen member is farthest away, in objectives scaled to the front's range: the extremes
    come early, crowded places late.

    Args:
        members: a front; all feasible.
        k: how many; a smaller front is taken whole.
        objectives: that span the space in which they are spread.

    Returns:
        The chosen, in the front's order.

    Raises:
        UsageError: when k is less than 1.
    """
    if k < 1:
        raise UsageError(f"at least 1 finalist is needed, got {k}")
    if len(members) <= k:
        return tuple(members)
    points = np.array([[objective.of(member) for objective in objectives] for member in members])
    span = np.ptp(points, axis=0)
    scaled = (points - points.min(axis=0)) / np.where(span > 0, span, 1)
    accuracy = [member.metrics["accuracy"].value if "accuracy" in member.metrics else 0.0 for member in members]
    chosen = [int(np.argmax(accuracy))]
    nearest = np.linalg.norm(scaled - scaled[chosen[0]], axis=1)
    while len(chosen) < k:
        nearest[chosen] = -1
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, np.linalg.norm(scaled - scaled[chosen[-1]], axis=1))
    return tuple(members[i] for i in sorted(chosen))
