"""The kernels that ONNX Runtime will make of a graph on a CPU, told without asking it.

A search looks at far more networks than it could build. The optimiser's rules are applied to a draft of the graph in the optimiser's
order: first what is needless leaves and constants are folded (`ort_cleanup`), Transposes move (`ort_transposes`), spelled-out functions
are recognised (`ort_patterns`), and at last activations are absorbed and convolutions are brought into the blocked layout
(`ort_layout`). Which of the rules a runtime knows is a `Fusions`, kept in its profile. A test holds the result equal to the runtime's
own list.

Not told: attention in one operator, which needs a mask or operators that graphs do not have; quantised operators.
"""

from __future__ import annotations

from dataclasses import dataclass

from hwnas.ir import Graph, Kernel, KernelCall
from hwnas.ir.kernel import COUNTED_WEIGHTS
from hwnas.runtimes import ort_cleanup as cleanup
from hwnas.runtimes import ort_layout as layout
from hwnas.runtimes import ort_products as products
from hwnas.runtimes.fusions import Fusions
from hwnas.runtimes.ort_draft import Draft, Step
from hwnas.runtimes.ort_patterns import recognise
from hwnas.runtimes.ort_slices import slices_to_split, split_readers
from hwnas.runtimes.ort_transposes import push

ROUNDS = 10  # times that the optimiser goes through the rules of a stage, while any changes something
NEW_GELU = frozenset({"Gelu", "GroupNormalization"})  # operators that bring a model to an opset that has Gelu
TAGGED = frozenset({"AveragePool", "BatchNormalization", "Conv", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "Upsample"})
REORDERS = frozenset({"ReorderInput", "ReorderOutput"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedNode:
    """A node of the optimised graph as it is foretold.

    Attributes:
        op: the operator.
        inputs: the values read, constants left out.
        outputs: the values written; those of the original graph keep their names.
        blocked: whether it works in the blocked layout.
        call: the kernel that it belongs to; nodes that the runtime added around another share that one's.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    blocked: bool
    call: KernelCall


def fuse(graph: Graph, fusions: Fusions | int) -> tuple[KernelCall, ...]:
    """The kernels of a graph on ONNX Runtime's CPU provider, in an order in which they can run.

    Args:
        graph: the network; weights may still be recipes.
        fusions: what the runtime fuses (`OrtRuntime.fusions`, kept in every profile), or the channels per block of its layout.
    """
    naming = _Naming(_rewritten(graph, fusions))
    return tuple({id(call): call for call in map(naming.call, naming.draft.ordered())}.values())


def plan(graph: Graph, fusions: Fusions | int) -> tuple[PlannedNode, ...]:
    """The optimised graph, node by node, in an order in which they can run."""
    return _Naming(_rewritten(graph, fusions)).nodes()


def _rewritten(graph: Graph, fusions: Fusions | int) -> Draft:
    draft = Draft(graph)
    rewrite(draft, Fusions.of(fusions))
    return draft


def rewrite(draft: Draft, fusions: Fusions) -> None:
    """Applies all rules to a draft."""
    known = fusions.patterns
    cleanup.define(draft)
    early = ("SpaceToDepth", *(("Gelu",) if draft.ops() & NEW_GELU else ()), "LayerNormalization")
    moved = False
    for index in range(ROUNDS):
        changed = cleanup.clean(draft, fusions)
        changed |= "CommonSubexpression" in known and cleanup.merge_equal(draft)
        changed |= moved and cleanup.fold(draft)
        if "MatMulAdd" in known:
            changed |= products.add_bias(draft, keep_attention=True)
        changed |= "ReshapeReshape" in known and cleanup.merge_reshapes(draft)
        changed |= recognise(draft, fusions, *early)
        moved = index == 0 and "Transposes" in known and push(draft, resize=False)
        if not (changed or moved):
            break
    for index in range(ROUNDS):
        changed = _late(draft, fusions, first=index == 0)
        if not changed:
            break
    layout.block(draft, fusions)
    layout.add_residuals(draft, fusions)
    cleanup.merge_casts(draft)


def _late(draft: Draft, fusions: Fusions, *, first: bool) -> bool:
    known = fusions.patterns
    changed = False
    if "GemmTranspose" in known:
        for step in draft.of("Gemm"):
            changed |= products.gemm_transpose(draft, step)
    if first and {"Transposes", "LateTransposes"} <= known:
        changed |= push(draft, resize=True)
    changed |= layout.activate(draft, fusions)
    changed |= recognise(draft, fusions, "Gelu", "LayerNormalization", "RMSNormalization")
    if "SlicesToSplit" in known and draft.ops() & {"Gather", "Slice"}:
        for value in draft.graph.inputs:
            changed |= split_readers(draft, value)
        for step in draft.ordered():
            changed |= step.index in draft.steps and slices_to_split(draft, step)
    changed |= recognise(draft, fusions, "MatMulTranspose", "BiasGelu")
    if "MatMulAdd" in known:
        changed |= products.add_bias(draft, keep_attention=False)
    return changed | recognise(
        draft, fusions, "SkipLayerNormalization", "BiasSkipLayerNormalization", "FastGelu", "QuickGelu", "MatMulScale"
    )


class _Naming:
    """Tells the kernels of a rewritten draft."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.graph = draft.graph
        self.position = self.graph.positions
        self.calls: dict[int, KernelCall] = {}
        self.added: dict[KernelCall, KernelCall] = {}  # of steps without nodes: equal ones are one

    def nodes(self) -> tuple[PlannedNode, ...]:
        steps = self.draft.ordered()
        return tuple(
            PlannedNode(
                op=step.op,
                inputs=tuple(value for value in step.inputs if value and value not in self.draft.constants),
                outputs=tuple(step.outputs),
                blocked=step.layout != "nchw",
                call=self.call(step),
            )
            for step in steps
        )

    def call(self, step: Step) -> KernelCall:
        if step.index not in self.calls:
            moves = step.op in REORDERS or (step.op == "Transpose" and not step.nodes)
            if step.nodes or moves or step.cause is None:
                self.calls[step.index] = self._own(step)
            else:
                self.calls[step.index] = self.call(step.cause)
        return self.calls[step.index]

    def _own(self, step: Step) -> KernelCall:
        specs, constants = self.draft.specs, self.draft.constants
        reads = step.inputs[:1] if step.label else dict.fromkeys(step.inputs)
        inputs = [specs[value] for value in reads if value and value not in constants]
        weights = [specs[value] for value in step.inputs if value in constants]
        if not inputs:  # a constant that is transposed at every run
            inputs, weights = weights, []
        tagged = step.layout != "nchw" and (step.op in TAGGED or step.op in REORDERS or (step.op == "Mul" and bool(weights)))
        kernel = Kernel(
            op=step.label or step.op,
            fused=step.fused,
            inputs=tuple(inputs),
            weights=tuple(weights[: COUNTED_WEIGHTS.get(step.op)]),
            outputs=tuple([specs[value] for value in step.outputs]),
            attrs=step.attrs,
            layout=step.layout if tagged else "nchw",
        )
        nodes = step.nodes or self._cause(step).nodes
        names = (nodes[0],) if len(nodes) == 1 else tuple(sorted(set(nodes), key=self.position.__getitem__))
        output = step.inputs[0] if step.op in REORDERS else step.outputs[0]
        if output not in self.graph.specs:
            output = next((value for value in step.outputs if value in self.graph.specs), self.draft.origin(output))
        call = KernelCall(kernel=kernel, nodes=names, output=output)
        return call if step.nodes else self.added.setdefault(call, call)

    def _cause(self, step: Step) -> Step:
        """Whose work a step without nodes is: of the readers of a re-order the first in the graph, else what made the step."""
        if step.op in REORDERS and not step.attrs:
            readers = [reader for reader in self.draft.readers.get(step.outputs[0], ()) if reader.nodes or reader.cause]
            if readers:
                return min((self._owner(reader) for reader in readers), key=self._first)
        return self._owner(step)

    def _owner(self, step: Step) -> Step:
        while not step.nodes and step.cause is not None:
            step = step.cause
        return step

    def _first(self, step: Step) -> int:
        return min(self.position[name] for name in step.nodes)
