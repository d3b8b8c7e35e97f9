"""What every search algorithm shares: the budget, the archive, refinement and stopping."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toy_problem import SPACE, LearningEvaluator, TableEvaluator, problem, table

from hwnas.errors import UsageError
from hwnas.search import loop, nsga2, random
from hwnas.search.archive import Archive
from hwnas.search.evaluator import Bounded, Evaluation
from hwnas.search.front import front, hypervolume

ALGORITHMS = pytest.mark.parametrize("algorithm", [nsga2, random], ids=["nsga2", "random"])


class TestBudget:
    @ALGORITHMS
    def test_it_evaluates_exactly_as_many_networks_as_allowed(self, algorithm):
        """Distinct networks count, each is asked for once, and what was proposed again is counted apart."""
        evaluator = TableEvaluator()
        with Archive.open(":memory:") as archive:
            result = algorithm.search(problem(evaluations=101), evaluator, archive, stop_early=False)
            assert len(archive.trials()) == 101
        assert result.stopped_by == "evaluations"
        assert result.evaluations == len(evaluator.asked) == len(set(evaluator.asked)) == 101
        assert all(SPACE.canonical(genotype) == genotype for genotype in evaluator.asked)

    def test_repeats_cost_nothing(self):
        """A rival that proposes the same networks over and over is not charged for them."""
        with Archive.open(":memory:") as archive:
            result = random.search(problem(evaluations=4000), TableEvaluator(), archive, population=200, stop_early=False)
        assert result.evaluations == 4000
        proposed = result.generations * 200
        assert 1000 < result.repeats < proposed - result.evaluations + 200

    def test_a_budget_smaller_than_a_generation(self):
        """Cuts the generation short."""
        with Archive.open(":memory:") as archive:
            result = nsga2.search(problem(evaluations=3), TableEvaluator(), archive)
        assert (result.evaluations, result.generations, result.stopped_by) == (3, 1, "evaluations")

    def test_time_ends_a_search_between_generations(self):
        """However little there is of it, a first generation is made."""
        with Archive.open(":memory:") as archive:
            result = nsga2.search(problem(evaluations=None, seconds=1e-9), TableEvaluator(), archive, population=20)
        assert (result.evaluations, result.stopped_by) == (20, "time")

    def test_what_the_archive_spent_counts(self):
        """An hour of training on record leaves nothing of a minute."""
        with Archive.open(":memory:") as archive:
            archive.record("training", (0,) * 7, "", 0.5, seconds=3600.0)
            result = nsga2.search(problem(evaluations=1000, seconds=60), TableEvaluator(), archive, population=20)
        assert result.stopped_by == "time"
        assert result.history[-1].spent_s > 3600

    def test_a_space_that_has_no_more_networks_ends_the_search(self):
        """Ten generations without a new network mean that there is none in reach."""

        class Tiny(type(SPACE)):
            name = "tiny"
            genes = SPACE.genes[:2]

        class Sums(TableEvaluator):
            def evaluate(self, genotypes):
                bound = [(1 + a, a + b / 10) for a, b in genotypes]
                return [
                    Evaluation(genotype=g, metrics={"latency": Bounded.exact(t), "accuracy": Bounded.exact(a)})
                    for g, (t, a) in zip(genotypes, bound, strict=True)
                ]

        for algorithm in (nsga2, random):
            with Archive.open(":memory:") as archive:
                asked = replace(problem(evaluations=1000), space=Tiny())
                result = algorithm.search(asked, Sums(), archive, population=8, stop_early=False)
            assert (result.evaluations, result.stopped_by) == (16, "exhausted")


class TestStoppingEarly:
    def test_a_front_that_stands_still_ends_the_search(self):
        """The last max(10 generations, 20 % of the budget) brought less than 0.1 %, and before that they brought more."""
        asked = problem(evaluations=3000)
        with Archive.open(":memory:") as archive:
            result = nsga2.search(asked, TableEvaluator(), archive)
        assert result.stopped_by == "converged"
        now = result.history[-1]
        then = next(p for p in reversed(result.history) if now.generation - p.generation >= 10 and now.evaluations - p.evaluations >= 600)
        assert now.hypervolume - then.hypervolume < 1e-3 * now.hypervolume
        assert then.hypervolume > 1.001 * result.history[0].hypervolume

    class Script:
        """Proposes one given network a generation."""

        def __init__(self, networks):
            self.networks = list(networks)

        def ask(self):
            return [self.networks.pop(0)] if self.networks else []

        def tell(self, genotypes): ...

        def survivors(self):
            return ()

        def renew(self, best): ...

    def play(self, networks, evaluate, budget, *, stop_early=True):
        class Given(TableEvaluator):
            def evaluate(self, genotypes):
                return [evaluate(genotype) for genotype in genotypes]

        script = self.Script(networks)
        with Archive.open(":memory:") as archive:
            return loop.run(
                problem(evaluations=budget),
                Given(),
                archive,
                lambda *_: script,
                algorithm="script",
                population=1,
                initial=(),
                on_generation=None,
                stop_early=stop_early,
            )

    @pytest.mark.parametrize(("budget", "patience"), [(30, 10), (50, 10), (60, 12), (100, 20)])
    def test_patience_is_ten_generations_or_a_fifth_of_the_budget(self, budget, patience):
        """The last network that improved anything is the third; the search ends exactly `patience` networks later."""

        def evaluate(genotype):
            nth = genotype[0] * 16 + genotype[1] * 4 + genotype[2]
            latency, accuracy = (3.0 - nth, 0.5 + 0.1 * nth) if nth < 3 else (3.0, 0.1)
            return Evaluation(genotype=genotype, metrics={"latency": Bounded.exact(latency), "accuracy": Bounded.exact(accuracy)})

        result = self.play([(a, b, c, 0, 0, 0, 0) for a in range(4) for b in range(4) for c in range(4)], evaluate, budget)
        assert (result.stopped_by, result.evaluations) == ("converged", 3 + patience)

    def test_it_can_be_switched_off(self):
        """A comparison at equal budget spends all of it, however still the front stands."""

        def evaluate(genotype):
            return Evaluation(genotype=genotype, metrics={"latency": Bounded.exact(1.0), "accuracy": Bounded.exact(0.5)})

        networks = [(a, b, c, 0, 0, 0, 0) for a in range(4) for b in range(4) for c in range(4)]
        result = self.play(networks, evaluate, budget=60, stop_early=False)
        assert (result.stopped_by, result.evaluations) == ("evaluations", 60)

    def test_a_search_that_found_nothing_feasible_goes_on(self):
        """No front is not a front that stands still."""
        with Archive.open(":memory:") as archive:
            result = nsga2.search(problem(evaluations=400, limits=["latency<=1us"]), TableEvaluator(), archive)
        assert (result.front, result.stopped_by, result.evaluations) == ((), "evaluations", 400)
        assert {p.hypervolume for p in result.history} == {0.0}


class TestResult:
    def test_the_front_is_that_of_the_archive(self):
        """What is returned, what the archive says, and what a slow look at all trials gives are the same."""
        asked = problem(evaluations=150, limits=["latency<=8ms"])
        with Archive.open(":memory:") as archive:
            result = nsga2.search(asked, TableEvaluator(), archive)
            assert result.front == archive.front(asked) == front([t.evaluation for t in archive.trials()], asked)
        assert result.front
        assert all(e.metrics["latency"].high <= 0.008 for e in result.front)
        assert result.front[0].source == {"latency": "predicted", "accuracy": "trained"}

    def test_progress_is_told_after_every_generation(self):
        """Evaluations and hypervolume grow; the hypervolume is that of the front in units of the first generation's box."""
        told = []
        asked = problem(evaluations=100)
        with Archive.open(":memory:") as archive:
            result = nsga2.search(asked, TableEvaluator(), archive, population=20, on_generation=told.append)
            first = [asked.values(t.evaluation) for t in archive.trials()[:20]]
        assert tuple(told) == result.history
        assert [p.generation for p in told] == list(range(1, result.generations + 1))
        assert [p.evaluations for p in told] == sorted(p.evaluations for p in told)
        assert [p.hypervolume for p in told] == sorted(p.hypervolume for p in told)
        (low0, low1), (high0, high1) = map(min, zip(*first, strict=True)), map(max, zip(*first, strict=True))
        corner = (high0 + 0.1 * (high0 - low0), high1 + 0.1 * (high1 - low1))
        volume = hypervolume([asked.values(e) for e in result.front], corner)
        assert told[-1].hypervolume == pytest.approx(volume / ((high0 - low0) * (high1 - low1)))
        assert not any(p.replayed for p in told)


class TestEvaluators:
    def test_failures_are_recorded_and_never_on_the_front(self):
        """They cost an evaluation; the search goes on around them."""

        class Fragile(TableEvaluator):
            def evaluate(self, genotypes):
                return [
                    Evaluation(genotype=e.genotype, failure="diverged") if e.genotype[0] == 0 else e for e in super().evaluate(genotypes)
                ]

        with Archive.open(":memory:") as archive:
            result = nsga2.search(problem(evaluations=200), Fragile(), archive, stop_early=False)
            failed = [t for t in archive.trials() if t.evaluation.failure]
        assert failed
        assert all(t.evaluation.genotype[0] == 0 for t in failed)
        assert all(e.genotype[0] > 0 for e in result.front)
        assert len(failed) < 60, "selection moves away from what fails"

    def test_a_metric_that_is_not_given_ends_the_search(self):
        """Before anything of it is recorded."""
        with Archive.open(":memory:") as archive:
            with pytest.raises(UsageError, match="this search needs 'params', and its evaluator gives latency, accuracy"):
                nsga2.search(problem(limits=["params<=2M"]), TableEvaluator(), archive)
            assert archive.trials() == ()

    def test_answers_for_other_networks_are_refused(self):
        """An evaluator that mixes up the order would spoil everything silently."""

        class Mixed(TableEvaluator):
            def evaluate(self, genotypes):
                return super().evaluate(genotypes)[::-1]

        with Archive.open(":memory:") as archive, pytest.raises(ValueError, match="in their order"):
            nsga2.search(problem(), Mixed(), archive)

    def test_relative_limits_are_resolved_before(self):
        """The search does not know the reference."""
        with Archive.open(":memory:") as archive, pytest.raises(UsageError, match="relative to the space's reference"):
            nsga2.search(problem(limits=["latency<=60%"]), TableEvaluator(), archive)


class TestRefinement:
    def test_what_stands_on_old_estimates_is_evaluated_again(self, whole):
        """After estimates changed, every member of the front and everybody who survived carries a new one."""
        asked = problem(evaluations=90)
        with Archive.open(":memory:") as archive:
            evaluator = LearningEvaluator(asked, archive)
            sizes = []
            result = nsga2.search(
                asked, evaluator, archive, population=12, on_generation=lambda p: sizes.append((p.front, len(archive.front(asked))))
            )
            assert all(told == on_record for told, on_record in sizes)
            assert result.front == archive.front(asked)
            assert evaluator.trained
            assert max(t.epoch for t in archive.trials()) == evaluator.refinements // 2
            assert {t.evaluation.genotype for t in archive.trials() if t.epoch == 0} <= set(archive.latest())
            # The last refinement is the latest epoch: evaluating the front now gives what the result says.
            if evaluator.refinements % 2 == 0:
                assert evaluator.evaluate([e.genotype for e in result.front]) == list(result.front)
        assert result.front == whole[1].front

    def test_estimates_that_turn_round_turn_the_front_round(self):
        """Networks that did not survive come back when new estimates put them in front of all."""

        class Turncoat(TableEvaluator):
            turned = False

            def evaluate(self, genotypes):
                sign = 1 if self.turned else -1
                return [
                    Evaluation(
                        genotype=e.genotype,
                        metrics={"latency": Bounded.exact(1.0), "accuracy": Bounded.exact(0.5 + sign * e.metrics["accuracy"].value / 2)},
                    )
                    for e in super().evaluate(genotypes)
                ]

            def refine(self, archive):
                changed, self.turned = not self.turned and len(archive.trials()) >= 60, self.turned or len(archive.trials()) >= 60
                return changed

        evaluator = Turncoat()
        with Archive.open(":memory:") as archive:
            asked = problem(evaluations=60)
            result = nsga2.search(asked, evaluator, archive, population=20)
            assert result.front == archive.front(asked)
            latest = archive.latest()
        # Everything equal in latency: the front is the network that looks best now, and none looks better by its true value.
        (best,) = result.front
        assert best.metrics["accuracy"].value == 0.5 + float(table([best.genotype])[1][0]) / 2
        assert best.metrics["accuracy"].value >= max(e.metrics["accuracy"].value for e in latest.values())

    def test_the_algorithm_is_told_the_new_front(self):
        """Once per refinement that changed something, after everybody who survived was evaluated anew."""
        told = []

        class Attentive(random.RandomStrategy):
            def __init__(self, *args):
                super().__init__(*args)
                self.known = args[-1]

            def survivors(self):
                return list(self.known)[:5]

            def renew(self, best):
                told.append((tuple(best), [self.known[genotype] for genotype in self.survivors()]))

        class Growing(TableEvaluator):
            calls = 0

            def evaluate(self, genotypes):
                return [
                    replace(e, metrics={**e.metrics, "accuracy": Bounded.exact(e.metrics["accuracy"].value * (1 - 0.5**self.calls))})
                    for e in super().evaluate(genotypes)
                ]

            def refine(self, archive):
                self.calls += 1
                return self.calls % 2 == 0

        evaluator = Growing()
        with Archive.open(":memory:") as archive:
            loop.run(
                problem(evaluations=80),
                evaluator,
                archive,
                Attentive,
                algorithm="attentive",
                population=20,
                initial=(),
                on_generation=None,
                stop_early=False,
            )
            front_now = tuple(e.genotype for e in archive.front(problem()))
        assert len(told) == evaluator.calls // 2 == 2
        best, survivors = told[-1]
        assert best == front_now
        assert survivors == evaluator.evaluate([e.genotype for e in survivors])

    def test_refinement_sees_the_run_as_it_was(self, path):
        """A resumed run shows the hook no trial from its own future."""

        class Watching(TableEvaluator):
            def __init__(self):
                super().__init__()
                self.seen = []

            def refine(self, archive):
                self.seen.append([t.id for t in archive.trials()])
                return False

        first, again = Watching(), Watching()
        for evaluator in (first, again):
            with Archive.open(path) as archive:
                nsga2.search(problem(evaluations=100), evaluator, archive, population=20)
        assert first.seen == again.seen
        assert len(first.seen[0]) == 20
        assert again.asked == []
