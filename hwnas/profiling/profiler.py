"""Measures whole networks of a space, each with its kernels in context, until the predictor is good enough or time is up."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np

from hwnas.errors import MeasurementError, UsageError
from hwnas.ir import Graph
from hwnas.ir.cost import flops, memory_bytes
from hwnas.profiling.journal import Measuring
from hwnas.profiling.profile import CurvePoint, NetworkRecord, Profile
from hwnas.profiling.slowdowns import SESSIONS, Floats
from hwnas.profiling.steady import WATCHED, Batch, Guard
from hwnas.profiling.store import ProfileStore
from hwnas.profiling.waves import Attend, Stage, Visit, Watch, at_once, visit_together
from hwnas.profiling.window import Window, visits_of
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


def memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


Judge = Callable[[Sequence[NetworkRecord], Sequence[NetworkRecord]], Look]
"""Learns from the first networks and judges on the second."""

CANARIES = 6
CANARY_SEED = 2**31  # no plan has it: seeds of plans are small
RESERVE = 0.015  # of the time, for what comes after the last round
SPARE = 1.1  # times as long as rounds took so far
FEW = 3  # waves; where no more fit into the time, networks are begun by the wave: rounds of a few networks would be canaries mostly
TOURNAMENT = 6  # candidates of which the most uncertain is measured, for every other network
WAVE_BYTES = 4 * 2**30  # of weights and activations that the networks under measurement may hold in memory; real memory is up to twice that
WAVE_SHARE = 6  # and no more than this part of the machine's memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much to measure.

    Attributes:
        max_time_s: wall-clock limit, over all sessions of a resumed profile.
        target_error: stop when the mean absolute relative error on unseen networks falls to this.
        max_networks: stop after so many.
        least_networks: fewer are kept in the journal and make no profile.
        wave: networks that are visited in a round; the error is looked at after so many networks, then after half as many more.
        visits: of a network, each in another round; fewer where they take long or agree early (`hwnas.profiling.window`).
        apart: rounds from one visit of a network to its next; what disturbs a machine lasts longer than a round.
        kernel_runs: profiled runs of each network.
    """

    max_time_s: float = 90.0
    target_error: float = 0.015
    max_networks: int = 2000
    least_networks: int = 1
    wave: int = 20
    visits: int = 4
    apart: int = 8
    kernel_runs: int = 8

    @property
    def deadline_s(self) -> float:
        """When measuring ends, so that what is measured is also written down within `max_time_s`."""
        return (1 - RESERVE) * self.max_time_s

    @property
    def cohort(self) -> int:
        """Networks that are begun before a round, so that a wave is visited in each."""
        return max(1, round(self.wave / self.visits))

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
        return seconds / max(1e-9, self.begin_s + self._visits_each(plan) * self.round_s(plan.wave) / plan.wave)

    def finish_s(self, window: Window, plan: Plan) -> float:
        """Of beginning one more network and making all visits that are lacking then."""
        visits = self._visits_each(plan)
        return self.begin_s + self.round_s(window.left + visits + (visits - 1) * CANARIES)

    def _visits_each(self, plan: Plan) -> int:
        return visits_of(self.visit_s, plan.visits) if self.visit_s else plan.visits


PLATEAU_ROUNDS = 4  # so many looks without a gain of a tenth end the profile
PLATEAU_GAIN = 0.1


class Profiler:
    """Profiles one setting.

    Attributes:
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
        self.runtime = runtime
        self.space = space
        self.store = store
        self.judge = judge
        self.clock = clock
        self.guard = guard

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
        run = _Run(self, empty, plan, self._open(empty, resume), call_ns=round(call_s * 1e9), report=report)
        ended_by = run.measure()
        networks = run.found.records()
        if len(networks) < plan.least_networks:
            raise MeasurementError(
                f"{len(networks)} networks were measured in {run.spent_s():.0f} s, and {plan.least_networks} at least make a profile; "
                f"they are kept: go on with --resume and a longer --max-time"
            )
        profile = replace(
            empty,
            networks=tuple(networks),
            canaries=run.found.canaries,
            curve=tuple(run.found.curve),
            ended_by=ended_by,
            spent_s=run.spent_s(),
            batches=tuple(run.found.batches),
        )
        self.store.save(profile)
        return profile

    def _open(self, empty: Profile, resume: bool) -> Measuring:
        """What was measured already."""
        journal = self.store.journal(empty.setting, empty.space)
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

    def genotype(self, index: int, seed: int, draw: int = 0) -> Genotype:
        """A candidate for the plan's network number `index`: its own random stream, so that a resumed plan goes on as it would have."""
        stream = [seed, index, draw] if draw else [seed, index]
        return self.space.canonical(self.space.sample(np.random.default_rng(stream)))


class _Run:
    """One run of a profiler: from what was measured already until its plan ends."""

    def __init__(
        self, profiler: Profiler, empty: Profile, plan: Plan, found: Measuring, *, call_ns: int, report: Callable[[Progress], None]
    ) -> None:
        self.found = found
        self._profiler, self._empty, self._plan, self._call_ns, self._report = profiler, empty, plan, call_ns, report
        self._journal = profiler.store.journal(empty.setting, empty.space)
        self._before_s, self._start = found.spent_s, profiler.clock()
        self._look = self._judged_again()
        self._watch = Watch(
            profiler.runtime,
            canaries(profiler.space, batch=empty.setting.batch),
            precision=empty.setting.precision,
            sessions=SESSIONS if profiler.guard is None else 1,  # engines of a card take minutes to build
        )
        self._window = Window(found=found, visits=plan.visits, apart=plan.apart, room=min(WAVE_BYTES, memory() // WAVE_SHARE))
        self._pace = _Pace()
        self._timed = dict.fromkeys(found.times, -1)  # the round after which a network's kernels were timed

    def spent_s(self) -> float:
        """Wall-clock time, over all sessions."""
        return self._before_s + self._profiler.clock() - self._start

    @property
    def _left_s(self) -> float:
        return self._plan.deadline_s - self.spent_s()

    def measure(self) -> str:
        """Measures round after round.

        Returns:
            What ended it.
        """
        ended_by = ""
        while True:
            number = self._next_round
            ended_by = ended_by or self._ended()
            closing = self._begin_networks(number, new=not ended_by) or bool(ended_by)
            due = self._window.due(number, closing=closing)
            over = closing and not self._window.unseen and self._pace.round_s(len(due)) > self._left_s
            if over or not self._window.stages:
                return ended_by or "time"
            self._visit(number, due)
            self._time_again(number)
            self._window.close()
            self._judge()

    @property
    def _next_round(self) -> int:
        visited = (visit.round for visits in self.found.visits.values() for visit in visits)
        return 1 + max([*self.found.canaries, *visited], default=-1)

    def _ended(self) -> str:
        """Why no further network is begun; empty while there is no reason."""
        if self._left_s <= 0:
            return "time"
        if len(self.found.genotypes) >= self._plan.max_networks:
            return "count"
        errors = [point.mape for point in self.found.curve]
        if len(errors) >= 2 and max(errors[-2:]) <= self._plan.target_error:  # twice, so that one lucky look does not end it
            return "target"
        if len(errors) > PLATEAU_ROUNDS and min(errors[-PLATEAU_ROUNDS:]) > (1 - PLATEAU_GAIN) * min(errors[:-PLATEAU_ROUNDS]):
            return "plateau"
        return ""

    def _begin_networks(self, number: int, *, new: bool) -> bool:
        """Builds the networks that join the window before a round.

        Returns:
            Whether there is no time for more.
        """
        half_way_s = self._left_s / 2  # the other half of the time left is for the visits
        few = self._pace.affordable(self._left_s, self._plan) < FEW * self._plan.wave
        for network in islice(self._candidates(new), self._plan.wave if few else self._plan.cohort):
            first = self._pace.visit_s is None
            late = self._left_s <= half_way_s if first else self._pace.finish_s(self._window, self._plan) > self._left_s
            if late and (self._window.stages or self.found.visits):
                return True
            if self._window.stages and self._window.room <= 0:
                return False
            began = self.spent_s()
            self._begin(network, number)
            self._pace.began(self.spent_s() - began)
        return False

    def _candidates(self, new: bool) -> Iterator[int]:
        """Networks to build next: those that lack visits, then new ones, unless the profile comes to its end."""
        yield from self._window.lacking()
        if new:
            yield from range(len(self.found.genotypes), self._plan.max_networks)

    def _begin(self, network: int, number: int) -> None:
        """Builds a network and times its kernels, unless an earlier session did that."""
        setting = self._empty.setting
        genotype = self.found.genotypes.get(network) or self._choose(network)
        graph = self._profiler.space.graph(genotype, batch=setting.batch)
        stage = Stage.build(self._profiler.runtime, graph, precision=setting.precision, seed=0)
        self._window.open(network, stage, memory_bytes(graph))
        if network not in self.found.times:
            self._time_kernels(network, genotype, self._call_ns, number)

    def _choose(self, network: int) -> Genotype:
        """The plan's network of this number; every other one is the most uncertain of several, as soon as that can be told."""
        draw = partial(self._profiler.genotype, network, self._empty.seed)
        if self._look is None or _by_chance(network):
            return draw()
        candidates = [draw(i) for i in range(TOURNAMENT)]
        worth = self._look.worth([self._profiler.space.graph(genotype, batch=self._empty.setting.batch) for genotype in candidates])
        return candidates[int(np.argmax(worth))]

    def _time_kernels(self, network: int, genotype: Genotype, call_ns: int, number: int) -> None:
        """Times the kernels of a network before or after a round, and puts it on record."""
        stage, guard = self._window.stages[network], self._profiler.guard
        take = partial(stage.kernel_times, self._plan.kernel_runs)
        times = take() if guard is None else guard.take(network, take, round_=WATCHED, note=self._note)
        self._journal.network(network, genotype, times, call_ns, self.spent_s())
        self.found.genotypes[network], self.found.call_ns[network] = genotype, call_ns
        self.found.times[network] = tuple((time.call, time.seconds) for time in times)
        self._timed[network] = number

    def _visit(self, number: int, due: Mapping[int, Stage]) -> None:
        """One round: visits the canaries and the networks whose turn it is."""

        def took(network: int, seconds: Floats) -> None:
            visit = Visit(network=network, round=number, seconds=seconds)
            self.found.visits.setdefault(network, []).append(visit)
            self._journal.visit(visit, self.spent_s())

        guard = self._profiler.guard
        attend: Attend = at_once if guard is None else partial(guard.take, round_=number, note=self._note)
        began = self.spent_s()
        self.found.canaries[number] = visit_together(self._watch.of(number), due, took, attend)
        self._journal.canaries(number, self.found.canaries[number], self.spent_s())
        self._pace.visited(len(due), self.spent_s() - began)

    def _time_again(self, number: int) -> None:
        """Kernels that were timed while the machine was in another state are timed once more, as soon as it is not."""
        other_state = self._window.other_state = self._watch.other_state(self.found.canaries)
        if number not in other_state:
            for network in self._window.stages:
                if self._timed[network] in other_state:
                    self._time_kernels(network, self.found.genotypes[network], self.found.call_ns[network], number)

    def _judge(self) -> None:
        """Says where the run stands, and looks at the error once enough networks came on top."""
        done = self._window.done
        self._say(done)
        if done - self.found.judged >= max(self._plan.wave, self.found.judged // 2) and self._left_s > 0:
            self._look = self._look_at(done) or self._look
            self._say(done)

    def _say(self, done: int) -> None:
        curve = self.found.curve
        self._report(Progress(networks=done, seconds=self.spent_s(), error=curve[-1].mape if curve else None))

    def _look_at(self, done: int) -> Look | None:
        """How good a predictor the networks of the last look make for those measured since, as far as these were drawn by chance."""
        found, look, point, networks = self.found, None, None, self.found.records()
        if found.judged:
            look = self._profiler.judge(networks[: found.judged], _drawn(networks[found.judged : done]))
            point = CurvePoint(networks=found.judged, seconds=self.spent_s(), mape=look.mape, within_10=look.within_10)
            found.curve.append(point)
        found.judged = done
        self._journal.look(point, done, self.spent_s())
        return look

    def _judged_again(self) -> Look | None:
        """The last look of a profile that goes on, which chose the networks that came after."""
        if not self.found.curve:
            return None
        before, networks = self.found.curve[-1].networks, self.found.records()
        return self._profiler.judge(networks[:before], _drawn(networks[before : self.found.judged]))

    def _note(self, batch: Batch) -> None:
        """Puts a batch of samples on record."""
        self.found.batches.append(batch)
        self._journal.batch(batch, self.spent_s())


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
