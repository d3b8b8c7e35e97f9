"""Predicts the accuracy that a network would reach if it were trained, from its genotype, its proxies and the trainings so far.

With no training the prediction is the mean rank of the proxies, a number between 0 and 1 that orders networks and says by a wide
standard deviation that it is no accuracy. Trainings first place that order on the scale of accuracies (a line with a slope shrunk
towards a small positive one), then correct it (boosted trees on the residuals, bagged, faded in as trainings accumulate). Zero-cost
scores help most as *features* beside the architecture (NAS-Bench-Suite-Zero, NeurIPS 2022), which is how they are used here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hwnas.accuracy.quality import BASELINES, Quality, assess, spearman
from hwnas.accuracy.ranks import ProxyRanks
from hwnas.errors import UsageError, require

Vector = NDArray[np.float64]

_PRIOR_SD = 1 / np.sqrt(12)  # of a uniform variable on [0, 1]: all that is known before a training
_SLOPE, _SLOPE_WEIGHT = 0.05, 0.25  # accuracy between the worst and the best of a space, and how firmly (in units of rank variance)
_NOISE_SD, _NOISE_WEIGHT = 0.05, 2.0  # residual deviation before any is seen, and the number of trainings that it weighs
_FADE_IN = 5.0  # trainings at which the trees' correction counts half
_JUDGED_FROM = 10  # trainings from which proxies that do not beat the counts are left out of the prior
_TREES: Mapping[str, Any] = {
    "objective": "reg:squarederror",
    "base_score": 0.0,
    "eta": 0.1,
    "max_depth": 2,
    "min_child_weight": 1.0,
    "lambda": 1.0,
    "colsample_bytree": 0.7,
    "tree_method": "exact",
    "nthread": 1,
}
_ROUNDS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A network as the surrogate sees it.

    Attributes:
        genotype: the canonical genotype.
        proxies: scores by name; must hold `params`, `flops` and every proxy of the frozen population.
        accuracy: in 0..1 where the network was trained (0 for a training that diverged), else `None`.
    """

    genotype: tuple[int, ...]
    proxies: Mapping[str, float]
    accuracy: float | None = None


class AccuracySurrogate:
    """A bagged ensemble of boosted trees over a prior of proxy ranks.

    All trainings given to one surrogate must come from one recipe. Fitting takes all trainings, from scratch: it costs a fraction
    of a second, and nothing has to be stored but the trainings.

    Attributes:
        ranks: the frozen population against which proxies are ranked.
        members: bootstrap members of the ensemble.
        seed: of the bootstrap and the trees.
    """

    def __init__(self, ranks: ProxyRanks, *, members: int = 10, seed: int = 0) -> None:
        missing = [name for name in BASELINES if name not in ranks.names]
        if missing:
            raise UsageError(f"the surrogate needs the proxy '{missing[0]}': the counts are the bar that every other proxy has to clear")
        self.ranks, self.members, self.seed = ranks, members, seed
        self._trained: tuple[Row, ...] = ()
        self._prior_names: tuple[str, ...] = ranks.names
        self._intercept, self._slope, self._noise_sd = 0.0, 1.0, float(_PRIOR_SD)
        self._boosters: list[Any] = []

    @property
    def trainings(self) -> int:
        """Number of distinct networks that it was fitted on."""
        return len(self._trained)

    @property
    def prior_names(self) -> tuple[str, ...]:
        """The proxies whose mean rank is the prior now."""
        return self._prior_names

    def fit(self, rows: Iterable[Row]) -> Self:
        """Learns from the rows that have an accuracy; several of one genotype count as their mean.

        Raises:
            UsageError: when a row lacks a proxy.
        """
        self._trained = _means(row for row in rows if row.accuracy is not None)
        self._prior_names, self._boosters = self.ranks.names, []
        self._intercept, self._slope, self._noise_sd = 0.0, 1.0, float(_PRIOR_SD)
        if not self._trained:
            return self
        accuracies = _reined(_accuracies(self._trained))
        n = len(accuracies)
        if n >= _JUDGED_FROM:
            self._prior_names = self._trusted(accuracies)
        prior = self.ranks.mean(self._checked(self._trained), self._prior_names)
        self._intercept, self._slope = _line(prior, accuracies)
        residuals = accuracies - self._intercept - self._slope * prior
        errors = residuals - self._fade * self._grow(self._features(self._trained), residuals)
        self._noise_sd = float(np.sqrt((np.sum(errors**2) + _NOISE_WEIGHT * _NOISE_SD**2) / (n + _NOISE_WEIGHT)))
        return self

    def predict(self, rows: Sequence[Row]) -> tuple[Vector, Vector]:
        """Mean and standard deviation [N] of the accuracy that a training would give.

        The deviation holds both what the members disagree on and the residual seen on trainings that they did not learn from.

        Raises:
            UsageError: when a row lacks a proxy.
        """
        if not rows:
            return np.empty(0), np.empty(0)
        mean = self._intercept + self._slope * self.ranks.mean(self._checked(rows), self._prior_names)
        spread = np.zeros(len(rows))
        if self._boosters:
            features = self._features(rows)
            votes = self._fade * np.array([booster.inplace_predict(features) for booster in self._boosters], np.float64)
            mean, spread = mean + votes.mean(axis=0), votes.std(axis=0)
        return np.clip(mean, 0.0, 1.0), np.sqrt(spread**2 + self._noise_sd**2)

    def quality(self, *, top: int = 3, folds: int = 5) -> Quality:
        """How well the surrogate (cross-validated), its prior and every proxy rank the networks trained so far.

        A proxy counts only while it beats the parameter and FLOPs counts on networks trained here.
        """
        rows = self._trained
        table = {name: np.array([row.proxies[name] for row in rows], np.float64) for name in self.ranks.names}
        predictions = {
            "surrogate": self._cross_validated(folds),
            "prior": self.ranks.mean(self._checked(rows), self._prior_names) if rows else np.empty(0),
            **table,
        }
        return assess(predictions, _accuracies(rows), table["flops"], top=top)

    @property
    def _fade(self) -> float:
        return len(self._trained) / (len(self._trained) + _FADE_IN)

    def _cross_validated(self, folds: int) -> Vector:
        n = len(self._trained)
        predicted = np.zeros(n)
        for part in np.array_split(np.random.default_rng(self.seed).permutation(n), min(folds, n) or 1):
            rest = [self._trained[i] for i in range(n) if i not in set(part.tolist())]
            held_out = [self._trained[i] for i in part]
            predicted[part] = AccuracySurrogate(self.ranks, members=self.members, seed=self.seed).fit(rest).predict(held_out)[0]
        return predicted

    def _trusted(self, accuracies: Vector) -> tuple[str, ...]:
        table = {name: np.array([row.proxies[name] for row in self._trained], np.float64) for name in self.ranks.names}
        rho = {name: spearman(scores, accuracies) or 0.0 for name, scores in table.items()}
        bar = max(0.0, *(rho[name] for name in BASELINES))
        return tuple(name for name in self.ranks.names if name in BASELINES or rho[name] > bar)

    def _grow(self, features: Vector, residuals: Vector) -> Vector:
        """Trains the members; the mean prediction [N] for each training by those members that did not learn from it."""
        xgboost = require("xgboost")
        rng = np.random.default_rng(self.seed)
        n = len(residuals)
        total, voters = np.zeros(n), np.zeros(n)
        for member in range(self.members):
            counts = np.bincount(rng.integers(0, n, n), minlength=n)
            data = xgboost.DMatrix(features, residuals, weight=counts.astype(np.float64))
            booster = xgboost.train({**_TREES, "seed": self.seed + member}, data, num_boost_round=_ROUNDS)
            self._boosters.append(booster)
            unseen = counts == 0
            total[unseen] += booster.inplace_predict(features)[unseen]
            voters += unseen
        return np.divide(total, voters, out=np.zeros(n), where=voters > 0)

    def _features(self, rows: Sequence[Row]) -> Vector:
        """One line per network: its genes as ordered numbers, its proxies (the two counts as logarithms), its prior."""
        scores = self._checked(rows)
        genes = np.array([row.genotype for row in rows], np.float64)
        columns = [np.array([score[name] for score in scores], np.float64) for name in self.ranks.names]
        columns = [np.log1p(column) if name in BASELINES else column for name, column in zip(self.ranks.names, columns, strict=True)]
        table = np.column_stack([genes, *columns, self.ranks.mean(scores, self._prior_names)])
        return np.where(np.isfinite(table), table, np.nan)  # the trees take NaN as "missing"

    def _checked(self, rows: Sequence[Row]) -> list[Mapping[str, float]]:
        for row in rows:
            missing = [name for name in self.ranks.names if name not in row.proxies]
            if missing:
                raise UsageError(f"network {list(row.genotype)} has no score for proxy '{missing[0]}', which the frozen population has")
        return [row.proxies for row in rows]


def _means(rows: Iterable[Row]) -> tuple[Row, ...]:
    groups: dict[tuple[int, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(row.genotype, []).append(row)
    return tuple(replace(group[0], accuracy=float(_accuracies(group).mean())) for group in groups.values())


def _accuracies(rows: Sequence[Row]) -> Vector:
    return np.array([row.accuracy for row in rows], np.float64)


def _reined(accuracies: Vector) -> Vector:
    """Accuracies with those far below the rest (a training that diverged: 0) brought up to five absolute deviations under the median.

    They stay the lowest, and squared errors do not make them the only thing that is learned.
    """
    median = np.median(accuracies)
    return np.clip(accuracies, median - 5 * max(np.median(np.abs(accuracies - median)), 0.01), None)


def _line(ranks: Vector, accuracies: Vector) -> tuple[float, float]:
    """Intercept and slope of accuracy against rank, the slope shrunk and never negative."""
    centred = ranks - ranks.mean()
    slope = max(0.0, float((centred @ accuracies + _SLOPE_WEIGHT * _SLOPE) / (centred @ centred + _SLOPE_WEIGHT)))
    return float(accuracies.mean() - slope * ranks.mean()), slope
