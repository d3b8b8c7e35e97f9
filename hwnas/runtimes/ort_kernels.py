"""Which kernels ONNX Runtime made of a graph: its optimised graph, read back in terms of the graph that went in.

The optimiser renames as it fuses, by rules that hold from version to version: a blocked (NCHWc) operator is called after the
value that it wrote when it was made, a re-ordered value keeps its name on the plain side, and an operator that stays keeps its
own name. What a blocked convolution absorbed later shows in its fourth input (a residual) and its attribute `activation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hwnas.errors import GraphError
from hwnas.ir import Graph, Kernel, KernelCall, Node
from hwnas.ir.kernel import make_call, members_of

NCHWC_DOMAIN = "com.microsoft.nchwc"
NCHWC_SUFFIX = "_nchwc"
RESIDUAL_INPUT = 3
REORDERS = ("ReorderInput", "ReorderOutput")
RENAMED = {"FusedConv": "Conv", "FusedGemm": "Gemm", "FusedMatMul": "MatMul"}


def attribute(graph: Graph, optimized: Any, block: int) -> dict[str, KernelCall]:
    """The kernels of an optimised model by the name of their node in it, each with the graph nodes that it computes.

    Args:
        graph: what was built.
        optimized: the `onnx.ModelProto` that ONNX Runtime wrote.
        block: channels per block of its blocked layout.

    Raises:
        GraphError: a node of the optimised model cannot be traced back to the graph.
    """
    readers: dict[str, list[Any]] = {}
    for node in optimized.graph.node:
        for value in node.input:
            readers.setdefault(value, []).append(node)
    blocked = f"nchwc{block}"
    owned: set[str] = set()
    calls: dict[str, KernelCall] = {}
    aliases: dict[str, str] = {}  # a value of the optimised model -> the graph's value that it holds
    by_name = {node.name: node for node in graph.nodes}
    reorders: list[tuple[Any, str]] = []
    for node in optimized.graph.node:
        if node.op_type in REORDERS:
            value = aliases.get(node.input[0], node.input[0])
            aliases[node.output[0]] = value
            reorders.append((node, value))
            continue
        value = _written(node, graph, by_name)
        aliases[node.output[0]] = value
        members = members_of(graph, value, owned)
        if not members:
            raise GraphError(
                f"ONNX Runtime's node '{node.name}' ({node.op_type}) computes nothing of graph '{graph.name}' that others do not"
            )
        owned.update(member.name for member in members)
        op = RENAMED.get(node.op_type, node.op_type)
        calls[node.name] = make_call(graph, members, op=op, layout=blocked if node.domain == NCHWC_DOMAIN else "nchw")
    for node, value in reorders:
        spec = graph.specs[value]
        cause = next((reader for reader in readers.get(node.output[0], ()) if reader.name in calls), None)
        owner = calls[cause.name].nodes if cause is not None else (graph.producers[value].name,)
        kernel = Kernel(op=node.op_type, inputs=(spec,), outputs=(spec,), layout=blocked)
        calls[node.name] = KernelCall(kernel=kernel, nodes=owner, output=value)
    return calls


def _absorbed_later(node: Any, graph: Graph, value: str) -> str:
    """What a blocked node writes in the end, from what it wrote when it was made."""
    activation = next((attribute.s.decode() for attribute in node.attribute if attribute.name == "activation"), "")
    residual = len(node.input) > RESIDUAL_INPUT and bool(node.input[RESIDUAL_INPUT])
    for op, absorbed in (("Add", residual), (activation, bool(activation))):
        if absorbed and graph.producers[value].op != op:
            readers = [reader for reader in graph.consumers.get(value, ()) if reader.op == op]
            value = readers[0].outputs[0] if readers else value
    return value


def _written(node: Any, graph: Graph, by_name: Mapping[str, Node]) -> str:
    if node.name.endswith(NCHWC_SUFFIX) and node.name.removesuffix(NCHWC_SUFFIX) in graph.producers:
        return _absorbed_later(node, graph, str(node.name.removesuffix(NCHWC_SUFFIX)))
    if node.output[0] in graph.producers:
        return str(node.output[0])
    original = by_name.get(node.name) or by_name.get(node.name.split("/", 1)[0])
    if original is None:
        raise GraphError(f"ONNX Runtime's node '{node.name}' ({node.op_type}) does not correspond to a node of graph '{graph.name}'")
    return original.outputs[0]
