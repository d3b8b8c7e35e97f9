"""How disturbed a shared machine was in each round of a measurement, told apart from what networks take.

Neighbours on a machine use its last-level cache and its memory. What fits into a core's own cache does not notice; what lives in the shared
one does most: 45 minutes later the same networks took 2 % longer where they take 1 ms, 12 % at 3 ms, 3 % at 10 ms. So what a round did is
no factor but a curve over the latency of what ran in it, and canaries of several sizes tie the curves of all rounds together (ADR 0012).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import MeasurementError
from hwnas.runtimes.samples import LOW_QUANTILE

SESSIONS = 3  # of every canary, visited by turns, so that no one session's luck is in all that is judged by it
UNDISTURBED = 0.25  # quantile of the rounds that counts as undisturbed
KNOTS = 4  # of a curve, evenly spread in the logarithm of latency
STIFFNESS = 0.1  # square of the ratio of what a visit scatters by to what neighbouring knots differ by
LUCK_STIFFNESS = 1.0  # the same for what sessions of a canary differ by
LEAST = 1e-9  # keeps a round at zero of which nothing is known
REWEIGHTINGS = 8
HUBER = 2.0  # observations further off than so many robust deviations count less

Floats = NDArray[np.float64]
Rounds = Mapping[int, Sequence[Floats]]
"""By round, the durations of every canary in s."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slowdowns:
    """How disturbed each round was.

    Attributes:
        level: log of each canary's latency in s on the machine undisturbed.
        knots: log of the latencies in s for which a round's slowdown is told, ascending.
        log_factors: by round, at every knot, log of how many times slower than undisturbed what takes so long was.
    """

    level: Floats
    knots: Floats
    log_factors: Mapping[int, Floats]

    @classmethod
    def of(cls, canaries: Rounds, networks: Iterable[Mapping[int, Floats]] = (), reference: Slowdowns | None = None) -> Slowdowns:
        """Separates what rounds did from what networks take: log p10 = level of the network + curve of the round there, fitted robustly.

        A canary's sessions, of which each is seen in a part of the rounds only, differ from each other by up to 1 % for good: their luck is
        told apart, too.

        Args:
            canaries: by round, the durations of every canary in s.
            networks: of every network, by round, its durations in s.
            reference: says what undisturbed is for the same canaries, such as that of the profile which is to be checked; by default the
                calmest quarter of the rounds does.

        Raises:
            MeasurementError: the reference is of other canaries.
        """
        watched = max(map(len, canaries.values()), default=0)
        if reference is not None:
            reference.require(watched)
        if not watched:
            return cls(level=np.zeros(0), knots=np.zeros(1), log_factors={})
        rows = [(canary, number, seconds) for number, row in canaries.items() for canary, seconds in enumerate(row)]
        rows += [(watched + i, number, seconds) for i, visits in enumerate(filter(None, networks)) for number, seconds in visits.items()]
        numbers = sorted({number for _, number, _ in rows})
        item, number = np.array([[item, number] for item, number, _ in rows]).T
        log_s = np.log([low(seconds) for _, _, seconds in rows])

        typical = np.array([np.median(log_s[item == i]) for i in range(int(item.max()) + 1)])
        knots = np.unique(np.linspace(typical.min(), typical.max(), KNOTS))
        hats = _hats(typical, knots)
        size = len(numbers) * len(knots)
        effects = _Effects(
            column=np.column_stack(
                [
                    np.searchsorted(numbers, number)[:, None] * len(knots) + np.arange(len(knots)),
                    size + np.where(item < watched, item, 0) * SESSIONS + number % SESSIONS,
                ]
            ),
            share=np.column_stack([hats[item], item < watched]),
            prior=_beside(_wander(len(numbers), len(knots)), LUCK_STIFFNESS * np.eye(watched * SESSIONS)),
        )
        levels, found = _two_way(item, log_s, effects)
        curves = found[:size].reshape(len(numbers), len(knots))
        calm = np.quantile(curves, UNDISTURBED, axis=0)
        level, curves = (levels + hats @ calm)[:watched], curves - calm
        if reference is not None:
            curves = curves + _tie(_hats(level, knots), level - reference.level)
            level = reference.level
        return cls(level=level, knots=knots, log_factors=dict(zip(numbers, curves, strict=True)))

    def require(self, canaries: int) -> None:
        """Makes sure that so many canaries can be compared with these.

        Raises:
            MeasurementError: these are others.
        """
        if len(self.level) != canaries:
            raise MeasurementError(
                f"the profile was measured beside {len(self.level)} canaries and this hwnas measures beside {canaries}, which cannot be "
                f"compared; profile again with 'hwnas profile'"
            )

    def factor(self, number: int, seconds: float) -> float:
        """How many times slower than undisturbed a round was for what takes so long; 1 for a round of which nothing is known."""
        found = self.log_factors.get(number)
        return 1.0 if found is None else float(np.exp(np.interp(np.log(seconds), self.knots, found)))


def low(seconds: Floats) -> float:
    """What counts of a visit: its p10 in s, which short interruptions do not reach."""
    return float(np.quantile(seconds, LOW_QUANTILE))


def _hats(x: Floats, knots: Floats) -> Floats:
    """How much each knot counts at some places, [places, knots]: linear between two knots, constant beyond the ends."""
    return np.column_stack([np.interp(x, knots, one) for one in np.eye(len(knots))])


def _stiff(knots: int) -> Floats:
    """The penalty of a curve that rises and falls, [knots, knots]."""
    slopes = np.diff(np.eye(knots), axis=0)
    penalty: Floats = STIFFNESS * slopes.T @ slopes
    return penalty


def _trust(left: Floats) -> Floats:
    """Huber's weights of residuals."""
    weight: Floats = np.minimum(1.0, HUBER * (1.4826 * np.median(left) + 1e-9) / np.maximum(left, 1e-12))
    return weight


def _wander(rounds: int, knots: int) -> Floats:
    """The penalty of the curves of all rounds; since a constant may go from all levels to all curves, also of their mean."""
    return np.kron(np.eye(rounds), _stiff(knots) + LEAST * np.eye(knots)).astype(np.float64) + 1.0


def _solve(left: Floats, right: Floats) -> Floats:
    found: Floats = np.linalg.solve(left, right).astype(np.float64)
    return found


def _beside(first: Floats, second: Floats) -> Floats:
    """Two square matrices as one that keeps them apart."""
    both: Floats = np.block([[first, np.zeros((len(first), len(second)))], [np.zeros((len(second), len(first))), second]])
    return both


class _Effects(NamedTuple):
    """What an observation shows besides its item's level: a sum of some unknowns.

    Attributes:
        column: which unknowns, [observations, terms].
        share: how much each counts, [observations, terms].
        prior: penalty of the unknowns, [unknowns, unknowns].
    """

    column: NDArray[np.int64]
    share: Floats
    prior: Floats


def _two_way(item: NDArray[np.int64], log_s: Floats, effects: _Effects) -> tuple[Floats, Floats]:
    """Levels of items and other effects by iteratively reweighted least squares; the levels are eliminated from what is solved.

    Args:
        item: of each observation.
        log_s: log p10 of each, in s.
        effects: besides the levels.

    Returns:
        [items], and [unknowns].
    """
    column, share, prior = effects
    items, weight = int(item.max()) + 1, np.ones(len(log_s))
    for _ in range(REWEIGHTINGS):
        weighed = weight[:, None] * share
        shared = np.zeros((items, len(prior)))
        np.add.at(shared, (item[:, None], column), weighed)
        both = prior.copy()
        np.add.at(both, (column[:, :, None], column[:, None, :]), weighed[:, :, None] * share[:, None, :])
        count = np.bincount(item, weight, items)
        mean = shared / count[:, None]
        right = np.bincount(column.ravel(), (weighed * log_s[:, None]).ravel(), len(prior))
        found = _solve(both - shared.T @ mean, right - mean.T @ np.bincount(item, weight * log_s, items))
        effect = (share * found[column]).sum(axis=1)
        level = np.bincount(item, weight * (log_s - effect), items) / count
        weight = _trust(np.abs(log_s - level[item] - effect))
    return level, found


def _tie(hats: Floats, shift: Floats) -> Floats:
    """The curve, [knots], through what canaries take longer than in an earlier measurement."""
    knots, weight = hats.shape[1], np.ones(len(shift))
    curve: Floats = np.zeros(knots)
    for _ in range(REWEIGHTINGS):
        weighed = weight[:, None] * hats
        curve = _solve(hats.T @ weighed + _stiff(knots) + LEAST * np.eye(knots), weighed.T @ shift)
        weight = _trust(np.abs(shift - hats @ curve))
    return curve
