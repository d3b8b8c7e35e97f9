"""The kernels that ONNX Runtime will make of a graph on a CPU, told without asking it.

A search looks at far more networks than it could build. These are the optimiser's rules at ENABLE_ALL, as its optimised
graphs show them: a convolution absorbs the batch normalisation after it, one activation and a residual Add; convolutions and
pools work in a blocked layout (NCHWc), element-wise operators stay in it while all they read is in it, and a value that is
needed in the other layout is re-ordered once. A test holds the result equal to the runtime's own list.

Not told: what it makes of operators that convolutional networks rarely have (a Transpose into a MatMul, MatMul and Add into Gemm,
Gelu and LayerNormalization spelled out, an Add before a LayerNormalization, Resize in the blocked layout), constants multiplied into
a convolution, and two nodes that compute the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

from hwnas.ir import Graph, Kernel, KernelCall, Node
from hwnas.ir.kernel import copied, make_call, members_of

CONV_ACTIVATIONS = frozenset({"Relu", "Sigmoid", "Tanh", "LeakyRelu", "Clip", "HardSigmoid"})
GEMM_ACTIVATIONS = frozenset({"Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "Elu", "Selu", "Softplus", "Softsign"})
BLOCKED_UNARY = frozenset({"Relu", "Sigmoid", "Tanh", "Gelu", "QuickGelu", "HardSigmoid", "HardSwish"})
LATE_ACTIVATIONS = frozenset({"Relu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish"})  # absorbed when the layout is blocked already
REORDER_UNIT = 4  # channels that a layout reorder moves at a time
POOLS = frozenset({"MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"})
TAGGED = POOLS | {"Conv", "BatchNormalization"}  # kernels that differ between the layouts; element-wise ones are the same


@dataclass(slots=True)
class _Group:
    """A kernel in the making: what leads it, the last node that it has absorbed, its layout, whether it can absorb an Add."""

    op: str
    tail: Node
    blocked: bool
    takes_add: bool = False


def _reduced(graph: Graph) -> Graph:
    """The graph without the nodes that go before any are fused: constants, copies, and a Relu that a Clip covers.

    A copy that is an output of the network passes its name to what it copies, and stays where either is read elsewhere.
    """
    sources: dict[str, str] = {}
    kept: list[Node] = []
    for node in graph.nodes:
        if graph.constants.issuperset(node.outputs):
            continue
        inputs = tuple(sources.get(value, value) for value in node.inputs)
        if (node.op == "Identity" and node.outputs[0] not in graph.outputs) or (node.op == "Relu" and _clipped(graph, node.outputs[0])):
            sources[node.outputs[0]] = inputs[0]
        else:
            kept.append(node if inputs == node.inputs else replace(node, inputs=inputs))
    copies = [(node.inputs[0], node.outputs[0]) for node in kept if node.op == "Identity"]
    if len(kept) == len(graph.nodes) and not copies:
        return graph
    reads = Counter([*graph.outputs, *(value for node in kept for value in dict.fromkeys(node.inputs))])
    written = {value for node in kept for value in node.outputs}
    names = {value: copy for value, copy in copies if value in written and reads[value] == reads[copy] == 1}
    gone = set(names.values())
    rest = (node for node in kept if not (node.op == "Identity" and node.outputs[0] in gone))
    return replace(graph, nodes=tuple(replace(node, outputs=tuple(names.get(value, value) for value in node.outputs)) for node in rest))


def _clipped(graph: Graph, value: str) -> bool:
    """Whether a Clip alone reads a value, at most copies and Relus between them."""
    readers = graph.consumers.get(value, ())
    if len(readers) != 1 or value in graph.outputs:
        return False
    return readers[0].op == "Clip" or (readers[0].op in ("Identity", "Relu") and _clipped(graph, readers[0].outputs[0]))


class _Fusion:
    def __init__(self, original: Graph, block: int) -> None:
        self.original = original
        self.constants = original.constants
        self.graph = _reduced(original)
        self.block = block
        self.position = original.positions
        self.groups: list[_Group] = []
        self.by_tail: dict[str, _Group] = {}  # value -> the group that writes it
        self.absorbed: set[str] = set()
        self.to_blocked: dict[str, str] = {}  # value -> first node that needs it re-ordered
        self.to_plain: dict[str, str] = {}

    def only_reader(self, value: str) -> Node | None:
        """The node that reads a value, where exactly one does and the value is no output of the network."""
        readers = self.graph.consumers.get(value, ())
        if len(readers) != 1 or value in self.graph.outputs or readers[0].inputs.count(value) != 1:
            return None
        return readers[0]

    def is_blocked(self, value: str) -> bool:
        group = self.by_tail.get(value)
        return group is not None and group.blocked

    def need(self, node: Node, *, blocked: bool, values: Sequence[str]) -> None:
        """Notes re-orders for what a node reads in the other layout."""
        for value in values:
            if value in self.constants or self.is_blocked(value) == blocked:
                continue
            (self.to_blocked if blocked else self.to_plain).setdefault(value, node.name)

    def start(self, op: str, node: Node, *, blocked: bool) -> _Group:
        group = _Group(op=op, tail=node, blocked=blocked)
        self.groups.append(group)
        self.by_tail[node.outputs[0]] = group
        for value in node.outputs[1:]:
            self.by_tail[value] = group
        return group

    def extend(self, group: _Group, node: Node) -> None:
        del self.by_tail[group.tail.outputs[0]]
        group.tail = node
        self.by_tail[node.outputs[0]] = group
        self.absorbed.add(node.name)

    def blocked_conv(self, node: Node) -> bool:
        graph, block = self.graph, self.block
        if block == 1 or node.op != "Conv" or node.inputs[1] not in self.constants:
            return False
        out_channels, group_channels, *window = graph.specs[node.inputs[1]].shape
        group = int(node.attr("group"))
        if len(window) != 2 or graph.specs[node.inputs[0]].dtype != "float32":
            return False
        if group == 1:
            return group_channels < block or group_channels % REORDER_UNIT == 0
        if out_channels % REORDER_UNIT:
            return False
        if group_channels == 1 and out_channels == group:
            return True
        return group_channels % block == 0 and (out_channels // group) % block == 0

    def conv(self, node: Node) -> None:
        blocked = self.blocked_conv(node)
        channels = self.graph.specs[node.inputs[0]].shape[1]
        direct = int(node.attr("group")) == 1 and channels < self.block  # few channels are read in plain layout
        self.need(node, blocked=blocked and not direct, values=node.inputs[:1])
        group = self.start("Conv", node, blocked=blocked)
        biased = self.normalize(group) or len(node.inputs) > 2
        group.takes_add = blocked or biased
        self.activate(group, CONV_ACTIVATIONS | LATE_ACTIVATIONS if blocked else CONV_ACTIVATIONS)

    def normalize(self, group: _Group) -> bool:
        """Folds the batch normalisations after a convolution into its weights; whether there are any."""
        if group.tail.inputs[1] not in self.constants:
            return False
        before = group.tail
        while (reader := self.only_reader(group.tail.outputs[0])) is not None and reader.op == "BatchNormalization":
            self.extend(group, reader)
        return group.tail is not before

    def activate(self, group: _Group, ops: Set[str]) -> None:
        """Lets a convolution absorb the activation after it, if it is one of these."""
        reader = self.only_reader(group.tail.outputs[0])
        if reader is not None and reader.op in ops and not (reader.op == "HardSwish" and reader.outputs[0] in self.graph.outputs):
            self.extend(group, reader)
            group.takes_add = False

    def swish(self, node: Node) -> Node | None:
        """The Mul that makes a sigmoid a swish, x * sigmoid(x)."""
        reader = self.only_reader(node.outputs[0])
        if node.op == "Sigmoid" and reader is not None and reader.op == "Mul" and node.inputs[0] in reader.inputs:
            return reader
        return None

    def add(self, node: Node) -> bool:
        """Lets a convolution of the layout of what it adds absorb an Add, and the activation after it."""
        values = node.inputs
        blocked = all(self.is_blocked(value) for value in values)
        if len({self.graph.specs[value].shape for value in values}) != 1:
            return False
        for value in values:
            group = self.by_tail.get(value)
            if group is not None and group.takes_add and group.blocked == blocked and self.only_reader(value) is node:
                self.need(node, blocked=blocked, values=values)
                self.extend(group, node)
                group.takes_add = False
                self.activate(group, LATE_ACTIVATIONS if blocked else CONV_ACTIVATIONS)
                return True
        return False

    def stays_blocked(self, node: Node) -> bool:
        values = [value for value in node.inputs if value]
        if not all(self.is_blocked(value) for value in values):
            return False
        specs = [self.graph.specs[value] for value in values]
        if node.op in BLOCKED_UNARY:
            return True
        if node.op in ("Add", "Mul"):
            return len({spec.shape for spec in specs}) == 1
        if node.op == "Concat":
            return node.attr("axis") == 1 and all(spec.shape[1] % self.block == 0 for spec in specs)
        return False

    def visit(self, node: Node) -> None:
        if node.op == "Conv":
            self.conv(node)
            return
        if node.op == "ConvTranspose":
            self.need(node, blocked=False, values=node.inputs[:1])
            self.normalize(self.start(node.op, node, blocked=False))
            return
        if node.op in POOLS:
            shape = self.graph.specs[node.inputs[0]].shape
            whole = node.op.startswith("Global")
            eager = not whole or node.inputs[0] in self.graph.inputs  # a global pool of a plain value inside the network stays plain
            blocked = self.block > 1 and len(shape) == 4 and shape[1] % self.block == 0 and (eager or self.is_blocked(node.inputs[0]))
            self.need(node, blocked=blocked, values=node.inputs)
            self.start(node.op, node, blocked=blocked)
            return
        if node.op == "Gemm":
            self.need(node, blocked=False, values=node.inputs)
            group = self.start("Gemm", node, blocked=False)
            reader = self.only_reader(node.outputs[0])
            if reader is not None and reader.op in GEMM_ACTIVATIONS:
                self.extend(group, reader)
            return
        mul = self.swish(node)
        if mul is not None:
            blocked = self.is_blocked(node.inputs[0])
            self.extend(self.start("QuickGelu", node, blocked=blocked), mul)
            return
        if node.op == "Add" and self.add(node):
            return
        if node.op == "BatchNormalization" and self.is_blocked(node.inputs[0]):  # becomes a convolution
            group = self.start(node.op, node, blocked=True)
            group.takes_add = True
            self.activate(group, LATE_ACTIVATIONS)
            return
        blocked = self.stays_blocked(node)
        self.need(node, blocked=blocked, values=[value for value in node.inputs if value])
        self.start(node.op, node, blocked=blocked)

    def calls(self) -> tuple[KernelCall, ...]:
        graph = self.graph
        for node in graph.nodes:
            if node.name not in self.absorbed:
                self.visit(node)
        layout = f"nchwc{self.block}"
        owned: set[str] = set()
        owner: dict[str, tuple[str, ...]] = {}
        made: list[tuple[float, KernelCall]] = []
        for group in sorted(self.groups, key=lambda group: self.position[group.tail.name]):
            members = members_of(self.original, group.tail.outputs[0], owned)
            owned.update(node.name for node in members)
            tagged = group.blocked and group.op in TAGGED
            call = make_call(self.original, members, op=group.op, layout=layout if tagged else "nchw")
            owner.update(dict.fromkeys(call.nodes, call.nodes))
            made.append((self.position[group.tail.name], call))

        def reorder(op: str, value: str, cause: str, shift: float) -> None:
            value = copied(self.original, value)
            spec = graph.specs[value]
            kernel = Kernel(op=op, inputs=(spec,), outputs=(spec,), layout=layout)
            made.append((self.position[cause] + shift, KernelCall(kernel=kernel, nodes=owner[cause], output=value)))

        for value, cause in self.to_blocked.items():
            reorder("ReorderInput", value, cause, -0.5)
        for value, cause in self.to_plain.items():
            reorder("ReorderOutput", value, cause, -0.5)
        for value in graph.outputs:
            if self.is_blocked(value) and value not in self.to_plain:
                reorder("ReorderOutput", value, self.by_tail[value].tail.name, 0.5)
        return tuple(call for _, call in sorted(made, key=lambda pair: pair[0]))


def fuse(graph: Graph, block: int) -> tuple[KernelCall, ...]:
    """The kernels of a graph on ONNX Runtime's CPU provider, in an order in which they can run.

    Args:
        graph: the network; weights may still be recipes.
        block: channels per block of the layout (`OrtRuntime.block`, kept in every profile); 1 for none.
    """
    return _Fusion(graph, block).calls()
