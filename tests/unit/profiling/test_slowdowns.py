"""What rounds did to all that ran in them, told apart from what networks take."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.profiling.slowdowns import SESSIONS, Slowdowns


def canaries(*factors: float, best: tuple[float, ...] = (1e-4, 1e-3)) -> dict[int, list[np.ndarray]]:
    """Rounds in which every canary runs so many times slower than at its best."""
    return {i: [np.full(5, factor * seconds) for seconds in best] for i, factor in enumerate(factors)}


def test_calm_rounds_slow_nothing_down() -> None:
    """Where the canaries always take the same time, every factor is 1."""
    slow = Slowdowns.of(canaries(1.0, 1.0, 1.0))
    assert [slow.factor(i, 5e-4) for i in range(3)] == pytest.approx([1, 1, 1])
    assert np.exp(slow.level) == pytest.approx([1e-4, 1e-3])


def test_a_disturbed_round_shows() -> None:
    """A round in which the canaries take 10 % longer has the factor 1.1."""
    slow = Slowdowns.of(canaries(*[1.0] * 9, 1.1))
    assert slow.factor(9, 5e-4) == pytest.approx(1.1, rel=1e-3)
    assert slow.factor(0, 5e-4) == pytest.approx(1.0, rel=1e-3)


def test_networks_tell_as_much_as_canaries() -> None:
    """A canary that had bad luck in a round is outvoted by the networks that ran in it."""
    rounds = canaries(*[1.0] * 10)
    rounds[9][1] = rounds[9][1] * 1.3
    networks = [{number: np.full(5, seconds) for number in range(10)} for seconds in (2e-4, 3e-4, 5e-4, 7e-4)]
    assert Slowdowns.of(rounds, networks).factor(9, 5e-4) == pytest.approx(1.0, abs=2e-3)


def test_canaries_tie_waves_together() -> None:
    """Networks of a wave that was slow throughout come out as they are, since the canaries were slow too."""
    rounds = canaries(*[1.0] * 8, *[1.2] * 4)
    early = {number: np.full(5, 3e-4) for number in range(8)}
    late = {number: np.full(5, 4e-4 * 1.2) for number in range(8, 12)}
    slow = Slowdowns.of(rounds, [early, late])
    assert [slow.factor(number, 5e-4) for number in (0, 11)] == pytest.approx([1.0, 1.2], rel=1e-6)


@given(st.integers(0, 2**16))
def test_levels_and_rounds_are_told_apart(seed: int) -> None:
    """Whatever the levels and the rounds' factors, without noise the fit finds them exactly."""
    rng = np.random.default_rng(seed)
    levels, factors = rng.uniform(1e-4, 1e-2, 5), np.sort(rng.uniform(1.0, 1.5, 12))
    factors[:4] = 1.0
    rounds = {i: [np.full(4, level * factor) for level in levels[:2]] for i, factor in enumerate(factors)}
    networks = [{i: np.full(4, level * factors[i]) for i in rng.permutation(12)[:4].tolist()} for level in levels[2:]]
    slow = Slowdowns.of(rounds, networks)
    assert [slow.factor(i, 5e-4) for i in range(12)] == pytest.approx(factors, rel=1e-6)
    assert np.exp(slow.level) == pytest.approx(levels[:2], rel=1e-6)


def test_a_round_without_canaries() -> None:
    """Where nothing is known of a round, nothing is corrected."""
    assert Slowdowns.of({}).factor(0, 5e-4) == 1.0
    assert Slowdowns.of(canaries(1.0)).factor(7, 5e-4) == 1.0


def sized(levels: np.ndarray, curves: list[Callable[[np.ndarray], np.ndarray]]) -> dict[int, list[np.ndarray]]:
    """Rounds that each slow down what takes so long by a factor of its own."""
    return {
        i: [np.full(5, seconds * factor) for seconds, factor in zip(levels, curve(levels), strict=True)] for i, curve in enumerate(curves)
    }


def bump(height: float) -> Callable[[np.ndarray], np.ndarray]:
    """As a neighbour in the last-level cache slows a machine down: middling networks, and those beside them less."""
    return lambda seconds: np.exp(height * np.maximum(0.0, 1 - np.abs(np.log(seconds / 3e-3)) / 1.5))


SIZES = np.geomspace(1e-3, 1e-2, 6)


def test_a_neighbour_slows_some_more_than_others() -> None:
    """Rounds that slow down middling networks are told from calm ones by canaries of their size, and others stay as they are."""
    curves = [bump(0.0)] * 6 + [bump(0.1)] * 6
    networks = [{i: np.full(5, seconds * curves[i](np.array([seconds]))[0]) for i in range(9)} for seconds in np.geomspace(1e-3, 1e-2, 15)]
    slow = Slowdowns.of(sized(SIZES, curves), networks)
    seconds = np.array([1e-3, 3e-3, 1e-2])
    assert [slow.factor(11, one) for one in seconds] == pytest.approx(bump(0.1)(seconds), abs=0.03)
    assert slow.factor(0, 3e-3) == pytest.approx(1.0, abs=0.005)


def test_a_neighbour_since_an_earlier_measurement() -> None:
    """What slows down middling networks all along shows by the canaries of an earlier measurement."""
    reference = Slowdowns.of(sized(SIZES, [bump(0.0)] * 6))
    slow = Slowdowns.of(sized(SIZES, [bump(0.1)] * 6), reference=reference)
    seconds = np.array([1e-3, 3e-3, 1e-2])
    assert [slow.factor(3, one) for one in seconds] == pytest.approx(bump(0.1)(seconds), abs=0.03)
    assert slow.level == pytest.approx(reference.level)


def test_a_session_has_luck_of_its_own() -> None:
    """A session of a canary that is 3 % slower for good makes no round slower."""
    rounds = sized(SIZES, [bump(0.0)] * 12)
    for number in range(1, 12, SESSIONS):
        rounds[number][2] = rounds[number][2] * 1.03
    slow = Slowdowns.of(rounds)
    assert [slow.factor(i, SIZES[2]) for i in range(12)] == pytest.approx([1.0] * 12, abs=1e-3)
    assert slow.level == pytest.approx(np.log(SIZES), abs=1e-3)


def test_an_odd_canary_is_outvoted() -> None:
    """One of six canaries that came back 20 % slower does not move what is measured beside the others."""
    reference = Slowdowns.of(sized(SIZES, [bump(0.0)] * 6))
    rounds = sized(SIZES, [bump(0.0)] * 6)
    for row in rounds.values():
        row[4] = row[4] * 1.2
    slow = Slowdowns.of(rounds, reference=reference)
    assert [slow.factor(0, seconds) for seconds in SIZES[[0, 2, 5]]] == pytest.approx([1.0] * 3, abs=0.02)


def test_a_round_of_which_nothing_is_known() -> None:
    """A round that was cut short, without canaries and with networks that were never seen again, has no effect and does no harm."""
    slow = Slowdowns.of(canaries(1.0, 1.0, 1.1), [{7: np.full(5, 3e-4)}, {7: np.full(5, 4e-4)}])
    assert slow.factor(7, 3e-4) == pytest.approx(1.0, abs=0.05)
    assert slow.factor(2, 3e-4) / slow.factor(0, 3e-4) == pytest.approx(1.1, rel=1e-6)


def test_a_network_that_was_not_visited_yet() -> None:
    """Networks without a visit take no part."""
    networks = [{}, {0: np.full(5, 3e-4), 2: np.full(5, 3.3e-4)}]
    assert Slowdowns.of(canaries(1.0, 1.0, 1.1), networks).factor(2, 3e-4) == pytest.approx(1.1, rel=0.05)
