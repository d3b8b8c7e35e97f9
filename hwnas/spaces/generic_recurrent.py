"""Carrier networks with recurrent layers: what convolutions make of an image is read column by column, or patch by patch."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

from hwnas.ir import Graph
from hwnas.ir.op_recurrent import DIRECTIONS, GATES
from hwnas.spaces.generic_attention import affordable, patched
from hwnas.spaces.generic_parts import Family, Sketch

MOST_STEPS = 400
LONGEST_STATE = 768


def recurrent(s: Sketch) -> Graph:
    """A few convolutions, then LSTM, GRU or RNN layers along the sequence (CRNN and its relatives), in one direction or both."""
    b = s.b
    op, direction = s.pick("LSTM", "LSTM", "LSTM", "GRU", "GRU", "RNN"), s.pick("forward", "bidirectional", "bidirectional", "reverse")
    layers = s.pick(1, 2, 2, 3)
    x = _columns(s) if s.chance(0.6) else _patches(s)
    steps = b.shape(x)[0]
    # a step of a layer takes a product with what it reads and one with its own state, for every gate and direction
    most = sqrt(s.limit / (4 * layers * GATES[op] * DIRECTIONS[direction] * steps))
    hidden = s.round(min(LONGEST_STATE, most, 256 * s.coarse.width * s.between(0.4, 2.0)))
    last = ""
    for _ in range(layers):
        x, last = _layer(s, x, op, direction, hidden)
    how = s.pick("last state", "last step", "mean")
    if how == "last state":
        x = b.op("Reshape", [b.op("Transpose", [last], perm=(1, 0, 2))], shape=(s.batch, b.shape(last)[0] * hidden))
    elif how == "last step":
        x = s.take(x, steps - 1, 0)
    else:
        x = b.op("ReduceMean", [x], axes=(0,), keepdims=0)
    return s.finish(b.linear(x, s.classes))


def _columns(s: Sketch) -> str:
    """The columns of a map of features, from left to right: [W, N, C H]."""
    b = s.b
    x = s.image()
    for channels in s.growing(32, s.pick(2, 3, 4)):
        if s.roomy(x):
            x = (
                s.conv(x, s.wide(x, channels), 3, stride=s.pick(1, 2))
                if s.chance(0.4)
                else s.pool(s.conv(x, s.wide(x, channels), 3), "MaxPool", 2, 2)
            )
    while b.shape(x)[2] > 8 and s.roomy(x):
        x = s.pool(x, "MaxPool", 2, 2)
    n, channels, height, width = b.shape(x)
    return b.op("Reshape", [b.op("Transpose", [x], perm=(3, 0, 1, 2))], shape=(width, n, channels * height))


def _patches(s: Sketch) -> str:
    """The patches of an image, row by row: [patches, N, C]."""
    resolution = s.coarse.resolution
    patch = s.pick(*(size for size in (4, 8, 12, 16, 16, 24, 32) if 9 <= (resolution // size) ** 2 <= MOST_STEPS))
    tokens = (resolution // patch) ** 2
    return s.b.op("Transpose", [patched(s, s.image(), s.round(affordable(s, tokens, 192 * s.coarse.width)), patch)], perm=(1, 0, 2))


def _layer(s: Sketch, x: str, op: str, direction: str, hidden: int) -> tuple[str, str]:
    """One layer on [T, N, C], as torch writes it: all states, the directions side by side, [T, N, D H], and the last ones, [D, N, H]."""
    b, (steps, batch, width) = s.b, s.b.shape(x)
    many, rows = DIRECTIONS[direction], GATES[op] * hidden
    weights = [b.weight("w", (many, rows, width)), b.weight("r", (many, rows, hidden)), b.weight("b", (many, 2 * rows), "zeros")]
    attrs = {"linear_before_reset": 1} if op == "GRU" else {}
    states, last = b.ops(op, [x, *weights], outputs=2, direction=direction, **attrs)
    s.spend(2 * steps * batch * many * rows * (width + hidden), states)
    if many > 1:
        states = b.op("Transpose", [states], perm=(0, 2, 1, 3))
        s.spend(0, states)
    return b.op("Reshape", [states], shape=(steps, batch, many * hidden)), last


FAMILIES: Mapping[str, Family] = {"recurrent": recurrent}
