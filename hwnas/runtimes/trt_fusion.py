"""Which kernels TensorRT makes of a graph, foretold on a machine without the card. Approximate.

TensorRT times alternatives when it builds an engine, so what it fuses depends on the card and the version. Foretold is what its developer
guide says of layer fusion, as far as that is a rule: a convolution with its normalisation, a residual that is added in place, and
element-wise operators of one input after it; a fully connected layer with its bias and activation; chains of element-wise operators;
reshapes cost nothing. Copies into other layouts, blocks that are compiled as a whole and attention in one kernel are not foretold. A
profile of a real card holds the kernels that the card really ran.
"""

from __future__ import annotations

from functools import partial

from hwnas.ir import Graph, KernelCall, Node
from hwnas.ir.cost import VIEWS
from hwnas.runtimes.fusions import Fusions
from hwnas.runtimes.trt_kernels import PRODUCTS, kernel_of
from hwnas.runtimes.trt_precision import FIXED

_ELEMENTWISE = frozenset(
    {
        "Abs",
        "Add",
        "Ceil",
        "Clip",
        "Div",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Log",
        "Max",
        "Min",
        "Mish",
        "Mul",
        "Neg",
        "PRelu",
        "Pow",
        "Reciprocal",
        "Relu",
        "Round",
        "Selu",
        "Sigmoid",
        "Sin",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Sub",
        "Sum",
        "Tanh",
        "Where",
    }
)
_IN_PLACE = frozenset({"Add", "Sum"})


def fuse(graph: Graph, _: Fusions | int = 0, *, precision: str = "fp32") -> tuple[KernelCall, ...]:
    """The kernels of a graph, in an order in which they can run.

    Args:
        graph: the network; weights may still be recipes.
        _: what ONNX Runtime fuses, which says nothing here.
        precision: `int8` is that of products with constant weights, and the others compute in fp16.
    """
    found: list[list[Node]] = []
    group_of: dict[str, int] = {}  # node -> its group
    for node in graph.nodes:
        if graph.constants.issuperset(node.outputs):
            continue
        place = _joins(graph, node, found, group_of)
        if place is None:
            place = len(found)
            found.append([])
        found[place].append(node)
        group_of[node.name] = place
    groups = _with_views(graph, found, group_of)
    return tuple(_kernel(graph, members, precision) for members in groups if members)


def _joins(graph: Graph, node: Node, found: list[list[Node]], group_of: dict[str, int]) -> int | None:
    """The group that a node is fused into: the last one that writes for it, so that all it reads is there when that runs."""
    writers = [graph.producers[value] for value in node.inputs if value in graph.producers and value not in graph.constants]
    if not writers:
        return None
    places = [group_of[writer.name] for writer in writers]
    place = max(places)
    writer = writers[places.index(place)]
    lead = _lead(found[place])
    alone = all(len(graph.consumers.get(value, ())) <= 1 and value not in graph.outputs for value in writer.outputs)
    if not alone or writer is not found[place][-1]:
        return None
    if node.op == "BatchNormalization":
        return place if lead.op in ("Conv", "ConvTranspose", "Gemm") and len(found[place]) == 1 else None
    if node.op not in _ELEMENTWISE or lead.op not in PRODUCTS | _ELEMENTWISE:
        return None
    if lead.op in PRODUCTS and len(writers) > 1:  # a residual: TensorRT adds one of the same shape in place
        same = all(graph.specs[value] == graph.specs[node.outputs[0]] for value in node.inputs)
        return (
            place
            if node.op in _IN_PLACE and same and not any(one.op in _IN_PLACE and _dynamic(graph, one) for one in found[place])
            else None
        )
    return place


def _lead(members: list[Node]) -> Node:
    return next((node for node in members if node.op in PRODUCTS), members[0])


def _dynamic(graph: Graph, node: Node) -> bool:
    return all(value not in graph.constants for value in node.inputs)


def _with_views(graph: Graph, found: list[list[Node]], group_of: dict[str, int]) -> list[list[Node]]:
    """Views and copies of a value go to the kernel that reads them, else to the one that wrote it."""
    groups = [list(members) for members in found]
    for place in reversed(range(len(groups))):
        (node, *others) = groups[place]
        if others or node.op not in VIEWS | {"Identity"}:
            continue
        readers = [group_of[reader.name] for reader in graph.consumers.get(node.outputs[0], ())]
        writers = [group_of[graph.producers[value].name] for value in node.inputs if value in graph.producers]
        target = min(readers, default=max(writers, default=place))
        if target != place:
            groups[target].append(node)
            groups[place] = []
            group_of[node.name] = target
            group_of.update((name, target) for name, group in list(group_of.items()) if group == place)
    return groups


def _kernel(graph: Graph, members: list[Node], precision: str) -> KernelCall:
    names = [node.name for node in members if node.op != "Identity"] or [members[-1].name]
    return kernel_of(graph, names, _narrowed(graph, members, precision))


def _narrowed(graph: Graph, members: list[Node], precision: str) -> str:
    lead = _lead(members)
    if precision == "fp32" or lead.op in FIXED:
        return "fp32"
    if precision != "int8":
        return precision
    weighted = lead.op in ("Conv", "Gemm", "MatMul") and len(lead.inputs) > 1 and lead.inputs[1] in graph.weights
    return "int8" if weighted else "fp16"


FUSERS = {precision: partial(fuse, precision=precision) for precision in ("fp32", "fp16", "int8")}
"""By the precision that a network is profiled in."""
