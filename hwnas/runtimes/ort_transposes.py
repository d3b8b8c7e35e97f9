"""How ONNX Runtime moves Transposes: each is pushed through the steps behind it while that makes fewer or smaller ones.

Steps are visited in order. Where one reads a transposed value, the cost of transposing its inputs the other way is estimated by the
number of axes that are longer than one: a constant costs nothing, a value behind the same Transpose saves as much, any other costs
as much; and its output must be transposed back, unless another Transpose follows. Pushed Transposes that meet cancel or merge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hwnas.ir.node import TensorSpec
from hwnas.runtimes.ort_draft import Draft, Step, attributes

Perm = tuple[int, ...]

_UNARY = frozenset(
    {
        *("Abs", "Cast", "Cos", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Neg", "Not"),
        *("Reciprocal", "Relu", "Selu", "Sigmoid", "Sin", "Softplus", "Softsign", "Sqrt", "Tanh", "Clip"),
        *("Ceil", "DequantizeLinear", "Elu", "Floor", "IsNaN", "Mish", "QuantizeLinear", "Round", "Sign"),
    }
)
_BROADCAST = frozenset(
    {
        *("Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mul", "Or", "PRelu"),
        *("Pow", "Sub", "Sum", "Where"),
    }
)
_REDUCTIONS = frozenset(f"Reduce{how}" for how in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"))
_AXIS = frozenset({"Concat", "LogSoftmax", "Softmax", "Split"})
_IMAGES = ((0, 2, 3, 1), (0, 3, 1, 2))  # the permutations that a Resize lets through
_POOLS = frozenset({"QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearMaxPool"})  # of integers: have a form for channels last
_EAGER = frozenset({"QLinearMaxPool", "QLinearResize"})  # are faster in it, so that a Transpose always goes
_NEVER = frozenset({"MaxPool"})  # known, so that a Transpose before it may go, but pushed through only for integers
_MERGING = frozenset({"Reshape", "Transpose"})  # take a Transpose in, and hand none on
_THROUGH = _UNARY | _BROADCAST | _REDUCTIONS | _AXIS | _POOLS | {"Gather", "Pad", "QLinearResize", "Resize", "Slice", "Tile"} | _NEVER
_KNOWN = _THROUGH | _MERGING


def inverse(perm: Sequence[int]) -> Perm:
    """The permutation that undoes another."""
    return tuple(sorted(range(len(perm)), key=lambda axis: perm[axis]))


def compose(first: Sequence[int], second: Sequence[int]) -> Perm:
    """The permutation that does one and then another."""
    return tuple(first[axis] for axis in second)


def _without(perm: Perm, axes: Sequence[int]) -> Perm:
    """What is left of a permutation when some of the axes that it moves are gone."""
    left = [axis for axis in range(len(perm)) if axis not in axes]
    return tuple(left.index(axis) for axis in perm if axis not in axes)


def push(draft: Draft, *, resize: bool) -> bool:
    """Moves the Transposes of a draft; whether any moved.

    Args:
        draft: is changed.
        resize: whether they may pass a Resize, which the runtime allows once it knows that its own kernel runs it.
    """
    return "Transpose" in draft.ops() and _Mover(draft, resize=resize).run()


class _Mover:
    def __init__(self, draft: Draft, *, resize: bool) -> None:
        self.draft = draft
        self.resize = resize
        self.order = draft.ordered()
        self.leading = self._leading_to_transpose()

    def _leading_to_transpose(self) -> dict[str, set[Perm]]:
        """Values from which a path of steps that let Transposes through leads to some: with these permutations."""
        found: dict[str, set[Perm]] = {}
        for step in reversed(self.order):
            if step.op == "Transpose":
                found.setdefault(step.inputs[0], set()).add(step.attr("perm"))
            elif step.op in _THROUGH:
                perms = set().union(*(found.get(value, ()) for value in step.outputs))
                if perms:
                    for position in self._positions(step):
                        found.setdefault(step.inputs[position], set()).update(perms)
        return found

    def run(self) -> bool:
        changed = False
        for step in self.order:
            if step.index not in self.draft.steps or step.op not in _KNOWN:
                continue
            for position, value in enumerate(list(step.inputs)):
                before = self.draft.writer.get(value)
                if before is not None and before.op == "Transpose" and self._process(before, step, position):
                    changed = True
                    break
        return changed

    def _positions(self, step: Step) -> list[int]:
        """The inputs that are transposed with the output."""
        if step.op in _BROADCAST:
            return [i for i, value in enumerate(step.inputs) if self.draft.shape(value)]
        return list(range(len(step.inputs))) if step.op == "Concat" else [0]

    # ---- whether it pays

    def _rank(self, value: str) -> int:
        return sum(size != 1 for size in self.draft.shape(value))

    def _input_cost(self, value: str, perm: Perm) -> int:
        before = self.draft.writer.get(value)
        if before is None:
            return 0 if value in self.draft.constants else self._rank(value)
        if before.op != "Transpose":
            return self._rank(value)
        return -self._rank(value) if before.attr("perm") == perm and self._removable(before) else 0

    def _removable(self, transpose: Step) -> bool:
        value = transpose.outputs[0]
        return value not in self.draft.outputs and all(reader.op in _KNOWN for reader in self.draft.readers.get(value, ()))

    def _pays(self, step: Step, perm: Perm) -> bool:
        cost = sum(self._input_cost(step.inputs[i], perm) for i in self._positions(step))
        if cost < 0 and step.op in _THROUGH and not any(self._meets(value, perm) for value in step.outputs):
            cost += max(self._rank(value) for value in step.outputs)
        return cost < 0

    def _meets(self, value: str, perm: Perm) -> bool:
        """Whether a Transpose of a value would meet another for all its readers: the only one's, or one that cancels it."""
        perms = self.leading.get(value)
        if not perms or value in self.draft.outputs:
            return False
        return len({reader.index for reader in self.draft.readers.get(value, ())}) == 1 or inverse(perm) in perms

    def _process(self, transpose: Step, step: Step, position: int) -> bool:
        perm: Perm = tuple(transpose.attr("perm"))
        if step.op == "Transpose":
            return self._merge(transpose, step, tuple(step.attr("perm")))
        if position not in self._positions(step) or step.op in _NEVER or not (step.op in _EAGER or self._pays(step, perm)):
            return False
        if step.op == "Reshape":
            turned = self._as_transpose(transpose, step)
            return self._merge(transpose, step, turned) if turned is not None else self._split(step, perm)
        handle = next(handle for ops, handle in _HANDLERS.items() if step.op in ops)
        return handle(self, step, perm)

    # ---- Transposes that meet

    def _as_transpose(self, transpose: Step, step: Step) -> Perm | None:
        """The permutation that a Reshape amounts to, where it keeps the order of all axes that are longer than one."""
        shape, wanted = list(self.draft.shape(step.inputs[0])), self.draft.shape(step.outputs[0])
        if len(shape) != len(wanted) or len(shape) != len(self.draft.shape(transpose.inputs[0])):
            return None
        left = list(range(len(shape)))
        perm: list[int] = []
        for size in wanted:
            axis = next((axis for axis in left if shape[axis] == size), None)
            if axis is None or (size != 1 and any(shape[passed] != 1 for passed in left[: left.index(axis)])):
                return None
            left.remove(axis)
            perm.append(axis)
        return tuple(perm)

    def _merge(self, first: Step, second: Step, perm: Perm) -> bool:
        draft = self.draft
        source = first.inputs[0]
        if perm == inverse(first.attr("perm")):
            self._cancel(first, second)
            return True
        merged = compose(first.attr("perm"), perm)
        if second.op == "Reshape":
            second = draft.replace([second], "Transpose", [source], attributes(perm=merged))
        else:
            draft.set_input(second, 0, source)
            second.set(perm=merged)
        self._retire(first, second)
        return True

    def _retire(self, transpose: Step, heir: Step) -> None:
        """Takes a Transpose out if nobody reads it any more."""
        value = transpose.outputs[0]
        if transpose.index in self.draft.steps and not self.draft.edges(value) and value not in self.draft.outputs:
            self.draft.remove(transpose, heir)

    def _cancel(self, first: Step, second: Step) -> None:
        draft = self.draft
        source, written = first.inputs[0], second.outputs[0]
        writer = draft.writer.get(source)
        if written not in draft.outputs:
            heir = next(iter(draft.readers.get(written, ())), None) or writer
            draft.remove(second, heir)
            draft.redirect(written, source)
        elif writer is not None and source not in draft.outputs:
            heir = writer
            draft.remove(second, heir)
            draft.redirect(source, written)
            draft.set_output(writer, writer.outputs.index(source), written)
        else:
            heir = draft.replace([second], "Identity", [source])
        if heir is not None:
            self._retire(first, heir)

    # ---- Transposes that pass

    def _turn_input(self, step: Step, position: int, perm: Perm) -> None:
        """Lets a step read an input transposed."""
        draft = self.draft
        value = step.inputs[position]
        before = draft.writer.get(value)
        if before is None and value in draft.constants:
            if draft.specs[value].numel > 1:
                shape = draft.shape(value)
                turned = draft.constant(value, [shape[axis] for axis in perm])
                draft.set_input(step, position, turned)
                if draft.edges(value):  # the runtime turns the constant itself, and back again for its other readers
                    draft.redirect(value, self._transposed(turned, inverse(perm), step))
            return
        if before is not None and before.op == "Transpose":
            merged = compose(before.attr("perm"), perm)
            source = before.inputs[0]
            if merged == tuple(range(len(merged))):
                draft.set_input(step, position, source)
                self._retire(before, step)
                return
            draft.set_input(step, position, self._transposed(source, merged, step))
            self._retire(before, draft.writer[step.inputs[position]])
            return
        existing = next((r for r in draft.readers.get(value, ()) if r.op == "Transpose" and tuple(r.attr("perm")) == perm), None)
        draft.set_input(step, position, existing.outputs[0] if existing else self._transposed(value, perm, step))

    def _transposed(self, value: str, perm: Perm, cause: Step) -> str:
        spec = self.draft.specs[value]
        turned = self.draft.fresh(value, TensorSpec(tuple(spec.shape[axis] for axis in perm), spec.dtype))
        self.draft.add("Transpose", [value], [turned], attributes(perm=perm)).cause = cause
        return turned

    def _turn_output(self, step: Step, position: int, perm: Perm) -> Step | None:
        """Lets a step write an output transposed, and a Transpose write what it was."""
        if perm == tuple(range(len(perm))):
            return None
        draft = self.draft
        value = step.outputs[position]
        spec = draft.specs[value]
        turned = draft.fresh(value, TensorSpec(tuple(spec.shape[axis] for axis in inverse(perm)), spec.dtype))
        draft.set_output(step, position, turned)
        behind = draft.add("Transpose", [turned], [value], attributes(perm=perm))
        behind.cause = step
        return behind

    def _pass(self, step: Step, perm: Perm, out_perm: Perm | None = None) -> bool:
        """Turns all inputs of a step that turn with its outputs, and the outputs back; the work of the Transpose goes with it."""
        nodes = list(step.nodes)
        for position in self._positions(step):
            self._turn_input(step, position, inverse(perm))
        behind = [self._turn_output(step, i, perm if out_perm is None else out_perm) for i in range(len(step.outputs))]
        gone = [name for name in step.nodes if name not in nodes]
        heir = next((b for b in behind if b is not None), None)
        if heir is not None and gone:
            step.nodes[:] = nodes
            heir.nodes.extend(gone)
        return True

    def _simple(self, step: Step, perm: Perm) -> bool:
        return self._pass(step, perm)

    def _broadcast(self, step: Step, perm: Perm) -> bool:
        rank = len(perm)
        if any(len(self.draft.shape(step.inputs[i])) > rank for i in self._positions(step)):
            return False
        for position in self._positions(step):
            self._lift(step, position, rank)
        return self._pass(step, perm)

    def _lift(self, step: Step, position: int, rank: int) -> None:
        """Adds leading axes of size one to an input until it has a rank."""
        draft = self.draft
        value = step.inputs[position]
        missing = rank - len(draft.shape(value))
        if not missing:
            return
        shape = ((1,) * missing) + draft.shape(value)
        before = draft.writer.get(value)
        if before is None and value in draft.constants:
            draft.set_input(step, position, draft.constant(value, shape))
            return
        lifted = draft.fresh(value, TensorSpec(shape, draft.specs[value].dtype))
        view = draft.add("Unsqueeze", [value], [lifted])
        view.cause = step
        draft.set_input(step, position, lifted)
        if before is not None and before.op == "Transpose":
            perm = (*range(missing), *(axis + missing for axis in before.attr("perm")))
            source = before.inputs[0]
            inner = draft.fresh(lifted, TensorSpec(((1,) * missing) + draft.shape(source), draft.specs[value].dtype))
            draft.set_input(view, 0, source)
            draft.set_output(view, 0, inner)
            behind = draft.add("Transpose", [inner], [lifted], attributes(perm=perm))
            behind.cause = step
            self._retire(before, behind)

    def _split(self, step: Step, perm: Perm) -> bool:
        """Passes a Reshape that splits axes and merges none: each axis is split before it is moved."""
        groups: list[list[int]] = []
        wanted = list(self.draft.shape(step.outputs[0]))
        for size in self.draft.shape(step.inputs[0]):
            group: list[int] = []
            product = 1
            while wanted and (not group or product < size):
                group.append(wanted.pop(0))
                product *= group[-1]
            if not group or product != size:
                return False
            groups.append(group)
        if wanted:
            return False
        back = inverse(perm)
        starts = [sum(len(groups[i]) for i in back[:position]) for position in range(len(back))]
        out_perm = tuple(starts[perm[i]] + k for i, group in enumerate(groups) for k in range(len(group)))
        step.set(shape=tuple(size for i in back for size in groups[i]))
        return self._pass(step, perm, out_perm)

    def _with_axis(self, step: Step, perm: Perm) -> bool:
        step.set(axis=perm[step.attr("axis")])
        return self._pass(step, perm)

    def _pad(self, step: Step, perm: Perm) -> bool:
        pads, rank, back = step.attr("pads"), len(perm), inverse(perm)
        step.set(pads=(*(pads[axis] for axis in back), *(pads[axis + rank] for axis in back)))
        return self._pass(step, perm)

    def _pool(self, step: Step, perm: Perm) -> bool:
        return perm == _IMAGES[1] and self._pass(step, perm)

    def _resize(self, step: Step, perm: Perm) -> bool:
        if not self.resize or perm not in _IMAGES:
            return False
        for key in ("scales", "sizes"):
            if (values := step.attr(key)) is not None:
                step.set(**{key: tuple(values[axis] for axis in inverse(perm))})
        return self._pass(step, perm)

    def _slice(self, step: Step, perm: Perm) -> bool:
        step.set(axes=tuple(perm[axis] for axis in step.attr("axes")))
        return self._pass(step, perm)

    def _tile(self, step: Step, perm: Perm) -> bool:
        step.set(repeats=tuple(step.attr("repeats")[axis] for axis in inverse(perm)))
        return self._pass(step, perm)

    def _gather(self, step: Step, perm: Perm) -> bool:
        """A pick of one index loses its axis."""
        if self.draft.shape(step.inputs[1]) or step.inputs[1] not in self.draft.constants:
            return False
        axis = perm[step.attr("axis")]
        step.set(axis=axis)
        return self._pass(step, perm, _without(perm, (axis,)))

    def _reduce(self, step: Step, perm: Perm) -> bool:
        axes = tuple(sorted(perm[axis] for axis in step.attr("axes")))
        step.set(axes=axes)
        if step.attr("keepdims"):
            return self._pass(step, perm)
        return self._pass(step, perm, _without(perm, axes))


_Handler = Callable[[_Mover, Step, Perm], bool]
_HANDLERS: Mapping[frozenset[str], _Handler] = {
    _UNARY: _Mover._simple,
    _BROADCAST: _Mover._broadcast,
    _AXIS: _Mover._with_axis,
    _REDUCTIONS: _Mover._reduce,
    frozenset({"Gather"}): _Mover._gather,
    frozenset({"Pad"}): _Mover._pad,
    _POOLS: _Mover._pool,
    frozenset({"QLinearResize", "Resize"}): _Mover._resize,
    frozenset({"Slice"}): _Mover._slice,
    frozenset({"Tile"}): _Mover._tile,
}
