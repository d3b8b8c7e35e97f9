"""Ranks of proxy scores against a frozen population.

Proxies live on scales that have nothing in common, so they are compared and averaged as ranks; and a rank among the candidates of
the moment changes as the search moves. So ranks are taken against random networks of the space, drawn once and kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProxyRanks:
    """The empirical distribution of every proxy over random networks of a space.

    >>> ranks = ProxyRanks.fit([{"snip": 1.0}, {"snip": 2.0}, {"snip": 4.0}])
    >>> ranks.rank({"snip": 3.0})
    {'snip': 0.625}

    Attributes:
        population: for each proxy its scores, finite and sorted.
    """

    population: Mapping[str, NDArray[np.float64]]

    @classmethod
    def fit(cls, scores: Sequence[Mapping[str, float]]) -> ProxyRanks:
        """Freezes the scores of random networks; all must have the same proxies.

        Raises:
            UsageError: for an empty population, or rows with different proxies.
        """
        if not scores:
            raise UsageError("ranks need the scores of at least one network; sample some from the space")
        names = tuple(scores[0])
        odd = next((row for row in scores if set(row) != set(names)), None)
        if odd is not None:
            raise UsageError(f"all networks need the same proxies, got {sorted(names)} and {sorted(odd)}")
        columns = {name: np.array([row[name] for row in scores], np.float64) for name in names}
        return cls(population=MappingProxyType({name: np.sort(column[np.isfinite(column)]) for name, column in columns.items()}))

    @property
    def names(self) -> tuple[str, ...]:
        """The proxies that can be ranked."""
        return tuple(self.population)

    def rank(self, scores: Mapping[str, float]) -> dict[str, float]:
        """For each proxy the share of the population below, in the open interval (0, 1); ties count half.

        A score that is not a finite number ranks below everything. Proxies that the population does not have are left out.
        """
        return {name: float(self.ranks(name, np.array([scores[name]]))[0]) for name in self.names if name in scores}

    def ranks(self, name: str, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """The ranks of many scores [N] of one proxy."""
        frozen = self.population[name]
        known = np.where(np.isfinite(scores), scores, -np.inf)
        below, up_to = np.searchsorted(frozen, known, "left"), np.searchsorted(frozen, known, "right")
        return (0.5 * (below + up_to) + 0.5) / (len(frozen) + 1)

    def mean(self, scores: Sequence[Mapping[str, float]], names: Sequence[str] | None = None) -> NDArray[np.float64]:
        """The mean rank [N] of each network over these proxies, by default over all."""
        chosen = names if names is not None else self.names
        table = [self.ranks(name, np.array([row[name] for row in scores], np.float64)) for name in chosen]
        return np.mean(table, axis=0) if table else np.full(len(scores), 0.5)

    def to_dict(self) -> dict[str, list[float]]:
        """Plain numbers, for a JSON column."""
        return {name: column.tolist() for name, column in self.population.items()}

    @classmethod
    def from_dict(cls, payload: Mapping[str, Sequence[float]]) -> ProxyRanks:
        """What `to_dict` gave."""
        return cls(population=MappingProxyType({name: np.sort(np.array(column, np.float64)) for name, column in payload.items()}))
