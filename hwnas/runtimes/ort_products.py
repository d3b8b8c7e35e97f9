"""Matrix products as ONNX Runtime computes them: with what is added behind them, transposing and scaling what they read and write."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from hwnas.ir.node import TensorSpec
from hwnas.runtimes.ort_draft import Draft, Step, attributes

GEMM = attributes(alpha=1.0, beta=1.0, transA=0, transB=0)
_PLAIN = attributes(alpha=1.0, transA=0, transB=0, transBatchA=0, transBatchB=0)


# ---- a Gemm


def matmul_norm(draft: Draft, step: Step) -> bool:
    """A batch normalisation behind the product of two matrices is part of it."""
    norm = draft.only_reader(step.outputs[0], "BatchNormalization")
    left, weights = step.inputs
    if norm is None or not len(draft.shape(left)) == len(draft.shape(weights)) == 2:
        return False
    if not draft.constants.issuperset([weights, *norm.inputs[1:]]):
        return False
    if draft.shape(norm.inputs[1])[0] != draft.shape(weights)[1]:
        return False
    draft.replace([step, norm], "Gemm", [*step.inputs, norm.inputs[2]], GEMM)
    return True


def add_sum(draft: Draft, step: Step) -> bool:
    """A Sum of two behind a Gemm without a bias is its bias."""
    after = draft.only_reader(step.outputs[0], "Sum")
    if after is None or len(step.inputs) != 2 or len(after.inputs) != 2:
        return False
    other = draft.other(after, step.outputs[0])
    if draft.shape(after.outputs[0]) != draft.shape(step.outputs[0]):
        return False
    draft.replace([step, after], "Gemm", [*step.inputs, other], step.attrs)
    return True


def _is_swap(step: Step) -> bool:
    return step.op == "Transpose" and step.attr("perm") == (1, 0)


def gemm_transpose(draft: Draft, step: Step) -> bool:
    """A matrix product reads, or writes, a transposed matrix."""
    changed = False
    for position, flag in ((0, "transA"), (1, "transB")):
        before = draft.writer.get(step.inputs[position])
        if before is not None and _is_swap(before) and before.outputs[0] not in draft.outputs:
            step.set(**{flag: 1 - step.attr(flag)})
            draft.set_input(step, position, before.inputs[0])
            if not draft.edges(before.outputs[0]):
                draft.remove(before, step)
            changed = True
    after = draft.only_reader(step.outputs[0], "Transpose") if len(step.inputs) == 2 else None
    if after is not None and _is_swap(after):
        attrs = attributes(**{**dict(step.attrs), "transA": 1 - step.attr("transB"), "transB": 1 - step.attr("transA")})
        draft.replace([step, after], "Gemm", step.inputs[::-1], attrs)
        changed = True
    return changed


def add_bias(draft: Draft, *, keep_attention: bool) -> bool:
    """A matrix product and the addition of a bias are a Gemm; one of more than two dimensions stands between reshapes.

    Args:
        draft: is changed.
        keep_attention: whether products that may belong to an attention block (of a normalisation before it) stay for the time being.
    """
    changed = False
    behind: set[int] = set()  # additions that end an attention block some of whose products were met
    for step in draft.of("MatMul", ordered=True):
        after = draft.only_reader(step.outputs[0], "Add")
        left, right = step.inputs
        if after is None or len(draft.shape(right)) != 2 or draft.specs[left].dtype != "float32":
            continue
        bias, rows = draft.other(after, step.outputs[0]), draft.shape(left)
        columns = draft.shape(right)[1]
        if len(rows) == 2:
            fits = draft.shape(bias) in ((columns,), (1, columns), (rows[0], columns), (rows[0], 1))
        else:
            norm = draft.writer.get(left) if keep_attention else None
            end = _attended(draft, norm) if norm is not None else None
            if end is not None:
                behind.add(end.index)
            fits = draft.shape(bias) == (columns,) and end is None and after.index not in behind
        if not fits:
            continue
        _gemm(draft, step, after, bias)
        changed = True
    return changed


def _gemm(draft: Draft, product: Step, addition: Step, bias: str) -> None:
    left, right = product.inputs
    rows, columns = draft.shape(left), draft.shape(right)[1]
    if len(rows) == 2:
        draft.replace([product, addition], "Gemm", [left, right, bias], GEMM)
        return
    flat = draft.specs[left].numel // rows[-1]
    dtype = draft.specs[left].dtype
    read = draft.fresh(left, TensorSpec((flat, rows[-1]), dtype))
    write = draft.fresh(addition.outputs[0], TensorSpec((flat, columns), dtype))
    out = addition.outputs[0]
    nodes = [*product.nodes, *addition.nodes]
    draft.remove(product)
    draft.remove(addition)
    before = draft.add("Reshape", [left], [read], attributes(shape=(flat, rows[-1])))
    behind = draft.add("Reshape", [write], [out], attributes(shape=(*rows[:-1], columns)))
    before.cause = behind.cause = draft.add("Gemm", [read, right, bias], [write], GEMM, nodes)


def _attended(draft: Draft, norm: Step) -> Step | None:
    """The addition behind an attention block before which a normalisation stands: three products and the residual read that one."""
    readers = draft.readers.get(norm.outputs[0], [])
    if norm.op != "LayerNormalization" or sorted(step.op for step in readers) != ["Add", "MatMul", "MatMul", "MatMul"]:
        return None
    total = next(step for step in readers if step.op == "Add")
    behind = draft.writer.get(draft.other(total, norm.outputs[0]))
    return behind if behind is not None and behind.op == "Add" else None


# ---- a product that transposes and scales


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
