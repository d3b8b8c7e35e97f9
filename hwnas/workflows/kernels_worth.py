"""What `hwnas kernels bench` found: kernels against what a runtime made of the same work, and what they are worth to a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hwnas.ir import KernelCall
from hwnas.kernels import Case, Tuning
from hwnas.runtimes.samples import Ratio
from hwnas.workflows.kernels_card import Launch

WORTH = 1.02  # a speed-up below this is not worth code of one's own
COPIES = frozenset({"Reformat", "ReorderInput", "ReorderOutput"})  # kernels that only bring a value into the layout of another one
Verdict = Literal["pays", "does not pay", "not resolved"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusion:
    """What a runtime made of the work of a kernel.

    Attributes:
        kernels: that compute it.
        alone: they compute nothing else.
        copies: into other layouts, for them.
    """

    kernels: int
    alone: bool
    copies: int

    @classmethod
    def of(cls, calls: Sequence[KernelCall], places: Sequence[frozenset[str]], free: frozenset[str] = frozenset()) -> Fusion:
        """What it made of most places.

        Args:
            calls: all kernels.
            places: names of the nodes that do the work.
            free: names of nodes that count for nothing, wherever they went.
        """
        found = []
        for place in places:
            near = [call for call in calls if not place.isdisjoint({*call.nodes} - free)]
            work = [call for call in near if call.kernel.op not in COPIES]
            found.append(cls(kernels=len(work), alone=all(place | free >= {*call.nodes} for call in work), copies=len(near) - len(work)))
        return Counter(found).most_common(1)[0][0]

    def __str__(self) -> str:
        """For people.

        >>> print(Fusion(kernels=1, alone=True, copies=0), Fusion(kernels=3, alone=True, copies=1), sep="; ")
        fused; 3 kernels, 1 copy
        """
        text = f"{self.kernels} kernels" if self.kernels != 1 else "fused" if self.alone else "part of a larger kernel"
        return text + (f", {self.copies} {'copy' if self.copies == 1 else 'copies'}" if self.copies else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """A kernel against the runtime's own.

    Attributes:
        kernel: its name.
        case: what was measured.
        places: of the network that have it; 1 without a network.
        tuning: the fastest way to launch it.
        kernel_s: what a launch adds, the median.
        baseline_s: what the runtime adds for the same work.
        speedup: baseline over kernel, measured A B A B.
        fusion: what the runtime made of the work; None where it does not tell.
        launch: how the runtime's networks were launched.
    """

    kernel: str
    case: Case
    places: int
    tuning: Tuning
    kernel_s: float
    baseline_s: float
    speedup: Ratio
    fusion: Fusion | None = None
    launch: Launch = "graph"

    @property
    def verdict(self) -> Verdict:
        """Whether the kernel pays for this work; it is not said to where the runtime's host, unlike ours, launches kernel by kernel."""
        found = judge(self.speedup)
        return "not resolved" if found == "pays" and self.launch == "stream" else found

    def saved_s(self, speedup: float) -> float:
        """What all places save at a speed-up."""
        return self.places * self.baseline_s * (1 - 1 / speedup)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "kernel": self.kernel,
            "case": self.case.name,
            "attrs": dict(self.case.attrs),
            "places": self.places,
            "warps": self.tuning.warps,
            "sizes": dict(self.tuning.sizes),
            "kernel_s": self.kernel_s,
            "baseline_s": self.baseline_s,
            "baseline_kernels": asdict(self.fusion) if self.fusion else None,
            "baseline_launch": self.launch,
            "speedup": asdict(self.speedup),
            "verdict": self.verdict,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Benched:
    """What the kernels are worth.

    Attributes:
        where: it was measured, against what.
        timings: of every kind of work.
        network_s: median time of the network as the runtime runs it, where one was given.
        notes: what has to be known about the measurement.
    """

    where: str
    timings: tuple[Timing, ...]
    network_s: float | None
    notes: tuple[str, ...] = ()

    @property
    def paying_s(self) -> float:
        """What the runtime takes for the places of all kernels that pay."""
        return sum(timing.places * timing.baseline_s for timing in self.timings if timing.verdict == "pays")

    @property
    def speedup(self) -> Ratio | None:
        """Of the network, if the kernels that pay replace what the runtime does; the intervals count in full, as if all erred alike.

        None without a network, and where its places are said to take longer than all of it.
        """
        network_s = self.network_s
        if network_s is None or self.paying_s >= network_s:
            return None

        def whole(which: str) -> float:
            saved = sum(timing.saved_s(getattr(timing.speedup, which)) for timing in self.timings if timing.verdict == "pays")
            return network_s / (network_s - saved)

        return Ratio(median=whole("median"), low=whole("low"), high=whole("high"))

    @property
    def verdict(self) -> Verdict | None:
        """Whether the kernels pay on the network."""
        return judge(self.speedup) if self.speedup else None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        speedup = self.speedup
        return {
            "where": self.where,
            "timings": [timing.as_json() for timing in self.timings],
            "network_s": self.network_s,
            "network_speedup": asdict(speedup) if speedup else None,
            "verdict": self.verdict,
            "notes": list(self.notes),
        }


def judge(speedup: Ratio) -> Verdict:
    """What an interval of a speed-up says.

    >>> [judge(Ratio(median=1.1, low=low, high=high)) for low, high in ((1.05, 1.2), (0.9, 1.01), (0.9, 1.3))]
    ['pays', 'does not pay', 'not resolved']
    """
    return "pays" if speedup.low > WORTH else "does not pay" if speedup.high < WORTH else "not resolved"
