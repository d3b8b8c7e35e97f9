"""What a profile holds: whole networks as they ran, and each kernel's part in its network's time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import fsum, isnan
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from hwnas.devices.energy import Measured
from hwnas.ir import KernelCall
from hwnas.profiling.slowdowns import Floats, Slowdowns
from hwnas.profiling.steady import Batch
from hwnas.profiling.waves import Pooled, by_round
from hwnas.runtimes.fusions import Fusions
from hwnas.runtimes.samples import Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a figure depends on besides the network: it is part of the identity of every profile and predictor.

    Attributes:
        device: name of the device.
        runtime: name of the runtime.
        threads: that compute.
        batch: images per call; 0 where a predictor answers for any number of them.
        precision: `fp32`, `fp16`, `int8`.
    """

    device: str
    runtime: str
    threads: int = 1
    batch: int = 1
    precision: str = "fp32"

    @property
    def key(self) -> str:
        """A name for files.

        >>> Setting(device="cpu", runtime="onnxruntime-cpu").key
        'onnxruntime-cpu-t1-b1-fp32'
        """
        return f"{self.runtime}-t{self.threads}-b{self.batch or 'any'}-{self.precision}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRecord:
    """A kernel in a measured network.

    Attributes:
        call: the kernel and its place.
        nanoseconds: its part of the network's end-to-end time.
        profiled_s: its time by the runtime's profiler in s, from which that part follows.
    """

    call: KernelCall
    nanoseconds: int
    profiled_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRecord:
    """A measured network.

    Attributes:
        id: position in the plan; together with the plan's seed it determines the network.
        genotype: in the space that was sampled.
        pooled: end-to-end durations of all its visits.
        kernels: in execution order; their nanoseconds plus `call_ns` add up to `total_ns` exactly.
        call_ns: what the call itself costs, apart from any kernel.
    """

    id: int
    genotype: tuple[int, ...]
    pooled: Pooled
    kernels: tuple[KernelRecord, ...]
    call_ns: int

    def __post_init__(self) -> None:
        if self.call_ns + sum(kernel.nanoseconds for kernel in self.kernels) != self.total_ns:
            raise ValueError(f"network {self.id}: kernels and call do not add up to the end-to-end time of {self.total_ns} ns")

    @property
    def total_ns(self) -> int:
        """`latency_s` in whole ns."""
        return round(self.latency_s * 1e9)

    @property
    def latency_s(self) -> float:
        """End-to-end p10 in s, on the machine undisturbed (see `hwnas.profiling.waves`)."""
        return self.pooled.latency_s

    @property
    def samples(self) -> Samples:
        """Raw end-to-end durations."""
        return self.pooled.samples


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """How good the predictor was after so much measuring.

    Attributes:
        networks: measured until then.
        seconds: spent until then.
        mape: mean absolute relative error on networks that the predictor had not seen.
        within_10: share of them within 10 %.
    """

    networks: int
    seconds: float
    mape: float
    within_10: float


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The measurements of one setting on one device.

    Attributes:
        setting: what was measured.
        space: whose networks.
        seed: of the plan.
        fingerprint: of the device.
        device: its spec as plain values.
        environment: versions of what the figures depend on.
        fusions: what the runtime fuses on that device.
        networks: as measured.
        canaries: durations of every canary in each round, in s.
        curve: error against time.
        ended_by: `target`, `plateau`, `time`, `count`, or `unfinished`.
        spent_s: wall-clock time in all, over all sessions.
        digest: of the tables that a predictor of latency learns from; empty until it is stored.
        batches: what the device said of itself after each batch of samples; empty where nobody asks it, as on a CPU.
        energies: of the networks whose energy was measured, by their number.
        energy_reason: why there are no energies, or no more of them; empty where nobody asked, or time and networks just ran out.
        energy_digest: of their table; empty until it is stored.
    """

    setting: Setting
    space: str
    seed: int
    fingerprint: str
    device: Mapping[str, Any]
    environment: Mapping[str, str]
    fusions: Fusions
    networks: Sequence[NetworkRecord]
    canaries: Mapping[int, Sequence[Floats]] = field(default_factory=dict)
    curve: Sequence[CurvePoint] = ()
    ended_by: str = "unfinished"
    spent_s: float = 0.0
    digest: str = field(default="", compare=False)
    batches: Sequence[Batch] = ()
    energies: Mapping[int, Measured] = field(default_factory=dict)
    energy_reason: str = ""
    energy_digest: str = field(default="", compare=False)

    @property
    def scatter(self) -> float:
        """How much visits of a network differ with all taken off that is known of their rounds, as a share; nan where none came twice.

        A quiet machine leaves 0.1 to 1.5 %. Where it is more, neighbours came and went within rounds, and the predictor may be less exact.
        """
        known = [scatter for network in self.networks if not isnan(scatter := network.pooled.scatter)]
        return median(known) if known else float("nan")

    @cached_property
    def slowdowns(self) -> Slowdowns:
        """How disturbed the rounds were, and what the canaries take undisturbed."""
        return Slowdowns.of(self.canaries, [by_round(row.samples.seconds, row.pooled.rounds) for row in self.networks])


LEAST_FOR_LINE = 10  # networks
LEAST_SHARE = 0.1  # of its time by the profiler that a kernel keeps, however much the profiler itself takes


def profiler_cost_s(networks: Sequence[tuple[Sequence[float], float]]) -> float:
    """What a runtime's profiler adds to every kernel, in s.

    Watched networks take longer than unwatched ones, by a share for the moment at which they were watched, and by a constant for every
    kernel; the constant is the slope of a robust line over networks, watched / unwatched time against kernels / unwatched time.

    Args:
        networks: of each the times of its kernels by the profiler, and its time without it, less the call; all in s.
    """
    if len(networks) < LEAST_FOR_LINE:
        return 0.0
    unwatched = np.array([seconds for _, seconds in networks])
    watched = np.array([fsum(times) for times, _ in networks]) / unwatched
    kernels = np.array([len(times) for times, _ in networks]) / unwatched
    mean = float(kernels.mean())
    design = np.column_stack([np.ones(len(kernels)), kernels / mean - 1])  # centred: networks that are all alike have no slope
    weight = np.ones(len(kernels))
    for _ in range(5):  # iteratively reweighted, so that disturbed networks count less
        line = np.linalg.lstsq(design * weight[:, None], watched * weight, rcond=None)[0]
        left = np.abs(watched - design @ line)
        weight = 1 / np.maximum(left, np.median(left) + 1e-12) ** 0.5
    return max(0.0, float(line[1]) / mean)


def attribute(times: Sequence[tuple[KernelCall, float]], total_ns: int, call_ns: int, cost_s: float = 0.0) -> tuple[KernelRecord, ...]:
    """Splits a network's end-to-end time among its kernels by the profiler's shares, to the nanosecond.

    A profiler perturbs, so its times are only shares, after what it adds to every kernel was taken off. The parts are rounded by
    largest remainder, so that they and the call add up to the total exactly.

    Args:
        times: each kernel with its time by the profiler, in s.
        total_ns: end-to-end time without the profiler.
        call_ns: part of it that belongs to no kernel; at most `total_ns`.
        cost_s: what the profiler adds to every kernel (`profiler_cost_s`).
    """
    if not 0 <= call_ns <= total_ns:
        raise ValueError(f"a call of {call_ns} ns does not fit into {total_ns} ns")
    whole = total_ns - call_ns
    own = [max(seconds - cost_s, LEAST_SHARE * seconds) for _, seconds in times]
    watched = fsum(own)
    exact = [seconds / watched * whole for seconds in own]
    parts = [int(value) for value in exact]
    order = sorted(range(len(parts)), key=lambda i: parts[i] - exact[i])
    for i in order[: whole - sum(parts)]:
        parts[i] += 1
    return tuple(KernelRecord(call=call, nanoseconds=part, profiled_s=seconds) for (call, seconds), part in zip(times, parts, strict=True))


class Raw(NamedTuple):
    """A network as measured: what a `NetworkRecord` is derived from."""

    id: int
    genotype: tuple[int, ...]
    pooled: Pooled
    times: Sequence[tuple[KernelCall, float]]
    call_ns: int


def records_of(networks: Sequence[Raw]) -> list[NetworkRecord]:
    """The records of all networks of a profile: each latency split among its kernels, the profiler's own cost taken off."""
    unwatched = [(row, max(row.pooled.latency_s - row.call_ns * 1e-9, row.pooled.latency_s / 2)) for row in networks]
    cost_s = profiler_cost_s([([seconds for _, seconds in row.times], left) for row, left in unwatched])
    found = []
    for row in networks:
        total_ns = round(row.pooled.latency_s * 1e9)
        call_ns = min(row.call_ns, total_ns // 2)
        kernels = attribute(row.times, total_ns, call_ns, cost_s)
        found.append(NetworkRecord(id=row.id, genotype=row.genotype, pooled=row.pooled, kernels=kernels, call_ns=call_ns))
    return found
