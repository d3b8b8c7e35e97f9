"""Functions spelled out in several nodes that ONNX Runtime recognises and computes in one.

Each pattern looks for one kind of step, follows it to the end of the spelling, and replaces all of it; inner values must be read by
nothing else. `recognise` applies the patterns of one stage in the runtime's order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import pi, prod, sqrt

from hwnas.ir.node import TensorSpec
from hwnas.runtimes.fusions import Fusions
from hwnas.runtimes.ort_draft import Draft, Step, attributes

Pattern = Callable[[Draft, Step], bool]

_CUBIC = 0.044715  # of Gelu's approximation by tanh


def _operand(draft: Draft, step: Step | None, number: float) -> str | None:
    """The other operand of a step one of whose two operands is this number."""
    if step is None:
        return None
    constant = draft.constant_of(step)
    return draft.other(step, constant) if constant is not None and draft.close(constant, number) else None


def _next(draft: Draft, step: Step | None, op: str) -> Step | None:
    """The step of an operator that alone reads what a step writes."""
    return None if step is None else draft.only_reader(step.outputs[0], op)


def _before(draft: Draft, value: str | None, op: str) -> Step | None:
    """The step of an operator that writes a value which one step alone reads."""
    step = draft.writer.get(value) if value is not None else None
    return step if step is not None and step.op == op and value not in draft.outputs else None


# ---- Gelu


def gelu(draft: Draft, step: Step) -> bool:
    """0.5 x (1 + erf(x / sqrt(2))), the factor 0.5 before or after."""
    x = step.inputs[0]
    if not draft.close(step.inputs[1], sqrt(2)):
        return False
    erf = _next(draft, step, "Erf")
    one = _next(draft, erf, "Add")
    mul = _next(draft, one, "Mul")
    if erf is None or one is None or mul is None or _operand(draft, one, 1.0) is None:
        return False
    other = draft.other(mul, one.outputs[0])
    steps = [step, erf, one]
    half = _before(draft, other, "Mul")
    if half is not None and draft.edges(other) == 1 and _operand(draft, half, 0.5) == x:
        steps += [half, mul]
    elif other == x and (last := _next(draft, mul, "Mul")) is not None and _operand(draft, last, 0.5) == mul.outputs[0]:
        steps += [mul, last]
    else:
        return False
    draft.replace(steps, "Gelu", [x], attributes(approximate="none"))
    return True


def fast_gelu(draft: Draft, step: Step) -> bool:
    """Gelu by tanh: 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), with x^3 as a power or as products."""
    found = _cubic_power(draft, step) if step.op == "Pow" else _cubic_product(draft, step)
    if found is None:
        return False
    x, steps = found
    tanh = _next(draft, steps[-1], "Tanh")
    one = _next(draft, tanh, "Add")
    mul = _next(draft, one, "Mul")
    if tanh is None or one is None or mul is None or _operand(draft, one, 1.0) is None or mul.outputs[0] in draft.outputs:
        return False
    half = _before(draft, draft.other(mul, one.outputs[0]), "Mul")
    if half is None or _operand(draft, half, 0.5) != x:
        return False
    draft.replace([*steps, tanh, one, half, mul], "FastGelu", [x])
    return True


def _cubic_power(draft: Draft, step: Step) -> tuple[str, list[Step]] | None:
    x = step.inputs[0]
    scaled = _next(draft, step, "Mul")
    added = _next(draft, scaled, "Add")
    root = _next(draft, added, "Mul")
    if scaled is None or added is None or root is None or not draft.close(step.inputs[1], 3.0):
        return None
    if _operand(draft, scaled, _CUBIC) is None or draft.other(added, scaled.outputs[0]) != x or _operand(draft, root, sqrt(2 / pi)) is None:
        return None
    return x, [step, scaled, added, root]


def _cubic_product(draft: Draft, step: Step) -> tuple[str, list[Step]] | None:
    x = _operand(draft, step, _CUBIC)
    square = _next(draft, step, "Mul") if x is not None else None
    one = _next(draft, square, "Add")
    outer = _next(draft, one, "Mul")
    if x is None or square is None or one is None or outer is None or draft.other(square, step.outputs[0]) != x:
        return None
    root = _before(draft, draft.other(outer, one.outputs[0]), "Mul")
    if root is None or _operand(draft, one, 1.0) is None or _operand(draft, root, sqrt(2 / pi)) != x:
        return None
    return x, [step, square, one, root, outer]


def quick_gelu(draft: Draft, step: Step) -> bool:
    """x sigmoid(a x), with a = 1 left out: the swish."""
    scale = None
    x = step.inputs[0]
    before = draft.writer.get(x)
    if before is not None and before.op == "Mul" and draft.only_reader(x) is step and (constant := draft.constant_of(before)):
        if draft.specs[constant].numel == 1:
            scale, x = before, draft.other(before, constant)
    mul = draft.only_reader(step.outputs[0], "Mul")
    if mul is None or draft.other(mul, step.outputs[0]) != x:
        return False
    alpha = 1.0 if scale is None else draft.scalar(draft.other(scale, x)) or 1.0
    draft.replace([*([scale] if scale else []), step, mul], "QuickGelu", [x], attributes(alpha=alpha))
    return True


def bias_gelu(draft: Draft, step: Step) -> bool:
    """A bias added before a Gelu, along the last axis."""
    ranks = [len(draft.shape(value)) for value in step.inputs]
    gelu_step = draft.only_reader(step.outputs[0], "Gelu", "FastGelu")
    if gelu_step is None or 1 not in ranks or draft.shape(step.inputs[0])[-1:] != draft.shape(step.inputs[1])[-1:]:
        return False
    if len(gelu_step.inputs) > 1:
        return False
    x, bias = step.inputs if ranks[0] != 1 else step.inputs[::-1]
    fast = gelu_step.op == "FastGelu" or gelu_step.attr("approximate") == "tanh"
    draft.replace([step, gelu_step], "FastGelu" if fast else "BiasGelu", [x, bias])
    return True


# ---- normalisations


def layer_norm(draft: Draft, step: Step) -> bool:
    """(x - mean) / sqrt(mean((x - mean)^2) + e) * scale + shift over the last axes; x - mean may be computed twice."""
    x, mean = step.inputs[0], step.outputs[0]
    differences = draft.readers.get(mean, [])
    if mean in draft.outputs or len(differences) not in (1, 2) or any(d.op != "Sub" or d.inputs != [x, mean] for d in differences):
        return False
    inner = [difference.outputs[0] for difference in differences]
    if any(value in draft.outputs for value in inner):
        return False
    div = next((r for value in inner for r in draft.readers.get(value, ()) if r.op == "Div" and r.inputs[0] == value), None)
    if div is None:
        return False
    root = _before(draft, div.inputs[1], "Sqrt")
    variance = _before(draft, root.inputs[0], "Add") if root else None
    squares = next((s for v in variance.inputs if (s := _before(draft, v, "ReduceMean")) is not None), None) if variance else None
    power = _before(draft, squares.inputs[0], "Pow") if squares else None
    scaled = _next(draft, div, "Mul")
    shifted = _next(draft, scaled, "Add")
    if root is None or variance is None or squares is None or power is None or scaled is None or shifted is None:
        return False
    if power.inputs[0] not in inner or not draft.close(power.inputs[1], 2.0) or sum(draft.edges(value) for value in inner) != 2:
        return False
    scale, shift = draft.constant_of(scaled), draft.constant_of(shifted)
    axes, rank = step.attr("axes"), len(draft.shape(x))
    if scale is None or shift is None or draft.shape(scale) != draft.shape(shift) or not _trailing(draft, axes, rank, scale):
        return False
    steps = [step, *differences, power, squares, variance, root, div, scaled, shifted]
    draft.replace(steps, "LayerNormalization", [x, scale, shift], attributes(axis=rank - len(axes), epsilon=1e-5))
    return True


def _trailing(draft: Draft, axes: Sequence[int], rank: int, scale: str) -> bool:
    return tuple(axes) == tuple(range(rank - len(axes), rank)) and len(draft.shape(scale)) == len(axes)


def rms_norm(draft: Draft, step: Step) -> bool:
    """x / sqrt(mean(x^2) + e) * scale."""
    x = step.inputs[0]
    if not draft.close(step.inputs[1], 2.0):
        return False
    mean = _next(draft, step, "ReduceMean")
    added = _next(draft, mean, "Add")
    root = _next(draft, added, "Sqrt")
    div = _next(draft, root, "Div")
    scaled = _next(draft, div, "Mul")
    if mean is None or added is None or root is None or div is None or scaled is None or div.inputs[0] != x:
        return False
    scale, axes, rank = draft.constant_of(scaled), mean.attr("axes"), len(draft.shape(x))
    if scale is None or not _trailing(draft, axes, rank, scale):
        return False
    attrs = attributes(axis=rank - len(axes), epsilon=1e-5)
    draft.replace([step, mean, added, root, div, scaled], "SimplifiedLayerNormalization", [x, scale], attrs)
    return True


def skip_layer_norm(draft: Draft, step: Step) -> bool:
    """The sum of two equally shaped sequences before a normalisation over their last axis, and a bias added to one of them."""
    total = _before(draft, step.inputs[0], "Add")
    if total is None or draft.only_reader(total.outputs[0]) is not step:
        return False
    left, right = (draft.shape(value) for value in total.inputs)
    if len(left) != 3 or left != right or step.attr("axis") != 2 or draft.specs[total.inputs[0]].dtype != "float32":
        return False
    inputs, steps, bias = list(total.inputs), [total, step], None
    for position, value in enumerate(total.inputs):
        added = _before(draft, value, "Add")
        if added is None or draft.only_reader(value) is not total or added.inputs[1] not in draft.constants:
            continue
        if draft.shape(added.inputs[1]) == left[2:] and len(draft.shape(added.inputs[0])) == 3:
            inputs[position], bias = added.inputs
            steps.insert(0, added)
            break
    parameters = [*step.inputs[1:], *[""] * (3 - len(step.inputs))]
    reads = [*inputs, *parameters, bias] if bias is not None else [*inputs, *parameters]
    draft.replace(steps, "SkipLayerNormalization", reads, attributes(epsilon=step.attr("epsilon")))
    return True


def bias_skip_layer_norm(draft: Draft, step: Step) -> bool:
    """The bias of a matrix product before a sum that is normalised."""
    if len(step.inputs) != 4:
        return False
    width = draft.shape(step.outputs[0])[-1]
    for position in (0, 1):
        added = _before(draft, step.inputs[position], "Add")
        if added is None or draft.only_reader(step.inputs[position]) is not step:
            continue
        bias = draft.constant_of(added)
        if bias is None or draft.shape(bias) != (width,):
            continue
        product = draft.other(added, bias)
        if _before(draft, product, "MatMul") is None:
            continue
        inputs = [*step.inputs, bias]
        inputs[position] = product
        draft.replace([added, step], step.op, inputs, step.attrs)
        return True
    return False


# ---- matrix products that transpose and scale what they read


FUSED = attributes(alpha=1.0, transA=0, transB=0, transBatchA=0, transBatchB=0)


def matmul_transpose(draft: Draft, step: Step) -> bool:
    """A product reads its operands transposed: their last two axes swapped, or their first axis moved behind the other leading ones."""
    inputs, flags = list(step.inputs), dict(step.attrs or FUSED)
    for position, side in enumerate("AB"):
        before = _before(draft, step.inputs[position], "Transpose")
        turn = _turns(before.attr("perm")) if before is not None else None
        if before is None or turn is None:
            continue
        if any(turn) and turn[1] and len(draft.shape(step.inputs[0])) != len(draft.shape(step.inputs[1])):
            continue
        inputs[position] = before.inputs[0]
        flags[f"trans{side}"] ^= int(turn[0])
        flags[f"transBatch{side}"] ^= int(turn[1])
    if inputs == step.inputs:
        return False
    old = list(step.inputs)
    fused = draft.replace([step], "FusedMatMul", inputs, attributes(**flags))
    for value in dict.fromkeys(old):
        if value not in inputs and not draft.edges(value):
            draft.remove(draft.writer[value], fused)
    return True


def _turns(perm: Sequence[int]) -> tuple[bool, bool] | None:
    """Whether a permutation swaps the last two axes, and whether it moves the first axis behind the other leading ones."""
    rank = len(perm)
    if rank < 2:
        return None
    leading = list(range(rank - 2))
    plain, batch = [*leading, rank - 2, rank - 1], [*range(1, rank - 1), 0, rank - 1]
    for swap in (False, True):
        for moved, order in ((False, plain), (True, batch)):
            turned = [*order[:-2], order[-1], order[-2]] if swap else order
            if list(perm) == turned:
                return swap, moved
    return None


def matmul_scale(draft: Draft, step: Step) -> bool:
    """A product takes in the scaling of its operands and of its result by a constant number."""
    inputs, scales = list(step.inputs), []
    for position, value in enumerate(step.inputs):
        before = draft.writer.get(value)
        scaled = _scaled(draft, before)
        if before is not None and scaled is not None and draft.shape(scaled):
            inputs[position] = scaled
            scales.append(before)
    after = draft.only_reader(step.outputs[0], "Mul", "Div")
    if after is not None and _scaled(draft, after) != step.outputs[0]:
        after = None
    if not scales and after is None:
        return False
    flags = dict(step.attrs or FUSED)
    alpha = float(flags["alpha"]) * prod(_factor(draft, scale) for scale in [*scales, *([after] if after else [])])
    fused = draft.replace([step, *([after] if after else [])], "FusedMatMul", inputs, attributes(**{**flags, "alpha": alpha}))
    for scale in dict.fromkeys(scales):
        if not draft.edges(scale.outputs[0]) and scale.outputs[0] not in draft.outputs:
            draft.remove(scale, fused)
    return True


def _scaled(draft: Draft, step: Step | None) -> str | None:
    """What a step scales by a constant number, if it does."""
    constant = draft.constant_of(step) if step is not None and step.op in ("Mul", "Div") else None
    if step is None or constant is None or draft.specs[constant].numel != 1 or (step.op == "Div" and constant != step.inputs[1]):
        return None
    other = draft.other(step, constant)
    return other if len(draft.shape(constant)) <= len(draft.shape(other)) else None


def _factor(draft: Draft, step: Step) -> float:
    """The number by which a step scales; 1 where it is not known without running the network."""
    number = draft.scalar(draft.constant_of(step) or "")
    return 1.0 if not number else 1 / number if step.op == "Div" else number


# ---- slices


def slices_to_split(draft: Draft, step: Step) -> bool:
    """Slices and single picks that cut all of a value along one axis are one Split; picks then lose the axis."""
    if len(step.outputs) != 1 or draft.edges(step.outputs[0]) < 2:
        return False
    return split_readers(draft, step.outputs[0])


def split_readers(draft: Draft, value: str) -> bool:
    """The same for the readers of any value."""
    readers = [r for r in draft.readers.get(value, ()) if r.op in ("Gather", "Slice") and r.inputs[0] == value]
    cuts = [_cut(draft, reader) for reader in readers]
    if len(cuts) < 2 or any(cut is None for cut in cuts):
        return False
    whole = sorted((cut, i) for i, cut in enumerate(cuts) if cut is not None)
    axis, shape = whole[0][0][0], draft.shape(value)
    ends = [cut[2] for cut, _ in whole]
    if any(cut[0] != axis for cut, _ in whole) or [cut[1] for cut, _ in whole] != [0, *ends[:-1]] or ends[-1] != shape[axis]:
        return False
    parts, written, nodes = tuple(cut[2] - cut[1] for cut, _ in whole), [], []
    views: list[tuple[str, str]] = []
    for size, (_, i) in zip(parts, whole, strict=True):
        reader = readers[i]
        out, part = reader.outputs[0], (*shape[:axis], size, *shape[axis + 1 :])
        nodes.extend(reader.nodes)
        draft.remove(reader)
        if draft.shape(out) != part:
            views.append((draft.fresh(out, TensorSpec(part, draft.specs[out].dtype)), out))
            out = views[-1][0]
        written.append(out)
    split = draft.add("Split", [value], written, attributes(axis=axis, split=parts), nodes)
    for part_value, out in views:
        draft.add("Squeeze", [part_value], [out]).cause = split
    return True


def _cut(draft: Draft, step: Step) -> tuple[int, int, int] | None:
    """Axis, begin and end of what a Slice of one axis or a Gather of one index takes."""
    shape = draft.shape(step.inputs[0])
    if step.op == "Slice":
        axes, starts, ends = step.attr("axes"), step.attr("starts"), step.attr("ends")
        if len(axes) != 1 or step.attr("steps") != (1,):
            return None
        begin, end, _ = slice(starts[0], ends[0]).indices(shape[axes[0]])
        return (axes[0], begin, end) if begin < end else None
    index, axis = draft.scalar(step.inputs[1]), step.attr("axis")
    if index is None or draft.specs[step.inputs[1]].dtype != "int64" or len(draft.shape(step.inputs[1])) > 1:
        return None
    begin = int(index) % shape[axis]
    return axis, begin, begin + 1


def space_to_depth(draft: Draft, step: Step) -> bool:
    """Four slices that take every other row and column, concatenated along the channels."""
    slices = [_before(draft, value, "Slice") for value in step.inputs]
    if len(slices) != 4 or step.attr("axis") != 1 or any(cut is None or draft.edges(cut.outputs[0]) != 1 for cut in slices):
        return False
    found = [cut for cut in slices if cut is not None]
    root = found[0].inputs[0]
    phases = [_phase(draft, cut) for cut in found]
    if len(draft.shape(root)) != 4 or any(cut.inputs[0] != root for cut in found) or set(phases) != {(0, 0), (0, 1), (1, 0), (1, 1)}:
        return False
    if phases == [(0, 0), (0, 1), (1, 0), (1, 1)]:
        draft.replace([*found, step], "SpaceToDepth", [root], attributes(blocksize=2))
        return True
    middle = draft.fresh(step.outputs[0], draft.specs[step.outputs[0]])
    indices = draft.constant(root, draft.shape(middle)[1:2])
    draft.replace(found, "SpaceToDepth", [root], attributes(blocksize=2), output=middle)
    draft.replace([step], "Gather", [middle, indices], attributes(axis=1))
    return True


def _phase(draft: Draft, step: Step) -> tuple[int, int] | None:
    """The row and the column at which a slice by twos begins."""
    shape = draft.shape(step.inputs[0])
    cuts = {a: (s, e, n) for a, s, e, n in zip(*(step.attr(key) for key in ("axes", "starts", "ends", "steps")), strict=True)}
    begins = []
    for axis in (2, 3):
        start, end, by = cuts.pop(axis, (0, 0, 0))
        if by != 2 or start not in (0, 1) or end < shape[axis]:
            return None
        begins.append(start)
    whole = all(start == 0 and end >= shape[axis] and by == 1 for axis, (start, end, by) in cuts.items())
    return (begins[0], begins[1]) if whole else None


# ---- stages

@dataclass(frozen=True, slots=True)
class _Spelling:
    """A pattern, the operators of the steps where it may begin, and others of which one must occur somewhere."""

    rewrite: Pattern
    begins: frozenset[str]
    needs: frozenset[str] = frozenset()


def _spelling(rewrite: Pattern, begins: str, needs: str = "") -> _Spelling:
    return _Spelling(rewrite, frozenset(begins.split()), frozenset(needs.split()))


_SPELLINGS: Mapping[str, _Spelling] = {
    "SpaceToDepth": _spelling(space_to_depth, "Concat", "Slice"),
    "Gelu": _spelling(gelu, "Div", "Erf"),
    "LayerNormalization": _spelling(layer_norm, "ReduceMean", "Sqrt"),
    "RMSNormalization": _spelling(rms_norm, "Pow", "Sqrt"),
    "MatMulTranspose": _spelling(matmul_transpose, "MatMul FusedMatMul", "Transpose"),
    "BiasGelu": _spelling(bias_gelu, "Add", "Gelu FastGelu"),
    "SkipLayerNormalization": _spelling(skip_layer_norm, "LayerNormalization", "Add"),
    "BiasSkipLayerNormalization": _spelling(bias_skip_layer_norm, "SkipLayerNormalization", "MatMul"),
    "FastGelu": _spelling(fast_gelu, "Mul Pow", "Tanh"),
    "QuickGelu": _spelling(quick_gelu, "Sigmoid", "Mul"),
    "MatMulScale": _spelling(matmul_scale, "MatMul FusedMatMul", "Mul Div"),
}


def recognise(draft: Draft, fusions: Fusions, *names: str) -> bool:
    """Applies patterns one after the other, each to every step that may begin it; whether anything changed."""
    changed = False
    for name in names:
        spelling = _SPELLINGS[name]
        ops = draft.ops()
        if name not in fusions.patterns or ops.isdisjoint(spelling.begins) or (spelling.needs and ops.isdisjoint(spelling.needs)):
            continue
        for step in draft.of(*spelling.begins):
            if step.index in draft.steps:
                changed |= spelling.rewrite(draft, step)
    return changed
