"""Steps of what moves data: cuts, joins, shapes, and what is picked and put back by its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
from grower import Grower, Step
from hypothesis import strategies as st


def _concat(g: Grower, x: str) -> str:
    parts = [x, g.builder.op("Relu", [x]), g.normal(g.shape(x))][: g.integer(1, 3)]
    return g.builder.op("Concat", parts, axis=g.integer(-len(g.shape(x)), len(g.shape(x)) - 1))


def _split(g: Grower, x: str) -> str:
    axis = g.integer(0, len(g.shape(x)) - 1)
    size = g.shape(x)[axis]
    cut = g.integer(1, size - 1) if size > 1 else 0
    parts = (cut, size - cut) if cut else (size,)
    values = g.builder.ops("Split", [x], outputs=len(parts), split=parts, axis=axis)
    return values[g.integer(0, len(parts) - 1)]


def _slice(g: Grower, x: str) -> str:
    axes = g.draw(st.lists(st.integers(0, len(g.shape(x)) - 1), unique=True, min_size=1))
    starts = [g.integer(0, g.shape(x)[axis] - 1) for axis in axes]
    ends = [g.integer(start + 1, g.shape(x)[axis]) for start, axis in zip(starts, axes, strict=True)]
    steps = [g.integer(1, 2) for _ in axes]
    for i, axis in enumerate(axes):
        if g.integer(0, 3) == 0:  # backwards, to the first element or before it
            starts[i], ends[i], steps[i] = ends[i] - 1, starts[i] - 1 if starts[i] else -g.shape(x)[axis] - 1, -steps[i]
    return g.builder.op("Slice", [x], starts=tuple(starts), ends=tuple(ends), axes=tuple(axes), steps=tuple(steps))


def _gather(g: Grower, x: str) -> str:
    """By one index, which drops the axis while another is left, or by several."""
    axis = g.integer(-len(g.shape(x)), len(g.shape(x)) - 1)
    size = g.shape(x)[axis]
    shape = g.choice([(), (3,), (2, 1)] if len(g.shape(x)) > 1 else [(3,), (2, 1)])
    indices = g.builder.constant("i", g.rng.integers(-size, size, shape) if shape else np.asarray(g.integer(-size, size - 1)))
    return g.builder.op("Gather", [x, indices], axis=axis)


def _gather_elements(g: Grower, x: str) -> str:
    """Any number of elements along one axis, and not all of the others."""
    x = g.ranked(x, 1, 4)
    axis = g.integer(-len(g.shape(x)), len(g.shape(x)) - 1)
    shape = [g.integer(1, size) for size in g.shape(x)]
    shape[axis] = g.integer(1, 4)
    indices = g.rng.integers(-g.shape(x)[axis], g.shape(x)[axis], shape)
    return g.builder.op("GatherElements", [x, g.builder.constant("i", indices)], axis=axis)


def _gather_nd(g: Grower, x: str) -> str:
    """Picks along one axis or two, behind no shared dimension or the first one."""
    x = g.ranked(x, 2, 4)
    shape = g.shape(x)
    batch = g.integer(0, 1)
    depth = g.integer(1, len(shape) - batch)
    lead = (*shape[:batch], 2)
    columns = [g.rng.integers(-size, size, lead) for size in shape[batch : batch + depth]]
    return g.builder.op("GatherND", [x, g.builder.constant("i", np.stack(columns, -1))], batch_dims=batch)


def _tile(g: Grower, x: str) -> str:
    x = g.ranked(x, 1, 4)
    return g.builder.op("Tile", [x], repeats=tuple(g.integer(1, 2) for _ in g.shape(x)))


def _expand(g: Grower, x: str) -> str:
    x = g.ranked(x, 1, 4)
    return g.builder.op("Expand", [x], shape=g.choice([(1,), (2, *g.shape(x)), tuple(2 if size == 1 else size for size in g.shape(x))]))


def _depth_to_space(g: Grower, x: str) -> str:
    x = g.ranked(x, 4, 4)
    x = g.builder.op("Concat", [x] * 4, axis=1)
    return g.builder.op("DepthToSpace", [x], blocksize=2, mode=g.choice(["DCR", "CRD"]))


def _space_to_depth(g: Grower, x: str) -> str:
    x = g.ranked(x, 4, 4)
    x = g.builder.op("Pad", [x], pads=(0, 0, 0, 0, 0, 0, g.shape(x)[2] % 2, g.shape(x)[3] % 2))
    return g.builder.op("SpaceToDepth", [x], blocksize=2)


def _flatten(g: Grower, x: str) -> str:
    return g.builder.op("Flatten", [x], axis=g.integer(-len(g.shape(x)), len(g.shape(x))))


def _reshape(g: Grower, x: str) -> str:
    shape = g.shape(x)
    return g.builder.op("Reshape", [x], shape=g.choice([(-1,), (*shape, 1), (0, -1), (1, *shape)]))


def _transpose(g: Grower, x: str) -> str:
    return g.builder.op("Transpose", [x], perm=tuple(g.draw(st.permutations(range(len(g.shape(x)))))))


def _pad(g: Grower, x: str) -> str:
    mode = g.choice(["constant", "reflect", "edge"])
    pads = [g.integer(0, min(2, size - 1)) for _ in range(2) for size in g.shape(x)]
    value = {"value": g.choice([0.0, 0.5])} if mode == "constant" else {}
    return g.builder.op("Pad", [x], pads=tuple(pads), mode=mode, **value)


def _scatter_elements(g: Grower, x: str) -> str:
    """Puts elements back at different places along an axis, or combines them with what is there."""
    x = g.ranked(x, 1, 4)
    axis, shape = g.integer(0, len(g.shape(x)) - 1), g.shape(x)
    many = g.integer(1, shape[axis])
    places = g.rng.permuted(np.broadcast_to(np.arange(shape[axis]).reshape(-1, *(1,) * (len(shape) - 1 - axis)), shape), axis=axis)
    places = np.take(places, np.arange(many), axis) - shape[axis] * g.integer(0, 1)
    reduction = g.choice(["none", "add", "mul", "min", "max"])
    inputs = [x, g.builder.constant("i", places), g.normal(places.shape)]
    return g.builder.op("ScatterElements", inputs, axis=axis, reduction=reduction)


def _scatter_nd(g: Grower, x: str) -> str:
    """Puts slices back: at different places, or at any where they are combined with what is there."""
    x = g.ranked(x, 1, 4)
    shape, depth = g.shape(x), g.integer(1, len(g.shape(x)))
    reduction = g.choice(["none", "add", "mul", "min", "max"])
    all_places = np.stack(np.unravel_index(g.rng.permutation(prod(shape[:depth])), shape[:depth]), -1)
    places = all_places[: g.integer(1, len(all_places))]
    if reduction != "none":
        places = places[g.rng.integers(0, len(places), 3)]
    updates = g.normal((len(places), *shape[depth:]))
    return g.builder.op("ScatterND", [x, g.builder.constant("i", places), updates], reduction=reduction)


def _one_hot(g: Grower, x: str) -> str:
    """Chooses between two values by a table of places."""
    x = g.ranked(x, 1, 3)
    axis = g.integer(-len(g.shape(x)) - 1, len(g.shape(x)))
    indices = g.builder.constant("i", g.rng.integers(-3, 3, g.shape(x)))
    found = g.builder.op("OneHot", [indices, g.normal((2,))], depth=3, axis=axis)
    return g.builder.op("Add", [found, g.builder.op("ReduceMean", [x], axes=tuple(range(len(g.shape(x)))), keepdims=0)])


def _apart(g: Grower, shape: Sequence[int]) -> str:
    """Numbers that differ by 1 at least, which rounding cannot bring into another order."""
    return g.builder.constant("k", (g.rng.permutation(prod(shape)) + np.float32(0.5)).astype(np.float32).reshape(shape))


def _shifted(g: Grower, places: str) -> str:
    """Places as numbers, none of them 0, which a runtime would find needless to add."""
    half = g.builder.constant("h", np.full(1, 0.5, np.float32))
    return g.builder.op("Add", [g.builder.op("Cast", [places], to="float32"), half])


def _top_k(g: Grower, x: str) -> str:
    """The largest or smallest of numbers that are far apart, or their places."""
    x = g.ranked(x, 1, 3)
    axis = g.integer(0, len(g.shape(x)) - 1)
    shape = (*g.shape(x)[:axis], g.shape(x)[axis] + 1, *g.shape(x)[axis + 1 :])
    many = g.integer(1, g.shape(x)[axis])
    values, places = g.builder.ops("TopK", [_apart(g, shape)], outputs=2, k=many, axis=axis, largest=g.integer(0, 1))
    found = values if g.flag() else _shifted(g, places)
    return g.builder.op("Sub", [found, g.builder.op("Slice", [x], starts=(0,), ends=(many,), axes=(axis,))])


def _extreme(op: str) -> Step:
    """Where the largest or smallest is, among numbers that are far apart or all equal."""

    def step(g: Grower, x: str) -> str:
        axis = g.integer(-len(g.shape(x)), len(g.shape(x)) - 1)
        values = _apart(g, g.shape(x)) if g.flag() else g.builder.constant("k", np.ones(g.shape(x), np.float32))
        places = g.builder.op(op, [values], axis=axis, keepdims=1, select_last_index=g.integer(0, 1))
        return g.builder.op("Add", [x, _shifted(g, places)])

    return step


def _trilu(g: Grower, x: str) -> str:
    return g.builder.op("Trilu", [g.ranked(x, 2, 4)], k=g.integer(-2, 2), upper=g.integer(0, 1))


STEPS: Mapping[str, Step] = {
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "OneHot": _one_hot,
    "TopK": _top_k,
    "ArgMax": _extreme("ArgMax"),
    "ArgMin": _extreme("ArgMin"),
    "Trilu": _trilu,
    "Tile": _tile,
    "Expand": _expand,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Pad": _pad,
}
