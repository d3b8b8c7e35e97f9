"""A network while a runtime rewrites it: steps that can be replaced, moved and merged, each knowing the nodes that it computes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from hwnas.ir import Graph, TensorSpec
from hwnas.ir.node import Attrs, AttrValue


class Step:
    """One operator application of a draft.

    Attributes:
        op: the operator, under the runtime's own name where it is one of the runtime's.
        inputs: names of the values read; `""` where an optional one is left out.
        outputs: names of the values written.
        attrs: attributes, as sorted pairs.
        nodes: names of the graph's nodes that it computes; none for work that the runtime added.
        cause: whose work it is where it has no nodes.
        fused: operators that it absorbed and still computes, in order.
        label: the operator whose definition it ends, where the runtime replaced one by several.
        layout: `nchw`, or the blocked layout.
        index: counts the steps in the order in which they were made.
    """

    __slots__ = ("attrs", "cause", "fused", "index", "inputs", "label", "layout", "nodes", "op", "outputs")

    def __init__(self, op: str, inputs: list[str], outputs: list[str], attrs: Attrs, nodes: list[str], index: int) -> None:
        self.op = op
        self.inputs = inputs
        self.outputs = outputs
        self.attrs = attrs
        self.nodes = nodes
        self.index = index
        self.cause: Step | None = None
        self.fused: tuple[str, ...] = ()
        self.label = ""
        self.layout = "nchw"

    def attr(self, key: str, default: Any = None) -> Any:
        """An attribute, or the default where the step has none of that name."""
        for name, value in self.attrs:
            if name == key:
                return value
        return default

    def set(self, **changes: AttrValue) -> None:
        """Replaces attributes."""
        self.attrs = attributes(**{**dict(self.attrs), **changes})


def attributes(**values: AttrValue) -> Attrs:
    """Attributes in the order in which nodes keep them."""
    return tuple(sorted(values.items()))


class Draft:
    """A graph that can be rewritten.

    Attributes:
        graph: as it was.
        steps: by index; those that compute constants are left out.
        specs: of every value.
        constants: values that no input of the network changes.
        outputs: values that a run returns.
        writer: the step that writes each value.
        readers: the steps that read each value, once per input that reads it.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.specs: dict[str, TensorSpec] = dict(graph.specs)
        self.constants = set(graph.constants)
        self.outputs = frozenset(graph.outputs)
        self.steps: dict[int, Step] = {}
        self.writer: dict[str, Step] = {}
        self.readers: dict[str, list[Step]] = {}
        self._origins: dict[str, str] = {}
        self._order: list[Step] | None = None
        self._ops: set[str] | None = None
        self._made = 0
        for node in graph.nodes:
            if node.outputs[0] not in self.constants:
                self.add(node.op, node.inputs, node.outputs, node.attrs, [node.name])
        self._given = self._made

    # ---- looking

    def given(self, step: Step) -> bool:
        """Whether a step stood in the graph from the start."""
        return step.index < self._given

    def ops(self) -> set[str]:
        """The operators that occur."""
        if self._ops is None:
            self._ops = {step.op for step in self.steps.values()}
        return self._ops

    def of(self, *ops: str, ordered: bool = False) -> list[Step]:
        """The steps of some operators, in the order in which they were made, or in one in which they can run."""
        wanted = frozenset(ops)
        found = [step for step in self.steps.values() if step.op in wanted]
        return [step for step in self.ordered() if step.op in wanted] if ordered and len(found) > 1 else found

    def edges(self, value: str) -> int:
        """How often a value is read inside the network."""
        return len(self.readers.get(value, ()))

    def only_reader(self, value: str, *ops: str) -> Step | None:
        """The step that alone reads a value, once, where the network does not return it; of these operators, if any are given."""
        readers = self.readers.get(value, ())
        if len(readers) != 1 or value in self.outputs or (ops and readers[0].op not in ops):
            return None
        return readers[0]

    def following(self, step: Step | None, op: str) -> Step | None:
        """The step of an operator that alone reads what a step writes."""
        return None if step is None else self.only_reader(step.outputs[0], op)

    def before(self, value: str | None, op: str) -> Step | None:
        """The step of an operator that writes a value which the network does not return."""
        step = self.writer.get(value) if value is not None else None
        return step if step is not None and step.op == op and value not in self.outputs else None

    def shape(self, value: str) -> tuple[int, ...]:
        """Shape of a value."""
        return self.specs[value].shape

    def scalar(self, value: str) -> float | None:
        """The number that a constant of one element holds, where it is known without drawing weights."""
        weight = self.graph.weights.get(value)
        if weight is None or weight.spec.numel != 1:
            return None
        if weight.value is not None:
            return float(weight.value.reshape(-1)[0])
        return {"zeros": 0.0, "ones": 1.0}.get(weight.init)

    def close(self, value: str, number: float) -> bool:
        """Whether a value is a constant of one element that holds about this number."""
        found = self.scalar(value)
        return found is not None and abs(found - number) <= 1e-6 + 1e-4 * abs(number)

    def other(self, step: Step, value: str) -> str:
        """The input of a step of two inputs that is not this one."""
        return step.inputs[1] if step.inputs[0] == value else step.inputs[0]

    def constant_of(self, step: Step) -> str | None:
        """The constant among two inputs, where exactly one is."""
        constants = [value for value in step.inputs if value in self.constants]
        return constants[0] if len(constants) == 1 and len(step.inputs) == 2 else None

    def operand(self, step: Step | None, number: float) -> str | None:
        """The other input of a step of two inputs one of which is a constant of about this number."""
        constant = self.constant_of(step) if step is not None else None
        return self.other(step, constant) if step is not None and constant is not None and self.close(constant, number) else None

    def ordered(self) -> list[Step]:
        """The steps in an order in which they can run, which is that in which the runtime looks at them.

        A walk from what nobody reads back to the inputs, younger producers first; each step after all that it needs.
        """
        if self._order is None:
            self._order = self._walk()
        return list(self._order)

    def _walk(self) -> list[Step]:
        steps, writer, readers = self.steps, self.writer, self.readers
        entered = bytearray(self._made)
        order: list[Step] = []
        pending = [index for index, step in steps.items() if not any(readers.get(value) for value in step.outputs)]
        while pending:
            index = pending.pop()
            if index < 0:  # all that it needs is in place
                order.append(steps[~index])
            elif not entered[index]:
                entered[index] = 1
                pending.append(~index)
                before = [found.index for value in steps[index].inputs if (found := writer.get(value)) is not None]
                if len(before) > 1:
                    before.sort()
                pending += before
        return order

    # ---- changing

    def add(self, op: str, inputs: Iterable[str], outputs: Sequence[str], attrs: Attrs = (), nodes: Sequence[str] = ()) -> Step:
        """A new step."""
        self._order = self._ops = None
        step = Step(op, list(inputs), list(outputs), attrs, list(nodes), self._made)
        self._made += 1
        self.steps[step.index] = step
        for value in step.outputs:
            self.writer[value] = step
        for value in step.inputs:
            if value:
                self.readers.setdefault(value, []).append(step)
        return step

    def fresh(self, like: str, spec: TensorSpec) -> str:
        """A new value."""
        name = f"{like}'"
        while name in self.specs:
            name += "'"
        self.specs[name] = spec
        self._origins[name] = self.origin(like)
        return name

    def origin(self, value: str) -> str:
        """The graph's value that a new one stems from."""
        return self._origins.get(value, value)

    def constant(self, like: str, shape: Sequence[int]) -> str:
        """A new constant of the type of another value."""
        name = self.fresh(like, TensorSpec(tuple(shape), self.specs[like].dtype))
        self.constants.add(name)
        return name

    def set_input(self, step: Step, position: int, value: str) -> None:
        """Lets a step read another value at one input."""
        self._order = None
        old = step.inputs[position]
        if old:
            self.readers[old].remove(step)
        step.inputs[position] = value
        if value:
            self.readers.setdefault(value, []).append(step)

    def set_inputs(self, step: Step, values: Sequence[str]) -> None:
        """Lets a step read other values."""
        self._order = None
        for value in step.inputs:
            if value:
                self.readers[value].remove(step)
        step.inputs = list(values)
        for value in step.inputs:
            if value:
                self.readers.setdefault(value, []).append(step)

    def set_output(self, step: Step, position: int, value: str) -> None:
        """Lets a step write another value at one output."""
        self._order = None
        if self.writer.get(step.outputs[position]) is step:
            del self.writer[step.outputs[position]]
        step.outputs[position] = value
        self.writer[value] = step

    def redirect(self, old: str, new: str) -> None:
        """Lets all readers of a value read another."""
        for step in list(self.readers.get(old, ())):
            self.set_input(step, step.inputs.index(old), new)

    def remove(self, step: Step, heir: Step | None = None) -> None:
        """Takes a step out; what it computed counts as its heir's."""
        self._order = self._ops = None
        for value in step.inputs:
            if value:
                self.readers[value].remove(step)
        for value in step.outputs:
            if self.writer.get(value) is step:
                del self.writer[value]
        del self.steps[step.index]
        if heir is not None:
            heir.nodes.extend(step.nodes)

    def bypass(self, step: Step, *, position: int = 0, heir: Step | None = None) -> None:
        """Takes a step out that hands one of its inputs on; readers of its output read the input instead."""
        value, written = step.inputs[position], step.outputs[0]
        readers = list(self.readers.get(written, ()))
        self.remove(step, heir or next(iter(readers), None) or self.writer.get(value))
        self.redirect(written, value)

    def replace(self, steps: Sequence[Step], op: str, inputs: Sequence[str], attrs: Attrs = (), *, output: str = "") -> Step:
        """One step instead of several; it writes what the last of them wrote, or one given output of it."""
        nodes = [name for step in steps for name in step.nodes]
        outputs = [output] if output else list(steps[-1].outputs)
        for step in steps:
            self.remove(step)
        return self.add(op, inputs, outputs, attrs, nodes)

    def absorb(self, step: Step, follower: Step) -> None:
        """Lets a step of one output compute the follower as well, and write what it wrote."""
        step.nodes.extend(follower.nodes)
        written = list(follower.outputs)
        self.remove(follower)
        self.set_output(step, 0, written[0])
