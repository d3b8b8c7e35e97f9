"""Where a network has the work that a custom kernel does.

A match owns its nodes: values inside it are read by nobody else. Where an optional part does not fit, the match is the smaller one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isclose

from hwnas.ir import Graph, Node
from hwnas.kernels.source import Attrs, Case

VIEWS = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
Activated = tuple[str, tuple[Node, ...]]  # what a value becomes, by which nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A place in a network that a kernel can compute.

    Attributes:
        kernel: its name.
        case: the sizes and attributes there.
        nodes: names of the nodes that it replaces, in graph order.
        output: the value that it writes last.
    """

    kernel: str
    case: Case
    nodes: tuple[str, ...]
    output: str


def matches(graph: Graph) -> tuple[Match, ...]:
    """All places of all kernels, in graph order; no node stands in two."""
    found: list[Match] = []
    taken: set[str] = set()
    for node in graph.nodes:
        matcher = _MATCHERS.get(node.op)
        match = matcher(graph, node) if matcher is not None and node.name not in taken else None
        if match is not None and taken.isdisjoint(match.nodes):
            found.append(match)
            taken.update(match.nodes)
    return tuple(found)


def _made(graph: Graph, kernel: str, nodes: list[Node], shapes: Mapping[str, tuple[int, ...]], attrs: Attrs) -> Match:
    ordered = sorted(nodes, key=lambda node: graph.positions[node.name])
    sizes = (shapes["x"], shapes.get("weight", ())[2:], shapes.get("reduce", ())[:1])  # the image, the window, the hidden layer
    text = ", ".join("x".join(str(size) for size in shape) for shape in sizes if shape)
    case = Case(name=text, shapes=shapes, attrs=attrs)
    return Match(kernel=kernel, case=case, nodes=tuple(node.name for node in ordered), output=ordered[-1].outputs[0])


def _readers(graph: Graph, value: str) -> tuple[Node, ...]:
    """The nodes that read a value; none where the network returns it, since it then has to be written."""
    return () if value in graph.outputs else graph.consumers.get(value, ())


def _reader(graph: Graph, value: str, *ops: str) -> Node | None:
    """The only node that reads a value, where it is one of these operators."""
    readers = _readers(graph, value)
    return readers[0] if len(readers) == 1 and readers[0].op in ops else None


def _constant(graph: Graph, node: Node, *positions: int) -> bool:
    return all(len(node.inputs) <= i or not node.inputs[i] or node.inputs[i] in graph.constants for i in positions)


def _is_hard_sigmoid(node: Node) -> bool:
    return node.op == "HardSigmoid" and isclose(node.attr("alpha"), 1 / 6, rel_tol=1e-3) and isclose(node.attr("beta"), 0.5)


def _activation(graph: Graph, value: str) -> Activated:
    """The activation behind a value and its nodes; `none` where there is none that is known."""
    readers = _readers(graph, value)
    if len(readers) == 1:
        node = readers[0]
        if node.op == "Relu":
            return "relu", (node,)
        if node.op == "HardSwish":
            return "hardswish", (node,)
        if node.op == "Clip" and node.attr("min") == 0 and node.attr("max") == 6:
            return "relu6", (node,)
    if len(readers) == 2:
        gate = next((node for node in readers if node.op == "Sigmoid" or _is_hard_sigmoid(node)), None)
        product = gate and _reader(graph, gate.outputs[0], "Mul")
        if gate and product and product in readers and set(product.inputs) == {value, gate.outputs[0]}:
            return ("silu" if gate.op == "Sigmoid" else "hardswish"), (gate, product)
    return "none", ()


def _residual(graph: Graph, value: str) -> tuple[Node, str] | None:
    """The addition of another activation of the same shape, and that activation."""
    node = _reader(graph, value, "Add")
    if node is None or len(set(node.inputs)) < 2:
        return None
    other = next(name for name in node.inputs if name != value)
    same = graph.specs[other].shape == graph.specs[value].shape
    return (node, other) if same and other not in graph.constants else None


def _depthwise(graph: Graph, conv: Node) -> Match | None:
    x, weight = graph.specs[conv.inputs[0]].shape, graph.specs[conv.inputs[1]].shape
    pads, strides = conv.ints("pads"), conv.ints("strides")
    simple = len(x) == 4 and weight == (x[1], 1, weight[-1], weight[-1]) and conv.attr("group") == x[1] > 1
    if not simple or len({*pads}) > 1 or len({*strides}) > 1 or set(conv.ints("dilations")) != {1} or not _constant(graph, conv, 1, 2):
        return None
    nodes, value, add, other = [conv], conv.outputs[0], "none", None
    norm = _reader(graph, value, "BatchNormalization")
    if norm is not None and norm.inputs[0] == value and _constant(graph, norm, 1, 2, 3, 4):
        nodes.append(norm)
        value = norm.outputs[0]
    residual = _residual(graph, value)
    if residual is not None:
        nodes.append(residual[0])
        value, add, other = residual[0].outputs[0], "before", residual[1]
    activation, more = _activation(graph, value)
    if add == "before" and activation == "none":
        add = "after"
    nodes.extend(more)
    value = nodes[-1].outputs[0]
    if add == "none" and activation != "none" and (residual := _residual(graph, value)) is not None:
        nodes.append(residual[0])
        add, other = "after", residual[1]
    shapes = {"x": x, "weight": weight, "bias": (x[1],)}
    if other is not None:
        shapes["residual"] = graph.specs[other].shape
    attrs: Attrs = {"stride": strides[0], "pad": pads[0], "activation": activation, "add": add}
    return _made(graph, "depthwise_conv", nodes, shapes, attrs)


def _after_views(graph: Graph, value: str, *ops: str) -> tuple[list[Node], Node] | None:
    """The only reader of a value that is one of these operators, and the nodes between that only see the value in another shape."""
    views: list[Node] = []
    while (node := _reader(graph, value, *VIEWS, *ops)) is not None and node.op in VIEWS:
        views.append(node)
        value = node.outputs[0]
    return (views, node) if node is not None and value in node.inputs else None


def _dense(graph: Graph, value: str) -> tuple[list[Node], int] | None:
    """A fully connected layer over the channels of [N, C, 1, 1] or [N, C]: its nodes, itself last, and its width."""
    found = _after_views(graph, value, "Conv", "Gemm")
    if found is None:
        return None
    views, node = found
    if node.inputs[0] != (views[-1].outputs[0] if views else value) or not _constant(graph, node, 1, 2):
        return None
    weight = graph.specs[node.inputs[1]].shape
    plain = weight[2:] == (1, 1) and node.attr("group") == 1 if node.op == "Conv" else not node.attr("transA")
    return ([*views, node], graph.specs[node.outputs[0]].shape[1]) if plain else None


def _squeeze_excite(graph: Graph, pool: Node) -> Match | None:
    x = pool.inputs[0]
    shape = graph.specs[x].shape
    if len(shape) != 4 or (pool.op == "ReduceMean" and set(pool.ints("axes")) != {2, 3}):
        return None
    reduced = _dense(graph, pool.outputs[0])
    if reduced is None:
        return None
    nodes = [pool, *reduced[0]]
    activation, more = _activation(graph, nodes[-1].outputs[0])
    expanded = _dense(graph, more[-1].outputs[0]) if activation in ("relu", "silu") else None
    if expanded is None or expanded[1] != shape[1]:
        return None
    nodes += [*more, *expanded[0]]
    gated = _after_views(graph, nodes[-1].outputs[0], "Sigmoid", "HardSigmoid")
    if gated is None or (gated[1].op == "HardSigmoid" and not _is_hard_sigmoid(gated[1])):
        return None
    gate = gated[1]
    nodes += [*gated[0], gate]
    scaled = _after_views(graph, gate.outputs[0], "Mul")
    if scaled is None or x not in scaled[1].inputs:
        return None
    nodes += scaled[0]
    if graph.specs[nodes[-1].outputs[0]].shape != (*shape[:2], 1, 1):
        return None
    channels, hidden = shape[1], reduced[1]
    shapes = {"x": shape, "reduce": (hidden, channels), "reduce_bias": (hidden,), "expand": (channels, hidden), "expand_bias": (channels,)}
    attrs: Attrs = {"activation": activation, "gate": "sigmoid" if gate.op == "Sigmoid" else "hardsigmoid"}
    return _made(graph, "squeeze_excite", [*nodes, scaled[1]], shapes, attrs)


def _layer_norm(graph: Graph, add: Node) -> Match | None:
    """An addition whose sum is normalised over the last axis; others may read the sum, which the kernel writes."""
    total = graph.specs[add.outputs[0]].shape
    if len(total) < 2 or any(value in graph.constants or graph.specs[value].shape != total for value in add.inputs):
        return None
    norm = next((node for node in graph.consumers.get(add.outputs[0], ()) if node.op == "LayerNormalization"), None)
    if (
        norm is None
        or norm.inputs[0] != add.outputs[0]
        or norm.attr("axis") not in (-1, len(total) - 1)
        or not _constant(graph, norm, 1, 2)
    ):
        return None
    shapes = {"x": total, "residual": total, "weight": total[-1:], "bias": total[-1:]}
    return _made(graph, "layer_norm_residual", [add, norm], shapes, {"epsilon": float(norm.attr("epsilon"))})


_MATCHERS: Mapping[str, Callable[[Graph, Node], Match | None]] = {
    "Conv": _depthwise,
    "GlobalAveragePool": _squeeze_excite,
    "ReduceMean": _squeeze_excite,
    "Add": _layer_norm,
}
