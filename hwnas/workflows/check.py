"""`hwnas check`: whether a profile still holds on the machine as it is now."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import comb
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hwnas import spaces
from hwnas.assets import Workspace
from hwnas.devices import Device, find
from hwnas.errors import MeasurementError, UsageError
from hwnas.ir import Graph
from hwnas.predict.features import kind_of
from hwnas.profiling import NetworkRecord, Profile, ProfileStore, Setting
from hwnas.profiling.profiler import canaries
from hwnas.profiling.store import options_of
from hwnas.profiling.waves import Stage, measure_together
from hwnas.runtimes.base import KernelTime, Runtime
from hwnas.spaces import SearchSpace
from hwnas.workflows.context import clocks, device_and_runtime, versions
from hwnas.workflows.profile import alone, profiled_setting, store_with

Verdict = Literal["holds", "scaled", "drifted"]

ROUNDS = 48  # visits of every network: over some 10 s, so that a moment's disturbance does not decide
KERNEL_RUNS = 12
FEWEST = 3  # networks
CONFIDENCE = 0.9  # of the interval of the common factor
UNIFORM = 0.03  # a common factor this near to 1 is none
SPREAD = 0.05  # most networks follow the common factor this closely, unless something else has changed
MOST = 0.8  # share of the networks that is meant by most
KIND_FACTOR = 1.25  # a kind of kernel that moved so many times more than all others has changed by itself
KIND_SHARE = 0.05  # of the time, below which a kind decides nothing
CLOCK_TOLERANCE = 0.05  # clocks are never still

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something that is not as it was when the device was profiled; `nothing` stands for what is not there."""

    what: str
    then: str
    now: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """A network measured again.

    Attributes:
        id: its number in the profile.
        then_s: latency in the profile.
        now_s: latency now.
        same_kernels: whether the runtime makes the same kernels of it as then.
    """

    id: int
    then_s: float
    now_s: float
    same_kernels: bool

    @property
    def ratio(self) -> float:
        """Now / then."""
        return self.now_s / self.then_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a check found.

    Attributes:
        setting: of the profile.
        space: of the profile.
        changes: of machine and software.
        load: share of the device that others used just before, where it says.
        networks: measured again, from the fastest to the slowest.
        canaries: now / then of each canary.
        kinds: now / then by kind of kernel by the runtime's profiler, for kinds that take a noticeable share of the time.
        spent_s: what profiling took.
    """

    setting: Setting
    space: str
    changes: tuple[Change, ...]
    load: float | None
    networks: tuple[Again, ...]
    canaries: tuple[float, ...]
    kinds: Mapping[str, float]
    spent_s: float

    @property
    def _logs(self) -> Floats:
        return np.log([network.ratio for network in self.networks])

    @property
    def factor(self) -> float:
        """Median of now / then over the networks."""
        return float(np.exp(np.median(self._logs)))

    @property
    def interval(self) -> tuple[float, float]:
        """Confidence interval of `factor`: two of the sorted ratios, whatever their distribution (the whole range for few networks)."""
        ordered = np.exp(np.sort(self._logs))
        cut = _median_rank(len(ordered), CONFIDENCE)
        return float(ordered[cut]), float(ordered[-1 - cut])

    @property
    def machine(self) -> float:
        """Median of now / then over the canaries."""
        return float(np.median(self.canaries))

    @property
    def spread(self) -> float:
        """How closely most networks follow the common factor, as a share."""
        logs = self._logs
        return float(np.expm1(np.quantile(np.abs(logs - np.median(logs)), MOST)))

    @property
    def moved_kinds(self) -> dict[str, float]:
        """Kinds of kernels that changed by themselves, with now / then over that of all kernels, the largest change first."""
        common = float(np.median(list(self.kinds.values()))) if self.kinds else 1.0
        own = {kind: ratio / common for kind, ratio in self.kinds.items()}
        moved = {kind: ratio for kind, ratio in own.items() if not 1 / KIND_FACTOR <= ratio <= KIND_FACTOR}
        return dict(sorted(moved.items(), key=lambda item: -abs(np.log(item[1]))))

    @property
    def other_kernels(self) -> int:
        """Networks of which the runtime makes other kernels than it did."""
        return sum(not network.same_kernels for network in self.networks)

    @property
    def verdict(self) -> Verdict:
        """`holds`; `scaled`: all networks by one factor; `drifted`: each by another, or run as other kernels."""
        if self.other_kernels or self.spread > SPREAD:
            return "drifted"
        if abs(np.log(self.factor)) <= np.log1p(UNIFORM):
            return "holds"
        return "drifted" if self.moved_kinds else "scaled"

    @property
    def holds(self) -> bool:
        """Whether predictions from the profile may still be trusted."""
        return self.verdict == "holds"

    @property
    def command(self) -> str:
        """The command line that profiles again."""
        return f"hwnas profile --device {self.setting.device} {options_of(self.setting)} --space {shlex.quote(self.space)}"

    @property
    def remedy(self) -> str:
        """What to do; empty where there is nothing to be done."""
        again = f"run '{self.command}' (it took {self.spent_s:.0f} s)"
        if self.verdict == "holds":
            return ""
        if self.verdict == "scaled":
            return (
                f"the whole machine is {_slower(self.factor)}: see what else runs on it, its governor and its clock, and check again; "
                f"if it is to stay so, {again}"
            )
        return f"what networks take has changed unevenly; predictions from this profile mislead: {again}"

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        low, high = self.interval
        return {
            **asdict(self.setting),
            "space": self.space,
            "verdict": self.verdict,
            "factor": {"value": self.factor, "low": low, "high": high},
            "canaries": self.machine,
            "spread": self.spread,
            "kinds": dict(self.kinds),
            "moved_kinds": self.moved_kinds,
            "other_kernels": self.other_kernels,
            "changes": [asdict(change) for change in self.changes],
            "load": self.load,
            "networks": [{**asdict(network), "ratio": network.ratio} for network in self.networks],
            "remedy": self.remedy,
        }


def _slower(factor: float) -> str:
    """A factor in words.

    >>> _slower(1.2), _slower(0.8)
    ('20 % slower', '20 % faster')
    """
    return f"{abs(factor - 1):.0%} {'slower' if factor > 1 else 'faster'}".replace("%", " %")


def _median_rank(count: int, confidence: float) -> int:
    """How many of the lowest and of the highest of so many values lie outside an interval that holds the median.

    >>> _median_rank(10, 0.9), _median_rank(3, 0.9)
    (1, 0)
    """
    outside, rank = 2 / 2**count, 0
    while outside + 2 * comb(count, rank + 1) / 2**count <= 1 - confidence:
        rank += 1
        outside += 2 * comb(count, rank) / 2**count
    return rank if count > 2 * rank else 0


def check(
    workspace: Workspace,
    *,
    device: str,
    runtime: str | None = None,
    networks: int = 10,
    threads: int = 1,
    batch: int = 1,
    precision: str = "fp32",
    space: str | None = None,
) -> Checked:
    """Measures some networks of a profile again, spread over its latencies, and compares.

    Raises:
        DeviceUnavailable: the device is not here.
        NotFoundError: it was not profiled.
        BusyError: another process measures this device.
        UsageError: too few networks; or no runtime is named, and several were profiled, none of them the usual one.
        MeasurementError: the space makes other networks than when it was profiled.
    """
    if networks < FEWEST:
        raise UsageError(f"a check needs at least {FEWEST} networks, got {networks}; try --networks 10")
    kind = find(device).spec.name
    setting = profiled_setting(workspace, kind, space, runtime=runtime, threads=threads, batch=batch, precision=precision)
    found, driver, _ = device_and_runtime(workspace, device, runtime=setting.runtime, threads=threads, batch=batch, precision=precision)
    profile = store_with(workspace, setting, space).load(setting, space)
    with alone(ProfileStore(workspace.profiles / setting.device)):
        return compare(profile, spaces.load(profile.space), found, driver, environment=versions(), networks=networks)


def compare(
    profile: Profile, space: SearchSpace, device: Device, runtime: Runtime, *, environment: Mapping[str, str], networks: int
) -> Checked:
    """Compares a profile with the device as it is now.

    Args:
        profile: measured before.
        space: whose networks it holds.
        device: that is here.
        runtime: of the profile's setting.
        environment: versions of the software now.
        networks: how many to measure again.

    Raises:
        MeasurementError: the space makes other networks than when it was profiled, or an earlier hwnas measured beside other canaries.
    """
    load = device.state().load
    chosen = _spread_out(profile.networks, networks)
    graphs = [_again(profile, space, network) for network in chosen]
    precision = profile.setting.precision
    watch = canaries(space, batch=profile.setting.batch)
    profile.slowdowns.require(len(watch))
    together = measure_together(runtime, graphs, watch, rounds=ROUNDS, precision=precision)
    stages = [Stage.build(runtime, graph, precision=precision, seed=0) for graph in graphs]
    times = [stage.kernel_times(KERNEL_RUNS) for stage in stages]
    level = profile.slowdowns.level
    return Checked(
        setting=profile.setting,
        space=profile.space,
        changes=tuple(_changes(profile, device, environment)),
        load=load,
        networks=tuple(
            Again(
                id=network.id,
                then_s=network.latency_s,
                now_s=pooled.latency_s,
                same_kernels=Counter(record.call.kernel for record in network.kernels) == Counter(row.call.kernel for row in rows),
            )
            for network, pooled, rows in zip(chosen, together.networks, times, strict=True)
        ),
        canaries=tuple(np.exp(together.slowdowns.level - level).tolist()),
        kinds=_by_kind(chosen, times),
        spent_s=profile.spent_s,
    )


def _spread_out(networks: Sequence[NetworkRecord], count: int) -> list[NetworkRecord]:
    """So many networks, evenly spread over the order of their latencies."""
    ordered = sorted(networks, key=lambda network: network.latency_s)
    count = min(count, len(ordered))
    return [ordered[int((i + 0.5) * len(ordered) / count)] for i in range(count)]


def _again(profile: Profile, space: SearchSpace, network: NetworkRecord) -> Graph:
    """The network of a record, if its genotype still stands for it: all that its kernels wrote is there, in the same shape."""
    try:
        space.validate(network.genotype)
        graph = space.graph(network.genotype, batch=profile.setting.batch)
        shapes = {value: spec.shape for value, spec in graph.specs.items()}
        if all(shapes.get(record.call.output) == record.call.kernel.outputs[0].shape for record in network.kernels):
            return graph
    except UsageError:
        pass  # its genes are others
    raise MeasurementError(
        f"space '{profile.space}' makes other networks than when '{profile.setting.device}' was profiled (another version of it?), so that "
        f"they cannot be measured again; profile again"
    )


def _changes(profile: Profile, device: Device, environment: Mapping[str, str]) -> Iterable[Change]:
    """What is not as it was: the device, its clock and governor, the software."""
    if device.spec.fingerprint != profile.fingerprint:
        then = f"{profile.device.get('model')}, {profile.device.get('units')} units ({profile.fingerprint})"
        yield Change(what="device", then=then, now=f"{device.spec.model}, {device.spec.units} units ({device.spec.fingerprint})")
    before, now = dict(profile.environment), {**environment, **clocks(device)}
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key) and not (key == "clock" and _near(before.get(key), now.get(key))):
            yield Change(what=key, then=before.get(key, "nothing"), now=now.get(key, "nothing"))


def _near(then: str | None, now: str | None) -> bool:
    """Whether two clocks are the same but for their usual unrest."""
    if then is None or now is None:
        return False
    a, b = (float(clock.split()[0]) for clock in (then, now))
    return abs(a - b) <= CLOCK_TOLERANCE * max(a, b)


def _by_kind(networks: Sequence[NetworkRecord], times: Sequence[Sequence[KernelTime]]) -> dict[str, float]:
    """Now / then of the time that the runtime's profiler saw in each kind of kernel, over all networks."""
    then: dict[str, float] = defaultdict(float)
    now: dict[str, float] = defaultdict(float)
    for network, rows in zip(networks, times, strict=True):
        for record in network.kernels:
            then[kind_of(record.call.kernel)] += record.profiled_s
        for row in rows:
            now[kind_of(row.call.kernel)] += row.seconds
    total = sum(then.values())
    return {kind: now[kind] / seconds for kind, seconds in sorted(then.items()) if kind in now and seconds >= KIND_SHARE * total}
