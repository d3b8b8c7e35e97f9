"""Writes a run as one self-contained HTML page: tables, interactive plots, no request to anywhere."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hwnas.accuracy.quality import BASELINES
from hwnas.devices.base import Unavailable
from hwnas.errors import HwnasError, require
from hwnas.report import figures
from hwnas.report.figures import Figure
from hwnas.report.view import RunView
from hwnas.units import format_bytes, format_count, format_fraction, format_joules, format_seconds

_PLOTS = {
    "front": figures.front,
    "agreement": figures.agreement,
    "spending": figures.spending,
    "kernels": figures.kernels,
    "learning": figures.learning,
}
_FILTERS = {
    "seconds": format_seconds,
    "fraction": format_fraction,
    "count": format_count,
    "bytes": format_bytes,
    "joules": format_joules,
}


def render(view: RunView, path: Path) -> Path:
    """Writes the page of a run, in one piece or not at all.

    Args:
        view: the run, as far as it has come.
        path: the file to write; its folder is made where it is missing.

    Returns:
        The path.

    Raises:
        HwnasError: when the file cannot be written; gives the reason.
        MissingExtraError: when plotly is not installed.
    """
    return write(html(view), path, what="the report", option="-o")


def write(page: str, path: Path, *, what: str, option: str) -> Path:
    """Writes a page, in one piece or not at all.

    Args:
        page: its text.
        path: the file to write; its folder is made where it is missing.
        what: the page is, for people.
        option: of the command line, which gives another place.

    Raises:
        HwnasError: when the file cannot be written; gives the reason.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise HwnasError(f"{what} '{path}' cannot be written: {error.strerror}; give another place with {option}") from error
    return path


def fill(template: str, figures: Mapping[str, Figure | None], **values: Any) -> str:
    """A template of this package with its figures, the library that draws them, and whatever else it names.

    Raises:
        MissingExtraError: when plotly is not installed.
    """
    require("plotly")
    from plotly.offline import get_plotlyjs

    loader = PackageLoader("hwnas", "report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= _FILTERS
    return environment.get_template(template).render(
        figures=figures, figures_json=_script(figures), plotly=Markup(get_plotlyjs()), **values
    )


def html(view: RunView) -> str:
    """The page as text."""
    plots = {name: plot(view) for name, plot in _PLOTS.items()}
    checked = [row for row in view.comparisons if row.kind != "held-out"]
    return fill(
        "page.html.j2",
        plots,
        view=view,
        baselines=BASELINES,
        exports=[finalist for finalist in view.finalists if finalist.export],
        engines=[(finalist, engine) for finalist in view.finalists for engine in finalist.engines],
        energy_sources=sorted({finalist.energy_source for finalist in view.finalists if finalist.energy_source}),
        energy_notes=sorted({note for f in view.finalists if not isinstance(f.energy, Unavailable) for note in f.energy.notes}),
        energy_reasons=sorted({finalist.energy.reason for finalist in view.finalists if isinstance(finalist.energy, Unavailable)}),
        finalists_inside=(sum(row.predicted_s.low <= row.measured_s <= row.predicted_s.high for row in checked), len(checked)),
        total_seconds=sum(row.seconds for row in view.spent),
    )


def _script(value: Any) -> Markup:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
