"""The patterns of several nodes that ONNX Runtime computes in one, each with the steps where it may begin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hwnas.runtimes import ort_gelu, ort_norms, ort_products, ort_slices
from hwnas.runtimes.fusions import Fusions
from hwnas.runtimes.ort_draft import Draft, Step

Pattern = Callable[[Draft, Step], bool]


@dataclass(frozen=True, slots=True)
class _Spelling:
    """A pattern, the operators of the steps where it may begin, and others of which one must occur somewhere."""

    rewrite: Pattern
    begins: frozenset[str]
    needs: frozenset[str] = frozenset()


def _spelling(rewrite: Pattern, begins: str, needs: str = "") -> _Spelling:
    return _Spelling(rewrite, frozenset(begins.split()), frozenset(needs.split()))


_SPELLINGS: Mapping[str, _Spelling] = {
    "SpaceToDepth": _spelling(ort_slices.space_to_depth, "Concat", "Slice"),
    "Gelu": _spelling(ort_gelu.gelu, "Div", "Erf"),
    "LayerNormalization": _spelling(ort_norms.layer_norm, "ReduceMean", "Sqrt"),
    "RMSNormalization": _spelling(ort_norms.rms_norm, "Pow", "Sqrt"),
    "MatMulTranspose": _spelling(ort_products.matmul_transpose, "MatMul FusedMatMul", "Transpose"),
    "BiasGelu": _spelling(ort_gelu.bias_gelu, "Add", "Gelu FastGelu"),
    "SkipLayerNormalization": _spelling(ort_norms.skip_layer_norm, "LayerNormalization", "Add"),
    "BiasSkipLayerNormalization": _spelling(ort_norms.bias_skip_layer_norm, "SkipLayerNormalization", "MatMul"),
    "FastGelu": _spelling(ort_gelu.fast_gelu, "Mul Pow", "Tanh"),
    "QuickGelu": _spelling(ort_gelu.quick_gelu, "Sigmoid", "Mul"),
    "MatMulScale": _spelling(ort_products.matmul_scale, "MatMul FusedMatMul", "Mul Div"),
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
