"""The kernels that ONNX Runtime will make of a graph in int8 on a CPU, told without asking it.

What is quantised is our own choice (`ort_int8`), so most of this is known: an operator whose inputs and outputs are held in 8 bits
becomes one 8-bit kernel, and the others run in fp32 between conversions. What is left to tell is the layout. Every 8-bit convolution gets a
Transpose to channels-last data before and one back behind it; then ONNX Runtime moves Transposes as it always does (`ort_transposes`), and
cancels those that meet. A test holds the result equal to the runtime's own list.

Not told: what it makes of neighbours in fp32 that fuse with each other (Gelu and normalisations spelled out), fp32 pools and convolutions
that work in the blocked layout, and two nodes that compute the same.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

from hwnas.ir import Graph, KernelCall
from hwnas.ir.fold import fold
from hwnas.ir.kernel import copied, members_of
from hwnas.ir.node import TensorSpec
from hwnas.ir.onnx_quantised import DEQUANTIZE, QUANTIZE
from hwnas.runtimes.ort_draft import Draft, Step, attributes
from hwnas.runtimes.ort_int8 import COMPUTES, KEEPS_SCALE, Scheme, scheme
from hwnas.runtimes.ort_int8_kernels import CHANNELS_LAST, TO_FIRST, TO_LAST, kernel_of, move_of
from hwnas.runtimes.ort_transposes import push

LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
RENAMED = {op: f"QLinear{op}" for op in ("AveragePool", "GlobalAveragePool", "MaxPool")}  # have a form of their own for channels last


def fuse(graph: Graph, _: object = None, *, left: Set[str] = frozenset()) -> tuple[KernelCall, ...]:
    """The kernels of a graph in int8 on ONNX Runtime's CPU provider, in an order in which they can run.

    Args:
        graph: the network in fp32; weights may still be recipes.
        _: what the runtime fuses in fp32, which is no matter here.
        left: names of the nodes that stay in fp32 though they could be quantised.
    """
    return _Fusion(graph, scheme(fold(graph, drafts=True), leave=left)).calls()


class _Fusion:
    def __init__(self, graph: Graph, plan: Scheme) -> None:
        self.graph = graph
        self.plan = plan
        self.nodes = {node.name: node for node in (*graph.nodes, *plan.graph.nodes)}
        self.draft = Draft(plan.graph)
        self.integer = {index for index, step in self.draft.steps.items() if self._is_integer(step)}
        activations = [value for value in plan.ranged if value not in self.draft.constants]
        for value in (*reversed(list(plan.limited)), *(value for value in activations if value not in plan.limited)):
            self._convert(value)
        for step in self.draft.ordered():
            if step.index in self.integer and step.op == "Conv":
                self._wrap(step)
            elif step.index in self.integer and step.op in RENAMED:
                step.op = RENAMED[step.op]
        push(self.draft, resize=True)

    def _is_integer(self, step: Step) -> bool:
        """Whether a step becomes an 8-bit kernel."""
        ranged = self.plan.ranged
        if step.nodes[0] in self.plan.weighted:
            return True
        if step.op in COMPUTES or step.op == "MatMul":
            return all(value in ranged for value in (*step.inputs, *step.outputs))
        if step.op not in KEEPS_SCALE or step.inputs[0] not in ranged:
            return False
        return all(ranged.get(value) == ranged[step.inputs[0]] for value in step.outputs)

    def _convert(self, value: str) -> None:
        """Gives a value its 8-bit form, and lets every step read the form that it works on."""
        draft = self.draft
        writer = draft.writer.get(value)
        readers = list(draft.readers.get(value, ()))
        spec = draft.specs[value]
        held = draft.fresh(value, TensorSpec(spec.shape, "uint8"))
        if writer is not None and writer.index in self.integer:
            draft.set_output(writer, writer.outputs.index(value), held)
        else:
            self._quantize(value, held, writer)
        for reader in readers:
            if reader.index in self.integer:
                form = held
            else:
                form = draft.fresh(value, spec)
                draft.add(DEQUANTIZE, [held], [form])
            draft.set_input(reader, reader.inputs.index(value), form)
        if value in draft.outputs and value not in self.graph.inputs:
            draft.add(DEQUANTIZE, [held], [value])

    def _quantize(self, value: str, held: str, writer: Step | None) -> None:
        """Converts what a step in fp32 writes, or what a limit would."""
        draft = self.draft
        if value in self.plan.limited:
            draft.add(QUANTIZE, [self.plan.limited[value]], [held], nodes=[self.graph.producers[value].name])
            return
        raw = value
        if writer is not None and value in draft.outputs:
            raw = draft.fresh(value, draft.specs[value])
            draft.set_output(writer, writer.outputs.index(value), raw)
        draft.add(QUANTIZE, [raw], [held])

    def _wrap(self, conv: Step) -> None:
        """Lets a convolution read and write channels-last data."""
        draft = self.draft
        value = conv.inputs[0]
        before = draft.writer.get(value)
        if before is not None and before.op == "Transpose" and before.attr("perm") == FIRST:
            draft.set_input(conv, 0, before.inputs[0])
            if not draft.edges(value):
                draft.remove(before)
        else:
            same = [reader for reader in draft.readers[value] if reader.op == "Transpose" and reader.attr("perm") == LAST]
            draft.set_input(conv, 0, same[0].outputs[0] if same else self._transpose(value, LAST))
        written = conv.outputs[0]
        turned = draft.fresh(written, draft.specs[written])
        draft.set_output(conv, 0, turned)
        draft.add("Transpose", [turned], [written], attributes(perm=FIRST))

    def _transpose(self, value: str, perm: tuple[int, ...]) -> str:
        turned = self.draft.fresh(value, self.draft.specs[value])
        self.draft.add("Transpose", [value], [turned], attributes(perm=perm))
        return turned

    def _computed(self, step: Step) -> Sequence[str]:
        """The nodes that a step computes, without the Transposes that were pushed through it; of a conversion the limits."""
        if step.op in (QUANTIZE, DEQUANTIZE):
            return [name for name in step.nodes if not self.plan.limited.keys().isdisjoint(self.nodes[name].outputs)]
        return [name for name in step.nodes if step.op == "Transpose" or self.nodes[name].op != "Transpose"]

    def calls(self) -> tuple[KernelCall, ...]:
        """The steps as kernels, those that only move data for the kernel that needs it."""
        constants = self.draft.constants
        order = [step for step in self.draft.ordered() if step.nodes or step.inputs[0] not in constants]  # what turns a constant is folded
        positions = {node.name: i for i, node in enumerate(self.graph.nodes)}
        held = {value: value for value in self.graph.inputs}
        last: set[str] = set()  # values whose channels come last
        owned: set[str] = set()
        calls: dict[int, KernelCall] = {}
        moves: dict[int, str] = {}
        writers: dict[str, KernelCall] = {}
        for step in order:
            turned = not last.isdisjoint(step.inputs)
            names = self._computed(step)
            node = self.nodes[names[-1]] if names else None
            found = {member.name: member for value in node.outputs for member in members_of(self.graph, value, owned)} if node else {}
            if node and found:
                members = sorted(found.values(), key=lambda member: positions[member.name])
                layout = CHANNELS_LAST if turned and step.op != QUANTIZE else "nchw"
                integer = step.op == QUANTIZE or step.index in self.integer
                calls[step.index] = kernel_of(
                    self.graph, members, op=QUANTIZE if step.op == QUANTIZE else node.op, layout=layout, int8=integer
                )
                owned.update(found)
                writers.update((value, calls[step.index]) for member in members for value in member.outputs)
                held.update(zip(step.outputs, node.outputs, strict=True))
            else:
                moves[step.index] = step.op if step.op != "Transpose" else TO_FIRST if turned else TO_LAST
                held[step.outputs[0]] = held[step.inputs[0]]
                turned = turned != (step.op == "Transpose")
            last.update(step.outputs if turned else ())
        for step in reversed(order):
            if step.index in moves:
                value = copied(self.graph, held[step.outputs[0]])
                causes = [calls[reader.index] for reader in self.draft.readers.get(step.outputs[0], ())] or [writers[value]]
                cause = min(causes, key=lambda call: min(positions[name] for name in call.nodes))
                calls[step.index] = move_of(self.graph, moves[step.index], value, cause)
        return tuple(dict.fromkeys(calls[step.index] for step in order))
