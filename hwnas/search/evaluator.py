"""What a search asks of the outside: the metrics of networks, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Protocol

from hwnas.spaces.base import Genotype

if TYPE_CHECKING:
    from hwnas.search.archive import Archive


@dataclass(frozen=True, slots=True)
class Bounded:
    """A value and the interval it lies in.

    Attributes:
        value: the estimate, in SI.
        low: lower end of its interval.
        high: upper end; both equal the value where it is exact.
    """

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not (self.low <= self.value <= self.high and isfinite(self.low) and isfinite(self.high)):
            raise ValueError(f"a value lies within its finite interval, got {self.value} in [{self.low}, {self.high}]")

    @classmethod
    def exact(cls, value: float) -> Bounded:
        """A value that is known, such as a parameter count."""
        return cls(value, value, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What is known of one network.

    Attributes:
        genotype: canonical.
        metrics: by the names in `problem.METRICS`.
        source: per metric, where it comes from: `predicted`, `measured`, `counted`, `proxies`, `trained`, ...
        failure: why the network could not be evaluated, in one line; its metrics may then be missing. Such a trial is recorded and
            counted, and never becomes part of a front.
    """

    genotype: Genotype
    metrics: Mapping[str, Bounded] = field(default_factory=dict)
    source: Mapping[str, str] = field(default_factory=dict)
    failure: str = ""


class Evaluator(Protocol):
    """Gives the metrics of networks; the one seam through which predictors, proxies and training reach a search.

    A run that was cut off is resumed by playing it again from the start: what its archive knows is not asked for again. So:

    - What costs time goes through `Archive.remember`, which survives a kill in the middle of a batch.
    - On resume, `refine` meets genotypes for which this process never called `evaluate`.
    - Answers depend on the seed and on the calls since the start of the run, never on the clock or on what the archive happens to
      hold from a later point of it: `refine` uses `archive.trials()` and `archive.front()`, which show the run as it then was, and
      keeps its own list of what it trained.
    """

    def evaluate(self, genotypes: Sequence[Genotype]) -> Sequence[Evaluation]:
        """The evaluations of canonical genotypes, in their order, with every metric that the problem names.

        A failure of one network is an `Evaluation.failure`; an exception ends the search.
        """

    def refine(self, archive: Archive) -> bool:
        """Called after every generation: the place to train or measure promising networks and to refit a surrogate.

        Returns:
            Whether estimates changed. Survivors and the front are then evaluated anew, which is expected to be cheap.
        """
