"""What leaves a network, and what is folded, before anything is fused."""

from __future__ import annotations

import numpy as np
import pytest
from drafts import Build, drafted, number, ops

from hwnas.ir import Graph, GraphBuilder
from hwnas.runtimes.fusions import PATTERNS, Fusions
from hwnas.runtimes.ort_cleanup import clean, define, fold, merge_casts, merge_equal, merge_reshapes
from hwnas.runtimes.ort_draft import Draft
from hwnas.runtimes.ort_transposes import push

IMAGE = (1, 4, 6, 6)


def cleaned(build: Build, shape: tuple[int, ...] = IMAGE, without: str = "") -> Draft:
    draft = drafted(build, shape)
    clean(draft, Fusions(patterns=PATTERNS - {without}))
    return draft


# ---- needless nodes


@pytest.mark.parametrize(("op", "neutral"), [("Add", 0.0), ("Sub", 0.0), ("Mul", 1.0), ("Div", 1.0)])
def test_arithmetic_that_does_nothing(op: str, neutral: float) -> None:
    """Adding nothing and multiplying by one go; other numbers stay, and so do numbers from which something is taken."""
    assert ops(cleaned(lambda b, x: b.op(op, [x, number(b, neutral)]))) == []
    assert ops(cleaned(lambda b, x: b.op(op, [x, number(b, 2.0)]))) == [op]
    assert ops(cleaned(lambda b, x: b.op(op, [x, number(b, neutral)]), without="Noop")) == [op]
    assert ops(cleaned(lambda b, x: b.op(op, [number(b, neutral), x]))) == ([] if op in ("Add", "Mul") else [op])


def test_nothing_of_a_higher_rank_is_kept() -> None:
    """It changes the shape."""
    zeros = lambda b, x: b.op("Add", [x, b.constant("c", np.zeros((1, 1, 1, 1, 1), np.float32))])  # noqa: E731
    assert ops(cleaned(zeros)) == ["Add"]


def test_what_a_network_is_given_and_returns_is_spared() -> None:
    """A needless node there is not taken out."""
    b = GraphBuilder("bare")
    draft = Draft(b.finish(b.op("Add", [b.input("x", IMAGE), number(b, 0)])))
    assert not clean(draft, Fusions())
    assert ops(draft) == ["Add"]


def test_copies() -> None:
    """A copy goes; where it is returned, what it copies takes its name, unless that is wanted elsewhere."""
    assert ops(cleaned(lambda b, x: b.op("Identity", [b.op("Identity", [x])]))) == []
    b = GraphBuilder("returned")
    draft = Draft(b.finish(b.op("Identity", [b.op("Elu", [b.input("x", IMAGE)])])))
    clean(draft, Fusions())
    assert [(step.op, step.outputs) for step in draft.ordered()] == [("Elu", ["identity_0_out"])]
    b = GraphBuilder("both")
    x = b.op("Elu", [b.input("x", IMAGE)])
    draft = Draft(b.finish(b.op("Identity", [x]), b.op("Neg", [x])))
    clean(draft, Fusions())
    assert sorted(ops(draft)) == ["Elu", "Identity", "Neg"]


def test_a_relu_before_a_clip() -> None:
    """It is part of it, where nobody else reads it."""
    clip = lambda b, x: b.op("Clip", [b.op("Relu", [x])], min=0.0, max=6.0)  # noqa: E731
    assert ops(cleaned(clip)) == ["Clip"]
    assert ops(cleaned(clip, without="ReluClip")) == ["Relu", "Clip"]

    def shared(b: GraphBuilder, x: str) -> str:
        y = b.op("Relu", [x])
        return b.op("Mul", [b.op("Clip", [y], min=0.0, max=6.0), y])

    assert "Relu" in ops(cleaned(shared))


def test_the_product_with_a_reciprocal() -> None:
    """It is a quotient; with another numerator it is not."""
    build = lambda n: lambda b, x: b.op("Mul", [b.op("Elu", [x]), b.op("Div", [number(b, n), x])])  # noqa: E731
    draft = cleaned(build(1.0))
    assert ops(draft) == ["Elu", "Div"]
    assert draft.of("Div")[0].inputs == ["elu_0_out", "softsign_0_out"]
    assert sorted(ops(cleaned(build(2.0)))) == ["Div", "Elu", "Mul"]


def test_a_choice_by_a_negation() -> None:
    """It swaps what is chosen from."""

    def build(b: GraphBuilder, x: str) -> str:
        return b.op("Where", [b.op("Not", [b.op("Greater", [x, number(b, 0)])]), x, b.op("Elu", [x])])

    draft = cleaned(build)
    assert "Not" not in ops(draft)
    assert draft.of("Where")[0].inputs[1:] == ["elu_0_out", "softsign_0_out"]


# ---- into convolutions


def per_channel(b: GraphBuilder, x: str, *shape: int) -> str:
    return b.weight("channels", shape or (1, b.shape(x)[1], 1, 1))


@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_constants_behind_a_convolution(op: str) -> None:
    """One number for each channel goes into its weights, with a bias where there was none; other shapes and the other side do not."""

    def build(*shape: int, swap: bool = False, bias: bool = False) -> Build:
        def built(b: GraphBuilder, x: str) -> str:
            y = b.conv(x, 8, bias=bias)
            pair = [y, per_channel(b, y, *shape)]
            return b.op(op, pair[::-1] if swap else pair)

        return built

    draft = cleaned(build())
    assert ops(draft) == ["Conv"]
    assert len(draft.of("Conv")[0].inputs) == (3 if op == "Add" else 2)
    assert ops(cleaned(build(8, 1, 1, bias=True))) == ["Conv"]
    assert ops(cleaned(build(1, 1, 6, 6))) == ["Conv", op]
    assert ops(cleaned(build(swap=True))) == ["Conv", op]
    assert ops(cleaned(build(), without=f"Conv{op}")) == ["Conv", op]


def test_a_norm_behind_a_convolution() -> None:
    """It is folded, and leaves a bias; behind one whose weights are computed it is not."""
    folded = cleaned(lambda b, x: b.batch_norm(b.conv(x, 8, bias=False)))
    assert ops(folded) == ["Conv"]
    assert len(folded.of("Conv")[0].inputs) == 3
    up = lambda b, x: b.batch_norm(b.op("ConvTranspose", [x, b.weight("w", (4, 8, 2, 2))]))  # noqa: E731
    assert ops(cleaned(up)) == ["ConvTranspose"]
    assert ops(cleaned(up, without="ConvTransposeNorm")) == ["ConvTranspose", "BatchNormalization"]
    computed = lambda b, x: b.batch_norm(b.op("Conv", [x, b.op("Tanh", [b.input("w", (8, 4, 1, 1))])]))  # noqa: E731
    assert "BatchNormalization" in ops(cleaned(computed))


def padded(pads: tuple[int, ...], window: str = "Conv", **attrs: object) -> Build:
    def build(b: GraphBuilder, x: str) -> str:
        y = b.op("Pad", [x], pads=pads, **attrs)
        return b.conv(y, 8, kernel=3) if window == "Conv" else b.op(window, [y], kernel_shape=(2, 2))

    return build


def test_zeros_around_an_image() -> None:
    """They become the window's own pads; an average then counts them."""
    around = (0, 0, 1, 2, 0, 0, 3, 4)
    draft = cleaned(padded(around))
    assert ops(draft) == ["Conv"]
    assert draft.of("Conv")[0].attr("pads") == (2, 3, 4, 5)
    pool = cleaned(padded(around, "AveragePool"))
    assert ops(pool) == ["AveragePool"]
    assert (pool.of("AveragePool")[0].attr("pads"), pool.of("AveragePool")[0].attr("count_include_pad")) == ((1, 2, 3, 4), 1)


@pytest.mark.parametrize(
    "build",
    [
        padded((0, 0, 1, 1, 0, 0, 1, 1), value=1.0),
        padded((0, 0, 1, 1, 0, 0, 1, 1), mode="reflect"),
        padded((0, 0, -1, 0, 0, 0, 0, 0)),
        padded((0, 1, 0, 0, 0, 1, 0, 0)),
        padded((0, 0, 1, 1, 0, 0, 1, 1), "MaxPool"),
    ],
    ids=["ones", "mirrored", "cut off", "channels", "maximum"],
)
def test_other_pads_stay(build: Build) -> None:
    """What a window's own pads cannot say."""
    assert ops(cleaned(build))[0] == "Pad"


# ---- definitions, equal nodes, reshapes, casts


@pytest.mark.parametrize(("op", "parts"), [("HardSwish", ["HardSigmoid", "Mul"]), ("Mish", ["Softplus", "Tanh", "Mul"])])
def test_definitions(op: str, parts: list[str]) -> None:
    """An operator without a kernel becomes several, of which the last holds the node."""
    draft = drafted(lambda b, x: b.op(op, [x]))
    define(draft)
    assert ops(draft) == parts
    last = draft.of("Mul")[0]
    assert (last.label, last.nodes) == (op, [f"{op.lower()}_0"])
    assert all(step.cause is last for step in draft.of(*parts[:-1]))


def twins(op: str, **attrs: object) -> Build:
    return lambda b, x: b.op("Mul", [b.op(op, [x]), b.op(op, [x], **attrs)])


def test_equal_nodes() -> None:
    """They are computed once; with other attributes they are not equal."""
    draft = drafted(twins("LeakyRelu"))
    assert merge_equal(draft)
    assert ops(draft) == ["LeakyRelu", "Mul"]
    assert sorted(draft.of("LeakyRelu")[0].nodes) == ["leakyrelu_0", "leakyrelu_1"]
    draft = drafted(twins("LeakyRelu", alpha=0.3))
    assert not merge_equal(draft)


@pytest.mark.parametrize(("second", "equal"), [(2.0, True), (3.0, False)])
def test_small_constants_are_compared_by_value(second: float, equal: bool) -> None:
    """Nodes that read equal numbers under other names are equal."""
    draft = drafted(lambda b, x: b.op("Mul", [b.op("Pow", [x, number(b, 2.0)]), b.op("Pow", [x, number(b, second)])]))
    assert merge_equal(draft) == equal
    assert ops(draft).count("Pow") == (1 if equal else 2)


def test_what_a_network_returns_exists() -> None:
    """Of equal nodes both stay where either is an output."""
    b = GraphBuilder("outputs")
    x = b.input("x", IMAGE)
    draft = Draft(b.finish(b.op("Elu", [x]), b.op("Neg", [b.op("Elu", [x])])))
    assert not merge_equal(draft)


def test_reshapes_in_a_row() -> None:
    """The last shape counts; one between them that is read elsewhere stays."""
    draft = drafted(lambda b, x: b.op("Reshape", [b.op("Reshape", [x], shape=(4, 8))], shape=(32,)))
    assert merge_reshapes(draft)
    assert ops(draft) == ["Reshape"]
    assert draft.of("Reshape")[0].attr("shape") == (32,)


def casts(*to: str) -> Graph:
    b = GraphBuilder("casts")
    x = b.input("x", (4,), "int32")
    for dtype in to:
        x = b.op("Cast", [x], to=dtype)
    return b.finish(b.op("Neg", [x]))


def test_casts_in_a_row() -> None:
    """A wider type in between is left out, and so are both where the second undoes the first; a narrower one loses something and stays."""
    for to, left in (
        (("float64", "float32"), ["Cast", "Neg"]),
        (("int64", "int32"), ["Neg"]),
        (("float32", "int32"), ["Cast", "Cast", "Neg"]),
    ):
        draft = Draft(casts(*to))
        merge_casts(draft)
        assert ops(draft) == left, to


def test_casts_that_others_read_beside() -> None:
    """The wider value stays where it is read by other nodes, and then its Casts read it too, but for one that undoes it."""
    for to, left in (("int32", ["Cast", "Neg", "Neg"]), ("float64", ["Cast", "Cast", "Neg", "Neg"])):
        b = GraphBuilder("casts")
        x = b.input("x", (4,), "int32")
        wide = b.op("Cast", [x], to="int64")
        draft = Draft(b.finish(b.op("Neg", [wide]), b.op("Neg", [b.op("Cast", [wide], to=to)])))
        merge_casts(draft)
        assert sorted(step.op for step in draft.steps.values()) == left, to


def test_several_casts_of_one_value() -> None:
    """All of them read the source, and the wider value goes; every node is some step's."""
    b = GraphBuilder("casts")
    wide = b.op("Cast", [b.input("x", (4,), "int32")], to="int64")
    draft = Draft(b.finish(*(b.op("Neg", [b.op("Cast", [wide], to=to)]) for to in ("int32", "float64"))))
    merge_casts(draft)
    assert ops(draft) == ["Cast", "Neg", "Neg"]
    assert sorted(name for step in draft.steps.values() for name in step.nodes) == sorted(node.name for node in draft.graph.nodes)


def test_what_moving_made_constant_is_folded() -> None:
    """A Transpose of a constant, which came from a value that was moved."""

    def build(b: GraphBuilder, x: str) -> str:
        weight = b.weight("w", (4, 8))
        return b.op("Add", [b.op("Transpose", [b.op("Add", [b.op("Transpose", [x], perm=(1, 0)), weight])], perm=(1, 0)), x])

    draft = drafted(build, (8, 4))
    assert push(draft, resize=False)
    fold(draft)
    assert all(set(step.inputs) - draft.constants for step in draft.ordered())
    assert not fold(draft)
