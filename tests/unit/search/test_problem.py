"""Objectives, limits and budgets: what is refused, and against which end of an interval a limit is held."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_problem import problem

from hwnas.errors import UsageError
from hwnas.search.evaluator import Bounded, Evaluation
from hwnas.search.problem import METRICS, Budget, Constraint, Objective, check_constraints


def evaluation(**metrics: Bounded) -> Evaluation:
    return Evaluation(genotype=(0,), metrics=metrics)


class TestObjective:
    def test_flags_become_objectives_in_their_order(self):
        """Repeats are dropped."""
        objectives = Objective.parse(minimize=["latency", "params", "latency"], maximize=["accuracy"])
        assert objectives == (Objective("latency", True), Objective("params", True), Objective("accuracy", False))

    def test_a_metric_cannot_go_both_ways(self):
        """Both flags with one metric is a contradiction."""
        with pytest.raises(UsageError, match="'latency' is asked for both ways"):
            Objective.parse(minimize=["latency"], maximize=["accuracy", "latency"])

    def test_an_unknown_metric_is_refused_with_the_nearest_known_one(self):
        """A typo is answered."""
        with pytest.raises(UsageError, match=r"unknown metric 'latencies' \(did you mean 'latency'\?\); known: latency, energy"):
            Objective.parse(minimize=["latencies"])

    def test_there_is_at_least_one(self):
        """A search for nothing is refused."""
        with pytest.raises(UsageError, match="needs an objective"):
            Objective.parse()

    def test_the_value_is_to_be_minimised(self):
        """What is maximised is negated; a failure is worse than everything."""
        known = evaluation(accuracy=Bounded(0.9, 0.8, 0.95))
        assert Objective("accuracy", False).of(known) == -0.9
        assert Objective("accuracy", True).of(known) == 0.9
        assert Objective("accuracy", False).of(Evaluation(genotype=(0,), failure="diverged")) == inf


class TestConstraint:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("latency<=3ms", Constraint("latency", "<=", 0.003)),
            (" latency <= 3 ms ", Constraint("latency", "<=", 0.003)),
            ("latency<=60%", Constraint("latency", "<=", 0.6, relative=True)),
            ("memory<=120%", Constraint("memory", "<=", 1.2, relative=True)),
            ("params<=2M", Constraint("params", "<=", 2e6)),
            ("params<=2B", Constraint("params", "<=", 2e9)),
            ("flops<=300000000", Constraint("flops", "<=", 3e8)),
            ("memory<=8MiB", Constraint("memory", "<=", 8 * 2**20)),
            ("memory<=512B", Constraint("memory", "<=", 512)),
            ("energy<=20mJ", Constraint("energy", "<=", 0.02)),
            ("accuracy>=0.9", Constraint("accuracy", ">=", 0.9)),
            ("accuracy>=90%", Constraint("accuracy", ">=", 0.9)),
        ],
    )
    def test_a_limit_is_read_in_the_unit_of_its_metric(self, text, expected):
        """A percentage is relative, except of accuracy, which is a share itself."""
        assert Constraint.parse(text) == expected

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("latency<=3MB", "the limit 'latency<=3MB' does not parse: expected a time such as '3ms', and '3MB' is a size"),
            ("latency<=3", "does not parse: a time needs a unit, such as '3ms'; got '3'"),
            ("latency<3ms", "written metric<=value or metric>=value"),
            ("latency=3ms", "written metric<=value or metric>=value"),
            ("latency<=", "written metric<=value or metric>=value"),
            ("latncy<=3ms", "unknown metric 'latncy' (did you mean 'latency'?)"),
            ("latency<=0ms", "lies above zero"),
            ("latency<=0%", "lies above zero"),
            ("latency<=-1ms", "neither negative"),
            ("accuracy>=90", "between 0% and 100%"),
        ],
    )
    def test_what_cannot_be_meant_is_a_usage_error(self, text, message):
        """The message says how it is written."""
        with pytest.raises(UsageError) as caught:
            Constraint.parse(text)
        assert message in str(caught.value)

    @given(
        st.sampled_from(sorted(METRICS)),
        st.sampled_from(["<=", ">="]),
        st.floats(1e-8, 1),
        st.booleans(),
    )
    def test_its_text_reads_back(self, metric, op, limit, relative):
        """What an archive records and a message quotes is the limit itself."""
        constraint = Constraint(metric, op, limit, relative and metric != "accuracy")
        back = Constraint.parse(str(constraint))
        assert replace(back, limit=limit) == constraint
        assert back.limit == pytest.approx(limit, rel=1e-11)

    def test_an_upper_limit_is_held_against_the_upper_end(self):
        """An estimate below the limit is not enough when its interval reaches beyond; the violation is relative to the limit."""
        limit = Constraint.parse("latency<=4ms")
        assert limit.violation(Bounded(0.0035, 0.003, 0.004)) == 0
        assert limit.violation(Bounded(0.0035, 0.003, 0.005)) == pytest.approx(0.25)

    def test_a_lower_limit_is_held_against_the_lower_end(self):
        """The mirror image."""
        limit = Constraint.parse("accuracy>=80%")
        assert limit.violation(Bounded(0.9, 0.8, 1.0)) == 0
        assert limit.violation(Bounded(0.9, 0.6, 1.0)) == pytest.approx(0.25)

    def test_a_relative_limit_is_resolved_by_the_reference(self):
        """`latency<=60%` of a reference that takes 5 ms is 3 ms; an absolute limit stays."""
        assert Constraint.parse("latency<=60%").resolve(0.005) == Constraint("latency", "<=", 0.6 * 0.005)
        assert Constraint.parse("latency<=3ms").resolve(None) == Constraint.parse("latency<=3ms")

    def test_a_relative_limit_needs_a_reference(self):
        """Neither resolving nor checking guesses one."""
        limit = Constraint.parse("latency<=60%")
        for use in (lambda: limit.resolve(None), lambda: limit.violation(Bounded.exact(1.0))):
            with pytest.raises(UsageError, match="'latency<=60%' is relative to the space's reference network"):
                use()

    @pytest.mark.parametrize("texts", [("latency<=3ms", "latency>=4ms"), ("latency>=70%", "latency<=60%")])
    def test_limits_that_exclude_each_other_are_refused(self, texts):
        """Both are named."""
        with pytest.raises(UsageError, match=f"both '{min(texts)}' and '{max(texts)}'"):
            check_constraints([Constraint.parse(text) for text in texts])

    def test_limits_of_different_kinds_do_not_exclude_each_other(self):
        """A band is a fine thing to ask for, and a share cannot be compared with a time."""
        check_constraints([Constraint.parse(t) for t in ("latency<=4ms", "latency>=3ms", "latency>=500%", "params>=5M")])


class TestBudget:
    def test_something_must_end_the_search(self):
        """No budget at all is refused."""
        with pytest.raises(UsageError, match="needs a budget"):
            Budget()

    @pytest.mark.parametrize("budget", [{"evaluations": 0}, {"evaluations": -5}, {"seconds": 0.0}, {"seconds": inf}])
    def test_it_is_more_than_nothing_and_finite(self, budget):
        """Each part by itself."""
        with pytest.raises(UsageError):
            Budget(**budget)


class TestProblem:
    def test_it_names_the_metrics_that_it_needs(self):
        """Of objectives and limits, each once."""
        assert problem(limits=["params<=2M", "latency<=3ms"]).metrics == ("latency", "accuracy", "params")

    def test_it_refuses_limits_that_exclude_each_other(self):
        """Also when only resolving shows it."""
        with pytest.raises(UsageError, match="no network can keep both"):
            problem(limits=["latency<=3ms", "latency>=4ms"])
        relative = problem(limits=["latency<=60%", "latency>=4ms"])
        with pytest.raises(UsageError, match="no network can keep both"):
            relative.resolve({"latency": 0.005})

    def test_violations_of_all_limits_add_up(self):
        """Each as a share of its limit; feasible means that there is none."""
        asked = problem(limits=["latency<=2ms", "accuracy>=80%"])
        known = evaluation(latency=Bounded.exact(0.003), accuracy=Bounded.exact(0.6))
        assert asked.violation(known) == pytest.approx(0.5 + 0.25)
        assert not asked.feasible(known)
        assert asked.feasible(evaluation(latency=Bounded.exact(0.002), accuracy=Bounded.exact(0.8)))

    def test_a_failure_is_never_feasible(self):
        """Not even without limits."""
        assert not problem().feasible(Evaluation(genotype=(0,), failure="does not build"))

    def test_its_identity_is_all_but_the_budget(self):
        """A run may be continued with more to spend, and with nothing else changed."""
        one = problem(evaluations=10).identity()
        assert one == problem(evaluations=20).identity()
        for other in (problem(seed=1), problem(limits=["latency<=3ms"]), replace(problem(), objectives=(Objective("latency", True),))):
            assert other.identity() != one
