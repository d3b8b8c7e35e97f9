"""Normalisations in several nodes, and what is added before them."""

from __future__ import annotations

import pytest
from drafts import Build, drafted, number, ops, vector

from hwnas.ir import GraphBuilder
from hwnas.runtimes.fusions import PATTERNS, Fusions
from hwnas.runtimes.ort_draft import Draft
from hwnas.runtimes.ort_patterns import recognise


def rewritten(build: Build, *names: str, without: str = "", shape: tuple[int, ...] = (1, 4, 8)) -> Draft:
    draft = drafted(build, shape)
    recognise(draft, Fusions(patterns=PATTERNS - {without}), *names)
    return draft


def layer_norm(b: GraphBuilder, x: str, *, twice: bool = False, power: float = 2, axes: tuple[int, ...] = (-1,), scale: str = "") -> str:
    mean = b.op("ReduceMean", [x], axes=axes)
    centred = b.op("Sub", [x, mean])
    again = b.op("Sub", [x, mean]) if twice else centred
    variance = b.op("ReduceMean", [b.op("Pow", [again, number(b, power)])], axes=axes)
    root = b.op("Sqrt", [b.op("Add", [variance, number(b, 1e-5)])])
    return b.op("Add", [b.op("Mul", [b.op("Div", [centred, root]), scale or vector(b, x)]), vector(b, x)])


@pytest.mark.parametrize("twice", [False, True])
def test_layer_normalisation(twice: bool) -> None:
    """In nine nodes, or ten where the difference is computed twice."""
    draft = rewritten(lambda b, x: layer_norm(b, x, twice=twice), "LayerNormalization")
    assert ops(draft) == ["LayerNormalization"]
    (step,) = draft.of("LayerNormalization")
    assert step.attr("axis") == 2
    assert draft.constants.issuperset(step.inputs[1:])


OTHERS: dict[str, Build] = {
    "cube": lambda b, x: layer_norm(b, x, power=3),
    "another axis": lambda b, x: layer_norm(b, x, axes=(1,)),
    "a scale that is computed": lambda b, x: layer_norm(b, x, scale=b.op("Elu", [x])),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_layer_normalisation(name: str) -> None:
    """Other powers and axes, and scales that are no constants."""
    found = ops(rewritten(OTHERS[name], "LayerNormalization"))
    assert found == ops(drafted(OTHERS[name]))


def rms(b: GraphBuilder, x: str, power: float = 2) -> str:
    mean = b.op("ReduceMean", [b.op("Pow", [x, number(b, power)])], axes=(-1,))
    return b.op("Mul", [b.op("Div", [x, b.op("Sqrt", [b.op("Add", [mean, number(b, 1e-5)])])]), vector(b, x)])


def test_root_mean_square() -> None:
    """It has a name of its own in the runtime; a cube is none."""
    assert ops(rewritten(rms, "RMSNormalization")) == ["SimplifiedLayerNormalization"]
    assert "Sqrt" in ops(rewritten(lambda b, x: rms(b, x, 3), "RMSNormalization"))


def normalised(b: GraphBuilder, x: str) -> str:
    return b.op("LayerNormalization", [x, vector(b, x), vector(b, x)])


def skip(b: GraphBuilder, x: str) -> str:
    return normalised(b, b.op("Add", [x, b.op("Elu", [x])]))


def test_the_sum_before_a_normalisation() -> None:
    """It is part of it; not where others read it, and not where there are more axes or a broadcast."""

    def read_twice(b: GraphBuilder, x: str) -> str:
        total = b.op("Add", [x, b.op("Elu", [x])])
        return b.op("Mul", [normalised(b, total), total])

    assert ops(rewritten(skip, "SkipLayerNormalization")) == ["Elu", "SkipLayerNormalization"]
    assert "SkipLayerNormalization" not in ops(rewritten(read_twice, "SkipLayerNormalization"))
    assert "Add" in ops(rewritten(skip, "SkipLayerNormalization", shape=(1, 2, 4, 8)))
    assert "Add" in ops(rewritten(lambda b, x: normalised(b, b.op("Add", [x, vector(b, x)])), "SkipLayerNormalization"))


def biased(b: GraphBuilder, x: str) -> str:
    return normalised(b, b.op("Add", [b.op("Elu", [x]), b.op("Add", [x, vector(b, x)])]))


def test_the_bias_before_the_sum() -> None:
    """A bias on one side becomes the fifth input."""
    draft = rewritten(biased, "SkipLayerNormalization")
    assert ops(draft) == ["Elu", "SkipLayerNormalization"]
    (step,) = draft.of("SkipLayerNormalization")
    assert len(step.inputs) == 5
    assert step.inputs[4] in draft.constants


def product(b: GraphBuilder, x: str) -> str:
    """The bias is the first input of its sum, so that it is left for the pattern of products."""
    return b.op("Add", [vector(b, x), b.op("MatMul", [x, b.op("Tanh", [b.input("y", (1, 8, 8))])])])


def test_the_bias_of_a_product_before_the_sum() -> None:
    """It is absorbed behind a matrix product only."""

    def with_product(b: GraphBuilder, x: str) -> str:
        return normalised(b, b.op("Add", [b.op("Elu", [x]), product(b, x)]))

    both = ("SkipLayerNormalization", "BiasSkipLayerNormalization")
    assert ops(rewritten(with_product, *both)).count("Add") == 0
    assert ops(rewritten(with_product, *both, without=both[1])).count("Add") == 1
    assert "Add" in ops(
        rewritten(lambda b, x: normalised(b, b.op("Add", [b.op("Elu", [x]), b.op("Add", [vector(b, x), b.op("Neg", [x])])])), *both)
    )


@pytest.mark.parametrize(
    ("name", "build"),
    [("LayerNormalization", layer_norm), ("RMSNormalization", rms), ("SkipLayerNormalization", skip)],
    ids=["layer norm", "rms norm", "skip layer norm"],
)
def test_a_runtime_that_does_not_know_it(name: str, build: Build) -> None:
    """Nothing changes."""
    assert ops(rewritten(build, name, without=name)) == ops(drafted(build))
