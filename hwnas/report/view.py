"""What a report shows: plain values, handed over by whoever has them, so that the page needs to know no archive and no search.

All values are SI (s, J, bytes, plain counts, shares of one). What a run does not have yet is an empty tuple or `None`; the page then
says so in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Literal

from hwnas.accuracy.quality import Quality
from hwnas.devices.base import Energy, Unavailable
from hwnas.units import Kind, format_quantity

Origin = Literal["predicted", "measured"]

KINDS: Mapping[str, Kind] = {
    "latency": "time",
    "energy": "energy",
    "memory": "bytes",
    "params": "count",
    "flops": "count",
    "accuracy": "fraction",
}


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with the ends of its interval; the ends equal the value where it is exact."""

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"an interval needs low <= value <= high, got {self.low}, {self.value}, {self.high}")

    @classmethod
    def exact(cls, value: float) -> Interval:
        """A value that is not in doubt, such as a count."""
        return cls(value, value, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What the search had to keep.

    Attributes:
        metric: such as `latency`.
        bound: resolved to SI.
        upper: at most the bound, or at least.
    """

    metric: str
    bound: float
    upper: bool = True

    def __str__(self) -> str:
        return f"{self.metric} {'at most' if self.upper else 'at least'} {format_quantity(self.bound, KINDS[self.metric])}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What the search optimised."""

    metric: str
    minimize: bool

    def __str__(self) -> str:
        return f"{'minimize' if self.minimize else 'maximize'} {self.metric}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A network that the search scored.

    Attributes:
        network: its genotype, as people can copy it into a command.
        metrics: predicted values by metric.
        feasible: whether the predictions keep all limits.
        generation: in which it was first scored.
    """

    network: str
    metrics: Mapping[str, Interval]
    feasible: bool
    generation: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What was exported of a finalist; every figure is measured.

    Attributes:
        folder: where it lies.
        precision: `fp32` or `int8`.
        latency_s: median with p10 and p90.
        speedup_over_torch: times faster than eager torch, the median of interleaved pairs with its interval.
        speedup_over_fp32: the same against the fp32 export; `None` for fp32 itself.
        accuracy: on the locked test split, a share.
        accuracy_fp32: of the network before quantisation, on the same images.
        size_bytes: of the model file.
        reason: why this precision, in one sentence.
    """

    folder: str
    precision: str
    latency_s: Interval
    speedup_over_torch: Interval
    speedup_over_fp32: Interval | None = None
    accuracy: float
    accuracy_fp32: float
    size_bytes: int
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """An engine for NVIDIA cards that was built of a finalist.

    Attributes:
        folder: where it lies.
        flavor: of TensorRT: `tensorrt` or `rtx`.
        precision: as asked for.
        size_bytes: of the engine.
        layers: number of its layers by the precision of their arithmetic.
        view: whose word the layers are: the `engine` inspector's, or, before fusion, the `parser`'s.
        runs_on: the cards, and the versions of TensorRT, in words.
        latency: what is known of it, in words: an engine that was built without its card was not measured.
        loading: why it was not loaded where it was built; empty where it was.
        accuracy: in these precisions on the locked test split, computed on the processor; a share.
        accuracy_fp32: the same in fp32.
        commands: that build it again and that time it.
    """

    folder: str
    flavor: str
    precision: str
    size_bytes: int
    layers: Mapping[str, int]
    view: str
    runs_on: str
    latency: str
    loading: str
    accuracy: float
    accuracy_fp32: float
    commands: tuple[str, ...] = ()

    @property
    def layers_text(self) -> str:
        """The layers, most frequent precision first."""
        return ", ".join(f"{count} {name or 'unknown'}" for name, count in sorted(self.layers.items(), key=lambda item: -item[1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalist:
    """A network that was trained to the end and measured.

    Attributes:
        rank: 1 is best.
        network: its genotype.
        summary: what it is, in a few words.
        predicted_latency_s: what the predictor promised when the network was chosen.
        measured_latency_s: median with p10 and p90, or `None` before it was measured.
        limit_kept: by the measured figures, `None` where there is no limit or no measurement.
        accuracies: one per seed, on the split that `accuracy_split` names.
        accuracy_split: such as `validation` or `locked test`.
        params: counted.
        flops: counted, per image.
        predicted_energy_j: of a call, what the predictor promised; `None` where none was learned.
        energy: of a call, as measured, with idle power in it; or why it is not known.
        net_energy: the same above idle power; `None` where it was not measured.
        energy_source: how it was measured, for people; empty where it was not.
        export: what was shipped of it, if anything yet.
        engines: for NVIDIA cards that were built of it, the newest last.
    """

    rank: int
    network: str
    summary: str
    predicted_latency_s: Interval
    measured_latency_s: Interval | None
    limit_kept: bool | None
    accuracies: tuple[float, ...]
    accuracy_split: str = "validation"
    params: int
    flops: int
    predicted_energy_j: Interval | None = None
    energy: Energy | Unavailable = field(default_factory=lambda: Unavailable("not measured in this run"))
    net_energy: Energy | None = None
    energy_source: str = ""
    export: Export | None = None
    engines: tuple[Engine, ...] = ()

    @property
    def accuracy_mean(self) -> float | None:
        """Mean over the seeds; `None` before the first training ended."""
        return fmean(self.accuracies) if self.accuracies else None

    @property
    def accuracy_sd(self) -> float | None:
        """Sample standard deviation over the seeds; `None` for fewer than two."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A network whose latency was predicted first and measured afterwards.

    Attributes:
        network: its name or genotype.
        kind: `held-out` (sampled, to judge the predictor), `elite` (measured during the search) or `finalist`.
        predicted_s: with its interval.
        measured_s: end to end.
    """

    network: str
    kind: Literal["held-out", "elite", "finalist"]
    predicted_s: Interval
    measured_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelShare:
    """A kernel of the best network and the time that belongs to it, in s."""

    kernel: str
    node: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Time that one piece of work took.

    Attributes:
        part: `profiling`, `proxies`, `training`, `measuring`, `search`, `export`.
        finished_s: when it was done, in s after the run began; what was done before the run has 0.
        seconds: how long it took.
    """

    part: str
    finished_s: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictorCard:
    """What is known about the latency predictor that the run used.

    Attributes:
        source: profile and file that it stands on.
        networks: number that it learned from.
        seconds: spent on measuring them.
        mape: mean absolute relative error on held-out networks, a share.
        within_5: share of held-out networks predicted within 5 %.
        within_10: the same for 10 %.
        coverage_promised: nominal share of values inside their interval.
        coverage_held: share found on held-out networks.
        curve: (seconds of measuring, held-out MAPE), as profiling went on.
    """

    source: str
    networks: int
    seconds: float
    mape: float
    within_5: float
    within_10: float
    coverage_promised: float
    coverage_held: float
    curve: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A run, as far as it has come.

    Attributes:
        run: its identifier.
        created: when it began, for people.
        space: name of the search space.
        device: on which latency was predicted and measured, with runtime and threads, for people.
        objectives: what was optimised; the first two span the plot of the front.
        limits: what had to be kept.
        evaluations: unique networks scored.
        generations: completed.
        failures: trials that failed.
        stopped_by: why the search ended, or that it has not.
        trials: all that were scored.
        finalists: best first.
        comparisons: predictions with the measurements that came after.
        kernels: of the best finalist, in execution order.
        kernels_origin: whether their times are predicted or measured.
        spent: what took how long.
        quality: how well proxies and surrogate rank the trained networks.
        predictor: card of the latency predictor.
        environment: fingerprint, versions, seeds, data hash.
        replay: the command that repeats the run.
    """

    run: str
    created: str
    space: str
    device: str
    objectives: tuple[Objective, ...]
    limits: tuple[Limit, ...] = ()
    evaluations: int = 0
    generations: int = 0
    failures: int = 0
    stopped_by: str = ""
    trials: tuple[Trial, ...] = ()
    finalists: tuple[Finalist, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    kernels: tuple[KernelShare, ...] = ()
    kernels_origin: Origin = "measured"
    spent: tuple[Spent, ...] = ()
    quality: Quality | None = None
    predictor: PredictorCard | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    replay: str = ""

    @property
    def verdict(self) -> str:
        """The run in one sentence: how many finalists kept the limits when measured."""
        if not self.finalists:
            return f"No finalists yet: {self.evaluations} networks scored, none trained to the end and measured."
        judged = [finalist for finalist in self.finalists if finalist.limit_kept is not None]
        waiting = len(self.finalists) - len(judged)
        if not self.limits:
            measured = sum(finalist.measured_latency_s is not None for finalist in self.finalists)
            return f"{measured} of {len(self.finalists)} finalists measured; no limit was set."
        if not judged:
            return f"{waiting} finalists, none measured against the limit yet ({self.limit_text})."
        kept = sum(finalist.limit_kept is True for finalist in judged)
        rest = f"; {waiting} not measured yet" if waiting else ""
        return f"{kept} of {len(judged)} finalists kept the limit when measured ({self.limit_text}){rest}."

    @property
    def limit_text(self) -> str:
        """All limits, for people."""
        return ", ".join(map(str, self.limits))

    @property
    def outcome(self) -> Literal["kept", "broken", "open"]:
        """Whether all finalists kept all limits when measured."""
        judged = [finalist.limit_kept for finalist in self.finalists]
        if any(kept is False for kept in judged):
            return "broken"
        return "kept" if judged and all(judged) else "open"
