"""Slices that are computed together."""

from __future__ import annotations

import numpy as np
import pytest
from drafts import Build, drafted, ops

from hwnas.ir import GraphBuilder
from hwnas.runtimes.fusions import PATTERNS, Fusions
from hwnas.runtimes.ort_draft import Draft
from hwnas.runtimes.ort_patterns import recognise
from hwnas.runtimes.ort_slices import slices_to_split


def sliced(*cuts: tuple[int, int], axis: int = 2, steps: int = 1) -> Build:
    def build(b: GraphBuilder, x: str) -> str:
        parts = [b.op("Slice", [x], starts=(s,), ends=(e,), axes=(axis,), steps=(steps,)) for s, e in cuts]
        return b.op("Concat", [b.op("Neg", [part]) for part in parts], axis=axis)

    return build


def split(build: Build, shape: tuple[int, ...] = (1, 4, 8)) -> Draft:
    draft = drafted(build, shape)
    slices_to_split(draft, draft.of("Softsign")[0])
    return draft


@pytest.mark.parametrize("cuts", [((0, 3), (3, 8)), ((3, 8), (0, 3)), ((0, -5), (-5, 100)), ((0, 2), (2, 5), (5, 8))])
def test_slices_of_all_of_a_value(cuts: tuple[tuple[int, int], ...]) -> None:
    """They are one Split, in the order of the axis, wherever each begins and ends counting from either side."""
    draft = split(sliced(*cuts))
    (step,) = draft.of("Split")
    assert not draft.of("Slice")
    assert sum(step.attr("split")) == 8
    assert (step.attr("axis"), len(step.outputs)) == (2, len(cuts))
    assert [draft.shape(value)[2] for value in step.outputs] == list(step.attr("split"))
    assert len(ops(draft)) == 2 + len(cuts)


@pytest.mark.parametrize(
    "build",
    [
        sliced((0, 3), (4, 8)),
        sliced((0, 4), (3, 8)),
        sliced((0, 3), (3, 7)),
        sliced((0, 8)),
        sliced((0, 4), (4, 8), steps=2),
    ],
    ids=["a gap", "an overlap", "a rest", "one", "every other"],
)
def test_slices_that_do_not_cut_a_value_into_parts(build: Build) -> None:
    """They stay."""
    assert ops(split(build)) == ops(drafted(build))


def test_single_picks() -> None:
    """They are parts of length one, which lose the axis by views that are the Split's work."""

    def build(b: GraphBuilder, x: str) -> str:
        picks = [b.op("Gather", [x, b.constant("index", np.array(i))], axis=1) for i in (0, 1, -1)]
        return b.op("Sum", [b.op("Neg", [pick]) for pick in picks])

    draft = split(build, (1, 3, 8))
    (step,) = draft.of("Split")
    assert step.attr("split") == (1, 1, 1)
    assert [view.cause for view in draft.of("Squeeze")] == [step] * 3
    assert ops(draft).count("Gather") == 0


def focus(order: tuple[tuple[int, int], ...], *, step: int = 2, axis: int = 1) -> Build:
    def build(b: GraphBuilder, x: str) -> str:
        ends = b.shape(x)[2:]
        return b.op("Concat", [b.op("Slice", [x], starts=at, ends=ends, axes=(2, 3), steps=(step, step)) for at in order], axis=axis)

    return build


def patched(build: Build, without: str = "") -> Draft:
    draft = drafted(build, (1, 4, 6, 6))
    recognise(draft, Fusions(patterns=PATTERNS - {without}), "SpaceToDepth")
    return draft


IN_ORDER = ((0, 0), (0, 1), (1, 0), (1, 1))


def test_every_other_row_and_column() -> None:
    """Four slices and their concatenation are one operator; in another order the channels are sorted behind it."""
    assert ops(patched(focus(IN_ORDER))) == ["SpaceToDepth"]
    assert ops(patched(focus((IN_ORDER[0], IN_ORDER[2], IN_ORDER[1], IN_ORDER[3])))) == ["SpaceToDepth", "Gather"]


@pytest.mark.parametrize(
    "build",
    [focus((*IN_ORDER[:3], (0, 0))), focus(IN_ORDER[:3]), focus(IN_ORDER, step=3), focus(IN_ORDER, axis=2)],
    ids=["one twice", "three", "every third", "along the rows"],
)
def test_other_slices(build: Build) -> None:
    """They stay."""
    assert ops(patched(build)) == ops(drafted(build, (1, 4, 6, 6)))


def test_a_runtime_that_does_not_know_it() -> None:
    """Nothing changes."""
    assert ops(patched(focus(IN_ORDER), "SpaceToDepth")) == ["Slice"] * 4 + ["Concat"]
