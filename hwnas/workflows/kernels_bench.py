"""`hwnas kernels bench`: measures on a card whether the custom kernels pay, by themselves and on a network.

A kernel and what a runtime fuses are measured alike: by what they add to a row of products (`hwnas.kernels.chain`). Four things are run in
turn, round after round: the row with the kernel before each product and the one with it before the first alone, and both again as the
runtime runs them. A round gives two differences, what the kernel adds and what the runtime adds, and their quotient is one speed-up.
Launches by the host, copies at the ends and conversions are in both rows of a side and cancel; gaps between kernels on the card count on
both sides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from hwnas.assets import Workspace
from hwnas.errors import MeasurementError, UsageError
from hwnas.ir import Graph
from hwnas.ir.kernel import FREE
from hwnas.kernels import Case, KernelSource
from hwnas.kernels.chain import Chain, chain
from hwnas.profiling.steady import Batch, Guard
from hwnas.runtimes.samples import Clock, Samples, interleave, ratio
from hwnas.workflows.kernels import chosen, uses
from hwnas.workflows.kernels_card import RUNS, Against, Kernels, Work, chosen_side, sides
from hwnas.workflows.kernels_worth import Benched, Fusion, Timing

ROUNDS = 50
LEAST_S = 1e-12  # what a difference counts for that is none, or less
Sampled = Callable[[Mapping[str, Callable[[], object]], int], dict[str, Samples]]


def measure(
    kernels: Kernels,
    against: Against,
    cases: Sequence[tuple[KernelSource, Case, int]],
    graph: Graph | None = None,
    *,
    rounds: int = ROUNDS,
    clock: Clock = time.perf_counter_ns,
    guard: Guard | None = None,
) -> Benched:
    """Measures kernels against a runtime.

    Every way to launch a kernel is tried first, side by side; the fastest one then meets the runtime in samples of its own, since the
    best of several looks better than it is.

    Args:
        kernels: makes rows of launches.
        against: makes networks.
        cases: kernels, what they do, and at how many places.
        graph: the network that has the places.
        rounds: samples of each.
        clock: nanoseconds, monotonic.
        guard: lets no sample pass that was taken on a card that is slowed down.

    Raises:
        MeasurementError: the card is too unsteady to tell a time, or stays slow.
        GraphError: the runtime refuses a network.
    """
    batches: list[Batch] = []

    def sampled(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Samples]:
        def take() -> dict[str, Samples]:
            return interleave(runs, rounds=rounds, clock=clock)

        return guard.take(len(batches), take, round_=0, note=batches.append) if guard else take()

    network_s = None
    if graph is not None:
        network_s = sampled({"network": against.network(graph).run}, rounds)["network"].median_s / RUNS
    timings = tuple(_timed(kernels, against, source, case, places, sampled, rounds) for source, case, places in cases)
    found = Benched(where=f"{kernels.where}, against {against.what}", timings=timings, network_s=network_s)
    return replace(found, notes=tuple(_notes(found, against.what, batches)))


def _timed(kernels: Kernels, against: Against, source: KernelSource, case: Case, places: int, sampled: Sampled, rounds: int) -> Timing:
    """A kernel against the runtime in one case."""
    row = chain(source.name, case)
    whole, bare = against.network(row.whole), against.network(row.bare)
    ways = {str(i): kernels.row(source, case, tuning, row, bare=False) for i, tuning in enumerate(source.tunings)}
    tried = sampled(ways, max(3, rounds // 5))
    best = min(ways, key=lambda way: tried[way].median_s)
    tuning = source.tunings[int(best)]
    ours = kernels.row(source, case, tuning, row, bare=True)
    runs = {"kernel": ways[best], "kernel, bare": ours, "runtime": whole.run, "runtime, bare": bare.run}
    samples = sampled(runs, rounds)
    added = {side: _added(samples[side], samples[f"{side}, bare"], row.links) for side in ("kernel", "runtime")}
    if added["kernel"].median_s <= LEAST_S:
        raise MeasurementError(f"the card is too unsteady to tell what '{source.name}' takes ({case.name}); keep others off it")
    return Timing(
        kernel=source.name,
        case=case,
        places=places,
        tuning=tuning,
        kernel_s=added["kernel"].median_s,
        baseline_s=added["runtime"].median_s,
        speedup=ratio(added["runtime"], added["kernel"]),
        fusion=_fusion(whole, row),
        launch="graph" if whole.launch == bare.launch == "graph" else "stream",
    )


def _added(whole: Samples, bare: Samples, links: int) -> Samples:
    """What each place adds, round by round; that less than nothing was added is noise, and counts as next to nothing."""
    return Samples(np.maximum((whole.seconds - bare.seconds) / (links * RUNS), LEAST_S))


def _fusion(work: Work, row: Chain) -> Fusion | None:
    if work.calls is None:
        return None
    free = frozenset(node.name for node in row.whole.nodes if node.op in FREE)
    return Fusion.of(work.calls(), row.places, free)


def _notes(found: Benched, what: str, batches: Sequence[Batch]) -> Iterator[str]:
    """What has to be known about a measurement."""
    if any(timing.launch == "stream" for timing in found.timings):
        yield f"{what} could not be launched as a whole, so its host counts against it: no kernel can be said to pay"
    if found.network_s is not None and found.paying_s >= found.network_s:
        yield "by themselves the places of kernels that pay take longer than all of the network: nothing can be said of it; measure again"
    for grade, does in (("C", "were dropped and taken again"), ("B", "are flagged")):
        reasons = [batch.reason for batch in batches if batch.grade == grade]
        if reasons:
            yield f"{len(reasons)} of {len(batches)} batches of samples {does}: {', '.join(dict.fromkeys(reasons))}"


def bench(
    graph: Graph | None,
    *,
    device: str,
    precision: str,
    against: str | None = None,
    names: Sequence[str] = (),
    workspace: Workspace | None = None,
) -> Benched:
    """Measures the kernels on a card: those that a network has use for, or the typical cases of `kernel.toml`.

    Args:
        graph: the network.
        device: the card.
        precision: of all tensors.
        against: what the kernels meet; the runtime with which the device is profiled unless given.
        names: of the kernels; all where it is empty.
        workspace: keeps what a runtime finds out while it builds; the user's own unless given.

    Raises:
        DeviceUnavailable: the card is not here; says what is needed.
        UsageError: a device that is no GPU, a runtime without that precision, or a network that has no use for the kernels.
    """
    name = chosen_side(against, device, precision)
    sources = chosen(names)
    cases = [(source, case, 1) for source in sources for case in source.cases]
    if graph is not None:
        by_name = {source.name: source for source in sources}
        cases = [(by_name[use.kernel], use.case, len(use.places)) for use in uses(graph, None) if use.kernel in by_name]
        if not cases:
            raise UsageError(
                f"network '{graph.name}' has no place for {', '.join(by_name)}; 'hwnas kernels match' shows what is looked for"
            )
    card, kernels, other = sides(device, precision, name, workspace)
    guard = Guard(card.state, remedy="let it cool, or free it, and measure again")
    return measure(kernels, other, cases, graph, guard=guard)
