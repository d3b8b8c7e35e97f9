"""The plots hold the run's numbers, in one unit per axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go
import pytest

from hwnas.report import figures
from hwnas.report.view import Interval, KernelShare, Limit, Objective, RunView, Spent, Trial

ALL = [figures.front, figures.agreement, figures.kernels, figures.spending, figures.learning]


def trace(figure: dict[str, Any] | None, name: str) -> dict[str, Any]:
    """The one trace whose name begins so."""
    assert figure is not None
    (found,) = [trace for trace in figure["data"] if trace.get("name", "").startswith(name)]
    return found


@pytest.mark.parametrize("plot", ALL)
def test_plotly_accepts_every_figure(plot: Callable[[RunView], dict[str, Any] | None], full: RunView) -> None:
    """Each figure uses only properties that plotly knows, with values that it allows."""
    figure = plot(full)
    assert figure is not None
    go.Figure(figure)


@pytest.mark.parametrize("plot", ALL)
def test_nothing_to_show_is_no_plot(plot: Callable[[RunView], dict[str, Any] | None], begun: RunView) -> None:
    """A part that the run does not have yet gives no figure, not an empty one."""
    assert plot(begun) is None


def test_the_front_shows_every_trial_once(full: RunView) -> None:
    """Feasible and infeasible trials are told apart, latency is in ms, accuracy in %, and the limit is drawn where it is."""
    figure = figures.front(full)
    keeps, breaks = trace(figure, "keeps"), trace(figure, "breaks")
    assert len(keeps["x"]) + len(breaks["x"]) == len(full.trials)
    first = next(trial for trial in full.trials if trial.feasible)
    assert keeps["x"][0] == pytest.approx(first.metrics["latency"].value * 1e3)
    assert keeps["y"][0] == pytest.approx(first.metrics["accuracy"].value * 1e2)
    assert figure is not None
    assert figure["layout"]["shapes"][0]["x0"] == pytest.approx(3.0)
    assert figure["layout"]["xaxis"]["title"]["text"] == "latency (ms)"


def test_finalists_stand_where_they_were_predicted_and_where_they_were_measured(full: RunView) -> None:
    """Both positions are labelled with what they are."""
    figure = figures.front(full)
    assert trace(figure, "finalist, predicted")["text"] == ["1", "2", "3"]
    assert trace(figure, "finalist, measured")["x"] == pytest.approx([2.61, 1.874, 3.04])
    assert trace(figure, "finalist, measured")["y"] == pytest.approx([96.2] * 3)


def test_the_front_spans_whatever_was_optimised() -> None:
    """Objectives other than latency get their own units; a limit on the vertical axis is a horizontal line."""
    trial = Trial(network="1", metrics={"params": Interval.exact(2.5e6), "memory": Interval.exact(2**22)}, feasible=True)
    objectives = (Objective(metric="params", minimize=True), Objective(metric="memory", minimize=True))
    limits = (Limit(metric="memory", bound=2**23),)
    view = RunView(run="r", created="", space="s", device="d", objectives=objectives, limits=limits, trials=(trial,))
    figure = figures.front(view)
    assert trace(figure, "keeps")["x"] == [2.5]
    assert trace(figure, "keeps")["y"] == [4.0]
    assert figure is not None
    assert figure["layout"]["shapes"][0]["y1"] == 8.0
    assert figures.front(replace(view, objectives=objectives[:1])) is None


def test_agreement_counts_what_lies_within_the_band(full: RunView) -> None:
    """Each kind of comparison says how many of its predictions came within 10 %."""
    figure = figures.agreement(full)
    held_out = [row for row in full.comparisons if row.kind == "held-out"]
    within = sum(abs(row.predicted_s.value - row.measured_s) <= 0.1 * row.measured_s for row in held_out)
    assert trace(figure, "held-out")["name"] == f"held-out: {within} of 40 within 10 %"
    assert trace(figure, "finalist")["x"] == pytest.approx([2.61, 1.874, 3.04])


def test_kernels_add_up_to_the_whole_network() -> None:
    """Whatever is not shown on its own is summed into one bar, so that the shares make 100 %."""
    shares = tuple(KernelShare(kernel="Conv", node=f"n{i}", seconds=1e-5 * (i + 1)) for i in range(20))
    figure = figures.kernels(RunView(run="r", created="", space="s", device="d", objectives=(), kernels=shares))
    assert figure is not None
    (bars,) = figure["data"]
    assert sum(bars["x"]) == pytest.approx(100)
    labels = figure["layout"]["yaxis"]["ticktext"]
    assert labels[0] == "the other 8 kernels"
    assert labels[-1] == "Conv · n19"
    assert "measured" in figure["layout"]["xaxis"]["title"]["text"]


def test_kernels_of_one_name_keep_bars_of_their_own() -> None:
    """Long names are cut beside the bars and whole when pointed at; what looks alike afterwards is still two bars."""
    shares = tuple(KernelShare(kernel="Conv", node="n" * 80 + str(i), seconds=1.0) for i in range(2))
    figure = figures.kernels(RunView(run="r", created="", space="s", device="d", objectives=(), kernels=shares))
    assert figure is not None
    (bars,) = figure["data"]
    first, second = figure["layout"]["yaxis"]["ticktext"]
    assert first == second
    assert len(first) <= figures.LABEL
    assert bars["x"] == [50, 50]
    assert len(set(bars["y"])) == len(set(bars["hovertext"])) == 2


def test_spending_accumulates() -> None:
    """Each part's curve ends at its total, also where two pieces of work end at the same time."""
    spent = (
        Spent(part="profiling", finished_s=0, seconds=30.0),
        Spent(part="training", finished_s=10.0, seconds=4.0),
        Spent(part="training", finished_s=10.0, seconds=5.0),
        Spent(part="training", finished_s=20.0, seconds=6.0),
    )
    figure = figures.spending(RunView(run="r", created="", space="s", device="d", objectives=(), spent=spent))
    training = trace(figure, "training")
    assert training["x"] == [0.0, 10.0, 20.0]
    assert training["y"] == pytest.approx([0.0, 9.0, 15.0])
    assert training["name"] == "training (15 s)"
    assert trace(figure, "profiling")["y"] == [30.0, 30.0, 30.0]


def test_names_cannot_become_markup(full: RunView) -> None:
    """Plotly reads a subset of HTML in its labels; what people named is text."""
    figure = figures.front(replace(full, trials=(replace(full.trials[0], network="<a href='x'>n</a>"),)))
    assert figure is not None
    assert all("<a" not in text for trace in figure["data"] for text in trace.get("text", []))
