"""The journal that makes profiling survive a kill: what was measured, one JSON line each, on the disk before it counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from hwnas.ir import Kernel, KernelCall
from hwnas.profiling.lines import Lines
from hwnas.profiling.profile import CurvePoint, NetworkRecord, Raw, records_of
from hwnas.profiling.slowdowns import Floats, Slowdowns
from hwnas.profiling.steady import Batch
from hwnas.profiling.waves import Pooled, Visit
from hwnas.runtimes.base import KernelTime


@dataclass(slots=True)
class Measuring:
    """Everything that a journal holds.

    Attributes:
        spent_s: wall-clock time until the last line.
        genotypes: of the networks begun.
        times: each network's kernels with their time by the runtime's profiler, in s.
        call_ns: of each network.
        visits: of each network.
        canaries: durations of every canary in each round.
        curve: error against time, as far as it was looked at.
        judged: networks that had been measured at the last look.
        batches: what the device said of itself after each batch of samples.
    """

    spent_s: float = 0.0
    genotypes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    times: dict[int, tuple[tuple[KernelCall, float], ...]] = field(default_factory=dict)
    call_ns: dict[int, int] = field(default_factory=dict)
    visits: dict[int, list[Visit]] = field(default_factory=dict)
    canaries: dict[int, list[Floats]] = field(default_factory=dict)
    curve: list[CurvePoint] = field(default_factory=list)
    judged: int = 0
    batches: list[Batch] = field(default_factory=list)

    def records(self, least_visits: int = 1) -> list[NetworkRecord]:
        """The networks that were visited often enough, as far as is known by now."""
        slow = Slowdowns.of(self.canaries, [{visit.round: visit.seconds for visit in visits} for visits in self.visits.values()])
        return records_of(
            [
                Raw(i, self.genotypes[i], Pooled.of(visits, slow), self.times[i], self.call_ns[i])
                for i, visits in sorted(self.visits.items())
                if len(visits) >= least_visits
            ]
        )


class Journal(Lines):
    """What was measured so far: `network` (built, its kernels timed), `canaries`, `visit`, `batch` and `look`."""

    def network(self, number: int, genotype: tuple[int, ...], times: Sequence[KernelTime], call_ns: int, spent_s: float) -> None:
        """A network was built and its kernels timed."""
        kernels = [[time.call.kernel.to_json(), list(time.call.nodes), time.call.output, time.seconds] for time in times]
        self.append({"network": number, "genotype": list(map(int, genotype)), "kernels": kernels, "call_ns": call_ns, "spent_s": spent_s})

    def canaries(self, number: int, seconds: Sequence[Floats], spent_s: float) -> None:
        """The canaries were visited: a round begins."""
        self.append({"canaries": number, "seconds": [row.tolist() for row in seconds], "spent_s": spent_s})

    def visit(self, visit: Visit, spent_s: float) -> None:
        """A network was visited."""
        self.append({"visit": visit.network, "round": visit.round, "seconds": visit.seconds.tolist(), "spent_s": spent_s})

    def look(self, point: CurvePoint | None, judged: int, spent_s: float) -> None:
        """The error was looked at: on the networks measured since the last look, so there is none at the first."""
        self.append({"look": asdict(point) if point else None, "judged": judged, "spent_s": spent_s})

    def batch(self, batch: Batch, spent_s: float) -> None:
        """Some samples were taken, or dropped."""
        self.append({"batch": asdict(batch), "spent_s": spent_s})

    def read(self) -> tuple[dict[str, Any], Measuring]:
        """The header and everything measured.

        Raises:
            FormatError: the header is damaged or of another version.
        """
        header, rows = self.read_lines()
        found = Measuring()
        kernels: dict[str, Kernel] = {}
        for row in rows:
            _take(found, row, kernels)
        return header, found


def _take(found: Measuring, row: Mapping[str, Any], kernels: dict[str, Kernel]) -> None:
    found.spent_s = row["spent_s"]
    if "network" in row:
        number = row["network"]
        found.genotypes[number] = tuple(row["genotype"])
        found.times[number] = tuple((call_of(text, nodes, output, kernels), seconds) for text, nodes, output, seconds in row["kernels"])
        found.call_ns[number] = row["call_ns"]
    elif "canaries" in row:
        found.canaries[row["canaries"]] = [np.array(seconds) for seconds in row["seconds"]]
    elif "batch" in row:
        found.batches.append(Batch.of(row["batch"]))
    elif "look" in row:
        found.judged = row["judged"]
        found.curve += [CurvePoint(**row["look"])] if row["look"] else []
    else:
        visit = Visit(network=row["visit"], round=row["round"], seconds=np.array(row["seconds"]))
        found.visits.setdefault(visit.network, []).append(visit)


def call_of(text: str, nodes: Sequence[str], output: str, known: dict[str, Kernel]) -> KernelCall:
    """A kernel at its place from what files keep of it; equal kernels become one, which `known` holds by their texts."""
    kernel = known.get(text) or known.setdefault(text, Kernel.from_json(text))
    return KernelCall(kernel=kernel, nodes=tuple(nodes), output=output)
