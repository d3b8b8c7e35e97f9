"""Matrix products that transpose and scale what they read, which ONNX Runtime makes of products behind Transposes and factors."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from hwnas.runtimes.ort_draft import Draft, Step, attributes

_PLAIN = attributes(alpha=1.0, transA=0, transB=0, transBatchA=0, transBatchB=0)


def matmul_transpose(draft: Draft, step: Step) -> bool:
    """A product reads its operands transposed: their last two axes swapped, or their first axis moved behind the other leading ones."""
    inputs, flags = list(step.inputs), dict[str, Any](step.attrs or _PLAIN)
    for position, side in enumerate("AB"):
        before = draft.before(step.inputs[position], "Transpose")
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
    flags = dict[str, Any](step.attrs or _PLAIN)
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
