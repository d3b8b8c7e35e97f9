"""What ONNX Runtime does before it fuses: needless nodes leave, constants are folded into their neighbours, equal nodes are merged.

Each rule looks at one step of a draft and says whether it changed anything; `clean` lets all of them visit every step once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from hwnas.ir.node import Attrs
from hwnas.ir.ops import single
from hwnas.runtimes import ort_products
from hwnas.runtimes.fusions import Fusions
from hwnas.runtimes.ort_draft import Draft, Step, attributes

_NO_CHANCE = np.random.default_rng(0)  # for weights that need none
_SHARED_ELEMENTS = 8  # constants of at most so many are compared by value when equal nodes are looked for


@dataclass(frozen=True, slots=True)
class _Rule:
    """A rule and the pattern that a runtime must know for it; `""` for what every version does."""

    pattern: str
    apply: Callable[[Draft, Step], bool]


DEFINITIONS: Mapping[str, tuple[tuple[str, Attrs], ...]] = {
    "HardSwish": (("HardSigmoid", attributes(alpha=single(1 / 6), beta=0.5)),),
    "Mish": (("Softplus", ()), ("Tanh", ())),
}
"""Operators that the runtime has no kernel for: what it multiplies their input by."""


def define(draft: Draft) -> None:
    """Replaces operators by their definitions."""
    for step in draft.of(*DEFINITIONS):
        value, written, label = step.inputs[0], step.outputs[0], step.op
        factor, parts = value, []
        nodes = list(step.nodes)
        draft.remove(step)
        for op, attrs in DEFINITIONS[label]:
            inner = draft.fresh(written, draft.specs[written])
            parts.append(draft.add(op, [factor], [inner], attrs))
            factor = inner
        mul = draft.add("Mul", [value, factor], [written], (), nodes)
        mul.label = label
        for part in parts:
            part.cause = mul


def clean(draft: Draft, fusions: Fusions) -> bool:
    """Applies the rules to every step; whether anything changed."""
    changed = False
    for step in draft.of(*_RULES):
        for rule in _RULES.get(step.op, ()):
            if step.index not in draft.steps:
                break
            if not rule.pattern or rule.pattern in fusions.patterns:
                changed |= rule.apply(draft, step)
    return changed


# ---- needless nodes


def _drop(draft: Draft, step: Step, position: int = 0) -> bool:
    draft.bypass(step, position=position)
    return True


def _copy(draft: Draft, step: Step) -> bool:
    """A copy passes its name to what it copies where it is an output of the network; it stays where both are read elsewhere."""
    value, written = step.inputs[0], step.outputs[0]
    if written not in draft.outputs:
        return _drop(draft, step)
    writer = draft.writer.get(value)
    if writer is None or draft.edges(value) != 1 or draft.edges(written) or value in draft.outputs:
        return False
    draft.remove(step, writer)
    draft.set_output(writer, writer.outputs.index(value), written)
    return True


def _cast(draft: Draft, step: Step) -> bool:
    same = draft.specs[step.inputs[0]].dtype == step.attr("to")
    return same and step.outputs[0] not in draft.outputs and _drop(draft, step)


def _inner(draft: Draft, step: Step, value: str) -> bool:
    return value in draft.writer and step.outputs[0] not in draft.outputs


def _expand(draft: Draft, step: Step) -> bool:
    value = step.inputs[0]
    return draft.shape(value) == draft.shape(step.outputs[0]) and _inner(draft, step, value) and _drop(draft, step)


def _noop(draft: Draft, step: Step) -> bool:
    """Adding nothing, multiplying by one."""
    constant = draft.constant_of(step)
    neutral = 0.0 if step.op in ("Add", "Sub") else 1.0
    if constant is None or (step.op in ("Sub", "Div") and constant != step.inputs[1]) or draft.scalar(constant) != neutral:
        return False
    value = draft.other(step, constant)
    if len(draft.shape(constant)) > len(draft.shape(value)) or not _inner(draft, step, value):
        return False
    return _drop(draft, step, step.inputs.index(value))


def _relu(draft: Draft, step: Step) -> bool:
    """A Relu before a Clip is part of it."""
    clip = draft.only_reader(step.outputs[0], "Clip")
    return clip is not None and _drop(draft, step)


def _inverse(draft: Draft, step: Step) -> bool:
    """The product with a reciprocal is a quotient."""
    if draft.scalar(step.inputs[0]) != 1.0:
        return False
    mul = draft.only_reader(step.outputs[0], "Mul")
    if mul is None:
        return False
    draft.replace([step, mul], "Div", [draft.other(mul, step.outputs[0]), step.inputs[1]], step.attrs)
    return True


def _not(draft: Draft, step: Step) -> bool:
    """The choice by a negation swaps what is chosen from."""
    readers = draft.readers.get(step.outputs[0], [])
    if step.outputs[0] in draft.outputs or not readers or any(r.op != "Where" or r.inputs[0] != step.outputs[0] for r in readers):
        return False
    for where in list(readers):
        draft.set_inputs(where, [where.inputs[0], where.inputs[2], where.inputs[1]])
    return _drop(draft, step)


# ---- into convolutions and matrix products


def _foldable(draft: Draft, step: Step) -> bool:
    return all(value in draft.constants for value in step.inputs[1:])


def _per_channel(draft: Draft, constant: str, step: Step) -> bool:
    """Whether a constant holds one number per channel of what a convolution writes, and broadcasts along the channels."""
    shape, out = draft.shape(constant), draft.shape(step.outputs[0])
    return shape in ((1, out[1], *(1,) * (len(out) - 2)), (out[1], *(1,) * (len(out) - 2)))


def _conv_constant(draft: Draft, step: Step, op: str) -> bool:
    after = draft.only_reader(step.outputs[0], op)
    if after is None or not _foldable(draft, step) or after.inputs[0] != step.outputs[0] or after.inputs[1] not in draft.constants:
        return False
    constant = after.inputs[1]
    if not _per_channel(draft, constant, step) and not (op == "Mul" and draft.shape(constant) == ()):
        return False
    if op == "Add" and len(step.inputs) == 2:
        draft.set_inputs(step, [*step.inputs, draft.constant(constant, draft.shape(step.outputs[0])[1:2])])
    draft.absorb(step, after)
    return True


def _conv_add(draft: Draft, step: Step) -> bool:
    return _conv_constant(draft, step, "Add")


def _conv_mul(draft: Draft, step: Step) -> bool:
    return _conv_constant(draft, step, "Mul")


def _norm(draft: Draft, step: Step) -> bool:
    """A convolution takes in the batch normalisation after it; it then has a bias."""
    norm = draft.only_reader(step.outputs[0], "BatchNormalization")
    if norm is None or not _foldable(draft, step) or not _foldable(draft, norm):
        return False
    if len(step.inputs) == 2:
        draft.set_inputs(step, [*step.inputs, norm.inputs[2]])
    draft.absorb(step, norm)
    return True


def _pad(draft: Draft, step: Step) -> bool:
    """Zeros around an image are the pads of the convolution or the average pool that alone reads it."""
    window = draft.only_reader(step.outputs[0], "Conv", "AveragePool")
    pads, rank = step.attr("pads"), len(draft.shape(step.inputs[0]))
    if window is None or window.inputs[0] != step.outputs[0] or step.attr("mode") != "constant" or step.attr("value") != 0.0:
        return False
    if min(pads) < 0 or any((*pads[:2], *pads[rank : rank + 2])):
        return False
    own = window.attr("pads")
    if window.op == "AveragePool":
        if any(own) and not window.attr("count_include_pad"):
            return False
        window.set(count_include_pad=1)
    window.set(pads=tuple(a + b for a, b in zip(own, (*pads[2:rank], *pads[rank + 2 :]), strict=True)))
    return _drop(draft, step)


_RULES: Mapping[str, tuple[_Rule, ...]] = {
    "Identity": (_Rule("", _copy),),
    "Cast": (_Rule("Noop", _cast),),
    "Expand": (_Rule("Noop", _expand),),
    **dict.fromkeys(("Add", "Sub", "Mul"), (_Rule("Noop", _noop),)),
    "Div": (_Rule("Noop", _noop), _Rule("DivMul", _inverse)),
    "Relu": (_Rule("ReluClip", _relu),),
    "Gemm": (_Rule("GemmSum", ort_products.add_sum), _Rule("GemmTranspose", ort_products.gemm_transpose)),
    "Not": (_Rule("NotWhere", _not),),
    "Conv": (_Rule("ConvAdd", _conv_add), _Rule("ConvMul", _conv_mul), _Rule("ConvNorm", _norm)),
    "ConvTranspose": (_Rule("ConvTransposeNorm", _norm),),
    "Pad": (_Rule("Pad", _pad),),
    "MatMul": (_Rule("MatMulNorm", ort_products.matmul_norm),),
}


# ---- equal nodes, reshapes, casts


def fold(draft: Draft) -> bool:
    """Computes what depends on constants alone; only Transposes that moved can have come to that."""
    found = [step for step in draft.steps.values() if all(value in draft.constants for value in step.inputs if value)]
    for step in found:
        draft.constants.update(step.outputs)
        draft.remove(step, step.cause)
    return bool(found)


def merge_equal(draft: Draft) -> bool:
    """Nodes that compute the same from the same values become one, unless the network returns what the later one writes."""
    if not any(len(readers) > 1 and len({step.op for step in readers}) < len(readers) for readers in draft.readers.values()):
        return False  # equal nodes read the same value
    first: dict[object, Step] = {}
    same: dict[str, object] = {}
    changed = False
    for step in draft.ordered():
        if step.op == "Reshape" and not draft.given(step):
            continue  # the runtime does not see that the shapes of its own reshapes are equal
        key = (step.op, tuple(same.get(v) or same.setdefault(v, _identity(draft, v)) for v in step.inputs), step.attrs, len(step.outputs))
        kept = first.setdefault(key, step)
        if kept is step:
            continue
        if draft.outputs.isdisjoint(step.outputs) and draft.outputs.isdisjoint(kept.outputs):
            outputs = list(step.outputs)
            draft.remove(step, kept)
            for old, new in zip(outputs, kept.outputs, strict=True):
                draft.redirect(old, new)
            changed = True
    return changed


def _identity(draft: Draft, value: str) -> object:
    """What makes a value equal to another: its name, or the numbers of a small constant."""
    weight = draft.graph.weights.get(value)
    if weight is None or (weight.init == "he" and weight.value is None) or weight.spec.numel > _SHARED_ELEMENTS:
        return value
    return weight.spec, weight.draw(_NO_CHANCE).tobytes()


def merge_reshapes(draft: Draft) -> bool:
    """Reshapes that follow one another are one."""
    changed = False
    for step in draft.of("Reshape", ordered=True):
        if step.index not in draft.steps:
            continue
        chain = [step]
        while (after := draft.only_reader(chain[-1].outputs[0], "Reshape")) is not None:
            chain.append(after)
        if len(chain) > 1:
            cause = next((link.cause for link in chain if link.cause is not None), None)
            draft.replace(chain, "Reshape", step.inputs, chain[-1].attrs).cause = cause
            changed = True
    return changed


def merge_casts(draft: Draft) -> None:
    """A Cast that undoes one to a wider type before it leaves; where Casts alone read such a wider value, they read its source instead."""
    for before in draft.of("Cast"):
        written, source = before.outputs[0], before.inputs[0]
        readers = list(draft.readers.get(written, ()))
        if before.attr("to") not in _WIDER.get(draft.specs[source].dtype, ()):
            continue
        casts = [reader for reader in readers if reader.op == "Cast"]
        alone = len(casts) == len(readers) and written not in draft.outputs
        for step in casts:
            undoes = step.attr("to") == draft.specs[source].dtype and step.outputs[0] not in draft.outputs
            if undoes or alone:
                draft.set_input(step, 0, source)
            if undoes:
                draft.bypass(step)
        if casts and not draft.edges(written) and written not in draft.outputs:
            left = [reader for reader in draft.readers.get(source, ()) if reader is not before]
            draft.remove(before, next(iter(left), None) or draft.writer.get(source))


_WIDER: Mapping[str, tuple[str, ...]] = {
    "bool": ("int32", "int64", "float32", "float64"),
    "float16": ("float32", "float64"),
    "float32": ("float64",),
    "int8": ("int32", "int64", "float32", "float64"),
    "int32": ("int64", "float64"),
    "uint8": ("int32", "int64", "float32", "float64"),
}
