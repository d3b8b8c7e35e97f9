"""What a prediction is made of: every kernel with its time, what limits it, and whether it stands on measurements."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Literal

from hwnas.ir import Graph, Kernel
from hwnas.predict.adapted import AdaptedModel
from hwnas.predict.estimate import Estimate
from hwnas.predict.features import describe
from hwnas.predict.gpu import Figures
from hwnas.predict.gpu_model import GpuModel
from hwnas.predict.model import LatencyModel, NetworkModel
from hwnas.predict.predictor import KernelEstimate, Predictor

BOUNDS = ("compute", "memory", "overhead")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """What a device does at best by its roofline.

    Attributes:
        flops_per_s: operations.
        bytes_per_s: to and from memory.
    """

    flops_per_s: float
    bytes_per_s: float

    @classmethod
    def of(cls, model: NetworkModel) -> Ceilings | None:
        """Those by which a model scales; None where it has none."""
        if isinstance(model, LatencyModel | AdaptedModel):
            return cls(flops_per_s=model.roofline.flops_per_s, bytes_per_s=model.roofline.bytes_per_s)
        if isinstance(model, GpuModel):
            figures = Figures.of(model.spec)
            return cls(flops_per_s=figures.flops_per_s, bytes_per_s=figures.bytes_per_s)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A kernel of a prediction.

    Attributes:
        kernel: with its predicted time and share.
        kind: the model that answers for it.
        flops: operations; what only moves data counts one for each element that it writes.
        bytes: read and written, weights included.
    """

    kernel: KernelEstimate
    kind: str
    flops: float
    bytes: float

    @property
    def name(self) -> str:
        """The kernel with what is fused into it, such as `Conv+Relu`."""
        return "+".join((self.kernel.call.kernel.op, *self.kernel.call.kernel.fused))

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.flops / self.bytes

    @property
    def flops_per_s(self) -> float:
        """The rate that the predicted time comes to."""
        return self.flops / self.kernel.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncovered:
    """Kernels of one kind that a prediction does not take from measurements.

    Attributes:
        kind: of the kernels.
        missing: what was not measured: the `kind` at all, or their `size`.
        kernels: how many.
        share: of the network's time, by the roofline, since that is what stands in for measurements.
    """

    kind: str
    missing: Literal["kind", "size"]
    kernels: int
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A prediction taken apart.

    Attributes:
        estimate: of the whole network.
        parts: its kernels, the most expensive first.
        kinds: of kernels that were measured.
        ceilings: of the device, where the predictor has them.
    """

    estimate: Estimate
    parts: tuple[Part, ...]
    kinds: frozenset[str]
    ceilings: Ceilings | None

    @classmethod
    def of(cls, predictor: Predictor, graph: Graph, estimate: Estimate, left: Set[str] = frozenset()) -> Explanation:
        """Explains what a predictor has estimated of a graph; `left` as for `Predictor.kernels`.

        Raises:
            UsageError: the network's batch is not the predictor's.
        """
        parts = []
        for kernel in sorted(predictor.explain(graph, left), key=lambda kernel: -kernel.seconds):
            seen = describe(kernel.call.kernel)
            parts.append(Part(kernel=kernel, kind=seen.kind, flops=seen.flops, bytes=seen.bytes))
        model = predictor.model
        kinds = model.kinds if isinstance(model, LatencyModel | GpuModel | AdaptedModel) else ()
        return cls(estimate=estimate, parts=tuple(parts), kinds=frozenset(kinds), ceilings=Ceilings.of(model))

    @property
    def kernels(self) -> list[Kernel]:
        """The kernels alone."""
        return [part.kernel.call.kernel for part in self.parts]

    @property
    def overhead_share(self) -> float:
        """Share of the network's time that belongs to no kernel: what the call itself costs."""
        return max(0.0, 1 - sum(part.kernel.share for part in self.parts))

    @property
    def bounds(self) -> Mapping[str, float]:
        """Share of the network's time by what limits it."""
        shares = dict.fromkeys(BOUNDS, 0.0)
        for part in self.parts:
            shares[part.kernel.bound] += part.kernel.share
        return shares

    @property
    def uncovered(self) -> tuple[Uncovered, ...]:
        """What does not stand on measurements, the largest share first."""
        groups: dict[str, list[Part]] = defaultdict(list)
        for part in self.parts:
            if not part.kernel.covered:
                groups[part.kind].append(part)
        found = (
            Uncovered(
                kind=kind,
                missing="size" if kind in self.kinds else "kind",
                kernels=len(parts),
                share=sum(part.kernel.share for part in parts),
            )
            for kind, parts in groups.items()
        )
        return tuple(sorted(found, key=lambda group: -group.share))
