"""Which networks are being measured: built, and visited until each was seen often enough, at moments that lie apart."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hwnas.profiling.journal import Measuring
from hwnas.profiling.slowdowns import low
from hwnas.profiling.waves import PATIENCE, WARM_S, Stage, Visit

VISITS_S = 0.25  # that all visits of a network may take together, before there are fewer of them
LEAST_VISITS = 2  # of a network, however long they take: one that takes long is disturbed less, too
AGREEING = 4  # visits, at least, that may settle what a network takes
SETTLED = 0.002  # by the standard error of the mean of their logarithms


def visits_of(cost_s: float, most: int) -> int:
    """How many visits a network gets of which each takes so long, out of so many."""
    return min(most, max(LEAST_VISITS, int(VISITS_S / cost_s)))


def settled(visits: Sequence[Visit]) -> bool:
    """Whether visits agree so well that more would tell nothing: on a quiet machine, or of networks that do not notice their neighbours."""
    if len(visits) < AGREEING:
        return False
    log_s = np.log([low(visit.seconds) for visit in visits])
    return bool(log_s.std(ddof=1) <= SETTLED * len(visits) ** 0.5)


def cost_s(visit: Visit) -> float:
    """What a visit took, in s, its runs that do not count included."""
    return float(visit.seconds.sum()) + max(WARM_S, float(visit.seconds.mean()))


@dataclass(slots=True)
class Window:
    """Networks that are built and lack visits.

    Attributes:
        found: all that was measured.
        visits: that count, of a network of which they neither take long (`visits_of`) nor agree early (`settled`).
        apart: rounds from one visit of a network to its next.
        stages: by number, in the order in which they were built.
        room: bytes that they may still take; less than 0 when full.
        other_state: rounds whose visits do not count.
    """

    found: Measuring
    visits: int
    apart: int
    room: int
    stages: dict[int, Stage] = field(default_factory=dict)
    other_state: Collection[int] = ()
    _sizes: dict[int, int] = field(default_factory=dict)

    def lacks(self, number: int) -> int:
        """How many visits a network lacks."""
        planned, seen, counting = self._planned(number), self._seen(number), self._counting(number)
        return 0 if settled(counting) else max(0, min(planned - len(counting), PATIENCE * planned - len(seen)))

    def _seen(self, number: int) -> Sequence[Visit]:
        return self.found.visits.get(number, ())

    def _counting(self, number: int) -> Sequence[Visit]:
        return [visit for visit in self._seen(number) if visit.round not in self.other_state]

    def _planned(self, number: int) -> int:
        seen = self._seen(number)
        return visits_of(cost_s(seen[0]), self.visits) if seen else self.visits

    def lacking(self) -> Iterator[int]:
        """Networks that were begun, lack visits and are not built: begun by an earlier session, or visited in rounds that do not count."""
        return (number for number in self.found.genotypes if number not in self.stages and self.lacks(number))

    @property
    def left(self) -> int:
        """Visits that all networks built lack."""
        return sum(map(self.lacks, self.stages))

    @property
    def unseen(self) -> bool:
        """Whether a network that is built was never visited."""
        return any(number not in self.found.visits for number in self.stages)

    def open(self, number: int, stage: Stage, size: int) -> None:
        """Takes a network in, which takes so many bytes."""
        self.stages[number], self._sizes[number] = stage, size
        self.room -= size

    def due(self, round_: int, *, closing: bool) -> Mapping[int, Stage]:
        """Networks to visit in a round: those whose last visit lies back far enough; all of them when there are none, or at the end."""
        last = {number: max((visit.round for visit in self.found.visits.get(number, ())), default=-self.apart) for number in self.stages}
        ready = {number: stage for number, stage in self.stages.items() if closing or round_ - last[number] >= self.apart}
        return ready or self.stages

    def close(self) -> None:
        """Lets go of the networks that lack nothing."""
        for number in [number for number in self.stages if not self.lacks(number)]:
            del self.stages[number]
            self.room += self._sizes.pop(number)

    @property
    def done(self) -> int:
        """How many networks from the first on have all visits planned, whether or not they count."""
        done = 0
        while len(self._seen(done)) >= self._planned(done) or settled(self._counting(done)):
            done += 1
        return done
