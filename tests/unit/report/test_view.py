"""The values of a report and the sentences that derive from them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwnas.report.view import Interval, Limit, RunView


def test_an_interval_holds_its_value() -> None:
    """A value outside its own interval, or one that is no number, is refused."""
    assert Interval.exact(2.0) == Interval(2.0, 2.0, 2.0)
    for broken in ((3.0, 1.0, 2.0), (0.5, 1.0, 2.0), (float("nan"), 1.0, 2.0)):
        with pytest.raises(ValueError, match="low <= value <= high"):
            Interval(*broken)


def test_the_verdict_counts_what_was_measured(full: RunView) -> None:
    """Only finalists with a measurement are judged, and the others are mentioned."""
    assert full.verdict == "2 of 3 finalists kept the limit when measured (latency at most 3 ms)."
    assert full.outcome == "broken"
    waiting = replace(full.finalists[2], limit_kept=None, measured_latency_s=None)
    partly = replace(full, finalists=(*full.finalists[:2], waiting))
    assert partly.verdict == "2 of 2 finalists kept the limit when measured (latency at most 3 ms); 1 not measured yet."
    assert partly.outcome == "open"
    assert replace(full, finalists=full.finalists[:2]).outcome == "kept"


def test_the_verdict_of_a_run_without_results_says_so(full: RunView, begun: RunView) -> None:
    """No finalists, no measurement, and no limit each have their own sentence."""
    assert begun.verdict == "No finalists yet: 0 networks scored, none trained to the end and measured."
    assert begun.outcome == "open"
    unmeasured = tuple(replace(finalist, limit_kept=None, measured_latency_s=None) for finalist in full.finalists)
    assert replace(full, finalists=unmeasured).verdict == "3 finalists, none measured against the limit yet (latency at most 3 ms)."
    free = replace(full, limits=(), finalists=tuple(replace(finalist, limit_kept=None) for finalist in full.finalists))
    assert free.verdict == "3 of 3 finalists measured; no limit was set."


def test_accuracy_derives_from_its_seeds(full: RunView) -> None:
    """The mean and the sample deviation are those of the seeds; one seed has no deviation, none has no mean."""
    finalist = full.finalists[0]
    assert finalist.accuracy_mean == pytest.approx(0.962)
    assert finalist.accuracy_sd == pytest.approx(0.004)
    assert replace(finalist, accuracies=(0.9,)).accuracy_sd is None
    assert replace(finalist, accuracies=()).accuracy_mean is None


def test_a_limit_reads_as_it_was_meant() -> None:
    """Upper and lower limits are told apart, in the metric's own unit."""
    assert str(Limit(metric="memory", bound=8 * 2**20)) == "memory at most 8 MiB"
    assert str(Limit(metric="accuracy", bound=0.9, upper=False)) == "accuracy at least 90 %"
