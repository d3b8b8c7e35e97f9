"""Matrix products with what stands beside them."""

from __future__ import annotations

import pytest
from drafts import Build, drafted, number, ops, vector

from hwnas.ir import GraphBuilder
from hwnas.runtimes.fusions import PATTERNS, Fusions
from hwnas.runtimes.ort_cleanup import clean
from hwnas.runtimes.ort_draft import Draft
from hwnas.runtimes.ort_patterns import recognise
from hwnas.runtimes.ort_products import add_bias, gemm_transpose


def linear(b: GraphBuilder, x: str, width: int = 6) -> str:
    return b.op("MatMul", [x, b.weight("w", (b.shape(x)[-1], width))])


def swapped(b: GraphBuilder, x: str) -> str:
    rank = len(b.shape(x))
    return b.op("Transpose", [x], perm=(*range(rank - 2), rank - 1, rank - 2))


def gemm(b: GraphBuilder, x: str, **attrs: object) -> str:
    return b.op("Gemm", [x, b.weight("w", (b.shape(x)[-1], 6))], **attrs)


def biased(*shape: int) -> Build:
    return lambda b, x: b.op("Add", [linear(b, x), b.weight("bias", shape)])


# ---- a Gemm


def test_a_product_of_matrices_and_its_bias() -> None:
    """They are a Gemm where the bias broadcasts as a Gemm's does."""
    for shape, fits in (((6,), True), ((1, 6), True), ((4, 6), True), ((4, 1), True), ((1,), False), ((1, 4, 6), False)):
        draft = drafted(biased(*shape), (4, 8))
        assert add_bias(draft, keep_attention=True) == fits, shape
        assert ops(draft) == (["Gemm"] if fits else ["MatMul", "Add"])


def test_a_product_of_more_dimensions_and_its_bias() -> None:
    """The Gemm stands between reshapes, which are its work; only a vector fits."""
    draft = drafted(biased(6))
    assert add_bias(draft, keep_attention=True)
    (step,) = draft.of("Gemm")
    assert ops(draft) == ["Reshape", "Gemm", "Reshape"]
    assert [draft.shape(reshape.outputs[0]) for reshape in draft.of("Reshape")] == [(4, 8), (1, 4, 6)]
    assert all(reshape.cause is step for reshape in draft.of("Reshape"))
    assert not add_bias(drafted(biased(1, 6)), keep_attention=True)


def test_a_product_that_others_read() -> None:
    """It stays apart from the addition."""

    def build(b: GraphBuilder, x: str) -> str:
        y = linear(b, x)
        return b.op("Mul", [b.op("Add", [y, vector(b, y)]), y])

    assert not add_bias(drafted(build), keep_attention=True)


def test_attention_is_kept_for_the_time_being() -> None:
    """Three products and the residual of one normalisation wait until later, when they are products with a bias like any other."""

    def build(b: GraphBuilder, x: str) -> str:
        x = b.op("LayerNormalization", [x, vector(b, x), vector(b, x)])
        q, k, v = (b.op("Add", [linear(b, x, 8), b.weight("bias", (8,))]) for _ in range(3))
        mixed = b.op("MatMul", [b.op("Softmax", [b.op("MatMul", [q, swapped(b, k)])]), v])
        return b.op("Add", [x, b.op("Add", [linear(b, mixed, 8), b.weight("bias", (8,))])])

    draft = drafted(build)
    add_bias(draft, keep_attention=True)
    assert ops(draft).count("Gemm") == 0
    add_bias(draft, keep_attention=False)
    assert ops(draft).count("Gemm") == 4


def cleaned(build: Build, shape: tuple[int, ...], without: str = "") -> list[str]:
    draft = drafted(build, shape)
    clean(draft, Fusions(patterns=PATTERNS - {without}))
    return ops(draft)


def test_a_norm_behind_a_product() -> None:
    """It is folded into a matrix product, not into one of more dimensions."""
    norm = lambda b, x: b.batch_norm(linear(b, x))  # noqa: E731
    assert cleaned(norm, (4, 8)) == ["Gemm"]
    assert cleaned(norm, (4, 8), without="MatMulNorm") == ["MatMul", "BatchNormalization"]
    assert cleaned(lambda b, x: b.batch_norm(linear(b, x)), (1, 6, 8)) == ["MatMul", "BatchNormalization"]


def test_a_sum_behind_a_gemm() -> None:
    """A Sum of two is its bias where it has none, and where the sum is no larger than the product."""
    summed = lambda shape: lambda b, x: b.op("Sum", [gemm(b, x), b.op("Elu", [b.input("y", shape)])])  # noqa: E731
    assert cleaned(summed((4, 6)), (4, 8)) == ["Elu", "Gemm"]
    assert cleaned(summed((4, 6)), (4, 8), without="GemmSum") == ["Elu", "Gemm", "Sum"]
    assert cleaned(summed((2, 4, 6)), (4, 8))[-1] == "Sum"
    assert cleaned(lambda b, x: b.op("Sum", [b.linear(x, 6), b.op("Elu", [b.input("y", (4, 6))])]), (4, 8))[-1] == "Sum"


def test_transposes_around_a_gemm() -> None:
    """It reads its operands transposed; a transposed result swaps them, where there is no bias."""
    draft = drafted(lambda b, x: gemm(b, swapped(b, x)), (8, 4))
    (step,) = draft.of("Gemm")
    assert gemm_transpose(draft, step)
    assert (ops(draft), step.attr("transA"), step.attr("transB")) == (["Gemm"], 1, 0)
    draft = drafted(lambda b, x: swapped(b, gemm(b, x)), (4, 8))
    weights = draft.of("Gemm")[0].inputs[1]
    assert gemm_transpose(draft, draft.of("Gemm")[0])
    (step,) = draft.of("Gemm")
    assert (step.inputs[0], step.attr("transA"), step.attr("transB")) == (weights, 1, 1)
    draft = drafted(lambda b, x: swapped(b, b.linear(x, 6)), (4, 8))
    assert not gemm_transpose(draft, draft.of("Gemm")[0])


# ---- a product that transposes and scales


def rewritten(build: Build, *names: str, shape: tuple[int, ...] = (1, 4, 8), without: str = "") -> Draft:
    draft = drafted(build, shape)
    recognise(draft, Fusions(patterns=PATTERNS - {without}), *names)
    return draft


def scores(b: GraphBuilder, x: str) -> str:
    return b.op("MatMul", [x, swapped(b, b.op("Elu", [x]))])


def test_a_transposed_operand() -> None:
    """The product reads it as it was."""
    draft = rewritten(scores, "MatMulTranspose")
    assert ops(draft) == ["Elu", "FusedMatMul"]
    (step,) = draft.of("FusedMatMul")
    assert (step.inputs[1], step.attr("transA"), step.attr("transB"), step.attr("alpha")) == ("elu_0_out", 0, 1, 1.0)
    assert ops(rewritten(scores, "MatMulTranspose", without="MatMulTranspose")) == ["Elu", "Transpose", "MatMul"]


def test_heads_that_are_moved() -> None:
    """The first axis behind the other leading ones and the rows is a flag of its own; another permutation is none."""

    def moved(*perm: int) -> Build:
        def build(b: GraphBuilder, x: str) -> str:
            y = b.op("Transpose", [x], perm=perm)
            return b.op("MatMul", [y, b.op("Elu", [b.input("y", (*b.shape(y)[:2], b.shape(y)[3], 3))])])

        return build

    for perm, flags in (((1, 2, 0, 3), (0, 1)), ((1, 2, 3, 0), (1, 1)), ((0, 1, 3, 2), (1, 0))):
        (step,) = rewritten(moved(*perm), "MatMulTranspose", shape=(2, 3, 4, 5)).of("FusedMatMul")
        assert (step.attr("transA"), step.attr("transBatchA")) == flags
    assert not rewritten(moved(0, 2, 1, 3), "MatMulTranspose", shape=(2, 3, 4, 5)).of("FusedMatMul")


def test_a_transpose_that_others_read_stays() -> None:
    """The product reads past it."""

    def build(b: GraphBuilder, x: str) -> str:
        turned = swapped(b, x)
        return b.op("Add", [b.op("MatMul", [x, turned]), b.op("ReduceMean", [turned], axes=(1, 2))])

    assert sorted(ops(rewritten(build, "MatMulTranspose"))) == ["Add", "FusedMatMul", "ReduceMean", "Transpose"]


@pytest.mark.parametrize(("op", "factor", "alpha"), [("Mul", 0.5, 0.5), ("Div", 4.0, 0.25)])
def test_a_scaled_product(op: str, factor: float, alpha: float) -> None:
    """The number becomes an attribute, behind the product and before it."""
    behind = rewritten(lambda b, x: b.op(op, [linear(b, x), number(b, factor)]), "MatMulScale")
    before = rewritten(lambda b, x: linear(b, b.op(op, [x, number(b, factor)])), "MatMulScale")
    for draft in (behind, before):
        assert ops(draft) == ["FusedMatMul"]
        assert draft.of("FusedMatMul")[0].attr("alpha") == pytest.approx(alpha)


def test_transposed_and_scaled() -> None:
    """Both are kept in one."""
    draft = rewritten(lambda b, x: b.op("Mul", [scores(b, x), number(b, 0.5)]), "MatMulTranspose", "MatMulScale")
    (step,) = draft.of("FusedMatMul")
    assert (ops(draft), step.attr("transB"), step.attr("alpha")) == (["Elu", "FusedMatMul"], 1, 0.5)


def test_what_is_no_scale() -> None:
    """A number that is divided, a vector."""
    assert ops(rewritten(lambda b, x: b.op("Div", [number(b, 2), linear(b, x)]), "MatMulScale")) == ["MatMul", "Div"]

    def vectors(b: GraphBuilder, x: str) -> str:
        y = linear(b, x)
        return b.op("Mul", [y, vector(b, y)])

    assert ops(rewritten(vectors, "MatMulScale")) == ["MatMul", "Mul"]
