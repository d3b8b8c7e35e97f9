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


def latency_bounds(rows):
    """Wide intervals for half of the networks, so that the smallest upper end is not that of the smallest value."""
    latency, _ = table(rows)
    return np.stack([latency, 0.9 * latency, latency * np.where(np.asarray(rows).sum(axis=1) % 2, 1.05, 1.5)], axis=1)


def accuracy_bounds(rows):
    """Likewise for the lower ends."""
    _, accuracy = table(rows)
    return np.stack([accuracy, accuracy * np.where(np.asarray(rows).sum(axis=1) % 2, 0.95, 0.8), accuracy], axis=1)


class Asked:
    """The toy's latency and accuracy with their intervals; remembers what it was asked."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, ...]] = []

    def latency(self, rows):
        self.rows.extend(map(tuple, rows.tolist()))
        return latency_bounds(rows)

    def __call__(self, rows):
        return {"latency": self.latency(rows), "accuracy": accuracy_bounds(rows)}


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
        bounds = latency_bounds(rows)
        best = int(np.argmin(bounds[:, 2]))
        assert genotype == tuple(rows[best].tolist()) != tuple(rows[np.argmin(latency)].tolist())
        assert bound == Bounded(*bounds[best].tolist())

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
        limits = [Constraint.parse("latency<=9ms"), Constraint.parse("accuracy>=60%")]
        genotype = check(SPACE, limits, asked, rng())
        assert latency_bounds([genotype])[0, 2] <= 9e-3
        assert accuracy_bounds([genotype])[0, 1] >= 0.6
        assert len(asked.rows) < 100

    def test_without_limits_the_reference_will_do(self):
        """Nothing is asked."""
        asked = Asked()
        assert check(SPACE, [], asked, rng()) == SPACE.reference()
        assert asked.rows == []

    def test_a_limit_just_above_the_smallest_value_is_kept(self):
        """Refusing it would be wrong: the one network that keeps it is found."""
        rows, _, _ = everything()
        upper = latency_bounds(rows)[:, 2]
        limit = Constraint("latency", "<=", float(upper.min()) * 1.0001)
        assert check(SPACE, [limit], Asked(), rng()) == tuple(rows[np.argmin(upper)].tolist())

    def test_a_limit_below_every_network_is_refused_with_the_smallest_value(self):
        """Also when only the upper end of the interval is beyond it."""
        rows, _, _ = everything()
        bounds = latency_bounds(rows)
        value, _, high = bounds[np.argmin(bounds[:, 2])].tolist()
        for limit_s in (0.5 * value, (value + high) / 2):
            limit = Constraint("latency", "<=", limit_s)
            with pytest.raises(InfeasibleError) as caught:
                check(SPACE, [Constraint.parse("accuracy>=10%"), limit], Asked(), rng())
            assert str(caught.value) == (
                f"no network of 'toy' keeps '{limit}': the smallest reachable latency is {1e3 * value:.3f} ms ({1e3 * high:.3f} ms at the "
                "upper end of its interval, which counts); loosen the limit beyond that, or choose another space"
            )

    def test_a_lower_limit_above_every_network_names_the_largest_value(self):
        """The mirror image, held against the lower end."""
        rows, _, _ = everything()
        bounds = accuracy_bounds(rows)
        best, low, _ = (100 * bounds[np.argmax(bounds[:, 1])]).tolist()
        with pytest.raises(InfeasibleError, match=rf"the largest reachable accuracy is {best:.2f} % \({low:.2f} % at the lower end"):
            check(SPACE, [Constraint("accuracy", ">=", (best + low) / 200)], Asked(), rng())

    def test_limits_that_only_fail_together_are_named_together(self):
        """Each alone can be kept, no network keeps both; the closest one shows what gives."""
        limits = [Constraint.parse("latency<=3ms"), Constraint.parse("accuracy>=80%")]
        with pytest.raises(InfeasibleError, match=r"keeps 'latency<=3ms' and 'accuracy>=80%' together; the closest one .* by [\d.]+ %"):
            check(SPACE, limits, Asked(), rng())
