"""Writes predictions taken apart as one self-contained HTML page: kernels by time and by what limits them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from hwnas.predict.explanation import BOUNDS, Ceilings, Explanation, Part
from hwnas.report.figures import BLUE, GREY, ORANGE, VERMILION, Figure, elided, plain_layout
from hwnas.report.page import fill, write
from hwnas.units import format_bytes, format_count, format_fraction, format_seconds

COLOURS = {"compute": BLUE, "memory": ORANGE, "overhead": GREY}
SHOWN = 30  # kernels that get a bar of their own
SMALLEST, LARGEST = 5, 26  # pixels of a kernel's mark


def render(explanations: Mapping[str, Explanation], path: Path) -> Path:
    """Writes the page of some predictions, by the name of their model.

    Returns:
        The path.

    Raises:
        HwnasError: when the file cannot be written; gives the reason.
        MissingExtraError: when plotly is not installed.
    """
    return write(html(explanations), path, what="the plot", option="--plot")


def html(explanations: Mapping[str, Explanation]) -> str:
    """The page as text."""
    figures: dict[str, Figure | None] = {}
    for i, explanation in enumerate(explanations.values()):
        figures |= {f"bars-{i}": bars(explanation), f"roofline-{i}": roofline(explanation)}
    return fill("explain.html.j2", figures, explanations=explanations, bounds=BOUNDS)


def bars(explanation: Explanation) -> Figure:
    """The most expensive kernels by time, coloured by what limits them, hatched where not covered; the others are summed."""
    shown, rest = explanation.parts[:SHOWN], explanation.parts[SHOWN:]
    count = len(shown) + bool(rest)
    names = [_label(part) for part in shown] + ([f"the other {len(rest)} kernels"] if rest else [])
    traces = [_bars(bound, [(count - 1 - i, part) for i, part in enumerate(shown) if part.kernel.bound == bound]) for bound in BOUNDS]
    if rest:
        seconds = sum(part.kernel.seconds for part in rest)
        traces.append(
            {
                **_bar([0], [seconds], [f"{format_seconds(seconds)} · {format_fraction(seconds / explanation.estimate.value)}"]),
                "name": "others",
                "marker": {"color": "rgba(139,148,158,0.35)"},
            }
        )
    layout = plain_layout("time (ms)", "")
    layout["yaxis"] |= {"tickmode": "array", "tickvals": list(range(count)), "ticktext": [escape(name) for name in reversed(names)]}
    layout |= {"height": 110 + 24 * count, "barmode": "overlay"}
    return {"data": [trace for trace in traces if trace["y"]], "layout": layout}


def _bars(bound: str, rows: Sequence[tuple[int, Part]]) -> Figure:
    parts = [part for _, part in rows]
    texts = [f"{format_seconds(part.kernel.seconds)} · {format_fraction(part.kernel.share)}" for part in parts]
    patterns = ["" if part.kernel.covered else "/" for part in parts]
    return {
        **_bar([place for place, _ in rows], [part.kernel.seconds for part in parts], texts),
        "name": f"{bound} bound",
        "hovertext": [_describe(part) for part in parts],
        "marker": {"color": COLOURS[bound], "pattern": {"shape": patterns}},
    }


def _bar(places: Sequence[int], seconds: Sequence[float], texts: Sequence[str]) -> Figure:
    return {
        "type": "bar",
        "orientation": "h",
        "y": list(places),
        "x": [1e3 * second for second in seconds],
        "text": list(texts),
        "textposition": "auto",
        "hoverinfo": "text",
    }


def roofline(explanation: Explanation) -> Figure:
    """Every kernel by its operations per byte and the rate that its predicted time comes to, under the device's roofline."""
    largest = max(part.kernel.share for part in explanation.parts)
    traces = [
        _marks(bound, [part for part in explanation.parts if part.kernel.bound == bound and part.flops > 0], largest) for bound in BOUNDS
    ]
    traces = [trace for trace in traces if trace["x"]]
    if explanation.ceilings and traces:
        every = [x for trace in traces for x in trace["x"]]
        traces.insert(0, _ceiling(explanation.ceilings, min(every), max(every)))
    layout = plain_layout("operations per byte", "rate (GFLOP/s)")
    for axis in ("xaxis", "yaxis"):
        layout[axis] |= {"type": "log", "dtick": 1}
    return {"data": traces, "layout": layout}


def _marks(bound: str, parts: Sequence[Part], largest: float) -> Figure:
    sizes = [SMALLEST + (LARGEST - SMALLEST) * float(np.sqrt(part.kernel.share / largest)) for part in parts]
    return {
        "mode": "markers",
        "name": f"{bound} bound",
        "x": [part.intensity for part in parts],
        "y": [part.flops_per_s / 1e9 for part in parts],
        "text": [_describe(part) for part in parts],
        "hoverinfo": "text",
        "marker": {
            "color": COLOURS[bound],
            "size": sizes,
            "opacity": 0.65,
            "symbol": ["circle" if part.kernel.covered else "x" for part in parts],
        },
    }


def _ceiling(ceilings: Ceilings, low: float, high: float) -> Figure:
    ridge = ceilings.flops_per_s / ceilings.bytes_per_s
    ends = sorted({min(low, ridge / 2), ridge, max(high, 2 * ridge)})
    return {
        "mode": "lines",
        "name": "roofline",
        "x": ends,
        "y": [min(ceilings.flops_per_s, x * ceilings.bytes_per_s) / 1e9 for x in ends],
        "line": {"color": VERMILION, "dash": "dash", "width": 1.5},
        "hoverinfo": "skip",
    }


def _label(part: Part) -> str:
    return elided(f"{part.name} · {part.kernel.call.nodes[-1]}")


def _describe(part: Part) -> str:
    kernel = part.kernel.call.kernel
    shapes = " → ".join(", ".join(" x ".join(map(str, spec.shape)) or "1" for spec in specs) for specs in (kernel.inputs, kernel.outputs))
    lines = (
        escape(part.name),
        escape(_shortened(part.kernel.call.nodes)),
        shapes,
        f"{format_seconds(part.kernel.seconds)}, {format_fraction(part.kernel.share)}, {part.kernel.bound} bound",
        f"{format_count(part.flops)} operations, {format_bytes(part.bytes)}",
        "measured" if part.kernel.covered else "not covered",
    )
    return "<br>".join(lines)


def _shortened(nodes: Sequence[str], most: int = 3) -> str:
    return ", ".join(nodes[:most]) + (f" and {len(nodes) - most} more" if len(nodes) > most else "")
