"""Gelu as exporters spell it in several nodes, which ONNX Runtime recognises and computes in one.

Every spelling is looked for from one kind of step on and replaced as a whole; nothing else may read the values inside it.
"""

from __future__ import annotations

from math import pi, sqrt

from hwnas.runtimes.ort_draft import Draft, Step, attributes

_CUBIC = 0.044715  # of the approximation by tanh


def gelu(draft: Draft, step: Step) -> bool:
    """0.5 x (1 + erf(x / sqrt(2))), the factor 0.5 before or after."""
    x = step.inputs[0]
    if not draft.close(step.inputs[1], sqrt(2)):
        return False
    erf = draft.following(step, "Erf")
    one = draft.following(erf, "Add")
    mul = draft.following(one, "Mul")
    if erf is None or one is None or mul is None or draft.operand(one, 1.0) is None:
        return False
    other = draft.other(mul, one.outputs[0])
    steps = [step, erf, one]
    half = draft.before(other, "Mul")
    if half is not None and draft.edges(other) == 1 and draft.operand(half, 0.5) == x:
        steps += [half, mul]
    elif other == x and (last := draft.following(mul, "Mul")) is not None and draft.operand(last, 0.5) == mul.outputs[0]:
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
    tanh = draft.following(steps[-1], "Tanh")
    one = draft.following(tanh, "Add")
    mul = draft.following(one, "Mul")
    if tanh is None or one is None or mul is None or draft.operand(one, 1.0) is None or mul.outputs[0] in draft.outputs:
        return False
    half = draft.before(draft.other(mul, one.outputs[0]), "Mul")
    if half is None or draft.operand(half, 0.5) != x:
        return False
    draft.replace([*steps, tanh, one, half, mul], "FastGelu", [x])
    return True


def _cubic_power(draft: Draft, step: Step) -> tuple[str, list[Step]] | None:
    x = step.inputs[0]
    scaled = draft.following(step, "Mul")
    added = draft.following(scaled, "Add")
    root = draft.following(added, "Mul")
    if scaled is None or added is None or root is None or not draft.close(step.inputs[1], 3.0):
        return None
    if draft.operand(scaled, _CUBIC) is None or draft.other(added, scaled.outputs[0]) != x or draft.operand(root, sqrt(2 / pi)) is None:
        return None
    return x, [step, scaled, added, root]


def _cubic_product(draft: Draft, step: Step) -> tuple[str, list[Step]] | None:
    x = draft.operand(step, _CUBIC)
    square = draft.following(step, "Mul") if x is not None else None
    one = draft.following(square, "Add")
    outer = draft.following(one, "Mul")
    if x is None or square is None or one is None or outer is None or draft.other(square, step.outputs[0]) != x:
        return None
    root = draft.before(draft.other(outer, one.outputs[0]), "Mul")
    if root is None or draft.operand(one, 1.0) is None or draft.operand(root, sqrt(2 / pi)) != x:
        return None
    return x, [step, square, one, root, outer]


def quick_gelu(draft: Draft, step: Step) -> bool:
    """The swish x sigmoid(a x), with a = 1 left out."""
    scale = None
    x = step.inputs[0]
    before = draft.writer.get(x)
    constant = draft.constant_of(before) if before is not None and before.op == "Mul" and draft.only_reader(x) is step else None
    if before is not None and constant is not None and draft.specs[constant].numel == 1:
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
