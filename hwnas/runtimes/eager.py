"""The kernels of eager execution, as PyTorch runs a network without compiling it: every node that computes is one of its own.

Nothing is fused or folded. What only changes how its input is seen launches nothing: reshapes, transposes, slices. A reshape of what is no
longer contiguous copies it.
"""

from __future__ import annotations

from hwnas.ir import Graph, KernelCall
from hwnas.ir.cost import VIEWS
from hwnas.ir.kernel import make_call

STRIDED = frozenset({"Expand", "Slice", "Split", "Transpose"})  # views whose elements are not where a copy would have them


def fuse(graph: Graph, _: object = None) -> tuple[KernelCall, ...]:
    """The kernels of a graph, in an order in which they can run.

    Args:
        graph: the network; weights may still be recipes.
        _: what the runtime fuses, which is nothing.
    """
    strided: set[str] = set()
    calls = []
    for node in graph.nodes:
        if graph.constants.issuperset(node.outputs):
            continue
        data = node.inputs[0] if node.inputs else ""
        if node.op in STRIDED:
            strided.update(node.outputs)
        elif node.op in VIEWS and (node.op == "Identity" or data not in strided):
            if data in strided:
                strided.update(node.outputs)
        else:
            calls.append(make_call(graph, [node], op=node.op))
    return tuple(calls) or tuple(make_call(graph, [node], op=node.op) for node in graph.nodes[-1:])
