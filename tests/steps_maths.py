"""Steps of what computes element by element, or over some axes."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
from grower import Grower, Step, operand
from hypothesis import strategies as st


def _unary(op: str) -> Step:
    return lambda g, x: g.builder.op(op, [x])


def _after(op: str, *before: str) -> Step:
    """An operator whose domain or growth wants an input from others: Tanh bounds, Exp of that is positive."""

    def step(g: Grower, x: str) -> str:
        for name in (*before, op):
            x = g.builder.op(name, [x])
        return x

    return step


def _binary(op: str) -> Step:
    def step(g: Grower, x: str) -> str:
        kind = g.choice(["constant", "first", "self"])
        if kind == "self":
            return g.builder.op(op, [x, g.builder.op("Tanh", [x])])
        other = operand(g, x, g.normal)
        return g.builder.op(op, [x, other] if kind == "constant" else [other, x])

    return step


def _div(g: Grower, x: str) -> str:
    return g.builder.op("Div", [x, operand(g, x, g.positive)])


def _pow(g: Grower, x: str) -> str:
    return g.builder.op("Pow", [g.builder.op("Sigmoid", [x]), operand(g, x, g.positive)])


def _hard_sigmoid(g: Grower, x: str) -> str:
    return g.builder.op("HardSigmoid", [x], alpha=g.choice([0.2, 1 / 6]), beta=0.5)


def _clip(g: Grower, x: str) -> str:
    limits = g.choice([{}, {"min": 0.0, "max": 6.0}, {"min": -0.7}, {"max": 0.9}])
    return g.builder.op("Clip", [x], **limits)


def _gelu(g: Grower, x: str) -> str:
    return g.builder.op("Gelu", [x], approximate=g.choice(["none", "tanh"]))


def _alpha(op: str) -> Step:
    return lambda g, x: g.builder.op(op, [x], **g.choice([{}, {"alpha": 0.3}]))


def _variadic(op: str) -> Step:
    def step(g: Grower, x: str) -> str:
        return g.builder.op(op, [x, g.builder.op("Tanh", [x]), operand(g, x, g.normal)][: g.integer(1, 3)])

    return step


def _comparison(op: str) -> Step:
    """The greater of x and a constant, or the lesser: continuous, so that rounding cannot tip a choice."""

    def step(g: Grower, x: str) -> str:
        other = operand(g, x, g.normal)
        condition = g.builder.op("Greater" if op == "Where" else op, [x, other])
        return g.builder.op("Where", [condition, x, other] if g.flag() else [condition, other, x])

    return step


def _equal(g: Grower, x: str) -> str:
    """Where a Relu gave exactly 0, a constant 0; elsewhere x."""
    x = g.builder.op("Relu", [x])
    zero = g.builder.constant("z", np.zeros(1, np.float32))
    return g.builder.op("Where", [g.builder.op("Equal", [x, zero]), zero, x])


def _logic(op: str) -> Step:
    """Lets x through where a condition on constants holds."""

    def step(g: Grower, x: str) -> str:
        masks = [g.builder.constant("m", g.rng.integers(0, 2, g.shape(x)).astype(bool)) for _ in range(1 if op == "Not" else 2)]
        return g.builder.op("Where", [g.builder.op(op, masks), x, g.builder.op("Tanh", [x])])

    return step


def _jumps(op: str) -> Step:
    """A function with jumps, of constants away from them: more than one, since single numbers are folded when a file is read."""

    def step(g: Grower, x: str) -> str:
        x = g.ranked(x, 1, 3)
        values = g.rng.integers(-3, 3, (2, *g.shape(x))) + np.float32(0.3)
        return g.builder.op("Add", [x, g.builder.op(op, [g.builder.constant("k", values.astype(np.float32))])])

    return step


def _is_nan(g: Grower, x: str) -> str:
    """A Relu by way of a root that is no number."""
    zero = g.builder.constant("z", np.zeros(1, np.float32))
    return g.builder.op("Where", [g.builder.op("IsNaN", [g.builder.op("Sqrt", [x])]), zero, g.builder.op("Relu", [x])])


def _reduce(op: str) -> Step:
    def step(g: Grower, x: str) -> str:
        axes = g.draw(st.lists(st.integers(0, len(g.shape(x)) - 1), unique=True, min_size=1))
        keep = 1 if len(axes) == len(g.shape(x)) else g.integer(0, 1)  # scalars end every walk
        return g.builder.op(op, [x], axes=tuple(axes), keepdims=keep)

    return step


def _total(op: str) -> Step:
    """A sum along axes; averaged, so that values stay about 1 and what follows does not magnify how it was rounded."""

    def step(g: Grower, x: str) -> str:
        total = _reduce(op)(g, x)
        return g.builder.op("Mul", [total, _number(g, prod(g.shape(total)) / prod(g.shape(x)))])

    return step


def _cast(g: Grower, x: str) -> str:
    return g.builder.op("Cast", [g.builder.op("Cast", [x], to="float64")], to="float32")


def _scaled(op: str) -> Step:
    """An operator whose domain ends at 1, away from that end."""

    def step(g: Grower, x: str) -> str:
        half = g.builder.constant("h", np.full(1, 0.5, np.float32))
        return g.builder.op(op, [g.builder.op("Mul", [g.builder.op("Sin", [x]), half])])

    return step


def _mod(g: Grower, x: str) -> str:
    """The remainder of constants, away from its jumps: with the sign of the divisor, which only integers have, or of what is divided."""
    x = g.ranked(x, 1, 3)
    divided, divisor = g.rng.integers(-9, 9, (2, *g.shape(x))), g.rng.integers(1, 5, g.shape(x)) * g.rng.choice([-1, 1], g.shape(x))
    if g.flag():
        real = [g.builder.constant("k", value.astype(np.float32)) for value in (divided + 0.3, divisor)]
        return g.builder.op("Add", [x, g.builder.op("Mod", real, fmod=1)])
    whole = g.builder.op("Mod", [_integers(g, divided), g.builder.constant("k", divisor)])
    return g.builder.op("Add", [x, g.builder.op("Cast", [whole], to="float32")])


def _integers(g: Grower, values: np.ndarray) -> str:
    """Integers that a reader does not evaluate, as it would constants."""
    real = g.builder.constant("k", values.astype(np.float32) + np.float32(0.25))
    return g.builder.op("Cast", [g.builder.op("Floor", [real])], to="int64")


def _is_inf(g: Grower, x: str) -> str:
    """A Tanh where a quotient is no infinity of a kind, a Sigmoid where it is."""
    values = g.choice([np.inf, -np.inf, 1.0]) * np.ones((2, *g.shape(x)), np.float32)
    found = g.builder.op("IsInf", [g.builder.op("Neg", [g.builder.constant("k", values)])], **g.choice([{}, {"detect_negative": 0}]))
    return g.builder.op("Where", [found, g.builder.op("Sigmoid", [x]), g.builder.op("Tanh", [x])])


def _thresholded(g: Grower, x: str) -> str:
    """Of what is well above the threshold or below it."""
    x = g.builder.op(
        "Add", [g.builder.op("Sign", [g.normal(g.shape(x))]), g.builder.op("Mul", [g.builder.op("Tanh", [x]), _number(g, 0.1)])]
    )
    return g.builder.op("ThresholdedRelu", [x], **g.choice([{"alpha": 0.5}, {}]))


def _number(g: Grower, value: float) -> str:
    return g.builder.constant("n", np.full(1, value, np.float32))


def _log_sum(g: Grower, x: str) -> str:
    """Of positive numbers."""
    return _reduce("ReduceLogSum")(g, _after("Exp", "Tanh")(g, x))


def _cumulative_sum(g: Grower, x: str) -> str:
    """Along any axis; averaged, so that values stay about 1."""
    axis = g.integer(-len(g.shape(x)), len(g.shape(x)) - 1)
    total = g.builder.op("CumSum", [x], axis=axis, exclusive=g.integer(0, 1), reverse=g.integer(0, 1))
    return g.builder.op("Mul", [total, _number(g, 1 / g.shape(x)[axis])])


STEPS: Mapping[str, Step] = {
    "HardSigmoid": _hard_sigmoid,
    "Clip": _clip,
    "Gelu": _gelu,
    "Sqrt": _after("Sqrt", "Sigmoid"),
    "Exp": _after("Exp", "Tanh"),
    "Log": _after("Log", "Tanh", "Exp"),
    "Reciprocal": _after("Reciprocal", "Tanh", "Exp"),
    **{op: _after(op, "Sin") for op in ("Sinh", "Cosh", "Tan")},
    **{op: _scaled(op) for op in ("Acos", "Asin", "Atanh")},
    "Acosh": _after("Acosh", "Tanh", "Exp", "Exp"),
    **{op: _jumps(op) for op in ("Ceil", "Floor", "Round", "Sign")},
    "IsNaN": _is_nan,
    "IsInf": _is_inf,
    **{op: _unary(op) for op in ("Relu", "Sigmoid", "HardSwish", "Erf", "Tanh", "Identity", "Abs", "Cos", "Mish", "Neg", "Sin")},
    **{op: _unary(op) for op in ("Asinh", "Atan", "Softplus", "Softsign")},
    **{op: _alpha(op) for op in ("Celu", "Elu", "LeakyRelu", "Selu")},
    "ThresholdedRelu": _thresholded,
    **{op: _binary(op) for op in ("Add", "Sub", "Mul")},
    "Div": _div,
    "Mod": _mod,
    "Pow": _pow,
    **{op: _comparison(op) for op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Where")},
    "Equal": _equal,
    **{op: _logic(op) for op in ("And", "Or", "Not", "Xor")},
    **{op: _variadic(op) for op in ("Max", "Min", "Sum")},
    **{op: _reduce(op) for op in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceProd", "ReduceLogSumExp")},
    **{op: _total(op) for op in ("ReduceSum", "ReduceL1", "ReduceSumSquare")},
    "ReduceLogSum": _log_sum,
    "CumSum": _cumulative_sum,
    "Cast": _cast,
}
