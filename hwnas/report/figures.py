"""The plots of a report, as plotly.js figures in plain dictionaries; each is `None` where there is nothing to show yet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from html import escape
from statistics import fmean
from typing import Any

from hwnas.devices.base import Unavailable
from hwnas.report.view import KINDS, Comparison, Finalist, Interval, RunView, Trial
from hwnas.units import Kind, format_quantity, format_seconds, unit_for

Figure = dict[str, Any]

# Okabe and Ito's colours: told apart by colour-blind readers, and readable on a light and on a dark page.
BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, GREY = "#3b82c4", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#8b949e"
PARTS = {"profiling": SKY, "proxies": ORANGE, "training": GREEN, "measuring": VERMILION, "search": PURPLE, "export": BLUE}
KERNELS_SHOWN = 12
LABEL = 56
BAND = 0.1  # the field's usual bar: a prediction within 10 % of the measurement


def front(view: RunView) -> Figure | None:
    """All trials over the first two objectives, and the finalists where they were predicted and where they were measured."""
    if len(view.objectives) < 2 or not view.trials:
        return None
    x, y = view.objectives[:2]
    shown = [trial for trial in view.trials if x.metric in trial.metrics and y.metric in trial.metrics]
    if not shown:
        return None
    horizontal, vertical = (_Axis(metric, [trial.metrics[metric].value for trial in shown]) for metric in (x.metric, y.metric))
    traces = [
        _cloud("breaks a limit (predicted)", [trial for trial in shown if not trial.feasible], horizontal, vertical, GREY, "x-thin-open"),
        _cloud("keeps the limits (predicted)", [trial for trial in shown if trial.feasible], horizontal, vertical, BLUE, "circle"),
        *_finalists(view, horizontal, vertical),
    ]
    layout = plain_layout(horizontal.title, vertical.title)
    layout["shapes"] = [
        _line(horizontal, limit.bound, "x") if limit.metric == x.metric else _line(vertical, limit.bound, "y")
        for limit in view.limits
        if limit.metric in (x.metric, y.metric)
    ]
    layout["annotations"] = [
        {"x": horizontal(limit.bound), "y": 0, "yref": "paper", "text": "limit", "showarrow": False, "xanchor": "left", "yanchor": "bottom"}
        for limit in view.limits
        if limit.metric == x.metric
    ]
    return {"data": [trace for trace in traces if trace["x"]], "layout": layout}


def agreement(view: RunView) -> Figure | None:
    """Predicted against measured latency with intervals, the diagonal, and the band of +-10 %."""
    if not view.comparisons:
        return None
    everything = [value for row in view.comparisons for value in (row.measured_s, row.predicted_s.low, row.predicted_s.high)]
    axis = _Axis("latency", everything)
    low, high = axis(min(everything)) * 0.9, axis(max(everything)) * 1.1
    ends = [low, high]
    band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "x": ends}
    data: list[Figure] = [
        {**band, "y": [end * (1 - BAND) for end in ends], "showlegend": False},
        {**band, "y": [end * (1 + BAND) for end in ends], "fill": "tonexty", "fillcolor": "rgba(139,148,158,0.2)", "name": "within 10 %"},
        {
            "mode": "lines",
            "line": {"color": GREY, "dash": "dot", "width": 1},
            "x": ends,
            "y": ends,
            "hoverinfo": "skip",
            "showlegend": False,
        },
    ]
    for kind, colour, symbol in (("held-out", GREY, "circle"), ("elite", ORANGE, "square"), ("finalist", VERMILION, "diamond")):
        rows = [row for row in view.comparisons if row.kind == kind]
        if rows:
            data.append(_compared(kind, rows, axis, colour, symbol))
    layout = plain_layout(f"measured {axis.title}", f"predicted {axis.title}")
    layout["xaxis"]["range"] = layout["yaxis"]["range"] = ends
    return {"data": data, "layout": layout}


def kernels(view: RunView) -> Figure | None:
    """The most expensive kernels of the best finalist by their share of its time; the rest is summed, never dropped."""
    total = sum(kernel.seconds for kernel in view.kernels)
    if not total:
        return None
    ordered = sorted(view.kernels, key=lambda kernel: kernel.seconds, reverse=True)
    rows = [(f"{kernel.kernel} · {kernel.node}", kernel.seconds) for kernel in ordered[:KERNELS_SHOWN]]
    if rest := ordered[KERNELS_SHOWN:]:
        rows.append((f"the other {len(rest)} kernels", sum(kernel.seconds for kernel in rest)))
    rows.reverse()  # plotly draws the first bar at the bottom
    positions = list(range(len(rows)))
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [100 * seconds / total for _, seconds in rows],
        "y": positions,
        "text": [f"{100 * seconds / total:.1f} % · {format_seconds(seconds)}" for _, seconds in rows],
        "textposition": "auto",
        "hovertext": [escape(name) for name, _ in rows],
        "hoverinfo": "text",
        "marker": {"color": [GREY if rest and i == 0 else BLUE for i in positions]},
    }
    layout = plain_layout(f"share of the network's {view.kernels_origin} time (%)", "")
    layout["yaxis"] |= {"tickmode": "array", "tickvals": positions, "ticktext": [escape(elided(name)) for name, _ in rows]}
    layout |= {"height": 90 + 26 * len(rows), "showlegend": False}
    return {"data": [bars], "layout": layout}


def spending(view: RunView) -> Figure | None:
    """What each part of the work cost, cumulative over the run."""
    if not view.spent:
        return None
    ends = sorted({0.0, *(row.finished_s for row in view.spent)})
    x_axis, y_axis = _Axis("", ends, kind="time"), _Axis("", [sum(row.seconds for row in view.spent)], kind="time")
    data = []
    for part in sorted({row.part for row in view.spent}, key=lambda part: (list(PARTS).index(part) if part in PARTS else len(PARTS), part)):
        costs: dict[float, float] = defaultdict(float)
        for row in view.spent:
            if row.part == part:
                costs[row.finished_s] += row.seconds
        total, steps = 0.0, []
        for end in ends:
            total += costs[end]
            steps.append(y_axis(total))
        data.append(
            {
                "mode": "lines",
                "stackgroup": "spent",
                "name": f"{escape(part)} ({format_seconds(total)})",
                "x": [x_axis(end) for end in ends],
                "y": steps,
                "line": {"shape": "hv", "width": 1, "color": PARTS.get(part, GREY)},
            }
        )
    return {"data": data, "layout": plain_layout(f"time since the run began ({x_axis.unit})", f"spent, cumulative ({y_axis.unit})")}


def learning(view: RunView) -> Figure | None:
    """The predictor's held-out error as measuring went on."""
    card = view.predictor
    if card is None or len(card.curve) < 2:
        return None
    points = {
        "mode": "lines+markers",
        "x": [seconds for seconds, _ in card.curve],
        "y": [100 * error for _, error in card.curve],
        "line": {"color": BLUE},
        "name": "held-out MAPE",
        "hovertemplate": "%{x:.0f} s: %{y:.2f} %<extra></extra>",
    }
    layout = plain_layout("time spent measuring (s)", "held-out error, MAPE (%)")
    layout["yaxis"]["rangemode"] = "tozero"
    layout["showlegend"] = False
    return {"data": [points], "layout": layout}


class _Axis:
    """Brings the values of a metric to one unit, that of the largest."""

    def __init__(self, name: str, values: Iterable[float], kind: Kind | None = None) -> None:
        self.name = name
        self.kind = kind or KINDS[name]
        self.scale, self.unit = unit_for(max(map(abs, values), default=0), self.kind)
        self.title = f"{name} ({self.unit})" if self.unit else name

    def __call__(self, value: float) -> float:
        return value / self.scale

    def errors(self, intervals: Sequence[Interval]) -> Figure:
        """Error bars from the ends of intervals."""
        up = [self(interval.high - interval.value) for interval in intervals]
        down = [self(interval.value - interval.low) for interval in intervals]
        return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1, "width": 3}


def elided(name: str) -> str:
    """A name short enough to stand beside a bar."""
    return name if len(name) <= LABEL else f"{name[: LABEL - 1]}…"


def plain_layout(x: str, y: str) -> Figure:
    """The layout that all plots share, with the titles of their axes."""
    return {
        "xaxis": {"title": {"text": x}, "zeroline": False, "automargin": True},
        "yaxis": {"title": {"text": y}, "zeroline": False, "automargin": True},
        "legend": {"orientation": "h", "traceorder": "normal", "x": 0, "y": 1.06, "yanchor": "bottom"},
        "margin": {"l": 64, "r": 40, "t": 24, "b": 56},
        "hovermode": "closest",
    }


def _line(axis: _Axis, bound: float, along: str) -> Figure:
    across = "y" if along == "x" else "x"
    ends: Figure = {f"{along}0": axis(bound), f"{along}1": axis(bound), f"{across}0": 0, f"{across}1": 1, f"{across}ref": "paper"}
    return {"type": "line", "line": {"color": VERMILION, "dash": "dash", "width": 1}, **ends}


def _range(metric: str, interval: Interval) -> str:
    value, low, high = (format_quantity(number, KINDS[metric]) for number in (interval.value, interval.low, interval.high))
    return value if low == high else f"{value} [{low}, {high}]"


def _cloud(name: str, trials: Sequence[Trial], x: _Axis, y: _Axis, colour: str, symbol: str) -> Figure:
    def describe(trial: Trial) -> str:
        figures = "<br>".join(f"{key} {_range(key, value)}" for key, value in trial.metrics.items())
        return f"{escape(trial.network)}<br>generation {trial.generation}<br>{figures}"

    return {
        "mode": "markers",
        "name": name,
        "x": [x(trial.metrics[x.name].value) for trial in trials],
        "y": [y(trial.metrics[y.name].value) for trial in trials],
        "text": [describe(trial) for trial in trials],
        "hoverinfo": "text",
        "marker": {"color": colour, "symbol": symbol, "size": 6, "opacity": 0.65},
    }


def _measured(finalist: Finalist, metric: str) -> Interval | None:
    """What was found out about a finalist after the search chose it."""
    if metric == "latency":
        return finalist.measured_latency_s
    if metric == "accuracy" and finalist.accuracies:
        mean, sd = fmean(finalist.accuracies), finalist.accuracy_sd or 0.0
        return Interval(mean, mean - sd, mean + sd)
    if metric == "energy" and not isinstance(finalist.energy, Unavailable):
        joules, sd = finalist.energy.joules, finalist.energy.uncertainty
        return Interval(joules, joules - sd, joules + sd)
    counts = {"params": finalist.params, "flops": finalist.flops}
    return Interval.exact(counts[metric]) if metric in counts else None


def _finalists(view: RunView, x: _Axis, y: _Axis) -> list[Figure]:
    """Two traces, and an arrow's worth of line between what was predicted of a finalist and what was measured."""
    trials = {trial.network: trial for trial in view.trials}
    predicted: list[tuple[Finalist, Interval, Interval]] = []
    measured: list[tuple[Finalist, Interval, Interval]] = []
    path_x: list[float | None] = []
    path_y: list[float | None] = []
    for finalist in view.finalists:
        trial = trials.get(finalist.network)
        before = [trial.metrics.get(axis.name) if trial else None for axis in (x, y)]
        after = [_measured(finalist, axis.name) for axis in (x, y)]
        if before[0] and before[1]:
            predicted.append((finalist, before[0], before[1]))
        if after[0] and after[1]:
            measured.append((finalist, after[0], after[1]))
        if before[0] and before[1] and after[0] and after[1]:
            path_x += [x(before[0].value), x(after[0].value), None]
            path_y += [y(before[1].value), y(after[1].value), None]
    path = {"mode": "lines", "x": path_x, "y": path_y, "line": {"color": VERMILION, "width": 1, "dash": "dot"}}
    return [
        {**path, "hoverinfo": "skip", "showlegend": False},
        _marked("finalist, predicted", predicted, x, y, "diamond-open"),
        _marked("finalist, measured", measured, x, y, "diamond"),
    ]


def _marked(name: str, rows: Sequence[tuple[Finalist, Interval, Interval]], x: _Axis, y: _Axis, symbol: str) -> Figure:
    return {
        "mode": "markers+text",
        "name": name,
        "x": [x(across.value) for _, across, _ in rows],
        "y": [y(up.value) for _, _, up in rows],
        "error_x": x.errors([across for _, across, _ in rows]),
        "error_y": y.errors([up for _, _, up in rows]),
        "text": [str(finalist.rank) for finalist, _, _ in rows],
        "textposition": "top right",
        "hovertext": [
            f"finalist {finalist.rank}: {escape(finalist.network)}<br>{x.name} {_range(x.name, across)}<br>{y.name} {_range(y.name, up)}"
            for finalist, across, up in rows
        ],
        "hoverinfo": "text",
        "marker": {"color": VERMILION, "symbol": symbol, "size": 11},
    }


def _compared(kind: str, rows: Sequence[Comparison], axis: _Axis, colour: str, symbol: str) -> Figure:
    within = sum(abs(row.predicted_s.value / row.measured_s - 1) <= BAND for row in rows)
    return {
        "mode": "markers",
        "name": f"{kind}: {within} of {len(rows)} within 10 %",
        "x": [axis(row.measured_s) for row in rows],
        "y": [axis(row.predicted_s.value) for row in rows],
        "error_y": axis.errors([row.predicted_s for row in rows]) | {"color": colour},
        "text": [
            f"{escape(row.network)}<br>predicted {_range('latency', row.predicted_s)}<br>measured {format_seconds(row.measured_s)}"
            for row in rows
        ],
        "hoverinfo": "text",
        "marker": {"color": colour, "symbol": symbol, "size": 7},
    }
