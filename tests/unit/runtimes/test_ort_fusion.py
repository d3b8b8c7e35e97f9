"""The rules of fusion one by one, on graphs of a few nodes; tests/integration/test_ort_kernels.py holds them against the runtime."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hwnas.ir import Graph, GraphBuilder
from hwnas.runtimes.ort_fusion import fuse


def told(graph: Graph, block: int = 8) -> list[str]:
    """The kernels in words: `Conv+Relu nchwc8`."""
    return [f"{'+'.join((call.kernel.op, *call.kernel.fused))} {call.kernel.layout}" for call in fuse(graph, block)]


def chain(*steps: Callable[[GraphBuilder, str], str], channels: int = 16) -> Graph:
    """A graph whose steps follow one another."""
    b = GraphBuilder("chain")
    x = b.input("x", (1, channels, 6, 6))
    for step in steps:
        x = step(b, x)
    return b.finish(x)


def conv(channels: int = 16, **options: int):
    return lambda b, x: b.conv(x, channels, **options)


def op(name: str, **attrs: object):
    return lambda b, x: b.op(name, [x], **attrs)


def norm(b: GraphBuilder, x: str) -> str:
    return b.batch_norm(x)


def swish(b: GraphBuilder, x: str) -> str:
    return b.op("Mul", [x, b.op("Sigmoid", [x])])


pool = op("MaxPool", kernel_shape=(2, 2))
clip = op("Clip", min=0.0, max=6.0)

IN, OUT = "ReorderInput nchwc8", "ReorderOutput nchwc8"


CONV = "Conv nchwc8"


@pytest.mark.parametrize("name", ["Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid"])
def test_a_convolution_absorbs_norm_and_activation(name: str) -> None:
    """Convolution, batch normalisations and activation are one kernel, re-ordered before and after."""
    assert told(chain(conv(), norm, op(name))) == [IN, f"Conv+{name} nchwc8", OUT]
    assert told(chain(conv(), norm, norm, op(name))) == [IN, f"Conv+{name} nchwc8", OUT]


def test_one_activation_is_absorbed() -> None:
    """The second activation is a kernel of its own; one that works on blocks stays in them."""
    assert told(chain(conv(), clip, op("Relu"))) == [IN, "Conv+Clip nchwc8", "Relu nchw", OUT]
    assert told(chain(conv(), op("Relu"), op("Elu"))) == [IN, "Conv+Relu nchwc8", OUT, "Elu nchw"]


def test_a_clip_covers_the_relu_before_it() -> None:
    """Relu and Clip are one activation."""
    assert told(chain(conv(), op("Relu"), clip)) == [IN, "Conv+Clip nchwc8", OUT]


@pytest.mark.parametrize("block", [8, 16])
def test_the_block_is_that_of_the_device(block: int) -> None:
    """The layout is named after its block."""
    assert told(chain(conv()), block) == [f"ReorderInput nchwc{block}", f"Conv nchwc{block}", f"ReorderOutput nchwc{block}"]


def test_no_blocks() -> None:
    """A device without the layout re-orders nothing."""
    assert told(chain(conv(), op("Relu"), pool, conv(8)), 1) == ["Conv+Relu nchw", "MaxPool nchw", "Conv nchw"]


@pytest.mark.parametrize(
    ("channels", "out", "groups", "kernels"),
    [
        (3, 10, 1, ["Conv nchwc8", OUT]),  # few channels are read as they are
        (12, 10, 1, [IN, "Conv nchwc8", OUT]),
        (10, 16, 1, ["Conv nchw"]),  # 10 channels cannot be re-ordered by fours
        (12, 12, 12, [IN, "Conv nchwc8", OUT]),  # depthwise
        (10, 10, 10, ["Conv nchw"]),
        (16, 32, 16, ["Conv nchw"]),  # depthwise with a multiplier
        (16, 16, 2, [IN, "Conv nchwc8", OUT]),  # groups of whole blocks
        (16, 8, 2, ["Conv nchw"]),
        (8, 16, 2, ["Conv nchw"]),
    ],
)
def test_which_convolutions_are_blocked(channels: int, out: int, groups: int, kernels: list[str]) -> None:
    """A convolution works on blocks where its channels and groups fit them."""
    assert told(chain(conv(out, groups=groups), channels=channels)) == kernels


@pytest.mark.parametrize(("channels", "kernels"), [(16, [IN, "MaxPool nchwc8", OUT]), (12, ["MaxPool nchw"])])
def test_pools_are_blocked(channels: int, kernels: list[str]) -> None:
    """A pool of whole blocks works on blocks, wherever it stands."""
    assert told(chain(pool, channels=channels)) == kernels


def test_global_pools_follow_their_input() -> None:
    """A global pool works on blocks behind a blocked value, or on the network's input; behind a plain value it stays plain."""
    assert told(chain(conv(), op("GlobalAveragePool"))) == [IN, CONV, "GlobalAveragePool nchwc8", OUT]
    assert told(chain(op("GlobalAveragePool"))) == [IN, "GlobalAveragePool nchwc8", OUT]
    assert told(chain(op("Neg"), op("GlobalAveragePool"))) == ["Neg nchw", "GlobalAveragePool nchw"]


@pytest.mark.parametrize(("name", "stays"), [("Relu", True), ("Sigmoid", True), ("HardSigmoid", True), ("Gelu", True), ("Elu", False)])
def test_which_activations_stay_in_blocks(name: str, stays: bool) -> None:
    """Some element-wise operators keep the layout; the others need the plain one."""
    kernels = told(chain(pool, op(name), conv()))
    assert kernels == (
        [IN, "MaxPool nchwc8", f"{name} nchw", CONV, OUT] if stays else [IN, "MaxPool nchwc8", OUT, f"{name} nchw", IN, CONV, OUT]
    )


def test_a_clip_leaves_the_blocks() -> None:
    """A Clip that no convolution absorbs needs the plain layout."""
    assert told(chain(pool, clip, conv())) == [IN, "MaxPool nchwc8", OUT, "Clip nchw", IN, CONV, OUT]


def test_swish_is_one_kernel() -> None:
    """The product x * sigmoid(x) becomes one operator, which keeps the layout."""
    assert told(chain(conv(), swish, conv())) == [IN, CONV, "QuickGelu nchw", CONV, OUT]


def test_hard_swish_is_absorbed_inside_the_network() -> None:
    """A blocked convolution absorbs a HardSwish unless that is an output of the network; a plain one does not."""
    assert told(chain(conv(), op("HardSwish"), conv())) == [IN, "Conv+HardSwish nchwc8", CONV, OUT]
    assert told(chain(conv(), op("HardSwish"))) == [IN, CONV, "HardSwish nchw", OUT]
    assert told(chain(conv(), op("HardSwish"), op("Elu")), 1) == ["Conv nchw", "HardSwish nchw", "Elu nchw"]


def test_a_norm_in_blocks_is_a_convolution() -> None:
    """A batch normalisation of a blocked value works on blocks and absorbs what a convolution does; of a plain value it does not."""
    assert told(chain(pool, norm, op("Relu"))) == [IN, "MaxPool nchwc8", "BatchNormalization+Relu nchwc8", OUT]
    assert told(chain(norm, op("Relu"))) == ["BatchNormalization nchw", "Relu nchw"]


def residual(shortcut: Callable, body: Callable, *after: Callable, channels: int = 16) -> Graph:
    b = GraphBuilder("residual")
    x = b.input("x", (1, channels, 6, 6))
    y = b.op("Add", [body(b, x), shortcut(b, x)])
    for step in after:
        y = step(b, y)
    return b.finish(y)


def test_a_residual_is_added_in_place() -> None:
    """In blocks a convolution without an activation absorbs the Add of another blocked value, and an activation after it."""
    assert told(residual(conv(), conv(kernel=3), op("Relu"))) == [IN, CONV, "Conv+Add+Relu nchwc8", OUT]
    assert told(residual(conv(), conv(kernel=3), op("Elu"))) == [IN, CONV, "Conv+Add nchwc8", OUT, "Elu nchw"]


def test_an_activation_comes_before_the_residual() -> None:
    """A convolution that has absorbed an activation adds nothing more; the Add stays in blocks."""
    act = lambda b, x: b.op("Relu", [b.conv(x, 16)])  # noqa: E731
    assert told(residual(act, act)) == [IN, "Conv+Relu nchwc8", "Conv+Relu nchwc8", "Add nchw", OUT]


def test_a_plain_residual() -> None:
    """A plain convolution adds in place when it has a bias, its own or a normalisation's, and then takes an activation."""
    own = lambda b, x: x  # noqa: E731
    assert told(residual(own, conv(10), clip, channels=10)) == ["Conv+Add+Clip nchw"]
    assert told(residual(own, conv(10, bias=False), channels=10)) == ["Conv nchw", "Add nchw"]
    assert told(residual(own, lambda b, x: b.batch_norm(b.conv(x, 10, bias=False)), channels=10)) == ["Conv+Add nchw"]


def test_an_add_of_two_layouts_is_plain() -> None:
    """A blocked convolution does not add a plain value in place."""
    assert told(residual(lambda b, x: x, conv())) == [IN, CONV, OUT, "Add nchw"]


def test_a_broadcast_leaves_the_blocks() -> None:
    """A gate multiplies in the plain layout, since its shape is another."""
    gate = lambda b, x: b.op("Mul", [x, b.op("Sigmoid", [b.conv(b.op("GlobalAveragePool", [x]), 16)])])  # noqa: E731
    kernels = told(chain(conv(), gate, conv()))
    assert kernels.count(OUT) == 3
    assert "Mul nchw" in kernels


@pytest.mark.parametrize(("left", "blocked"), [(8, True), (12, False)])
def test_concatenation_of_whole_blocks(left: int, blocked: bool) -> None:
    """Channels are concatenated in blocks where each part is whole blocks."""
    b = GraphBuilder("concat")
    x = b.input("x", (1, 16, 6, 6))
    graph = b.finish(b.conv(b.op("Concat", [b.conv(x, left), b.conv(x, 16)], axis=1), 8))
    assert told(graph).count(OUT) == (1 if blocked else 3)


def test_a_value_is_reordered_once() -> None:
    """Two readers in the other layout share one re-order, which names the first of them."""
    b = GraphBuilder("shared")
    x = b.op("Elu", [b.input("x", (1, 16, 6, 6))])
    graph = b.finish(b.conv(x, 8), b.conv(x, 16))
    calls = fuse(graph, 8)
    assert [(call.kernel.op, call.nodes) for call in calls if call.kernel.op == "ReorderInput"] == [("ReorderInput", ("conv_0",))]


def test_an_output_read_elsewhere_is_not_absorbed() -> None:
    """What the network returns, or somebody else reads, exists by itself."""
    b = GraphBuilder("outputs")
    x = b.conv(b.input("x", (1, 16, 6, 6)), 16)
    assert sorted(told(b.finish(b.op("Relu", [x]), x))) == sorted([IN, CONV, OUT, "Relu nchw", OUT])


def test_copies_cost_nothing() -> None:
    """An Identity is no kernel and hides nothing from fusion; it stays where both it and what it copies are outputs."""
    copy = op("Identity")
    assert told(chain(copy, conv(), copy, norm, copy, op("Relu"), copy)) == [IN, "Conv+Relu nchwc8", OUT]
    b = GraphBuilder("both")
    x = b.op("Elu", [b.input("x", (1, 16, 6, 6))])
    assert told(b.finish(x, b.op("Identity", [x]))) == ["Elu nchw", "Identity nchw"]


@pytest.mark.parametrize(
    "name", ["Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "Elu", "Selu", "Softplus", "Softsign", "ThresholdedRelu"]
)
def test_a_layer_absorbs_its_activation(name: str) -> None:
    """A fully connected layer and its activation are one kernel; others stay apart."""
    b = GraphBuilder("dense")
    assert told(b.finish(b.op(name, [b.linear(b.input("x", (1, 8)), 4)]))) == [f"Gemm+{name} nchw"]
    b = GraphBuilder("dense")
    assert told(b.finish(b.op("Gelu", [b.linear(b.input("x", (1, 8)), 4)]))) == ["Gemm nchw", "Gelu nchw"]


def test_a_transposed_convolution_folds_its_norm() -> None:
    """It works in the plain layout and absorbs no activation."""
    up = lambda b, x: b.op("ConvTranspose", [x, b.weight("w", (16, 8, 2, 2))], strides=(2, 2))  # noqa: E731
    assert told(chain(conv(), up, norm, op("Relu"))) == [IN, CONV, OUT, "ConvTranspose nchw", "Relu nchw"]


def test_kernels_come_in_an_order_in_which_they_run() -> None:
    """Whatever a kernel reads was written by one before it."""
    graph = chain(conv(), norm, op("Relu"), pool, clip, conv(8), swish, op("GlobalAveragePool"), op("Flatten"))
    written = set(graph.inputs)
    for call in fuse(graph, 8):
        members = [node for node in graph.nodes if node.name in call.nodes]
        if not call.kernel.op.startswith("Reorder"):
            inside = {value for node in members for value in node.outputs}
            assert {value for node in members for value in node.inputs if value not in graph.weights} <= written | inside
            written |= inside
