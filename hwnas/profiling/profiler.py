"""Measures whole networks of a space, each with its kernels in context, until the predictor is good enough or time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hwnas.errors import UsageError
from hwnas.profiling.profile import CurvePoint, NetworkRecord, Profile, attribute
from hwnas.profiling.store import ProfileStore
from hwnas.runtimes.base import Runtime
from hwnas.runtimes.samples import Samples, StoppingRule
from hwnas.spaces import SearchSpace

Judge = Callable[[Sequence[NetworkRecord], Sequence[NetworkRecord]], tuple[float, float]]
"""Fits on the first networks and judges on the second: (MAPE, share within 10 %)."""

NETWORK_RULE = StoppingRule(relative_error=0.003, min_samples=15, max_seconds=0.2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much to measure.

    Attributes:
        max_time_s: wall-clock limit, over all sessions of a resumed profile.
        target_error: stop when the mean absolute relative error on unseen networks falls to this.
        max_networks: stop after so many.
        round: networks before the first look at the error, and the fewest between two; later ones come after a quarter more.
        kernel_runs: profiled runs of each network.
        rule: for the end-to-end samples of one network.
        retries: how often samples of grade C are taken again.
    """

    max_time_s: float = 90.0
    target_error: float = 0.015
    max_networks: int = 2000
    round: int = 25
    kernel_runs: int = 15
    rule: StoppingRule = NETWORK_RULE
    retries: int = 2

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
    """

    def __init__(
        self, runtime: Runtime, space: SearchSpace, store: ProfileStore, judge: Judge, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._runtime = runtime
        self._space = space
        self._store = store
        self._judge = judge
        self._clock = clock

    def run(
        self, empty: Profile, plan: Plan, *, call_s: float, resume: bool, report: Callable[[Progress], None] = lambda _: None
    ) -> Profile:
        """Measures until the plan ends, and saves.

        Args:
            empty: what will be filled: setting, space, seed, device, environment.
            plan: when to stop.
            call_s: cost of an empty call, in s.
            resume: go on with an unfinished profile instead of starting anew.
            report: called after every network.

        Raises:
            UsageError: there is an unfinished profile and `resume` is False, or it does not fit this call.
        """
        networks, before_s = self._open(empty, resume)
        journal = self._store.journal(empty.setting)
        call_ns = round(call_s * 1e9)
        start = self._clock()
        curve: list[CurvePoint] = []
        judged = 0

        def spent_s() -> float:
            return before_s + self._clock() - start

        while not (ended_by := self._ended(plan, curve, len(networks), spent_s())):
            began = self._clock()
            record = self.measure(len(networks), empty, plan, call_ns)
            record = replace(record, measured_in_s=self._clock() - began)
            journal.append(record)
            networks.append(record)
            if len(networks) - judged >= max(plan.round, judged // 4):
                if judged:
                    mape, within = self._judge(networks[:judged], networks[judged:])
                    curve.append(CurvePoint(networks=judged, seconds=spent_s(), mape=mape, within_10=within))
                judged = len(networks)
            report(Progress(networks=len(networks), seconds=spent_s(), error=curve[-1].mape if curve else None))
        profile = replace(empty, networks=tuple(networks), curve=tuple(curve), ended_by=ended_by, spent_s=spent_s())
        self._store.save(profile)
        return profile

    def _open(self, empty: Profile, resume: bool) -> tuple[list[NetworkRecord], float]:
        """The networks that are there already and the time they took."""
        journal = self._store.journal(empty.setting)
        header = {"space": empty.space, "seed": empty.seed, "fingerprint": empty.fingerprint, "setting": empty.setting.key}
        if not journal.exists():
            journal.start(header)
            return [], 0.0
        found, networks = journal.read()
        device = empty.setting.device
        if not resume:
            raise UsageError(
                f"an unfinished profile of '{device}' with {len(networks)} networks is in '{journal.path}'; "
                f"go on with --resume, or drop it with --restart"
            )
        for key, value in header.items():
            if found.get(key) != value:
                raise UsageError(
                    f"the unfinished profile of '{device}' has {key} '{found.get(key)}', this call '{value}'; give the same, or --restart"
                )
        return networks, sum(network.measured_in_s for network in networks)

    @staticmethod
    def _ended(plan: Plan, curve: Sequence[CurvePoint], networks: int, spent_s: float) -> str | None:
        if spent_s >= plan.max_time_s:
            return "time"
        if networks >= plan.max_networks:
            return "count"
        errors = [point.mape for point in curve]
        if len(errors) >= 2 and max(errors[-2:]) <= plan.target_error:  # twice, so that one lucky round does not end it
            return "target"
        if len(errors) > PLATEAU_ROUNDS and min(errors[-PLATEAU_ROUNDS:]) > (1 - PLATEAU_GAIN) * min(errors[:-PLATEAU_ROUNDS]):
            return "plateau"
        return None

    def measure(self, index: int, empty: Profile, plan: Plan, call_ns: int) -> NetworkRecord:
        """Measures the plan's network number `index`: end to end first, then once more with the runtime's profiler."""
        genotype = self.genotype(index, empty.seed)
        graph = self._space.graph(genotype, batch=empty.setting.batch)
        feed = graph.random_inputs(np.random.default_rng(index))
        session = self._runtime.build(graph, precision=empty.setting.precision)
        samples = self._undisturbed(lambda: session.time(feed, plan.rule), plan.retries)
        times = session.kernel_times(feed, plan.kernel_runs)
        total_ns = round(samples.p10_s * 1e9)
        call_ns = min(call_ns, total_ns // 2)
        return NetworkRecord(
            id=index,
            genotype=genotype,
            samples=samples,
            kernels=attribute([(time.call, time.seconds) for time in times], total_ns, call_ns),
            call_ns=call_ns,
            measured_in_s=0.0,
        )

    @staticmethod
    def _undisturbed(take: Callable[[], Samples], retries: int) -> Samples:
        """Samples of grade A or B where the machine allows: taken again while it disturbs, the steadiest kept."""
        best = take()
        for _ in range(retries):
            if best.grade != "C":
                break
            again = take()
            best = min(best, again, key=lambda samples: samples.spread)
        return best

    def genotype(self, index: int, seed: int) -> tuple[int, ...]:
        """The plan's network number `index`: its own random stream, so that a resumed plan goes on as it would have."""
        return self._space.canonical(self._space.sample(np.random.default_rng([seed, index])))
