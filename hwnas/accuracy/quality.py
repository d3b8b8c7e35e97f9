"""How well something that claims to rank networks ranks those that were trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

BASELINES = ("params", "flops")
FEWEST = 4  # fewer trained networks give no correlation worth a number


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The agreement of one predictor with the accuracies of trained networks; `None` where there are too few or all are alike.

    Attributes:
        name: a proxy, `prior` (mean rank) or `surrogate` (cross-validated).
        spearman: rank correlation, 1 is perfect.
        kendall: Kendall's tau-b.
        regret: accuracy lost by training only the `top` networks that it ranks first: the best of all less the best of those.
        within_flops: Spearman within bands of equal FLOPs, averaged: what is left when accuracy merely tracks cost.
        counts: whether it beats the parameter and FLOPs counts by Spearman (these two always count: they are the bar).
    """

    name: str
    spearman: float | None
    kendall: float | None
    regret: float | None
    within_flops: float | None
    counts: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """The state of the accuracy estimates, judged on the networks trained so far.

    Attributes:
        trained: number of distinct networks that were trained.
        top: size of the pick whose regret is reported.
        rankings: the surrogate first, then the prior, then every proxy.
    """

    trained: int
    top: int
    rankings: tuple[Ranking, ...]

    def __getitem__(self, name: str) -> Ranking:
        return next(ranking for ranking in self.rankings if ranking.name == name)

    @property
    def counting(self) -> tuple[str, ...]:
        """Names of what beats the parameter and FLOPs counts."""
        return tuple(ranking.name for ranking in self.rankings if ranking.counts and ranking.name not in BASELINES)


def assess(predictions: Mapping[str, Vector], accuracies: Vector, flops: Vector, *, top: int = 3) -> Quality:
    """Judges predictors on trained networks.

    Args:
        predictions: for each predictor its scores [N], higher meaning better; scores that are not finite rank last.
        accuracies: of the trained networks [N].
        flops: of the trained networks [N].
        top: size of the pick whose regret is reported.
    """
    spearmans = {name: spearman(scores, accuracies) for name, scores in predictions.items()}
    bar = max((spearmans.get(name) or 0.0 for name in BASELINES), default=0.0)

    def ranking(name: str, scores: Vector) -> Ranking:
        rho = spearmans[name]
        return Ranking(
            name=name,
            spearman=rho,
            kendall=kendall(scores, accuracies),
            regret=regret(scores, accuracies, top),
            within_flops=within_bands(scores, accuracies, flops),
            counts=name in BASELINES or (rho is not None and rho > bar),
        )

    return Quality(trained=len(accuracies), top=top, rankings=tuple(ranking(*item) for item in predictions.items()))


def spearman(scores: Vector, truth: Vector) -> float | None:
    """Spearman's rank correlation, ties averaged; `None` for fewer than four pairs or where either side is constant."""
    scores = last_where_unknown(scores)
    if not _judgeable(scores, truth):
        return None
    return float(np.corrcoef(_mid_ranks(scores), _mid_ranks(truth))[0, 1])


def kendall(scores: Vector, truth: Vector) -> float | None:
    """Kendall's tau-b; `None` as for `spearman`."""
    scores = last_where_unknown(scores)
    if not _judgeable(scores, truth):
        return None
    a, b = (np.sign(side[:, None] - side) for side in (scores, truth))
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


def regret(scores: Vector, truth: Vector, top: int) -> float | None:
    """The best of all less the best among the `top` highest scores; ties are resolved against the predictor."""
    if len(truth) < max(FEWEST, top + 1):
        return None
    picked = np.lexsort((truth, -last_where_unknown(scores)))[:top]
    return float(truth.max() - truth[picked].max())


def within_bands(scores: Vector, truth: Vector, cost: Vector, fewest: int = 5) -> float | None:
    """Spearman within up to four bands of similar cost, averaged by size; `None` where two bands of `fewest` cannot be made."""
    bands = min(4, len(truth) // fewest)
    if bands < 2:
        return None
    pieces = np.array_split(np.argsort(cost, kind="stable"), bands)
    known = [(rho, len(piece)) for piece in pieces if (rho := spearman(scores[piece], truth[piece])) is not None]
    return float(np.average([rho for rho, _ in known], weights=[size for _, size in known])) if known else None


def last_where_unknown(scores: Vector) -> Vector:
    """The scores, with those that are not finite put below the rest (equal among themselves)."""
    finite = np.isfinite(scores)
    floor = scores[finite].min() - 1.0 if finite.any() else 0.0
    return np.where(finite, scores, floor)


def _mid_ranks(values: Vector) -> Vector:
    ordered = np.sort(values)
    return np.asarray(np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right"), np.float64)


def _judgeable(scores: Vector, truth: Vector) -> bool:
    return len(truth) >= FEWEST and bool(np.ptp(scores) > 0) and bool(np.ptp(truth) > 0)
