"""Each pattern is a switch: a runtime that was found to lack it has kernels that are told without it."""

from __future__ import annotations

from collections import Counter

import pytest

from hwnas.ir import Graph
from hwnas.runtimes.fusions import PATTERNS, Fusions
from hwnas.runtimes.ort_fusion import plan
from hwnas.runtimes.ort_habits import HABITS


def left(graph: Graph, fusions: Fusions) -> Counter[str]:
    """How often each operator is left; a factor for each channel of blocked data is computed as a convolution."""
    return Counter("Conv" if node.op == "Mul" and node.blocked else node.op for node in plan(graph, fusions))


@pytest.mark.parametrize("name", sorted(HABITS))
def test_a_pattern_is_used_where_the_runtime_knows_it(name: str) -> None:
    """The network that shows a pattern is rewritten with it, and only with it."""
    habit = HABITS[name]
    assert left(habit.graph(), Fusions())[habit.op] == habit.left
    assert left(habit.graph(), Fusions(patterns=PATTERNS - {name}))[habit.op] != habit.left


@pytest.mark.parametrize("name", sorted(name for name, habit in HABITS.items() if habit.blocks))
def test_patterns_of_the_blocked_layout_need_it(name: str) -> None:
    """Where nothing is blocked they change nothing."""
    graph = HABITS[name].graph()
    assert plan(graph, Fusions(block=1)) == plan(graph, Fusions(block=1, patterns=PATTERNS - {name}))
