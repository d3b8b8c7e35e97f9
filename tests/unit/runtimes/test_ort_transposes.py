"""Transposes move, meet and cancel."""

from __future__ import annotations

import numpy as np
import pytest
from drafts import Build, drafted, number, ops
from hypothesis import given
from hypothesis import strategies as st

from hwnas.ir import GraphBuilder
from hwnas.runtimes.ort_draft import Draft
from hwnas.runtimes.ort_transposes import compose, inverse, push

TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
IMAGE = (1, 4, 6, 5)


def turned(b: GraphBuilder, x: str, perm: tuple[int, ...] = TO_LAST) -> str:
    return b.op("Transpose", [x], perm=perm)


def pushed(build: Build, shape: tuple[int, ...] = IMAGE, *, resize: bool = False) -> Draft:
    draft = drafted(build, shape)
    push(draft, resize=resize)
    return draft


def between(op: str, **attrs: object) -> Build:
    """An operator between a Transpose and the one that undoes it."""
    return lambda b, x: turned(b, b.op(op, [turned(b, x)], **attrs), TO_FIRST)


@given(st.permutations(range(4)), st.permutations(range(4)))
def test_permutations(first: list[int], second: list[int]) -> None:
    """Both functions are what NumPy does."""
    x = np.arange(24).reshape(1, 2, 3, 4)
    np.testing.assert_array_equal(x.transpose(first).transpose(second), x.transpose(compose(first, second)))
    np.testing.assert_array_equal(x.transpose(first).transpose(inverse(first)), x)


def test_transposes_that_follow_one_another() -> None:
    """One that undoes another takes both out; others merge."""
    assert ops(pushed(lambda b, x: b.op("Elu", [turned(b, turned(b, x), TO_FIRST)]))) == ["Elu"]
    draft = pushed(lambda b, x: turned(b, turned(b, x)))
    assert ops(draft) == ["Transpose"]
    assert draft.of("Transpose")[0].attr("perm") == compose(TO_LAST, TO_LAST)


@pytest.mark.parametrize("op", ["Relu", "Erf", "Clip", "Gelu", "Elu"])
def test_they_pass_functions_of_an_element(op: str) -> None:
    """And cancel behind them."""
    assert ops(pushed(between(op))) == [op]


@pytest.mark.parametrize(
    ("build", "key", "value"),
    [
        (between("Softmax", axis=3), "axis", 1),
        (between("ReduceMean", axes=(1, 2), keepdims=1), "axes", (2, 3)),
        (between("Slice", starts=(1,), ends=(3,), axes=(1,), steps=(1,)), "axes", (2,)),
        (between("Pad", pads=(0, 1, 2, 3, 0, 4, 5, 6)), "pads", (0, 3, 1, 2, 0, 6, 4, 5)),
        (between("Tile", repeats=(1, 2, 1, 3)), "repeats", (1, 3, 2, 1)),
    ],
    ids=["Softmax", "ReduceMean", "Slice", "Pad", "Tile"],
)
def test_attributes_turn_with_the_axes(build: Build, key: str, value: object) -> None:
    """What an operator says of its axes is said of those of the plain value."""
    draft = pushed(build)
    assert len(ops(draft)) == 1
    (step,) = draft.of(*ops(draft))
    assert step.attr(key) == value
    assert draft.shape(draft.of("Abs")[0].inputs[0]) == draft.shape(drafted(build, IMAGE).of("Abs")[0].inputs[0])


def test_a_resize_is_passed_late() -> None:
    """Only once the runtime knows that its own kernel runs it."""
    build = between("Resize", scales=(1.0, 2.0, 3.0, 1.0), mode="nearest")
    assert ops(pushed(build)) == ["Transpose", "Resize", "Transpose"]
    draft = pushed(build, resize=True)
    assert ops(draft) == ["Resize"]
    assert draft.of("Resize")[0].attr("scales") == (1.0, 1.0, 2.0, 3.0)


def test_axes_that_go() -> None:
    """Behind a reduction that drops axes, the Transpose is of those that are left."""
    draft = pushed(lambda b, x: turned(b, b.op("ReduceMean", [turned(b, x)], axes=(3,), keepdims=0), (0, 2, 1)))
    assert ops(draft) == ["ReduceMean", "Transpose"]
    assert (draft.of("ReduceMean")[0].attr("axes"), draft.of("Transpose")[0].attr("perm")) == ((1,), (0, 2, 1))
    assert ops(pushed(lambda b, x: b.op("ReduceMean", [turned(b, x)], axes=(1, 2, 3), keepdims=0))) == ["ReduceMean"]


def test_nothing_is_gained() -> None:
    """A Transpose that would only stand behind an operator instead of before it stays; so does one whose value the network returns."""
    draft = drafted(lambda b, x: b.op("Relu", [turned(b, x)]), IMAGE)
    assert not push(draft, resize=False)
    assert ops(draft) == ["Transpose", "Relu"]


def test_what_lets_none_through() -> None:
    """A convolution, say, or a pool."""
    assert ops(pushed(between("MaxPool", kernel_shape=(1, 1)))) == ["Transpose", "MaxPool", "Transpose"]


def test_constants_turn_at_no_cost() -> None:
    """A vector along the last axis becomes one along the channels, of the same rank as the value."""
    draft = pushed(lambda b, x: turned(b, b.op("Add", [turned(b, x), b.weight("bias", (4,))]), TO_FIRST))
    assert ops(draft) == ["Add"]
    assert draft.shape(draft.of("Add")[0].inputs[1]) == (1, 4, 1, 1)
    scaled = pushed(lambda b, x: turned(b, b.op("Mul", [turned(b, x), number(b, 2.0)]), TO_FIRST))
    assert ops(scaled) == ["Mul"]
    assert scaled.shape(scaled.of("Mul")[0].inputs[1]) == ()


def test_two_that_are_turned_alike_meet_in_a_sum() -> None:
    """One Transpose behind it does for both, and holds their work."""
    draft = pushed(lambda b, x: b.op("Neg", [b.op("Add", [turned(b, x), turned(b, b.op("Elu", [x]))])]))
    assert sorted(ops(draft)) == ["Add", "Elu", "Neg", "Transpose"]
    assert (draft.of("Add")[0].nodes, sorted(draft.of("Transpose")[0].nodes)) == (["add_0"], ["transpose_0", "transpose_1"])


def test_the_work_of_a_transpose_goes_with_it() -> None:
    """Where one of two stays because somebody else reads it, the one behind the sum is the other."""

    def build(b: GraphBuilder, x: str) -> str:
        kept = turned(b, x)
        total = b.op("Add", [kept, turned(b, b.op("Elu", [x]))])
        return b.op("Mul", [b.op("MaxPool", [kept], kernel_shape=(1, 1)), total])

    draft = pushed(build)
    assert draft.of("Add")[0].nodes == ["add_0"]
    assert [(step.inputs, step.nodes) for step in draft.of("Transpose")] == [
        (["softsign_0_out"], ["transpose_0"]),
        (["add_0_out'"], ["transpose_1"]),
    ]


def test_a_reshape_that_splits_axes() -> None:
    """Each axis is split before it is moved; one that merges axes stops the Transpose."""
    split = pushed(lambda b, x: turned(b, b.op("Reshape", [turned(b, x, (0, 2, 1))], shape=(1, 8, 2, 2)), (0, 2, 3, 1)), (1, 4, 8))
    assert ops(split) == ["Reshape"]
    assert split.of("Reshape")[0].attr("shape") == (1, 2, 2, 8)
    merging = lambda b, x: b.op("Reshape", [turned(b, x, (0, 2, 1))], shape=(1, 32))  # noqa: E731
    assert ops(pushed(merging, (1, 4, 8))) == ["Transpose", "Reshape"]


def test_a_reshape_that_is_a_transpose() -> None:
    """Where it keeps the order of all axes longer than one, it merges with the Transpose before it, or undoes it."""
    assert ops(pushed(lambda b, x: b.op("Elu", [b.op("Reshape", [turned(b, x)], shape=(1, 4, 1, 1))]), (1, 4, 1, 1))) == ["Elu"]


@pytest.mark.parametrize(("index", "shape"), [((), (1, 6, 5)), ((1,), (1, 6, 1, 5))])
def test_single_picks(index: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """A pick of one index is passed, and loses its axis; several are not."""

    def build(b: GraphBuilder, x: str) -> str:
        return b.op("Gather", [turned(b, x), b.constant("index", np.full(index, 1))], axis=3)

    found = pushed(build)
    assert ops(found) == (["Gather"] if not index else ["Transpose", "Gather"])
    if not index:
        assert found.of("Gather")[0].attr("axis") == 1
        assert found.shape(found.of("Gather")[0].outputs[0]) == shape
