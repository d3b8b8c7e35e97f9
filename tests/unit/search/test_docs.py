"""What docs/search.md shows is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from toy_problem import REFERENCE_POINT, TableEvaluator, problem, true_front

from hwnas.search import nsga2, random
from hwnas.search.archive import Archive
from hwnas.search.front import hypervolume

TEXT = (Path(__file__).parents[3] / "docs" / "search.md").read_text()


def test_the_example_in_the_documentation_runs_and_resumes(tmp_path, monkeypatch):
    """As it stands there; run twice it gives the same finalists, the second time without counting anything."""
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    first: dict = {}
    exec(compile(example, "docs/search.md", "exec"), first)
    assert len(first["finalists"]) == 3
    assert all(e.metrics["flops"].value <= 20e6 for e in first["finalists"])
    second: dict = {}
    exec(compile(example.replace("return {", "raise AssertionError  # {"), "docs/search.md", "exec"), second)
    assert second["finalists"] == first["finalists"]


def test_the_comparison_with_random_search_is_what_is_printed():
    """Every row of the table, to its last digit: mean over 8 seeds of the share of the true front's hypervolume."""
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) % \| ([\d.]+) % \|$", TEXT, re.MULTILINE)
    assert len(rows) == 3
    for evaluations, *printed in rows:
        shares = [[], []]
        for seed in range(8):
            asked = problem(evaluations=int(evaluations), seed=seed)
            for algorithm, share in zip((nsga2, random), shares, strict=True):
                with Archive.open(":memory:") as archive:
                    front = algorithm.search(asked, TableEvaluator(), archive, stop_early=False).front
                share.append(hypervolume([asked.values(e) for e in front], REFERENCE_POINT) / hypervolume(true_front(), REFERENCE_POINT))
        assert [100 * sum(share) / 8 for share in shares] == pytest.approx([float(figure) for figure in printed], abs=0.06)
