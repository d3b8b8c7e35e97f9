"""Whether a limit can be kept, and the smallest reachable value, against enumeration."""

from __future__ import annotations

import numpy as np
import pytest
from toy_problem import SPACE, everything, table

from hwnas.errors import InfeasibleError
from hwnas.search.evaluator import Bounded
from hwnas.search.feasibility import check, smallest
from hwnas.search.problem import Constraint
from hwnas.spaces.base import Gene, SearchSpace


class Asked:
    """The toy's latency with 5 % of interval on each side, and its accuracy as it is; remembers what it was asked."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, ...]] = []

    def latency(self, rows):
        self.rows.extend(map(tuple, rows.tolist()))
        latency, _ = table(rows)
        return np.stack([latency, 0.95 * latency, 1.05 * latency], axis=1)

    def __call__(self, rows):
        _, accuracy = table(rows)
        return {"latency": self.latency(rows), "accuracy": np.stack([accuracy] * 3, axis=1)}


def rng(seed=0):
    return np.random.default_rng(seed)


class Deceptive(SearchSpace):
    """40 genes of 3 in 20 pairs: a pair costs 0 when both are 1, and otherwise the least when both are 0."""

    name = "deceptive"
    genes = tuple(Gene(f"g{i}", (0, 1, 2)) for i in range(40))

    def graph(self, genotype, *, batch=1):
        raise NotImplementedError


def deceptive(rows):
    pairs = rows.reshape(len(rows), 20, 2)
    cost = np.where((pairs == 1).all(axis=2), 0.0, 1.0 + pairs.sum(axis=2)).sum(axis=1)
    return np.stack([cost + 1] * 3, axis=1)


class TestSmallest:
    @pytest.mark.parametrize("seed", range(5))
    def test_it_is_the_smallest_of_all(self, seed):
        """On the toy, whose roughness makes local optima, with a small part of the evaluations that enumeration takes."""
        asked = Asked()
        genotype, bound = smallest(SPACE, asked.latency, rng(seed), evaluations=600)
        rows, latency, _ = everything()
        assert genotype == tuple(rows[np.argmin(latency)].tolist())
        assert bound == Bounded(latency.min(), 0.95 * latency.min(), 1.05 * latency.min())

    @pytest.mark.parametrize("evaluations", [1, 30, 200])
    def test_the_budget_is_kept(self, evaluations):
        """Each network is asked for once, in canonical form; the winner once more in the end."""
        asked = Asked()
        genotype, _ = smallest(SPACE, asked.latency, rng(), evaluations=evaluations)
        *searched, last = asked.rows
        assert last == genotype
        assert genotype in searched
        assert len(searched) == len(set(searched)) <= evaluations
        assert all(SPACE.canonical(row) == row for row in searched)

    def test_no_time_is_still_an_answer(self):
        """The time limit is checked between calls: the first sample is always looked at."""
        asked = Asked()
        genotype, bound = smallest(SPACE, asked.latency, rng(), seconds=1e-3)
        assert bound.value == table([genotype])[0][0]

    def test_genes_that_pay_only_together_are_found_too(self):
        """Changing single genes gets no pair from 1 to 0, all 20 pairs at 0 cost 21; combining optima gets nearly all of them."""
        costs = [smallest(Deceptive(), deceptive, rng(seed), evaluations=20000)[1].value for seed in range(4)]
        assert np.mean(costs) < 4

    def test_it_is_decided_by_the_generator(self):
        """The same one gives the same network."""
        first = smallest(Deceptive(), deceptive, rng(1), evaluations=500)
        assert first == smallest(Deceptive(), deceptive, rng(1), evaluations=500)


class TestCheck:
    def test_a_network_that_keeps_the_limits_is_returned(self):
        """As soon as one is met; a loose limit costs one sample."""
        asked = Asked()
        limits = [Constraint.parse("latency<=6ms"), Constraint.parse("accuracy>=70%")]
        genotype = check(SPACE, limits, asked, rng())
        latency, accuracy = (float(column[0]) for column in table([genotype]))
        assert 1.05 * latency <= 6e-3
        assert accuracy >= 0.7
        assert len(asked.rows) < 100

    def test_without_limits_the_reference_will_do(self):
        """Nothing is asked."""
        asked = Asked()
        assert check(SPACE, [], asked, rng()) == SPACE.reference()
        assert asked.rows == []

    def test_a_limit_just_above_the_smallest_value_is_kept(self):
        """Refusing it would be wrong: the one network that keeps it is found."""
        rows, latency, _ = everything()
        limit = Constraint("latency", "<=", 1.05 * float(latency.min()) * 1.0001)
        assert check(SPACE, [limit], Asked(), rng()) == tuple(rows[np.argmin(latency)].tolist())

    def test_a_limit_below_every_network_is_refused_with_the_smallest_value(self):
        """Also when only the upper end of the interval is beyond it."""
        _, latency, _ = everything()
        for factor in (0.5, 1.01):
            limit = Constraint("latency", "<=", float(latency.min()) * factor)
            with pytest.raises(InfeasibleError) as caught:
                check(SPACE, [Constraint.parse("accuracy>=10%"), limit], Asked(), rng())
            assert str(caught.value) == (
                f"no network of 'toy' keeps '{limit}': the smallest reachable latency is 1.388 ms (1.457 ms at the upper end of its "
                "interval, which counts); loosen the limit beyond that, or choose another space"
            )

    def test_a_lower_limit_above_every_network_names_the_largest_value(self):
        """The mirror image; an exact metric has no interval to speak of."""
        _, _, accuracy = everything()
        with pytest.raises(InfeasibleError, match=rf"the largest reachable accuracy is {100 * accuracy.max():.2f} %; loosen"):
            check(SPACE, [Constraint.parse("accuracy>=99%")], Asked(), rng())

    def test_limits_that_only_fail_together_are_named_together(self):
        """Each alone can be kept, no network keeps both; the closest one shows what gives."""
        limits = [Constraint.parse("latency<=1.6ms"), Constraint.parse("accuracy>=90%")]
        with pytest.raises(InfeasibleError, match=r"keeps 'latency<=1.6ms' and 'accuracy>=90%' together; the closest one .* by [\d.]+ %"):
            check(SPACE, limits, Asked(), rng())
