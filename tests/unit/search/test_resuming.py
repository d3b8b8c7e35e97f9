"""Being cut off at any moment, and going on: a resumed search ends like one that nobody interrupted."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_problem import Cut, LearningEvaluator, TableEvaluator, content, problem

from hwnas.errors import UsageError
from hwnas.search import nsga2, random
from hwnas.search.archive import Archive
from hwnas.search.problem import Budget


class TestResuming:
    def test_the_same_seed_gives_the_same_archive(self, whole):
        """Twice the same, and another seed gives another."""
        for seed, same in ((0, True), (1, False)):
            asked = problem(evaluations=90, seed=seed)
            with Archive.open(":memory:") as archive:
                result = nsga2.search(asked, LearningEvaluator(asked, archive), archive, population=12)
                assert (content(archive) == whole[0]) == same
                assert (result.front == whole[1].front) == same

    @settings(max_examples=12, deadline=None)
    @given(data=st.data())
    def test_an_interrupted_run_ends_like_an_uninterrupted_one(self, whole, tmp_path_factory, data):
        """Cut off once or more often, anywhere, it reaches the very same archive, and trains nothing twice."""
        everything, result, computed, steps = whole
        asked = problem(evaluations=90)
        path = tmp_path_factory.mktemp("run") / "run.sqlite"
        trained = []
        for at in data.draw(st.lists(st.integers(1, steps - 1), min_size=1, max_size=3)):
            with Archive.open(path) as archive:
                evaluator = Cut(asked, archive, at)
                try:
                    nsga2.search(asked, evaluator, archive, population=12)
                except KeyboardInterrupt:
                    trained += [g for g in evaluator.computed if archive.result("training", g, "recipe/0") is not None]
                else:  # a resumed run does less, and may end before it is cut off
                    trained += evaluator.computed
        with Archive.open(path) as archive:
            evaluator = LearningEvaluator(asked, archive)
            again = nsga2.search(asked, evaluator, archive, population=12)
            assert content(archive) == everything
        assert again.front == result.front
        assert (again.stopped_by, again.repeats, again.generations) == (result.stopped_by, result.repeats, result.generations)
        assert trained + evaluator.computed == computed

    def test_a_finished_run_is_played_without_any_work(self, path):
        """The result again, from the archive alone, whatever had stopped it."""
        for asked in (problem(evaluations=60), problem(evaluations=None, seconds=1e-9)):
            with Archive.open(path.with_name(f"{asked.budget.evaluations}.sqlite")) as archive:
                result = nsga2.search(asked, LearningEvaluator(asked, archive), archive, population=12)
                archive.record("training", (0,) * 7, "finalist", 1, seconds=100.0)
                evaluator = LearningEvaluator(asked, archive)
                again = nsga2.search(asked, evaluator, archive, population=12)
            assert again.front == result.front
            assert (again.stopped_by, again.generations) == (result.stopped_by, result.generations)
            assert evaluator.asked == evaluator.computed == []
            assert all(p.replayed for p in again.history)

    def test_a_run_that_had_time_left_is_played_in_spite_of_the_clock(self, path):
        """What was spent before is spent: time ends the search only where new work would begin."""
        asked = problem(evaluations=90)
        with Archive.open(path) as archive, pytest.raises(KeyboardInterrupt):
            nsga2.search(asked, Cut(asked, archive, at=60), archive, population=12)
        with Archive.open(path) as archive:
            before = len(archive.trials())
            late = replace(asked, budget=Budget(evaluations=90, seconds=1e-9))
            result = nsga2.search(late, LearningEvaluator(late, archive), archive, population=12)
        assert result.stopped_by == "time"
        assert before >= 24
        assert result.history[-1].generation >= 2

    def test_a_run_can_be_continued_with_a_larger_budget(self, path):
        """It ends like one that had that budget from the start, though its last generation had been cut short."""
        small, large = problem(evaluations=40), problem(evaluations=90)
        with Archive.open(path) as archive:
            nsga2.search(small, LearningEvaluator(small, archive), archive, population=12)
            assert len(archive.latest()) == 40
        with Archive.open(path) as archive:
            result = nsga2.search(large, LearningEvaluator(large, archive), archive, population=12)
            continued = [(t.id, t.generation, t.epoch, t.evaluation) for t in archive.trials()]
        with Archive.open(":memory:") as archive:
            straight = nsga2.search(large, LearningEvaluator(large, archive), archive, population=12)
            assert continued == [(t.id, t.generation, t.epoch, t.evaluation) for t in archive.trials()]
        assert result.front == straight.front

    def test_a_smaller_budget_than_what_was_spent_is_refused(self, path):
        """Nothing is unspent."""
        with Archive.open(path) as archive:
            nsga2.search(problem(evaluations=60), TableEvaluator(), archive, population=12)
            with pytest.raises(UsageError, match="already evaluated 60 networks; give it --num-evals 60 or more"):
                nsga2.search(problem(evaluations=30), TableEvaluator(), archive, population=12)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda p: (replace(p, seed=5), {}), r"seed '0' \(now '5'\)"),
            (lambda p: (problem(limits=["latency<=3ms"]), {}), r"constraints 'none' \(now 'latency<=3ms'\)"),
            (lambda p: (replace(p, objectives=p.objectives[::-1]), {}), "objectives 'minimize latency, maximize accuracy'"),
            (lambda p: (p, {"population": 20}), r"population '12' \(now '20'\)"),
            (lambda p: (p, {"initial": [(0,) * 7]}), r"initial 'none' \(now '\w+'\)"),
            (lambda p: (p, {"stop_early": False}), r"early stop 'on' \(now 'off'\)"),
        ],
    )
    def test_another_run_is_refused_by_its_difference(self, path, change, message):
        """Resuming with other settings would mix two runs."""
        asked = problem(evaluations=24)
        with Archive.open(path) as archive:
            nsga2.search(asked, TableEvaluator(), archive, population=12)
            other, options = change(asked)
            with pytest.raises(UsageError, match=message):
                nsga2.search(other, TableEvaluator(), archive, **{"population": 12, **options})

    def test_another_algorithm_is_refused(self, path):
        """The archive of one is no beginning for the other."""
        with Archive.open(path) as archive:
            nsga2.search(problem(evaluations=24), TableEvaluator(), archive, population=12)
            with pytest.raises(UsageError, match=r"algorithm 'nsga2' \(now 'random'\)"):
                random.search(problem(evaluations=24), TableEvaluator(), archive, population=12)

    @pytest.mark.process
    def test_kill_minus_nine_in_the_middle_of_training(self, whole, path):
        """A real process is killed while it trains; the resumed run ends as if it had not been, and trains only what was missing."""
        script = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from toy_problem import LearningEvaluator, problem
from hwnas.search import nsga2
from hwnas.search.archive import Archive

class Slow(LearningEvaluator):
    def train(self, genotype):
        print("training", flush=True)
        time.sleep(0.05)
        return super().train(genotype)

asked = problem(evaluations=90)
with Archive.open({str(path)!r}) as archive:
    nsga2.search(asked, Slow(asked, archive), archive, population=12)
"""
        searcher = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert searcher.stdout is not None
        try:
            for _ in range(3):
                assert searcher.stdout.readline() == "training\n"
        finally:
            searcher.send_signal(signal.SIGKILL)
        searcher.communicate()
        assert searcher.returncode == -signal.SIGKILL
        asked = problem(evaluations=90)
        everything, result, computed, _ = whole
        with Archive.open(path) as archive:
            on_record = len(archive.results("training"))
            assert on_record >= 2
            evaluator = LearningEvaluator(asked, archive)
            again = nsga2.search(asked, evaluator, archive, population=12)
            assert content(archive) == everything
        assert again.front == result.front
        assert evaluator.computed == computed[on_record:]
