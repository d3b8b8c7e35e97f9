"""From a graph to an estimate: a fitted model together with how its runtime fuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np

from hwnas.errors import UncoveredKernelError, UsageError
from hwnas.ir import Graph, KernelCall
from hwnas.predict.conformal import quantile
from hwnas.predict.estimate import Estimate
from hwnas.predict.features import Matrix, tabulate
from hwnas.predict.model import LEVEL, NetworkModel
from hwnas.profiling import Setting
from hwnas.runtimes.fusions import Fusions
from hwnas.runtimes.registry import fuser


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelEstimate:
    """A kernel's part in a prediction.

    Attributes:
        call: the kernel and the nodes that it computes.
        seconds: predicted; the parts and the call overhead add up to the network's value.
        share: of the network's value.
        covered: whether its kind and size were measured.
        bound: what limits it by its roofline: `compute`, `memory` or `overhead`.
    """

    call: KernelCall
    seconds: float
    share: float
    covered: bool
    bound: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Measurements that others took and published.

    Attributes:
        name: of the measurements.
        licence: under which they may be used.
        reference: where they were published.
        conditions: what was measured and how, for people.
        gaps: what was not measured, for people.
    """

    name: str
    licence: str
    reference: str
    conditions: str
    gaps: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferred:
    """What a predictor was adapted from.

    Attributes:
        source: the known device, for people, such as `cpu/onnxruntime-cpu-t1-b1-fp32 (mobilenet)`.
        digest: of the known device's predictor.
        networks: that were measured on the new one.
    """

    source: str
    digest: str
    networks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """Predicts latency for one setting.

    Attributes:
        setting: device, runtime, threads, batch, precision.
        fusions: what the runtime fuses on that device.
        model: what was learned.
        space: whose networks it learned from.
        fingerprint: of the device that was measured.
        profile_digest: SHA-256 of the tables that it learned from.
        environment: versions under which they were measured.
        digest: SHA-256 of the predictor's own files, empty until it is stored.
        origin: whose measurements it learned from, where they are not a profile's.
        transferred: what it was adapted from, where it was.
    """

    setting: Setting
    fusions: Fusions
    model: NetworkModel
    space: str
    fingerprint: str
    profile_digest: str
    environment: Mapping[str, str]
    digest: str = ""
    origin: Origin | None = None
    transferred: Transferred | None = None

    @property
    def source(self) -> str:
        """Where an estimate comes from, for people."""
        if self.transferred:
            return f"transferred from {self.transferred.source} with {self.transferred.networks} networks"
        if self.origin:
            return f"predicted from {self.origin.name} ({self.origin.licence}): {self.origin.conditions}"
        return f"predicted from profile {self.setting.device}/{self.setting.key} ({self.space})"

    def kernels(self, graph: Graph, left: Set[str] = frozenset()) -> tuple[KernelCall, ...]:
        """The kernels that the runtime makes of a graph on the device that was measured, which need not be here.

        Args:
            graph: the network in floats.
            left: names of nodes that were left in floats where it was quantised.
        """
        return fuser(self.setting.runtime, self.setting.precision, left)(graph, self.fusions)

    def estimate(self, graphs: Sequence[Graph], *, strict: bool = False, left: Sequence[Set[str]] = ()) -> list[Estimate]:
        """Latency of networks, in their order; all kernels are predicted in one batch per kind.

        Args:
            graphs: networks of this setting's batch size.
            strict: refuse instead of falling back to the roofline.
            left: of each network the nodes that were left in floats, where it was quantised; empty for all as hwnas quantises them.

        Raises:
            UncoveredKernelError: in strict mode, for a kernel whose kind or size was not measured.
            UsageError: a network's batch differs from the setting's.
        """
        if not graphs:
            return []
        for graph in graphs:
            self._check_batch(graph)
        calls = [self.kernels(graph, names) for graph, names in zip(graphs, left or [frozenset()] * len(graphs), strict=True)]
        table = tabulate([[call.kernel for call in network] for network in calls])
        covered = self.model.kernels(table).covered if strict else None
        if covered is not None and not covered.all():
            first = int(np.flatnonzero(~covered)[0])
            call = [call for network in calls for call in network][first]
            raise UncoveredKernelError(
                f"'{self.setting.device}' was not profiled for kernel '{table.kinds[first]}' of this size (node '{call.nodes[0]}'); "
                f"profile a space that has it, or drop --strict"
            )
        bounds = self.model.bounds(table)
        rows = zip(bounds.value.tolist(), bounds.low.tolist(), bounds.high.tolist(), bounds.coverage.tolist(), strict=True)
        return [
            Estimate(value=value, low=low, high=high, unit="s", coverage=coverage, source=self.source)
            for value, low, high, coverage in rows
        ]

    def _check_batch(self, graph: Graph) -> None:
        for name, spec in graph.inputs.items():
            if spec.shape and spec.shape[0] != self.setting.batch:
                raise UsageError(
                    f"input '{name}' of '{graph.name}' has batch {spec.shape[0]}, this predictor answers for {self.setting.batch}; "
                    f"give --batch {spec.shape[0]} (and profile with it)"
                )

    def explain(self, graph: Graph, left: Set[str] = frozenset()) -> list[KernelEstimate]:
        """Every kernel's part in the prediction of a network, in execution order; arguments as for `kernels`."""
        self._check_batch(graph)
        calls = self.kernels(graph, left)
        table = tabulate([[call.kernel for call in calls]])
        times, covered = self.model.in_place(table), self.model.kernels(table).covered
        total = float(self.model.bounds(table).value[0])
        scaled = times * total / (self.model.call_s + times.sum())
        bounds = self.model.limits(table)
        return [
            KernelEstimate(
                call=call, seconds=float(scaled[i]), share=float(scaled[i] / total), covered=bool(covered[i]), bound=str(bounds[i])
            )
            for i, call in enumerate(calls)
        ]

    def recalibrated(self, predicted: Matrix, measured: Matrix) -> Predictor:
        """This predictor after networks were measured that a search chose with it.

        A search finds what the predictor under-predicts, so its winners are not exchangeable with the profile's networks.
        Their median error moves every prediction, and the interval never narrows: its half width is at least the conformal
        one of the winners themselves, or, while they are too few for that, their largest error.

        Args:
            predicted: latency of the networks as this predictor gave it, in s.
            measured: p10 of the same networks, in s.
        """
        log_ratio = np.log(np.asarray(measured) / np.asarray(predicted))
        shift = float(np.median(log_ratio))
        left = np.abs(log_ratio - shift)
        own = quantile(left, LEVEL)
        half_width = max(self.model.half_width, own if np.isfinite(own) else float(left.max()))
        return replace(self, model=self.model.shifted(shift, half_width), digest="")
