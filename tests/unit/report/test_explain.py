"""The page of a prediction taken apart stands alone and shows every kernel."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from hwnas.errors import HwnasError
from hwnas.ir import Kernel, KernelCall, TensorSpec
from hwnas.predict import Estimate, KernelEstimate
from hwnas.predict.explanation import Ceilings, Explanation, Part
from hwnas.report.explain import COLOURS, SHOWN, bars, html, render, roofline

X = TensorSpec((1, 8, 16, 16))
HOSTILE = "</script><b>node"
CEILINGS = Ceilings(flops_per_s=8e10, bytes_per_s=1e10)


def part(seconds: float, *, bound: str = "compute", covered: bool = True, node: str = "conv_0", whole: float = 1e-3) -> Part:
    """A kernel of that time."""
    kernel = Kernel(op="Conv", fused=("Relu",), inputs=(X,), weights=(TensorSpec((8, 8, 3, 3)),), outputs=(X,))
    estimate = KernelEstimate(
        call=KernelCall(kernel=kernel, nodes=(node, "relu_0"), output="y"),
        seconds=seconds,
        share=seconds / whole,
        covered=covered,
        bound=bound,
    )
    return Part(kernel=estimate, kind="Conv-dense", flops=3e5, bytes=2e4)


def explanation(*parts: Part, coverage: float = 1.0, ceilings: Ceilings | None = CEILINGS) -> Explanation:
    """Of a network of 1 ms."""
    estimate = Estimate(value=1e-3, low=0.9e-3, high=1.2e-3, unit="s", coverage=coverage, source="predicted from a test")
    return Explanation(estimate=estimate, parts=parts, kinds=frozenset({"Gemm"}), ceilings=ceilings)


SOME = explanation(
    part(5e-4, node=HOSTILE),
    part(3e-4, bound="memory", covered=False),
    part(1e-4, bound="overhead"),
    coverage=0.7,
)


def figures_of(page: str) -> dict[str, Any]:
    """The figures that the page draws."""
    found = re.search(r"^const figures = (.*);$", page, re.MULTILINE)
    assert found
    return dict(json.loads(found[1]))


def test_bars_are_kernels_by_time_coloured_by_what_limits_them() -> None:
    """The longest on top; what is not covered is hatched."""
    figure = bars(SOME)
    assert [(trace["name"], trace["x"], trace["y"], trace["marker"]["color"]) for trace in figure["data"]] == [
        ("compute bound", [pytest.approx(0.5)], [2], COLOURS["compute"]),
        ("memory bound", [pytest.approx(0.3)], [1], COLOURS["memory"]),
        ("overhead bound", [pytest.approx(0.1)], [0], COLOURS["overhead"]),
    ]
    assert [trace["marker"]["pattern"]["shape"] for trace in figure["data"]] == [[""], ["/"], [""]]
    assert figure["layout"]["yaxis"]["ticktext"][0] == "Conv+Relu · relu_0"


def test_a_network_of_many_kernels_keeps_its_sum() -> None:
    """The most expensive ones get bars, the others one together."""
    parts = [part(1e-3 / (i + 2) / 10) for i in range(SHOWN + 5)]
    figure = bars(explanation(*parts))
    assert sum(x for trace in figure["data"] for x in trace["x"]) == pytest.approx(1e3 * sum(p.kernel.seconds for p in parts))
    assert figure["layout"]["yaxis"]["ticktext"][0] == "the other 5 kernels"
    assert sum(len(trace["y"]) for trace in figure["data"]) == SHOWN + 1


def test_the_roofline_shows_rate_against_intensity() -> None:
    """Each kernel at its operations per byte and its rate; the line bends where the memory could feed the peak."""
    line, *marks = roofline(SOME)["data"]
    assert 8.0 in line["x"]
    assert max(line["y"]) == pytest.approx(80)
    assert line["y"][0] == pytest.approx(10 * line["x"][0])
    assert [(trace["x"], trace["y"]) for trace in marks] == [
        ([pytest.approx(15)], [pytest.approx(3e5 / seconds / 1e9)]) for seconds in (5e-4, 3e-4, 1e-4)
    ]
    assert [trace["marker"]["symbol"] for trace in marks] == [["circle"], ["x"], ["circle"]]
    sizes = [trace["marker"]["size"][0] for trace in marks]
    assert sizes == sorted(sizes, reverse=True)


def test_without_ceilings_there_is_no_line() -> None:
    """A predictor that has no roofline gets none drawn."""
    assert [trace["mode"] for trace in roofline(explanation(part(1e-4), ceilings=None))["data"]] == ["markers"]


def test_the_page_stands_alone_and_nothing_in_a_name_breaks_it() -> None:
    """No element that loads anything; names of nodes, whatever they are, stay text."""
    page = html({"a.onnx": SOME, "b<i>.onnx": explanation(part(9e-4))})
    outside = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r'\b(src|href)="', outside)
    assert HOSTILE not in page
    assert "b<i>" not in outside
    figures = figures_of(page)
    assert set(figures) == {"bars-0", "roofline-0", "bars-1", "roofline-1"}
    assert all(f'id="{name}"' in outside for name in figures)


def test_the_page_lists_every_kernel_and_what_is_not_covered() -> None:
    """Two tables for a network that is not wholly covered, one for one that is."""
    page = html({"a.onnx": SOME, "b.onnx": explanation(part(9e-4))})
    assert page.count("<td>Conv+Relu</td>") == 4
    assert page.count('<span class="no">no</span>') == 1
    assert 'id="uncovered-0"' in page
    assert 'id="uncovered-1"' not in page
    (row,) = re.findall(r"<tr><td>Conv-dense</td>.*?</tr>", page)
    assert re.findall(r"<td[^>]*>(.*?)</td>", row) == ["Conv-dense", "kind", "1", "30 %"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """The message gives the reason and the option; a place that can is written in one piece."""
    path = render({"a.onnx": SOME}, tmp_path / "deep" / "a.html")
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [file.name for file in path.parent.iterdir()] == ["a.html"]
    with pytest.raises(HwnasError, match=r"the plot '.*' cannot be written: .*; give another place with --plot$"):
        render({"a.onnx": SOME}, path / "below" / "a.html")
