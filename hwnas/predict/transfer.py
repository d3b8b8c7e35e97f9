"""Learning a device from a handful of measurements, with what is known of other devices as the prior.

What an item (a network, an architecture) takes on a device is a weighted sum of a few of its features, such as the time of each kind of
kernel on a known device. The known devices say which weights are usual and how they vary together: a normal distribution, up to a scale
of which nothing is assumed. A few measurements turn it into the posterior (Bayesian linear regression; scale and noise are integrated
out over a grid, so that measurements which do not fit show as noise). Before anything is measured, the prior tells which items are worth
it: those that leave the least uncertainty about all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hwnas.predict.features import Matrix

Goal = Literal["ranks", "ratios"]

SPAN, SCALES = 2.0, 81  # the scale is sought within a factor of exp(SPAN) of the median ratio to the usual device, in so many steps
NOISES = 9  # steps of the noise, over two deviations of its prior both ways
TAILS = 4.0  # degrees of freedom of the noise: a measurement that is far off counts less
ROUNDS = 4  # of reweighting
PLANNED_NOISE = 0.1  # of a measurement, and
PLANNED_SCALE = 0.5  # deviation of the scale, while nothing was measured
NEGLIGIBLE = 1e-6  # share of the posterior
FLOOR = 0.05  # an item takes at least this part of what it takes on the usual device, scaled


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prior:
    """What is known of a device before it is measured; weights are relative to the device's scale.

    Attributes:
        mean: weights of the usual device, [p].
        covariance: how the weights of devices vary, [p, p].
        noise: median of what a measurement differs from the weighted sum, as a share of what the item takes on the usual device.
        noise_spread: deviation of its log between devices.
    """

    mean: Matrix
    covariance: Matrix
    noise: float
    noise_spread: float

    @classmethod
    def among(cls, weights: Matrix, noises: Matrix, *, doubt: float) -> Prior:
        """Of a device that is one more like these.

        Args:
            weights: of known devices, each divided by its scale, [devices, p].
            noises: share by which each device's measurements differ from its weighted sums, [devices].
            doubt: variance that every weight has besides: known devices are few, and do not span what a device may be.
        """
        logs = np.log(noises)
        return cls(
            mean=weights.mean(axis=0),
            covariance=np.cov(weights, rowvar=False) + doubt * np.eye(weights.shape[1]),
            noise=float(np.exp(logs.mean())),
            noise_spread=float(logs.std()),
        )

    def usual(self, features: Matrix) -> Matrix:
        """What items take on the usual device at scale 1, [n]; features are [n, p]."""
        usual: Matrix = features @ self.mean
        return usual

    def choose(self, features: Matrix, count: int, goal: Goal) -> NDArray[np.int64]:
        """The items to measure: greedily, each time the one that leaves the least variance over all of them (A-optimal design).

        Args:
            features: of all items, [n, p].
            count: how many to choose.
            goal: what is wanted of all of them: their ranks, which differences decide, or their ratios, to which small ones matter too.

        Returns:
            Their indices, the most informative first; fewer where there are not so many items.
        """
        rows = features / self.usual(features)[:, None]
        wanted = rows if goal == "ratios" else features - features.mean(axis=0)
        matter = wanted.T @ wanted / len(wanted)
        left = self.covariance + PLANNED_SCALE**2 * np.outer(self.mean, self.mean)
        chosen: list[int] = []
        for _ in range(min(count, len(rows))):
            reach = rows @ left
            variance = (reach * rows).sum(axis=1) + PLANNED_NOISE**2
            gain = ((reach @ matter) * reach).sum(axis=1) / variance
            gain[chosen] = -np.inf
            best = int(np.argmax(gain))
            chosen.append(best)
            left = left - np.outer(reach[best], reach[best]) / variance[best]
        return np.array(chosen, np.int64)

    def learn(self, features: Matrix, values: Matrix) -> Posterior:
        """The device after some items were measured.

        Args:
            features: of these items, [n, p].
            values: what they take, [n].
        """
        usual = self.usual(features)
        rows, ratios = features / usual[:, None], values / usual
        trust = np.ones(len(values))
        for _ in range(ROUNDS):
            posterior = self._learn(rows, ratios, trust)
            trust = (TAILS + 1) / (TAILS + posterior.surprise**2)
        return posterior

    def _learn(self, rows: Matrix, ratios: Matrix, trust: Matrix) -> Posterior:
        """With some measurements trusted less than others: their noise is larger by 1 / sqrt(trust)."""
        count = len(ratios)
        whiten = np.sqrt(trust)
        known = whiten[:, None] * rows
        values, vectors = np.linalg.eigh(known @ self.covariance @ known.T)
        measured, expected = vectors.T @ (whiten * ratios), vectors.T @ whiten
        steps = np.linspace(-2.0, 2.0, NOISES)
        noises = self.noise * np.exp(steps * self.noise_spread)
        scales = np.median(ratios) * np.exp(np.linspace(-SPAN, SPAN, SCALES))
        variance = np.maximum(values, 0.0) + noises[:, None] ** 2  # [noises, n]
        residual = measured / scales[:, None] - expected  # [scales, n]
        log_weight = (
            -0.5 * ((residual**2)[None] / variance[:, None]).sum(axis=2)
            - 0.5 * np.log(variance).sum(axis=1)[:, None]
            - count * np.log(scales)
            - 0.5 * steps[:, None] ** 2
        )
        evidence = float(np.logaddexp.reduce(log_weight, axis=None))
        weight = np.exp(log_weight - evidence)
        p = len(self.mean)
        first, second, noise, surprise = np.zeros(p), np.zeros((p, p)), 0.0, np.zeros(count)
        cross = self.covariance @ known.T @ vectors  # [p, n]
        for i, k in zip(*np.nonzero(weight > NEGLIGIBLE), strict=True):
            w, scale = weight[i, k], scales[k]
            gain = cross / variance[i]
            mean = scale * (self.mean + gain @ residual[k])
            first += w * mean
            second += w * (np.outer(mean, mean) + scale**2 * (self.covariance - gain @ cross.T))
            noise += w * (scale * noises[i]) ** 2
            # leave-one-out residual over its deviation, both from the inverse of the covariance of the measurements
            inverse = (vectors / variance[i]) @ vectors.T
            surprise += w * (inverse @ (whiten * ratios / scale - whiten)) / np.sqrt(np.diag(inverse))
        return Posterior(
            prior=self,
            mean=first,
            covariance=second - np.outer(first, first),
            noise=float(np.sqrt(noise)),
            surprise=surprise,
            evidence=evidence,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Posterior:
    """What is known of a device after it was measured.

    Attributes:
        prior: what was known before.
        mean: its weights, scale included, [p].
        covariance: of these, [p, p].
        noise: deviation of a measurement, as a multiple of what the item takes on the usual device.
        surprise: of every measurement, its difference from what the others say, in deviations of that difference, [n].
        evidence: log probability of the measurements, up to a constant that is the same for every prior.
    """

    prior: Prior
    mean: Matrix
    covariance: Matrix
    noise: float
    surprise: Matrix
    evidence: float

    def value(self, features: Matrix) -> Matrix:
        """What items take, [n]."""
        usual = self.prior.usual(features)
        least = FLOOR * float(self.mean @ self.prior.mean) / float(self.prior.mean @ self.prior.mean) * usual
        value: Matrix = np.maximum(features @ self.mean, least)
        return value

    def deviation(self, features: Matrix) -> Matrix:
        """Standard deviation of what a measurement of them would give, [n]."""
        of_mean = ((features @ self.covariance) * features).sum(axis=1)
        deviation: Matrix = np.sqrt(np.maximum(of_mean, 0.0) + (self.noise * self.prior.usual(features)) ** 2)
        return deviation
