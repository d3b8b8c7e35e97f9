"""Normalisations that ONNX Runtime recognises: over the last axes in several nodes, with a sum before them, with a bias before the sum."""

from __future__ import annotations

from collections.abc import Sequence

from hwnas.runtimes.ort_draft import Draft, Step, attributes


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
    root = draft.before(div.inputs[1], "Sqrt")
    variance = draft.before(root.inputs[0], "Add") if root else None
    squares = next((s for v in variance.inputs if (s := draft.before(v, "ReduceMean")) is not None), None) if variance else None
    power = draft.before(squares.inputs[0], "Pow") if squares else None
    scaled = draft.following(div, "Mul")
    shifted = draft.following(scaled, "Add")
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
    """The root mean square divides: x / sqrt(mean(x^2) + e) * scale."""
    x = step.inputs[0]
    if not draft.close(step.inputs[1], 2.0):
        return False
    mean = draft.following(step, "ReduceMean")
    added = draft.following(mean, "Add")
    root = draft.following(added, "Sqrt")
    div = draft.following(root, "Div")
    scaled = draft.following(div, "Mul")
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
    total = draft.before(step.inputs[0], "Add")
    if total is None or draft.only_reader(total.outputs[0]) is not step:
        return False
    left, right = (draft.shape(value) for value in total.inputs)
    if len(left) != 3 or left != right or step.attr("axis") != 2 or draft.specs[total.inputs[0]].dtype != "float32":
        return False
    inputs, steps, bias = list(total.inputs), [total, step], None
    for position, value in enumerate(total.inputs):
        added = draft.before(value, "Add")
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
        added = draft.before(step.inputs[position], "Add")
        if added is None or draft.only_reader(step.inputs[position]) is not step:
            continue
        bias = draft.constant_of(added)
        if bias is None or draft.shape(bias) != (width,):
            continue
        product = draft.other(added, bias)
        if draft.before(product, "MatMul") is None:
            continue
        inputs = [*step.inputs, bias]
        inputs[position] = product
        draft.replace([added, step], step.op, inputs, step.attrs)
        return True
    return False
