"""When kernels pay, what they are worth to a network, and what a runtime made of their work."""

from __future__ import annotations

import pytest

from hwnas.ir import KernelCall
from hwnas.ir.kernel import Kernel
from hwnas.kernels import Tuning, find
from hwnas.runtimes.samples import Ratio
from hwnas.workflows.kernels_worth import Benched, Fusion, Timing


def timing(speedup: float, *, places: int = 9, baseline_s: float = 1.0, **more: object) -> Timing:
    """A kernel whose interval is a tenth to either side."""
    found = {
        "kernel": "a",
        "case": find("squeeze_excite").cases[0],
        "places": places,
        "tuning": Tuning(warps=4, sizes={}),
        "kernel_s": baseline_s / speedup,
        "baseline_s": baseline_s,
        "speedup": Ratio(median=speedup, low=speedup * 0.9, high=speedup * 1.1),
    }
    return Timing(**{**found, **more})  # type: ignore[arg-type]  # plain values


def test_kernels_that_lose_are_left_out() -> None:
    """Nobody would use them, so a network with none that pays is not made faster, nor slower."""
    found = Benched(where="", timings=(timing(0.5),), network_s=20.0)
    assert found.speedup == Ratio(median=1.0, low=1.0, high=1.0)
    assert found.verdict == "does not pay"


def test_a_network_gains_what_its_places_save() -> None:
    """100 s, of which 10 places of 4 s become 2 s each, beside places that would lose."""
    found = Benched(where="", timings=(timing(2.0, places=10, baseline_s=4.0), timing(0.5)), network_s=100.0)
    assert found.speedup is not None
    assert found.speedup.median == pytest.approx(1.25)
    assert found.speedup.low == pytest.approx(100 / (100 - 40 * (1 - 1 / 1.8)))
    assert found.verdict == "pays"
    alone = Benched(where="", timings=found.timings, network_s=None)
    assert (alone.speedup, alone.verdict) == (None, None)


def test_places_that_take_longer_than_the_network() -> None:
    """Then one of the two is wrong, and nothing is said of the network."""
    found = Benched(where="", timings=(timing(2.0, places=10, baseline_s=4.0),), network_s=39.0)
    assert (found.speedup, found.verdict) == (None, None)


@pytest.mark.parametrize(("speedup", "verdict"), [(2.0, "not resolved"), (0.5, "does not pay")])
def test_a_host_that_launches_kernel_by_kernel(speedup: float, verdict: str) -> None:
    """It makes the runtime look slower: a kernel that loses all the same does not pay, one that wins is not proven."""
    assert timing(speedup, launch="stream").verdict == verdict


def call(op: str, *nodes: str) -> KernelCall:
    return KernelCall(kernel=Kernel(op=op, inputs=(), outputs=()), nodes=nodes, output="y")


PLACES = (frozenset({"a0", "n0", "b0"}), frozenset({"a1", "n1", "b1"}), frozenset({"a2", "n2", "b2"}))
ROWS = [
    ([("Conv", "a{0}", "b{0}"), ("Conv", "c{0}")], "fused"),
    ([("Conv", "a{0}"), ("Mul", "b{0}"), ("Conv", "c{0}")], "2 kernels"),
    ([("Conv", "a{0}", "b{0}", "c{0}")], "part of a larger kernel"),
    ([("Reformat", "a{0}", "b{0}"), ("Conv", "a{0}", "b{0}"), ("Reformat", "c{0}"), ("Conv", "c{0}", "n{0}")], "fused, 1 copy"),
]


@pytest.mark.parametrize(("kernels", "said"), ROWS, ids=[said for _, said in ROWS])
def test_what_a_runtime_made_of_a_place(kernels: list[tuple[str, ...]], said: str) -> None:
    """Its kernels there, whether they compute more, and copies for them; what costs nothing may have gone anywhere."""
    calls = [call(op, *(name.format(i) for name in names)) for i in range(3) for op, *names in kernels]
    assert str(Fusion.of(calls, PLACES, frozenset({"n0", "n1", "n2"}))) == said


def test_most_places_count() -> None:
    """The first place may differ: it stands at the end of the network."""
    calls = [call("Conv", "a0"), call("Relu", "b0"), *(call("Conv", f"a{i}", f"b{i}") for i in (1, 2))]
    assert str(Fusion.of(calls, PLACES)) == "fused"
