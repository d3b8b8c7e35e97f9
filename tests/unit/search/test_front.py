"""Fronts, hypervolumes, and the choice of finalists, against slow and obvious definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from toy_problem import problem

from hwnas.errors import UsageError
from hwnas.search.evaluator import Bounded, Evaluation
from hwnas.search.front import front, hypervolume, nondominated, select

OBJECTIVES = problem().objectives
points = st.integers(1, 3).flatmap(lambda m: arrays(np.float64, st.tuples(st.integers(0, 12), st.just(m)), elements=st.integers(0, 6)))


def network(name: int, latency: float, accuracy: float) -> Evaluation:
    return Evaluation(genotype=(name,), metrics={"latency": Bounded.exact(latency), "accuracy": Bounded.exact(accuracy)})


@given(points)
def test_nondominated_is_the_textbook_definition(rows):
    """Kept is what no other point matches everywhere and beats somewhere, and of equal points the first."""
    for i, kept in enumerate(nondominated(rows)):
        dominated = any((other <= rows[i]).all() and (other < rows[i]).any() for other in rows)
        repeated = any((other == rows[i]).all() for other in rows[:i])
        assert kept == (not dominated and not repeated)


@given(points)
def test_hypervolume_counts_the_unit_cubes_that_are_dominated(rows):
    """On a grid of integers the volume is the number of cells below the reference point that some point dominates."""
    size = 5
    cells = np.stack(np.meshgrid(*[np.arange(size)] * rows.shape[1], indexing="ij"), axis=-1).reshape(-1, rows.shape[1])
    covered = sum(bool(np.any((rows <= cell).all(axis=1))) for cell in cells)
    assert hypervolume(rows, [size] * rows.shape[1]) == pytest.approx(covered)


def test_a_front_holds_feasible_networks_only():
    """A faster network that breaks the limit dominates nobody; a failure neither."""
    asked = problem(limits=["accuracy>=50%"])
    good, fast, bad = network(1, 2.0, 0.9), network(2, 1.0, 0.4), network(3, 3.0, 0.8)
    failed = Evaluation(genotype=(4,), failure="does not build")
    assert front([bad, fast, failed, good], asked) == (good,)
    assert front([fast, failed], asked) == ()


def test_a_front_is_sorted_by_the_first_objective():
    """Fastest first."""
    slow, fast = network(1, 2.0, 0.9), network(2, 1.0, 0.4)
    assert front([slow, fast], problem()) == (fast, slow)


class TestSelect:
    line = tuple(network(i, latency=float(i), accuracy=i / 10) for i in range(1, 10))

    def test_the_first_choice_is_the_most_accurate(self):
        """One finalist is the most accurate network that keeps the limits."""
        assert select(self.line, 1, OBJECTIVES) == (self.line[-1],)

    def test_the_choices_spread(self):
        """Two are the ends, three add the middle."""
        assert select(self.line, 2, OBJECTIVES) == (self.line[0], self.line[-1])
        assert select(self.line, 3, OBJECTIVES) == (self.line[0], self.line[4], self.line[-1])

    def test_crowded_places_are_left_out(self):
        """Of many near neighbours one is enough."""
        crowd = tuple(network(i, latency=1 + i * 1e-3, accuracy=0.3 + i * 1e-4) for i in range(20))
        members = (*crowd, network(50, 5.0, 0.6), network(60, 9.0, 0.9))
        chosen = select(members, 3, OBJECTIVES)
        assert chosen[1:] == members[-2:]
        assert chosen[0] in crowd

    def test_objectives_count_alike_whatever_their_units(self):
        """Half of the accuracies' range is farther than a hundredth of the latencies', though its number is smaller."""
        fast, near, slow, best = network(1, 1.0, 0.1), network(2, 2.2, 0.3), network(3, 100.0, 0.6), network(4, 101.0, 0.9)
        assert select((fast, near, slow, best), 3, OBJECTIVES) == (fast, slow, best)

    def test_a_small_front_is_taken_whole(self):
        """Also an empty one."""
        assert select(self.line[:2], 5, OBJECTIVES) == self.line[:2]
        assert select((), 3, OBJECTIVES) == ()

    def test_less_than_one_is_refused(self):
        """Nobody asks for no finalists."""
        with pytest.raises(UsageError, match="at least 1 finalist"):
            select(self.line, 0, OBJECTIVES)

    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12), st.integers(1, 6))
    def test_it_chooses_that_many_different_members_in_order(self, rows, k):
        """Ties and equal values included, and the most accurate always among them."""
        members = tuple(network(i, float(a), b / 10) for i, (a, b) in enumerate(rows))
        chosen = select(members, k, OBJECTIVES)
        names = [member.genotype for member in chosen]
        assert len(set(names)) == len(names) == min(k, len(members))
        assert names == sorted(names)
        assert max(m.metrics["accuracy"].value for m in chosen) == max(m.metrics["accuracy"].value for m in members)
