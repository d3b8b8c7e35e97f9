"""What is measured of a few networks on a device on paper, and the journal of it."""

from __future__ import annotations

import numpy as np
from paper_device import BLOCK, SETTING, kernel_s, latency_s

from hwnas import spaces
from hwnas.profiling import NetworkRecord
from hwnas.profiling.journal import Journal, Measuring
from hwnas.profiling.waves import Visit
from hwnas.runtimes.base import KernelTime
from hwnas.runtimes.ort_fusion import fuse

ROUNDS = 4
HEADER = {"space": "mobilenet-small", "seed": 0, "fingerprint": "f" * 12, "setting": SETTING.key}


def measuring(networks: int = 3, journal: Journal | None = None) -> Measuring:
    """Networks visited round by round beside two canaries, written to a journal on the way."""
    space, rng = spaces.load("mobilenet-small"), np.random.default_rng(1)
    found = Measuring()
    for i in range(networks):
        genotype = space.canonical(space.sample(np.random.default_rng([0, i])))
        times = [KernelTime(call=call, seconds=kernel_s(call.kernel)) for call in fuse(space.graph(genotype), BLOCK)]
        found.genotypes[i], found.times[i], found.call_ns[i] = genotype, tuple((time.call, time.seconds) for time in times), 5000
        if journal:
            journal.network(i, genotype, times, 5000, found.spent_s)
    for number in range(ROUNDS):
        found.canaries[number] = [seconds * rng.uniform(1, 1.1, 5) for seconds in (1e-4, 1e-3)]
        if journal:
            journal.canaries(number, found.canaries[number], found.spent_s)
        for i in range(networks):
            found.spent_s += 0.125
            seconds = latency_s([call.kernel for call, _ in found.times[i]]) * rng.uniform(1, 1.1, 4)
            found.visits.setdefault(i, []).append(Visit(network=i, round=number, seconds=seconds))
            if journal:
                journal.visit(found.visits[i][-1], found.spent_s)
    return found


def assert_same_networks(found: list[NetworkRecord], expected: list[NetworkRecord]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one.id, one.genotype, one.call_ns, one.kernels) == (other.id, other.genotype, other.call_ns, other.kernels)
        assert one.latency_s == other.latency_s
        np.testing.assert_array_equal(one.samples.seconds, other.samples.seconds)
        np.testing.assert_array_equal(one.pooled.rounds, other.pooled.rounds)
        np.testing.assert_array_equal(one.pooled.slowdown, other.pooled.slowdown)
