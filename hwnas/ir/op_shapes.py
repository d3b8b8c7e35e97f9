"""Shape inference: what each operator writes, from its canonical attributes and the specs that it reads.

Semantics are those of the ONNX operator specification (https://onnx.ai/onnx/operators), opset 21. A function raises GraphError where the
inputs do not fit the operator; `hwnas.ir.ops.infer` adds the node's name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, floor, prod

from hwnas.errors import GraphError
from hwnas.ir.einsum import index_sizes
from hwnas.ir.node import Node, TensorSpec

Shape = tuple[int, ...]
Infer = Callable[[Node, Sequence[TensorSpec]], Sequence[TensorSpec]]


def broadcast(*shapes: Shape) -> Shape:
    """The shape to which these shapes broadcast, by NumPy's rule.

    >>> broadcast((2, 3, 1), (4,))
    (2, 3, 4)
    """
    rank = max(len(shape) for shape in shapes)
    columns = zip(*[(1,) * (rank - len(shape)) + shape for shape in shapes], strict=True)
    result = []
    for column in columns:
        sizes = {size for size in column if size != 1}
        if len(sizes) > 1:
            raise GraphError(f"shapes {', '.join(str(list(s)) for s in shapes)} do not broadcast")
        result.append(sizes.pop() if sizes else 1)
    return tuple(result)


def axis_of(axis: int, rank: int) -> int:
    """A non-negative axis."""
    if not -rank <= axis < rank:
        raise GraphError(f"axis {axis} is outside a tensor of rank {rank}")
    return axis % rank


def same(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """The first input's spec."""
    return [inputs[0]]


def elementwise(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """The inputs broadcast against each other."""
    return [TensorSpec(broadcast(*(spec.shape for spec in inputs)), inputs[0].dtype)]


def comparison(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """The inputs broadcast against each other, as truth values."""
    return [TensorSpec(broadcast(*(spec.shape for spec in inputs)), "bool")]


def where(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """A condition and two choices, broadcast against each other."""
    if inputs[0].dtype != "bool" or inputs[1].dtype != inputs[2].dtype:
        raise GraphError(f"needs a bool and two inputs of one type, got {', '.join(spec.dtype for spec in inputs)}")
    return [TensorSpec(broadcast(*(spec.shape for spec in inputs)), inputs[1].dtype)]


def onto_first(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """The other inputs broadcast to the first one's shape."""
    for spec in inputs[1:]:
        if broadcast(inputs[0].shape, spec.shape) != inputs[0].shape:
            raise GraphError(f"{list(spec.shape)} does not broadcast to {list(inputs[0].shape)}")
    return [inputs[0]]


def window_output(size: int, kernel: int, stride: int, dilation: int, pad: int, *, ceil_mode: bool = False) -> int:
    """Length of one spatial dimension after a sliding window (ONNX operator Conv, MaxPool)."""
    span = (size + pad - dilation * (kernel - 1) - 1) / stride
    length = (ceil(span) if ceil_mode else floor(span)) + 1
    if length < 1:
        raise GraphError(f"a window of {kernel} with dilation {dilation} does not fit into {size} + {pad} padding")
    return length


def conv(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """[N, C, spatial...] with weight [M, C / group, kernel...] gives [N, M, spatial...]."""
    data, weight = inputs[0].shape, inputs[1].shape
    group = int(node.attr("group"))
    kernel, strides, dilations, pads = node.ints("kernel_shape"), node.ints("strides"), node.ints("dilations"), node.ints("pads")
    rank = len(kernel)
    if len(weight) != len(data) or weight[2:] != kernel:
        raise GraphError(f"kernel_shape {list(kernel)} and weight {list(weight)} do not fit together")
    if data[1] != weight[1] * group or weight[0] % group:
        raise GraphError(f"{data[1]} input channels, {weight[0]} output channels and group {group} do not fit the weight {list(weight)}")
    if len(inputs) > 2 and inputs[2].shape != (weight[0],):
        raise GraphError(f"the bias needs shape [{weight[0]}]")
    spatial = tuple(window_output(data[2 + i], kernel[i], strides[i], dilations[i], pads[i] + pads[i + rank]) for i in range(rank))
    return [TensorSpec((data[0], weight[0], *spatial), inputs[0].dtype)]


def conv_transpose(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """[N, C, spatial...] with weight [C, M / group, kernel...] gives [N, M, spatial...]."""
    data, weight = inputs[0].shape, inputs[1].shape
    group = int(node.attr("group"))
    kernel, strides, dilations = node.ints("kernel_shape"), node.ints("strides"), node.ints("dilations")
    pads, extra = node.ints("pads"), node.ints("output_padding")
    rank = len(kernel)
    if data[1] != weight[0] or weight[0] % group or weight[2:] != kernel:
        raise GraphError(f"{data[1]} input channels and group {group} do not fit the weight {list(weight)}")
    spatial = tuple(
        strides[i] * (data[2 + i] - 1) + extra[i] + (kernel[i] - 1) * dilations[i] + 1 - pads[i] - pads[i + rank] for i in range(rank)
    )
    return [TensorSpec((data[0], weight[1] * group, *spatial), inputs[0].dtype)]


def pool(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """[N, C, spatial...] stays so, with one element per window."""
    data = inputs[0].shape
    kernel, strides, dilations, pads = node.ints("kernel_shape"), node.ints("strides"), node.ints("dilations"), node.ints("pads")
    rank, ceil_mode = len(kernel), bool(node.attr("ceil_mode"))
    spatial = (
        window_output(data[2 + i], kernel[i], strides[i], dilations[i], pads[i] + pads[i + rank], ceil_mode=ceil_mode) for i in range(rank)
    )
    return [TensorSpec((*data[:2], *spatial), inputs[0].dtype)]


def per_channel(count: int) -> Infer:
    """[N, C, ...] with `count` parameters of shape [C] stays as it is."""

    def check(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
        channels = inputs[0].shape[1]
        for spec in inputs[1 : 1 + count]:
            if spec.shape != (channels,):
                raise GraphError(f"expected parameters of shape [{channels}], got {list(spec.shape)}")
        return [inputs[0]]

    return check


def group_norm(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """[N, C, ...] with scale and shift of shape [C], the channels dividing into groups."""
    if inputs[0].shape[1] % int(node.attr("num_groups")):
        raise GraphError(f"{inputs[0].shape[1]} channels do not divide into {node.attr('num_groups')} groups")
    return per_channel(2)(node, inputs)


def global_pool(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """[N, C, spatial...] gives [N, C, 1, ...]."""
    shape = inputs[0].shape
    return [TensorSpec((*shape[:2], *(1,) * (len(shape) - 2)), inputs[0].dtype)]


def reduce(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """The axes become 1, or vanish."""
    axes, keep = set(node.ints("axes")), bool(node.attr("keepdims"))
    shape = tuple(1 if i in axes else size for i, size in enumerate(inputs[0].shape) if keep or i not in axes)
    return [TensorSpec(shape, inputs[0].dtype)]


def concat(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """All dimensions agree but one, which adds up."""
    axis = int(node.attr("axis"))
    rests = {spec.shape[:axis] + spec.shape[axis + 1 :] for spec in inputs}
    if len(rests) != 1:
        raise GraphError(f"all dimensions but axis {axis} must agree")
    shape = list(inputs[0].shape)
    shape[axis] = sum(spec.shape[axis] for spec in inputs)
    return [TensorSpec(tuple(shape), inputs[0].dtype)]


def split(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """One output for each part of the axis."""
    axis, parts, shape = int(node.attr("axis")), node.ints("split"), inputs[0].shape
    if sum(parts) != shape[axis]:
        raise GraphError(f"parts {list(parts)} do not add up to {shape[axis]}")
    if len(parts) != len(node.outputs):
        raise GraphError(f"{len(parts)} parts need as many outputs, got {len(node.outputs)}")
    return [TensorSpec((*shape[:axis], part, *shape[axis + 1 :]), inputs[0].dtype) for part in parts]


def cut(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """As many elements along each axis as its steps reach."""
    shape = list(inputs[0].shape)
    for axis, start, end, step in zip(node.ints("axes"), node.ints("starts"), node.ints("ends"), node.ints("steps"), strict=True):
        shape[axis] = len(range(*slice(start, end, step).indices(shape[axis])))
    return [TensorSpec(tuple(shape), inputs[0].dtype)]


def flatten(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """A matrix: the dimensions before the axis, and those from it on."""
    axis, shape = int(node.attr("axis")), inputs[0].shape
    return [TensorSpec((prod(shape[:axis]), prod(shape[axis:])), inputs[0].dtype)]


def reshape(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """The shape asked for, of equally many elements."""
    shape = node.ints("shape")
    if prod(shape) != inputs[0].numel:
        raise GraphError(f"{list(inputs[0].shape)} does not reshape to {list(shape)}")
    return [TensorSpec(shape, inputs[0].dtype)]


def transpose(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """The dimensions in another order."""
    perm, shape = node.ints("perm"), inputs[0].shape
    if sorted(perm) != list(range(len(shape))):
        raise GraphError(f"perm {list(perm)} is not a permutation of {len(shape)} axes")
    return [TensorSpec(tuple(shape[i] for i in perm), inputs[0].dtype)]


def gemm(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """[M, K] by [K, N], each perhaps given transposed, gives [M, N]; the third input broadcasts to it."""
    a, b = inputs[0].shape, inputs[1].shape
    rows, depth = (a[1], a[0]) if node.attr("transA") else a
    depth_b, columns = (b[1], b[0]) if node.attr("transB") else b
    if depth != depth_b:
        raise GraphError(f"inner dimensions {depth} and {depth_b} differ")
    if len(inputs) > 2:
        broadcast(inputs[2].shape, (rows, columns))
    return [TensorSpec((rows, columns), inputs[0].dtype)]


def matmul(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """[..., M, K] by [..., K, N] gives [..., M, N], the leading dimensions broadcast."""
    a, b = inputs[0].shape, inputs[1].shape
    if len(a) < 2 or len(b) < 2:
        raise GraphError("inputs of rank 1 are not supported; reshape them to matrices")
    if a[-1] != b[-2]:
        raise GraphError(f"inner dimensions {a[-1]} and {b[-2]} differ")
    return [TensorSpec((*broadcast(a[:-2], b[:-2]), a[-2], b[-1]), inputs[0].dtype)]


def einsum(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """What the equation leaves of the dimensions; those of one letter agree, or are 1."""
    sizes = index_sizes(str(node.attr("equation")), [spec.shape for spec in inputs])
    result = str(node.attr("equation")).partition("->")[2]
    return [TensorSpec(tuple(sizes[letter] for letter in result), inputs[0].dtype)]


def pad(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """Every dimension grows by its two pads, or shrinks where they are negative."""
    pads, shape = node.ints("pads"), inputs[0].shape
    return [TensorSpec(tuple(size + pads[i] + pads[i + len(shape)] for i, size in enumerate(shape)), inputs[0].dtype)]


def resize(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """The sizes asked for, or the input's times the scales, rounded down."""
    shape = inputs[0].shape
    given = dict(node.attrs)
    out = (
        node.ints("sizes")
        if "sizes" in given
        else tuple(floor(size * scale) for size, scale in zip(shape, node.attr("scales"), strict=True))
    )
    if len(out) != len(shape):
        raise GraphError(f"'sizes' needs {len(shape)} values")
    return [TensorSpec(tuple(out), inputs[0].dtype)]


def cast(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """The same shape in another element type."""
    return [TensorSpec(inputs[0].shape, str(node.attr("to")))]


def expand(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """The shape asked for, which `canonical` has broadcast already."""
    return [TensorSpec(node.ints("shape"), inputs[0].dtype)]


def tile(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """Every dimension times its repeats."""
    return [TensorSpec(tuple(size * many for size, many in zip(inputs[0].shape, node.ints("repeats"), strict=True)), inputs[0].dtype)]


def col2im(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """[N, C block, windows] gives [N, C, image...]: every window is added into the image at its place."""
    n, rows, windows = inputs[0].shape
    image, block = node.ints("image_shape"), node.ints("block_shape")
    strides, dilations, pads = node.ints("strides"), node.ints("dilations"), node.ints("pads")
    rank = len(image)
    counts = [window_output(image[i], block[i], strides[i], dilations[i], pads[i] + pads[i + rank]) for i in range(rank)]
    if rows % prod(block) or windows != prod(counts):
        raise GraphError(f"{rows} rows and {windows} windows do not make an image {list(image)} of blocks {list(block)}")
    return [TensorSpec((n, rows // prod(block), *image), inputs[0].dtype)]


def depth_to_space(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """[N, C b b, H, W] gives [N, C, H b, W b]."""
    (n, c, h, w), block = inputs[0].shape, int(node.attr("blocksize"))
    if c % block**2:
        raise GraphError(f"{c} channels do not divide into blocks of {block} x {block}")
    return [TensorSpec((n, c // block**2, h * block, w * block), inputs[0].dtype)]


def space_to_depth(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """[N, C, H b, W b] gives [N, C b b, H, W]."""
    (n, c, h, w), block = inputs[0].shape, int(node.attr("blocksize"))
    if h % block or w % block:
        raise GraphError(f"{h} x {w} does not divide into blocks of {block} x {block}")
    return [TensorSpec((n, c * block**2, h // block, w // block), inputs[0].dtype)]


def grid_sample(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """[N, C, spatial...] looked up at a grid [N, points..., spatial rank] gives [N, C, points...]."""
    data, (batch, *points, rank) = inputs[0].shape, inputs[1].shape
    if batch != data[0] or not len(data) - 2 == len(points) == rank:
        raise GraphError(f"a grid of shape {list(inputs[1].shape)} does not fit {list(data)}")
    return [TensorSpec((*data[:2], *points), inputs[0].dtype)]


def dft(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """[..., 1 or 2] (real, or real and imaginary parts) gives [..., 2], its axis as long as asked for, or about half where one-sided."""
    shape = list(inputs[0].shape)
    axis, length = int(node.attr("axis")), int(node.attr("dft_length"))
    if shape[-1] not in (1, 2) or axis == len(shape) - 1:
        raise GraphError(f"its last dimension holds real and imaginary parts: it is 1 or 2 and not transformed, got {shape[-1]}")
    if node.attr("onesided") and node.attr("inverse"):
        raise GraphError("a one-sided inverse is not supported")
    shape[axis], shape[-1] = length // 2 + 1 if node.attr("onesided") else length, 2
    return [TensorSpec(tuple(shape), inputs[0].dtype)]


def matrices(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """Matrices stay as they are."""
    if len(inputs[0].shape) < 2:
        raise GraphError("it takes matrices")
    return [inputs[0]]
