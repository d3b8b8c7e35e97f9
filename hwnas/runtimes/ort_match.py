"""Finds a foretold optimised graph in the one that ONNX Runtime made: which of its nodes is which of ours.

Both are walked in the order in which they run. A node of the runtime's is the one of ours that has its operator and reads the values
that correspond; among several of those, the one whose output is read in the same way, as far down as the first value that has kept
its name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hwnas.ir import KernelCall
from hwnas.runtimes.ort_cleanup import DEFINITIONS
from hwnas.runtimes.ort_fusion import PlannedNode

NCHWC_DOMAIN = "com.microsoft.nchwc"
FUSED_NAMES = {"FusedConv": "Conv", "FusedGemm": "Gemm"}  # an activation absorbed is a matter of attributes
_INLINED = re.compile(r"_inlfunc_([A-Za-z]+)_")  # values inside an operator that the runtime replaced by its definition


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What matching came to.

    Attributes:
        calls: the kernel of every node of the runtime's that was found, by its name.
        missing: operators of the runtime's nodes that have no counterpart here.
        surplus: nodes of ours that have no counterpart there.
    """

    calls: Mapping[str, KernelCall]
    missing: tuple[str, ...]
    surplus: tuple[PlannedNode, ...]

    @property
    def whole(self) -> bool:
        """Whether each node has exactly one counterpart."""
        return not self.missing and not self.surplus


@dataclass(slots=True, eq=False)
class _Node:
    """A node of either graph: its operator, and the values that it reads (constants left out) and writes."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    names: tuple[str, ...] = ()
    call: KernelCall | None = None
    planned: PlannedNode | None = None


def match(plan: Sequence[PlannedNode], nodes: Mapping[str, Any], initializers: Iterable[str]) -> Found:
    """Matches a plan with the nodes of an optimised model.

    Args:
        plan: `ort_fusion.plan` of the graph.
        nodes: the model's nodes by name, in an order in which they run.
        initializers: names of the model's constants.
    """
    ours = _ours(plan)
    theirs = _theirs(nodes, frozenset(initializers))
    shared = {value for node in ours for value in node.outputs} & {value for node in theirs for value in node.outputs}
    our_signs, their_signs = _signs(ours, shared), _signs(theirs, shared)
    waiting: dict[object, list[_Node]] = defaultdict(list)
    for node in ours:
        waiting[node.op, tuple(sorted(node.inputs)), tuple(our_signs[value] for value in node.outputs)].append(node)
    same: dict[str, str] = {}
    calls: dict[str, KernelCall] = {}
    missing = []
    for node in theirs:
        key = node.op, tuple(sorted(same.get(value, value) for value in node.inputs)), tuple(their_signs[value] for value in node.outputs)
        candidates = waiting.get(key)
        if not candidates:
            missing.append(node.op)
            continue
        ours_too = candidates.pop(0)
        same.update(zip(node.outputs, ours_too.outputs, strict=False))
        if ours_too.call is not None:
            calls.update(dict.fromkeys(node.names, ours_too.call))
    surplus = tuple(node.planned for left in waiting.values() for node in left if node.planned is not None)
    return Found(calls=calls, missing=tuple(missing), surplus=surplus)


def _ours(plan: Sequence[PlannedNode]) -> list[_Node]:
    nodes = []
    for planned in plan:
        inputs = planned.inputs
        tagged = planned.call.kernel.layout != "nchw" and planned.op == planned.call.kernel.op
        op = "Conv" if tagged and planned.op in ("BatchNormalization", "Mul") else planned.op
        nodes.append(_Node(f"{op} in blocks" if tagged else op, inputs, planned.outputs, call=planned.call, planned=planned))
    return nodes


def _theirs(nodes: Mapping[str, Any], initializers: frozenset[str]) -> list[_Node]:
    found: list[_Node] = []
    groups: dict[str, _Node] = {}  # a value inside a definition -> the node that stands for all of it
    for name, proto in nodes.items():
        inputs = tuple(value for value in proto.input if value and value not in initializers)
        outputs = tuple(value for value in proto.output if value)
        inside = [value for value in (*outputs, *inputs) if _is_inside(value)]
        if not inside:
            op = FUSED_NAMES.get(proto.op_type, proto.op_type)
            tagged = proto.domain == NCHWC_DOMAIN
            found.append(_Node(f"{op} in blocks" if tagged else op, inputs, outputs, (name,)))
            continue
        parts = list({id(groups[value]): groups[value] for value in inputs if value in groups}.values())
        definition = _INLINED.match(inside[0])
        group = _Node(definition[1] if definition else "", (), (), (*(name for part in parts for name in part.names), name))
        reads = dict.fromkeys(value for part in parts for value in part.inputs)
        group.inputs = tuple(reads | dict.fromkeys(value for value in inputs if not _is_inside(value)))
        group.outputs = tuple(value for value in outputs if not _is_inside(value))
        groups.update((value, group) for value, part in list(groups.items()) if part in parts)
        groups.update((value, group) for value in outputs if _is_inside(value))  # what it writes outside is for others to read
        found = [*(node for node in found if node not in parts), group]
    return found


def _is_inside(value: str) -> bool:
    """Whether a value belongs to a definition that is foretold as one node."""
    found = _INLINED.match(value)
    return found is not None and found[1] not in DEFINITIONS


def _signs(nodes: Sequence[_Node], shared: set[str]) -> dict[str, object]:
    """How each value is read: its name where both graphs know it, else a number that stands for the readers and what becomes of them."""
    readers: dict[str, list[tuple[_Node, int]]] = defaultdict(list)
    for node in nodes:
        for position, value in enumerate(node.inputs):
            readers[value].append((node, position))
    signs: dict[str, object] = {}
    for node in reversed(nodes):
        for value in node.outputs:
            if value in shared:
                signs[value] = value
            else:
                signs[value] = hash(tuple(sorted(hash((r.op, i, tuple(signs[v] for v in r.outputs))) for r, i in readers[value])))
    return signs
