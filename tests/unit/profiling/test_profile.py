"""Every nanosecond of a network belongs to somebody."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.ir import Kernel, KernelCall, TensorSpec
from hwnas.profiling import KernelRecord, NetworkRecord, Setting
from hwnas.profiling.profile import LEAST_FOR_LINE, LEAST_SHARE, attribute, profiler_cost_s
from hwnas.profiling.slowdowns import Slowdowns
from hwnas.profiling.waves import Pooled


def call(i: int) -> KernelCall:
    x = TensorSpec((1, i + 1))
    return KernelCall(kernel=Kernel(op="Relu", inputs=(x,), outputs=(x,)), nodes=(f"relu_{i}",), output=f"y{i}")


def pooled(seconds: float) -> Pooled:
    return Pooled.from_samples(np.full(5, seconds), np.zeros(5, np.int64), Slowdowns.of({}))


times = st.lists(st.floats(1e-7, 1.0), min_size=1, max_size=60)


@given(times, st.integers(1, 10**11), st.floats(0, 1), st.floats(0, 1e-4))
def test_the_parts_add_up_exactly(seconds: list[float], total_ns: int, share: float, cost_s: float) -> None:
    """Whatever the profiler said: the kernels and the call make the total to the nanosecond, and nobody's part is negative."""
    call_ns = int(total_ns * share)
    parts = attribute([(call(i), value) for i, value in enumerate(seconds)], total_ns, call_ns, cost_s)
    assert sum(part.nanoseconds for part in parts) + call_ns == total_ns
    assert all(part.nanoseconds >= 0 for part in parts)


@given(times, st.integers(1, 10**11))
def test_order_and_proportion_are_kept(seconds: list[float], total_ns: int) -> None:
    """The kernels keep their order and their profiled times, and each gets its share to within a nanosecond."""
    parts = attribute([(call(i), value) for i, value in enumerate(seconds)], total_ns, 0)
    assert [part.call for part in parts] == [call(i) for i in range(len(seconds))]
    assert [part.profiled_s for part in parts] == seconds
    for part, value in zip(parts, seconds, strict=True):
        assert abs(part.nanoseconds - value / sum(seconds) * total_ns) <= 1 + 1e-9 * total_ns


@given(times, st.integers(1, 10**9))
def test_who_takes_longer_gets_no_less(seconds: list[float], total_ns: int) -> None:
    """A kernel with a longer profiled time never gets a smaller part, but for the nanosecond of rounding."""
    parts = attribute([(call(i), value) for i, value in enumerate(seconds)], total_ns, 0)
    ordered = sorted(parts, key=lambda part: part.profiled_s)
    assert all(a.nanoseconds <= b.nanoseconds + 1 for a, b in pairwise(ordered))


def test_the_largest_remainders_get_the_rest() -> None:
    """Three equal kernels share 11 ns as 4, 4 and 3, and the profiler's scale does not matter."""
    for scale in (1e-6, 1.0):
        parts = attribute([(call(i), scale) for i in range(3)], 12, 1)
        assert [part.nanoseconds for part in parts] == [4, 4, 3]


def test_the_profilers_own_cost_is_taken_off() -> None:
    """A constant that the profiler adds to every kernel does not shift time from large kernels to small ones."""
    parts = attribute([(call(0), 11e-6), (call(1), 2e-6)], 1_100_000, 0, cost_s=1e-6)
    assert [part.nanoseconds for part in parts] == [1_000_000, 100_000]


def test_a_kernel_keeps_something() -> None:
    """However much the profiler takes, a kernel keeps a tenth of its profiled time."""
    parts = attribute([(call(0), 1e-6), (call(1), 11e-6)], 1_000_000, 0, cost_s=1e-6)
    share = LEAST_SHARE * 1e-6
    assert parts[0].nanoseconds == round(1_000_000 * share / (share + 10e-6))


@pytest.mark.parametrize("call_ns", [-1, 11])
def test_a_call_fits_into_its_network(call_ns: int) -> None:
    """A call that takes longer than the network, or less than nothing, is refused."""
    with pytest.raises(ValueError, match=f"a call of {call_ns} ns does not fit into 10 ns"):
        attribute([(call(0), 1e-6)], 10, call_ns)


# ---- the cost of a profiler


def watched(count: int = 60, cost_s: float = 0.8e-6) -> list[tuple[list[float], float]]:
    """Networks of many sizes, each watched at a moment of its own, with a constant added to every kernel."""
    rng = np.random.default_rng(0)
    networks = []
    for _ in range(count):
        own = 10 ** rng.uniform(-6, -4) * rng.uniform(0.5, 2, int(rng.integers(10, 120)))
        networks.append(((rng.normal(1.05, 0.01) * own + cost_s).tolist(), float(own.sum())))
    return networks


def test_the_cost_is_the_slope() -> None:
    """The constant per kernel comes back, whatever share the watching adds to everything, and though a tenth met a bad moment."""
    networks = watched()
    assert profiler_cost_s(networks) == pytest.approx(0.8e-6, rel=0.05)
    spoilt = [([2 * value for value in seconds], left) if i % 10 == 0 else (seconds, left) for i, (seconds, left) in enumerate(networks)]
    assert profiler_cost_s(spoilt) == pytest.approx(0.8e-6, rel=0.2)


def test_a_profiler_that_costs_nothing() -> None:
    """Without a constant there is no cost, and where watched kernels seem faster the more there are, it is 0, not less."""
    assert profiler_cost_s(watched(cost_s=0.0)) == pytest.approx(0.0, abs=1e-8)
    assert profiler_cost_s(watched(cost_s=-0.4e-6)) == 0.0


def test_no_cost_can_be_told() -> None:
    """Too few networks, or networks that are all alike, tell nothing."""
    assert profiler_cost_s(watched(LEAST_FOR_LINE - 1)) == 0.0
    assert profiler_cost_s([([1.1e-5] * n, 1e-5 * n) for n in range(10, 60)]) == pytest.approx(0.0, abs=1e-9)


# ---- records


def network(kernels: tuple[int, ...], call_ns: int = 100, seconds: float = 1e-6) -> NetworkRecord:
    records = tuple(KernelRecord(call=call(i), nanoseconds=part, profiled_s=1e-6) for i, part in enumerate(kernels))
    return NetworkRecord(id=3, genotype=(0,), pooled=pooled(seconds), kernels=records, call_ns=call_ns)


def test_a_record_that_adds_up() -> None:
    """The parts and the call make the end-to-end time."""
    found = network((500, 400))
    assert found.total_ns == 1000
    assert found.latency_s == pytest.approx(1e-6)
    assert found.samples.n == 5


@pytest.mark.parametrize("parts", [(500, 401), (500, 399), ()])
def test_a_record_that_does_not(parts: tuple[int, ...]) -> None:
    """A nanosecond too much or too little is refused."""
    with pytest.raises(ValueError, match="network 3: kernels and call do not add up to the end-to-end time of 1000 ns"):
        network(parts)


def test_the_key_of_a_setting() -> None:
    """Whatever a figure depends on is in the name of its files."""
    base = Setting(device="cpu", runtime="onnxruntime-cpu")
    others = [
        Setting(device="cpu", runtime="other"),
        Setting(device="cpu", runtime="onnxruntime-cpu", threads=2),
        Setting(device="cpu", runtime="onnxruntime-cpu", batch=8),
        Setting(device="cpu", runtime="onnxruntime-cpu", precision="int8"),
    ]
    assert len({setting.key for setting in (base, *others)}) == 5
