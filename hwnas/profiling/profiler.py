"""Measures whole networks of a space, each with its kernels in context, until the predictor is good enough or time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np

from hwnas.errors import MeasurementError, UsageError
from hwnas.ir import Graph
from hwnas.ir.cost import flops, memory_bytes
from hwnas.profiling.journal import Journal, Measuring
from hwnas.profiling.profile import CurvePoint, NetworkRecord, Profile
from hwnas.profiling.steady import WATCHED, Batch, Guard
from hwnas.profiling.store import ProfileStore
from hwnas.profiling.waves import SESSIONS, Attend, Floats, Stage, Visit, Watch, at_once, visit_together
from hwnas.profiling.window import Window
from hwnas.runtimes.base import Runtime
from hwnas.spaces import Genotype, SearchSpace


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How good a predictor the networks so far make.

    Attributes:
        mape: mean absolute relative error on networks that it did not see.
        within_10: share of them within 10 %.
        worth: how uncertain that predictor is about other networks, in any unit: those are worth measuring.
    """

    mape: float
    within_10: float
    worth: Callable[[Sequence[Graph]], Sequence[float]]


Judge = Callable[[Sequence[NetworkRecord], Sequence[NetworkRecord]], Look]
"""Learns from the first networks and judges on the second."""

CANARIES = 6
CANARY_SEED = 2**31  # no plan has it: seeds of plans are small
RESERVE = 0.015  # of the time, for what comes after the last round
SPARE = 1.1  # times as long as rounds took so far
FEW = 3  # waves; where no more fit into the time, networks are begun by the wave: rounds of a few networks would be canaries mostly
TOURNAMENT = 6  # candidates of which the most uncertain is measured, for every other network
WAVE_BYTES = 4 * 2**30  # of weights and activations that the networks under measurement may hold in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much to measure.

    Attributes:
        max_time_s: wall-clock limit, over all sessions of a resumed profile.
        target_error: stop when the mean absolute relative error on unseen networks falls to this.
        max_networks: stop after so many.
        least_networks: fewer are kept in the journal and make no profile.
        wave: networks that are visited in a round; the error is looked at after so many networks, then after half as many more.
        visits: of every network, each in another round.
        apart: rounds from one visit of a network to its next; what disturbs a machine lasts longer than a round.
        kernel_runs: profiled runs of each network.
    """

    max_time_s: float = 90.0
    target_error: float = 0.015
    max_networks: int = 2000
    least_networks: int = 1
    wave: int = 20
    visits: int = 4
    apart: int = 3
    kernel_runs: int = 12

    @property
    def deadline_s(self) -> float:
        """When measuring ends, so that what is measured is also written down within `max_time_s`."""
        return (1 - RESERVE) * self.max_time_s

    @property
    def cohort(self) -> int:
        """Networks that are begun before a round, so that a wave is visited in each."""
        return max(1, self.wave // self.visits)

    def __post_init__(self) -> None:
        if self.max_time_s <= 0:
            raise UsageError(f"the time for profiling must be positive, got {self.max_time_s} s; try --max-time 90s")
        if not 0 < self.target_error < 1:
            raise UsageError(f"the target error must lie between 0 and 100 %, got {self.target_error:.0%}; try --target-error 4%")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where profiling stands, for a progress bar."""

    networks: int
    seconds: float
    error: float | None


@dataclass(slots=True)
class _Pace:
    """How long things take here, in s.

    Attributes:
        begin_s: of beginning a network, the mean so far.
        visit_s: of a visit, those of canaries included; None before the first round.
    """

    begin_s: float = 0.0
    visit_s: float | None = None
    _begun: int = 0
    _visits: int = 0

    def began(self, seconds: float) -> None:
        self._begun += 1
        self.begin_s += (seconds - self.begin_s) / self._begun

    def visited(self, networks: int, seconds: float) -> None:
        visits = networks + CANARIES
        self._visits += visits
        before = self.visit_s or 0.0
        self.visit_s = before + (seconds - visits * before) / self._visits

    def round_s(self, networks: int) -> float:
        """Of a round with so many networks, with a little to spare."""
        return SPARE * (networks + CANARIES) * (self.visit_s or 0.0)

    def affordable(self, seconds: float, plan: Plan) -> float:
        """How many networks fit into so many seconds; no end of them before the first round."""
        if self.visit_s is None:
            return float("inf")
        return seconds / max(1e-9, self.begin_s + plan.visits * self.round_s(plan.wave) / plan.wave)

    def finish_s(self, window: Window, plan: Plan) -> float:
        """Of beginning one more network and making all visits that are lacking then."""
        return self.begin_s + self.round_s(window.left + plan.visits + (plan.visits - 1) * CANARIES)


PLATEAU_ROUNDS = 4  # so many looks without a gain of a tenth end the profile
PLATEAU_GAIN = 0.1


class Profiler:
    """Profiles one setting.

    Args:
        runtime: builds and times.
        space: networks to sample.
        store: where the profile goes; its journal makes every network safe as soon as it was measured.
        judge: says how good a predictor the networks make (the layer above knows how).
        clock: seconds, monotonic.
        guard: of a device that slows down and tells; without one, samples count as they come.
    """

    def __init__(
        self,
        runtime: Runtime,
        space: SearchSpace,
        store: ProfileStore,
        judge: Judge,
        clock: Callable[[], float] = time.perf_counter,
        guard: Guard | None = None,
    ) -> None:
        self._runtime = runtime
        self._space = space
        self._store = store
        self._judge = judge
        self._clock = clock
        self._guard = guard

    def begin(self, empty: Profile, *, resume: bool) -> None:
        """Makes sure that a profile can be measured, and remembers that it is to be, before one is.

        Raises:
            UsageError: as `run`.
        """
        self._open(empty, resume)

    def run(
        self, empty: Profile, plan: Plan, *, call_s: float, resume: bool, report: Callable[[Progress], None] = lambda _: None
    ) -> Profile:
        """Measures until the plan ends, and saves.

        Args:
            empty: what will be filled: setting, space, seed, device, environment.
            plan: when to stop.
            call_s: cost of an empty call, in s.
            resume: go on with an unfinished profile instead of starting anew.
            report: called after every round.

        Raises:
            UsageError: there is an unfinished profile and `resume` is False, or it does not fit this call.
            MeasurementError: too few networks were measured; they stay in the journal, and an earlier profile stays what it was.
        """
        found = self._open(empty, resume)
        journal = self._store.journal(empty.setting, empty.space)
        before_s, start = found.spent_s, self._clock()
        curve = found.curve
        look = self._judged_again(found)

        def spent_s() -> float:
            return before_s + self._clock() - start

        watch = Watch(
            self._runtime,
            canaries(self._space, batch=empty.setting.batch),
            precision=empty.setting.precision,
            sessions=SESSIONS if self._guard is None else 1,  # engines of a card take minutes to build
        )
        window = Window(found=found, visits=plan.visits, apart=plan.apart, room=WAVE_BYTES)
        pace = _Pace()
        timed = dict.fromkeys(found.times, -1)  # the round after which a network's kernels were timed
        ended_by = ""
        while True:
            number = 1 + max([*found.canaries, *(visit.round for visits in found.visits.values() for visit in visits)], default=-1)
            ended_by = ended_by or self._ended(plan, curve, len(found.genotypes), spent_s())
            half_way_s = (spent_s() + plan.deadline_s) / 2  # the other half of the time left is for the visits
            closing = bool(ended_by)
            few = pace.affordable(plan.deadline_s - spent_s(), plan) < FEW * plan.wave
            for network in islice(self._candidates(window, plan, ended_by), plan.wave if few else plan.cohort):
                late = spent_s() >= half_way_s if pace.visit_s is None else spent_s() + pace.finish_s(window, plan) > plan.deadline_s
                if (window.stages and window.room <= 0) or (late and (window.stages or found.visits)):
                    closing = closing or late
                    break
                began = spent_s()
                genotype = found.genotypes.get(network) or self._next(network, empty, look)
                graph = self._space.graph(genotype, batch=empty.setting.batch)
                window.open(network, self._stage(graph, empty), memory_bytes(graph))
                if network not in found.times:
                    self._time_kernels(window.stages[network], network, genotype, round(call_s * 1e9), found, journal, plan, spent_s)
                    timed[network] = number
                pace.began(spent_s() - began)
            if not window.stages:
                ended_by = ended_by or "time"
                break
            due = window.due(number, closing=closing)
            if closing and not window.unseen and spent_s() + pace.round_s(len(due)) > plan.deadline_s:
                ended_by = ended_by or "time"
                break  # another round would not fit
            began = spent_s()
            self._round(number, watch, due, found, journal, spent_s)
            pace.visited(len(due), spent_s() - began)
            window.other_state = watch.other_state(found.canaries)
            if number not in window.other_state:
                for network, stage in window.stages.items():
                    if timed[network] in window.other_state:
                        genotype, call_ns = found.genotypes[network], found.call_ns[network]
                        self._time_kernels(stage, network, genotype, call_ns, found, journal, plan, spent_s)
                        timed[network] = number
            window.close()
            done = window.done
            report(Progress(networks=done, seconds=spent_s(), error=curve[-1].mape if curve else None))
            if done - found.judged >= max(plan.wave, found.judged // 2) and spent_s() < plan.deadline_s:
                look = self._look(found, journal, done, spent_s) or look
                report(Progress(networks=done, seconds=spent_s(), error=curve[-1].mape if curve else None))
        networks = found.records()
        if len(networks) < plan.least_networks:
            raise MeasurementError(
                f"{len(networks)} networks were measured in {spent_s():.0f} s, and {plan.least_networks} at least make a profile; "
                f"they are kept: go on with --resume and a longer --max-time"
            )
        profile = replace(
            empty,
            networks=tuple(networks),
            canaries=found.canaries,
            curve=tuple(curve),
            ended_by=ended_by,
            spent_s=spent_s(),
            batches=tuple(found.batches),
        )
        self._store.save(profile)
        return profile

    def _look(self, found: Measuring, journal: Journal, done: int, spent_s: Callable[[], float]) -> Look | None:
        """How good a predictor the networks of the last look make for those measured since, as far as these were drawn by chance."""
        look, point, networks = None, None, found.records()
        if found.judged:
            look = self._judge(networks[: found.judged], _drawn(networks[found.judged : done]))
            point = CurvePoint(networks=found.judged, seconds=spent_s(), mape=look.mape, within_10=look.within_10)
            found.curve.append(point)
        found.judged = done
        journal.look(point, done, spent_s())
        return look

    def _judged_again(self, found: Measuring) -> Look | None:
        """The last look of a profile that goes on, which chose the networks that came after."""
        if not found.curve:
            return None
        before, networks = found.curve[-1].networks, found.records()
        return self._judge(networks[:before], _drawn(networks[before : found.judged]))

    def _next(self, number: int, empty: Profile, look: Look | None) -> Genotype:
        """The plan's network of this number; every other one is the most uncertain of several, as soon as that can be told."""
        if look is None or _by_chance(number):
            return self.genotype(number, empty.seed)
        candidates = [self.genotype(number, empty.seed, draw) for draw in range(TOURNAMENT)]
        worth = look.worth([self._space.graph(genotype, batch=empty.setting.batch) for genotype in candidates])
        return candidates[int(np.argmax(worth))]

    @staticmethod
    def _candidates(window: Window, plan: Plan, ended_by: str) -> Iterator[int]:
        """Networks to build next: those that lack visits, then new ones, unless the profile comes to its end."""
        yield from window.lacking()
        if not ended_by:
            yield from range(len(window.found.genotypes), plan.max_networks)

    def _time_kernels(
        self,
        stage: Stage,
        number: int,
        genotype: Genotype,
        call_ns: int,
        found: Measuring,
        journal: Journal,
        plan: Plan,
        spent_s: Callable[[], float],
    ) -> None:
        """Times a network's kernels, and puts it on record."""
        if self._guard is None:
            times = stage.kernel_times(plan.kernel_runs)
        else:
            note = _noting(found, journal, spent_s)
            times = self._guard.take(number, lambda: stage.kernel_times(plan.kernel_runs), round_=WATCHED, note=note)
        journal.network(number, genotype, times, call_ns, spent_s())
        found.genotypes[number], found.call_ns[number] = genotype, call_ns
        found.times[number] = tuple((time.call, time.seconds) for time in times)

    def _round(
        self,
        number: int,
        watch: Watch,
        due: Mapping[int, Stage],
        found: Measuring,
        journal: Journal,
        spent_s: Callable[[], float],
    ) -> None:
        """Visits the canaries and the networks whose turn it is."""

        def took(network: int, seconds: Floats) -> None:
            visit = Visit(network=network, round=number, seconds=seconds)
            found.visits.setdefault(network, []).append(visit)
            journal.visit(visit, spent_s())

        attend: Attend = at_once
        if self._guard is not None:
            attend = partial(self._guard.take, round_=number, note=_noting(found, journal, spent_s))
        found.canaries[number] = visit_together(watch.of(number), due, took, attend)
        journal.canaries(number, found.canaries[number], spent_s())

    def _stage(self, graph: Graph, empty: Profile) -> Stage:
        return Stage.build(self._runtime, graph, precision=empty.setting.precision, seed=0)

    def _open(self, empty: Profile, resume: bool) -> Measuring:
        """What was measured already."""
        journal = self._store.journal(empty.setting, empty.space)
        header = {"space": empty.space, "seed": empty.seed, "fingerprint": empty.fingerprint, "setting": empty.setting.key}
        if not journal.exists():
            journal.start(header)
            return Measuring()
        recorded, found = journal.read()
        device = empty.setting.device
        if not resume:
            count = f"{len(found.visits)} network{'s'[: len(found.visits) != 1]}"
            raise UsageError(
                f"an unfinished profile of '{device}' with {count} is in '{journal.path}'; go on with --resume, or drop it with --restart"
            )
        for key, value in header.items():
            if recorded.get(key) != value:
                raise UsageError(
                    f"the unfinished profile of '{device}' has {key} '{recorded.get(key)}', this call '{value}'; "
                    f"give the same, or --restart"
                )
        return found

    @staticmethod
    def _ended(plan: Plan, curve: Sequence[CurvePoint], networks: int, spent_s: float) -> str:
        """Why no further network is begun; empty while there is no reason."""
        if spent_s >= plan.deadline_s:
            return "time"
        if networks >= plan.max_networks:
            return "count"
        errors = [point.mape for point in curve]
        if len(errors) >= 2 and max(errors[-2:]) <= plan.target_error:  # twice, so that one lucky look does not end it
            return "target"
        if len(errors) > PLATEAU_ROUNDS and min(errors[-PLATEAU_ROUNDS:]) > (1 - PLATEAU_GAIN) * min(errors[:-PLATEAU_ROUNDS]):
            return "plateau"
        return ""

    def genotype(self, index: int, seed: int, draw: int = 0) -> Genotype:
        """A candidate for the plan's network number `index`: its own random stream, so that a resumed plan goes on as it would have."""
        stream = [seed, index, draw] if draw else [seed, index]
        return self._space.canonical(self._space.sample(np.random.default_rng(stream)))


def _noting(found: Measuring, journal: Journal, spent_s: Callable[[], float]) -> Callable[[Batch], None]:
    """Puts batches of samples on record."""

    def note(batch: Batch) -> None:
        found.batches.append(batch)
        journal.batch(batch, spent_s())

    return note


def _drawn(networks: Sequence[NetworkRecord]) -> Sequence[NetworkRecord]:
    return [row for row in networks if _by_chance(row.id)] or networks


def _by_chance(number: int) -> bool:
    """Whether the plan's network of this number is drawn, not chosen: only those say how good a predictor is in general."""
    return number % 2 == 0


def canaries(space: SearchSpace, *, batch: int = 1) -> list[Graph]:
    """The canaries of a space, the same in every profile of it: small, middling and large by their FLOPs among random networks."""
    rng = np.random.default_rng(CANARY_SEED)
    graphs = sorted((space.graph(space.sample(rng), batch=batch) for _ in range(4 * CANARIES)), key=flops)
    return graphs[2::4]
