"""Gelu in several nodes is found however it is spelled, and nothing else is."""

from __future__ import annotations

from math import pi, sqrt

import pytest
from drafts import Build, drafted, number, ops, vector

from hwnas.ir import GraphBuilder
from hwnas.runtimes.fusions import PATTERNS, Fusions
from hwnas.runtimes.ort_draft import Draft
from hwnas.runtimes.ort_patterns import recognise


def rewritten(build: Build, *names: str, fusions: Fusions | None = None) -> Draft:
    draft = drafted(build)
    changed = recognise(draft, fusions or Fusions(), *names)
    assert changed == (set(ops(draft)) != set(ops(drafted(build))))
    return draft


def one_plus_erf(b: GraphBuilder, x: str, root: float = sqrt(2)) -> str:
    return b.op("Add", [b.op("Erf", [b.op("Div", [x, number(b, root)])]), number(b, 1)])


def half_before(b: GraphBuilder, x: str) -> str:
    return b.op("Mul", [b.op("Mul", [x, number(b, 0.5)]), one_plus_erf(b, x)])


def half_behind(b: GraphBuilder, x: str) -> str:
    return b.op("Mul", [b.op("Mul", [x, one_plus_erf(b, x)]), number(b, 0.5)])


@pytest.mark.parametrize("spelled", [half_before, half_behind])
def test_gelu_by_erf(spelled: Build) -> None:
    """The half stands before the product or behind it."""
    assert ops(rewritten(spelled, "Gelu")) == ["Gelu"]


NO_GELU: dict[str, Build] = {
    "another root": lambda b, x: b.op("Mul", [b.op("Mul", [x, number(b, 0.5)]), one_plus_erf(b, x, 1.5)]),
    "another factor": lambda b, x: b.op("Mul", [b.op("Mul", [x, number(b, 0.25)]), one_plus_erf(b, x)]),
    "another value": lambda b, x: b.op("Mul", [b.op("Mul", [b.op("Elu", [x]), number(b, 0.5)]), one_plus_erf(b, x)]),
}


@pytest.mark.parametrize("name", NO_GELU)
def test_what_is_no_gelu(name: str) -> None:
    """Other numbers, or a product with another value, stay as they are."""
    assert "Gelu" not in ops(rewritten(NO_GELU[name], "Gelu"))


def test_a_value_inside_that_is_read_elsewhere() -> None:
    """The function stays spelled out: its inner value must exist."""

    def build(b: GraphBuilder, x: str) -> str:
        inner = one_plus_erf(b, x)
        return b.op("Add", [b.op("Mul", [b.op("Mul", [x, number(b, 0.5)]), inner]), inner])

    assert "Erf" in ops(rewritten(build, "Gelu"))


def by_power(b: GraphBuilder, x: str) -> str:
    cubic = b.op("Mul", [b.op("Pow", [x, number(b, 3)]), number(b, 0.044715)])
    tanh = b.op("Tanh", [b.op("Mul", [b.op("Add", [x, cubic]), number(b, sqrt(2 / pi))])])
    return b.op("Mul", [b.op("Mul", [x, number(b, 0.5)]), b.op("Add", [tanh, number(b, 1)])])


def by_products(b: GraphBuilder, x: str, cubic: float = 0.044715) -> str:
    square = b.op("Mul", [x, b.op("Mul", [x, number(b, cubic)])])
    inner = b.op("Mul", [b.op("Mul", [x, number(b, sqrt(2 / pi))]), b.op("Add", [square, number(b, 1)])])
    return b.op("Mul", [b.op("Mul", [x, number(b, 0.5)]), b.op("Add", [b.op("Tanh", [inner]), number(b, 1)])])


@pytest.mark.parametrize("spelled", [by_power, by_products])
def test_gelu_by_tanh(spelled: Build) -> None:
    """The cube is a power or two products."""
    assert ops(rewritten(spelled, "FastGelu")) == ["FastGelu"]


def test_another_cubic_term_is_no_gelu() -> None:
    """The approximation has one number of its own."""
    assert "Tanh" in ops(rewritten(lambda b, x: by_products(b, x, 0.05), "FastGelu"))


def swish(b: GraphBuilder, x: str, alpha: float | None = None, value: str = "") -> str:
    inner = x if alpha is None else b.op("Mul", [x, number(b, alpha)])
    return b.op("Mul", [value or x, b.op("Sigmoid", [inner])])


@pytest.mark.parametrize(("alpha", "kept"), [(None, 1.0), (1.702, 1.702)])
def test_swish_with_and_without_a_factor(alpha: float | None, kept: float) -> None:
    """The factor becomes an attribute."""
    draft = rewritten(lambda b, x: swish(b, x, alpha), "QuickGelu")
    assert ops(draft) == ["QuickGelu"]
    assert draft.of("QuickGelu")[0].attr("alpha") == pytest.approx(kept)


def test_a_gate_is_no_swish() -> None:
    """The product with the sigmoid of another value stays."""
    assert ops(rewritten(lambda b, x: swish(b, x, value=b.op("Elu", [x])), "QuickGelu")) == ["Sigmoid", "Elu", "Mul"]


@pytest.mark.parametrize(("how", "op"), [("none", "BiasGelu"), ("tanh", "FastGelu")])
@pytest.mark.parametrize("first", [True, False])
def test_a_bias_before_gelu(how: str, op: str, first: bool) -> None:
    """On either side of the sum, along the last axis."""

    def build(b: GraphBuilder, x: str) -> str:
        bias = vector(b, x)
        return b.op("Gelu", [b.op("Add", [bias, x] if first else [x, bias])], approximate=how)

    draft = rewritten(build, "BiasGelu")
    assert ops(draft) == [op]
    assert draft.of(op)[0].inputs[1] in draft.constants


def test_a_sum_of_two_values_is_no_bias() -> None:
    """Neither is a number."""
    assert ops(rewritten(lambda b, x: b.op("Gelu", [b.op("Add", [x, b.op("Elu", [x])])]), "BiasGelu")) == ["Elu", "Add", "Gelu"]
    assert ops(rewritten(lambda b, x: b.op("Gelu", [b.op("Add", [x, number(b, 2)])]), "BiasGelu")) == ["Add", "Gelu"]


@pytest.mark.parametrize(
    ("name", "build"), [("Gelu", half_before), ("FastGelu", by_power), ("QuickGelu", swish)], ids=["Gelu", "FastGelu", "QuickGelu"]
)
def test_a_runtime_that_does_not_know_it(name: str, build: Build) -> None:
    """Nothing changes."""
    draft = rewritten(build, name, fusions=Fusions(patterns=PATTERNS - {name}))
    assert ops(draft) == ops(drafted(build))
