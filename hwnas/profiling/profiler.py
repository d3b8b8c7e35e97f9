"""Measures whole networks of a space, each with its kernels in context, until the predictor is good enough or time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from hwnas.errors import MeasurementError, UsageError
from hwnas.ir import Graph
from hwnas.ir.cost import flops, memory_bytes
from hwnas.profiling.journal import Journal, Measuring
from hwnas.profiling.profile import CurvePoint, NetworkRecord, Profile
from hwnas.profiling.steady import WATCHED, Batch, Guard
from hwnas.profiling.store import ProfileStore
from hwnas.profiling.waves import Attend, Floats, Stage, Visit, at_once, visit_together
from hwnas.runtimes.base import KernelTime, Runtime
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
TOURNAMENT = 6  # candidates of which the most uncertain is measured, for every other network
WORTHWHILE = 4  # networks that must fit into the time left for another wave
WAVE_BYTES = 4 * 2**30  # of weights and activations that a wave may hold in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much to measure.

    Attributes:
        max_time_s: wall-clock limit, over all sessions of a resumed profile.
        target_error: stop when the mean absolute relative error on unseen networks falls to this.
        max_networks: stop after so many.
        least_networks: fewer are kept in the journal and make no profile.
        wave: networks that are visited in turn; the error is looked at between waves, each time after half as many networks more.
        visits: of every network, each in another round.
        kernel_runs: profiled runs of each network.
    """

    max_time_s: float = 90.0
    target_error: float = 0.015
    max_networks: int = 2000
    least_networks: int = 1
    wave: int = 20
    visits: int = 4
    kernel_runs: int = 12

    @property
    def deadline_s(self) -> float:
        """When measuring ends, so that what is measured is also written down within `max_time_s`."""
        return (1 - RESERVE) * self.max_time_s

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

        watch = [self._stage(graph, empty) for graph in canaries(self._space, batch=empty.setting.batch)]
        done = len(found.records(plan.visits))
        while not (ended_by := self._ended(plan, curve, done, spent_s())):
            stages: dict[int, Stage] = {}
            budget = WAVE_BYTES
            half_way_s = (spent_s() + plan.deadline_s) / 2  # the other half of the time left is for the visits
            for number in range(done, min(done + self._affordable(plan, done, spent_s()), plan.max_networks)):
                if stages and (budget <= 0 or spent_s() >= half_way_s):
                    break
                genotype = found.genotypes.get(number) or self._next(number, empty, look)
                graph = self._space.graph(genotype, batch=empty.setting.batch)
                budget -= memory_bytes(graph)
                stages[number] = self._stage(graph, empty)
                if number not in found.times:
                    times = self._kernel_times(stages[number], number, found, journal, plan, spent_s)
                    journal.network(number, genotype, times, round(call_s * 1e9), spent_s())
                    found.genotypes[number], found.call_ns[number] = genotype, round(call_s * 1e9)
                    found.times[number] = tuple((time.call, time.seconds) for time in times)
            while any(len(found.visits.get(number, ())) < plan.visits for number in stages):
                began = spent_s()
                self._round(watch, stages, found, journal, plan, spent_s)
                report(Progress(networks=done, seconds=spent_s(), error=curve[-1].mape if curve else None))
                if 2 * spent_s() - began > plan.deadline_s and all(number in found.visits for number in stages):
                    break  # another round would not fit
            done += len(stages)
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
    def _affordable(plan: Plan, done: int, spent_s: float) -> int:
        """Networks of the next wave: as many as the time left allows at the pace so far."""
        return max(1, min(plan.wave, int((plan.deadline_s - spent_s) * done / spent_s))) if done and spent_s > 0 else plan.wave

    def _kernel_times(
        self, stage: Stage, number: int, found: Measuring, journal: Journal, plan: Plan, spent_s: Callable[[], float]
    ) -> Sequence[KernelTime]:
        if self._guard is None:
            return stage.kernel_times(plan.kernel_runs)
        return self._guard.take(number, lambda: stage.kernel_times(plan.kernel_runs), round_=WATCHED, note=_noting(found, journal, spent_s))

    def _round(
        self,
        watch: Sequence[Stage],
        stages: Mapping[int, Stage],
        found: Measuring,
        journal: Journal,
        plan: Plan,
        spent_s: Callable[[], float],
    ) -> None:
        """Visits the canaries and every network that lacks visits."""
        number = 1 + max([*found.canaries, *(visit.round for visits in found.visits.values() for visit in visits)], default=-1)

        def took(network: int, seconds: Floats) -> None:
            visit = Visit(network=network, round=number, seconds=seconds)
            found.visits.setdefault(network, []).append(visit)
            journal.visit(visit, spent_s())

        lacking = {network: stage for network, stage in stages.items() if len(found.visits.get(network, ())) < plan.visits}
        attend: Attend = at_once
        if self._guard is not None:
            attend = partial(self._guard.take, round_=number, note=_noting(found, journal, spent_s))
        found.canaries[number] = visit_together(watch, lacking, took, attend)
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
            raise UsageError(
                f"an unfinished profile of '{device}' with {len(found.visits)} networks is in '{journal.path}'; "
                f"go on with --resume, or drop it with --restart"
            )
        for key, value in header.items():
            if recorded.get(key) != value:
                raise UsageError(
                    f"the unfinished profile of '{device}' has {key} '{recorded.get(key)}', this call '{value}'; "
                    f"give the same, or --restart"
                )
        return found

    @staticmethod
    def _ended(plan: Plan, curve: Sequence[CurvePoint], networks: int, spent_s: float) -> str | None:
        if spent_s + WORTHWHILE * spent_s / max(1, networks) >= plan.deadline_s:
            return "time"
        if networks >= plan.max_networks:
            return "count"
        errors = [point.mape for point in curve]
        if len(errors) >= 2 and max(errors[-2:]) <= plan.target_error:  # twice, so that one lucky look does not end it
            return "target"
        if len(errors) > PLATEAU_ROUNDS and min(errors[-PLATEAU_ROUNDS:]) > (1 - PLATEAU_GAIN) * min(errors[:-PLATEAU_ROUNDS]):
            return "plateau"
        return None

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
