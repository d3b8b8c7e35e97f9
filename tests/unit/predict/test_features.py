"""Features: the same kernel always looks the same, and looks like what it is."""

from __future__ import annotations

from math import isfinite, log

import numpy as np
import pytest
from hypothesis import given, settings
from strategies import graphs

from hwnas.ir import Graph, GraphBuilder, Kernel, TensorSpec
from hwnas.predict.features import (
    ACTIVATIONS,
    BLOCK_FLOPS,
    CONTEXT,
    DETAILS,
    FEATURES,
    ROW_FLOPS,
    SCHEMA,
    Described,
    Table,
    describe,
    kind_of,
    tabulate,
)
from hwnas.runtimes.ort_fusion import fuse


def kernels(graph: Graph, block: int = 8) -> list[Kernel]:
    return [call.kernel for call in fuse(graph, block)]


def block_of_a_network(batch: int = 2) -> Graph:
    """A pointwise, a strided depthwise and a dense convolution with their activations, a residual, and a classifier."""
    b = GraphBuilder("block")
    x = b.op("Relu", [b.conv(b.input("x", (batch, 16, 8, 8)), 32)])
    x = b.op("Clip", [b.conv(x, 32, kernel=5, stride=2, groups=32)], min=0.0, max=6.0)
    y = b.op("Add", [b.conv(b.conv(x, 32), 32, kernel=3, dilation=2), x])
    return b.finish(b.linear(b.op("Flatten", [b.op("GlobalAveragePool", [y])]), 10))


def test_the_schema_is_pinned(golden) -> None:
    """Predictors on disk are told by the schema: when this fails, a column has changed, and predictors must be fitted again."""
    assert golden("predict/schema.json", {"schema": SCHEMA, "features": FEATURES, "context": CONTEXT, "activations": ACTIVATIONS}) == {
        "schema": SCHEMA,
        "features": list(FEATURES),
        "context": list(CONTEXT),
        "activations": list(ACTIVATIONS),
    }


def test_the_values_are_pinned(golden) -> None:
    """What the extractor sees of known kernels does not change: a predictor would otherwise be asked something that it never learned."""
    found = [[seen.kind, list(seen.values)] for seen in map(describe, kernels(block_of_a_network()))]
    assert golden("predict/features.json", found) == found


def test_named_features_of_a_convolution() -> None:
    """Each feature says what its name says."""
    (kernel,) = [kernel for kernel in kernels(block_of_a_network()) if kind_of(kernel) == "Conv-depthwise"]
    seen = dict(zip(FEATURES, describe(kernel).values, strict=True))
    assert seen["batch"] == 2
    assert (seen["channels_in"], seen["channels_out"], seen["groups"]) == (32, 32, 32)
    assert (seen["height_in"], seen["height_out"], seen["width_out"]) == (8, 4, 4)
    assert (seen["window"], seen["stride"], seen["dilation"]) == (25, 4, 1)
    assert (seen["residual"], seen["blocked"], ACTIVATIONS[int(seen["activation"])]) == (0, 1, "Clip")
    assert seen["flops"] == 2 * 25 * 2 * 32 * 4 * 4
    assert (seen["weight_numel"], seen["input_numel"], seen["output_numel"]) == (800, 4096, 1024)
    assert seen["flops_per_byte"] == pytest.approx(51200 / (4 * (800 + 4096 + 1024)))


def test_a_residual_shows() -> None:
    """A convolution that adds in place reads one input more."""
    (kernel,) = [kernel for kernel in kernels(block_of_a_network()) if "Add" in kernel.fused]
    seen = dict(zip(FEATURES, describe(kernel).values, strict=True))
    assert (seen["residual"], seen["dilation"]) == (1, 4)


X = TensorSpec((1, 8, 4, 4))


@pytest.mark.parametrize(
    ("op", "weight", "group", "kind"),
    [
        ("Conv", (16, 8, 3, 3), 1, "Conv-dense"),
        ("Conv", (16, 8, 1, 1), 1, "Conv-pointwise"),
        ("Conv", (8, 1, 1, 1), 8, "Conv-depthwise"),
        ("Conv", (8, 2, 3, 3), 4, "Conv-grouped"),
        ("ConvTranspose", (8, 4, 2, 2), 1, "ConvTranspose-dense"),
    ],
)
def test_kinds_of_convolutions(op: str, weight: tuple[int, ...], group: int, kind: str) -> None:
    """Convolutions of different nature have different models."""
    assert kind_of(Kernel(op=op, inputs=(X,), weights=(TensorSpec(weight),), outputs=(X,), attrs=(("group", group),))) == kind


@settings(max_examples=100, deadline=None)
@given(graphs(max_steps=4))
def test_every_kernel_has_features(graph: Graph) -> None:
    """Whatever the operators: finite numbers, some work, some bytes, and the same for an equal kernel."""
    for kernel in kernels(graph):
        seen = describe(kernel)
        assert len(seen.values) == len(FEATURES)
        assert all(map(isfinite, seen.values))
        assert seen.flops > 0
        assert seen.bytes > 0
        assert describe(Kernel.from_json(kernel.to_json())) == seen


def test_a_single_number_has_features() -> None:
    """A kernel may read a tensor without axes, such as a mean over all of an image; it counts as one of one element."""
    scalar = TensorSpec(())
    assert describe(Kernel(op="Add", inputs=(scalar,), weights=(X,), outputs=(X,))).values[0] == 1


# ---- tables


def table_of(*graphs: Graph) -> Table:
    return tabulate([kernels(graph) for graph in graphs])


def test_a_table_holds_networks_side_by_side() -> None:
    """Rows keep the order of the kernels, and each knows its network; the context is each network's own."""
    small, large = block_of_a_network(1), block_of_a_network(4)
    table = table_of(small, large)
    each = len(kernels(small))
    assert table.networks == 2
    assert table.owner.tolist() == [0] * each + [1] * each
    assert table.kinds.tolist() == [kind_of(kernel) for kernel in kernels(small)] * 2
    weights = 4 * (16 * 32 + 32 * 25 + 32 * 32 + 32 * 32 * 9 + 32 * 10)
    biggest = max(describe(kernel).activation_bytes for kernel in kernels(small))
    moved = [sum(describe(kernel).bytes for kernel in kernels(network)) for network in (small, large)]
    np.testing.assert_array_equal(table.context, [[weights, biggest, each, moved[0]], [weights, 4 * biggest, each, moved[1]]])


def test_totals_are_per_network() -> None:
    """A value of each row is added up per network."""
    table = table_of(block_of_a_network(1), block_of_a_network(4))
    ones = np.ones(len(table.owner))
    np.testing.assert_array_equal(table.total(ones), [len(ones) / 2] * 2)
    np.testing.assert_allclose(table.total(table.flops)[1] / table.total(table.flops)[0], 4)


def test_taking_some_networks() -> None:
    """A part of a table is the table of that part."""
    parts = [block_of_a_network(batch) for batch in (1, 2, 3, 4)]
    taken, made = table_of(*parts).take(np.array([1, 3])), table_of(parts[1], parts[3])
    for field in ("kinds", "values", "flops", "bytes", "owner", "context"):
        np.testing.assert_array_equal(getattr(taken, field), getattr(made, field))


def test_proportions_are_kept() -> None:
    """Twice the batch is twice the work and the same intensity, up to the weights."""
    one, two = (describe(kernels(block_of_a_network(batch))[1]) for batch in (1, 2))
    assert two.flops == 2 * one.flops
    assert log(two.bytes / one.bytes) < log(2)


def grouped(inside: int, out: int, groups: int, precision: str = "int8") -> Kernel:
    """A 3x3 convolution to 6x6 pixels."""
    dtype, weight = ("uint8", "int8") if precision == "int8" else ("float32", "float32")
    return Kernel(
        op="Conv",
        inputs=(TensorSpec((2, inside, 6, 6), dtype),),
        weights=(TensorSpec((out, inside // groups, 3, 3), weight),),
        outputs=(TensorSpec((2, out, 6, 6), dtype),),
        attrs=(("group", groups), ("kernel_shape", (3, 3)), ("strides", (1, 1))),
        precision=precision,
    )


def test_precisions_do_not_mix() -> None:
    """A kernel in 8 bits has a model of its own, and its tensors count as the bytes that they are."""
    whole, short = describe(grouped(8, 8, 1, "fp32")), describe(grouped(8, 8, 1))
    assert (whole.kind, short.kind) == ("Conv-dense", "int8-Conv-dense")
    assert (whole.flops, whole.bytes) == (short.flops, 4 * short.bytes)


def test_a_depthwise_convolution_has_as_many_channels_behind_as_before() -> None:
    """With several outputs for each input channel it runs as a grouped one."""
    assert kind_of(grouped(8, 8, 8, "fp32")) == "Conv-depthwise"
    assert kind_of(grouped(8, 24, 8, "fp32")) == "Conv-grouped"
    assert kind_of(grouped(24, 8, 8, "fp32")) == "Conv-grouped"


def test_a_row_of_a_grouped_convolution_in_8_bits_has_a_least_cost() -> None:
    """Its bound counts rows of groups, not their few products; the features stay what they were."""
    few, more = describe(grouped(16, 8, 8)), describe(grouped(24, 16, 8))
    assert few.flops == more.flops == ROW_FLOPS * 8 * 2 * 36
    assert few.values[FEATURES.index("flops")] < more.values[FEATURES.index("flops")] < few.flops
    assert describe(grouped(24, 8, 8, "fp32")).flops == describe(grouped(24, 8, 8, "fp32")).values[FEATURES.index("flops")]


@pytest.mark.parametrize(
    ("shape", "permutation", "moves"),
    [
        ((1, 64, 7, 7), (0, 2, 3, 1), (1, 1, 49)),  # channels last: a matrix turned
        ((1, 49, 3, 32), (0, 2, 1, 3), (32, 1, 3)),  # heads first: rows of 32
        ((1, 4, 36, 80), (0, 3, 2, 1), (1, 2, 80)),  # both ends change places
        ((1, 49, 3, 6, 32), (2, 0, 3, 1, 4), (32, 1, 18)),  # queries, keys and values apart
        ((4, 49, 3, 6, 32), (2, 0, 3, 1, 4), (32, 2, 3)),
        ((1, 264, 6, 2, 12), (0, 3, 4, 1, 2), (1, 1, 24)),  # two axes that stay neighbours are one
        ((1, 5, 1, 7), (2, 0, 1, 3), (35, 0, 1)),  # nothing moves but axes of one element
    ],
)
def test_what_a_permutation_asks_of_a_runtime(shape: tuple[int, ...], permutation: tuple[int, ...], moves: tuple[int, int, int]) -> None:
    """Elements that stay together, how many axes move, elements of the first of these; only several axes cost an operation an element."""
    out = TensorSpec(tuple(shape[axis] for axis in permutation))
    described = describe(Kernel(op="Transpose", inputs=(TensorSpec(shape),), outputs=(out,), attrs=(("perm", permutation),)))
    at = [DETAILS.index(name) for name in ("kept_inner", "moves", "moved_axis")]
    assert tuple(described.details[i] for i in at) == moves
    assert described.flops == (BLOCK_FLOPS * out.numel / moves[0] if moves[1] == 2 else out.numel)


def test_a_gather_of_single_elements_costs_more_than_one_of_rows() -> None:
    """What is moved piece by piece is measured against the time that pieces take, whatever their size."""
    data, places = TensorSpec((1, 16, 8, 8)), TensorSpec((2, 4), "int64")
    elements, rows = (
        describe(Kernel(op="Gather", inputs=(data,), weights=(places,), outputs=(TensorSpec(out),), attrs=(("axis", axis),)))
        for axis, out in ((3, (1, 16, 8, 2, 4)), (2, (1, 16, 2, 4, 8)))
    )
    assert elements.flops == BLOCK_FLOPS * 1024
    assert rows.flops == BLOCK_FLOPS * 128


@pytest.mark.parametrize("op", ["Gather", "GatherElements"])
def test_a_table_is_read_where_it_is_picked_from(op: str) -> None:
    """However large a vocabulary is, looking 100 words up reads 100 rows of it, and its piece is a row of the table."""
    places, out = TensorSpec((1, 100), "int64"), TensorSpec((1, 100, 64))

    def look_up(words: int) -> Described:
        return describe(Kernel(op=op, inputs=(places,), outputs=(out,), attrs=(("axis", 0),), weights=(TensorSpec((words, 64)),)))

    small, large = look_up(1000), look_up(100_000)
    assert small == large
    assert small.bytes == 2 * out.nbytes + places.nbytes
    assert small.weight_bytes == out.nbytes
    assert small.flops == (BLOCK_FLOPS * 100 if op == "Gather" else out.numel)
    few = look_up(50)  # there is no more to read than the table has
    assert few.weight_bytes == 50 * 64 * 4


def test_a_slice_reads_what_it_writes() -> None:
    """So do all that pick; what else reads its input reads all of it."""
    whole, part = TensorSpec((1, 64, 64, 32)), TensorSpec((1, 8, 8, 32))
    cut, pooled = (
        describe(Kernel(op=op, inputs=(whole,), outputs=(part,), attrs=(("kernel_shape", (8, 8)),))) for op in ("Slice", "AveragePool")
    )
    assert cut.bytes == 2 * part.nbytes
    assert pooled.bytes == whole.nbytes + part.nbytes


def test_a_reduction_is_described_by_what_lies_behind_its_last_axis() -> None:
    """Sums over the rows of a map whose channels come last read elements that lie a power of two apart."""
    kernel = Kernel(op="ReduceL2", inputs=(TensorSpec((1, 10, 10, 96)),), outputs=(TensorSpec((1, 1, 1, 96)),), attrs=(("axes", (1, 2)),))
    details = dict(zip(DETAILS, describe(kernel).details, strict=True))
    assert (details["behind_axis"], details["alignment"]) == (96, 32)
