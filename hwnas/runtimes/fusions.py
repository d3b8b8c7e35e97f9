"""What a runtime fuses: facts of its version and of the processor, found by probing and kept in a profile."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from hwnas.errors import FormatError, did_you_mean

PATTERNS = frozenset(
    {
        "BiasGelu",
        "BiasSkipLayerNormalization",
        "BlockedResize",
        "BlockedScale",
        "BlockedTranspose",
        "CommonSubexpression",
        "ConvAdd",
        "ConvMul",
        "ConvNorm",
        "ConvResidual",
        "ConvTransposeNorm",
        "DivMul",
        "FastGelu",
        "Gelu",
        "GemmSum",
        "GemmTranspose",
        "LateTransposes",
        "LayerNormalization",
        "MatMulAdd",
        "MatMulNorm",
        "MatMulScale",
        "MatMulTranspose",
        "Noop",
        "NotWhere",
        "Pad",
        "QuickGelu",
        "ReluClip",
        "ReshapeReshape",
        "RMSNormalization",
        "SkipLayerNormalization",
        "SlicesToSplit",
        "SpaceToDepth",
        "Transposes",
    }
)
"""Rewritings that a runtime may know, by the names that the rules of `hwnas.runtimes.ort_fusion` give them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusions:
    """What ONNX Runtime fuses on one device; the defaults are those of version 1.32 on x86-64 with AVX2.

    Attributes:
        block: channels per block of the layout in which convolutions work (NCHWc): 8 with AVX2, 16 with AVX-512, 1 where there is none.
        conv_activations: what a convolution absorbs when it follows.
        blocked_activations: what a convolution of blocked data absorbs besides, also after a residual.
        gemm_activations: what a fully connected layer absorbs.
        blocked_unary: element-wise operators that keep the blocked layout.
        patterns: names from `PATTERNS`.
    """

    block: int = 8
    conv_activations: frozenset[str] = frozenset({"Clip", "HardSigmoid", "LeakyRelu", "Relu", "Sigmoid", "Tanh"})
    blocked_activations: frozenset[str] = frozenset({"HardSigmoid", "HardSwish", "Relu", "Sigmoid", "Tanh"})
    gemm_activations: frozenset[str] = frozenset(
        {"Elu", "HardSigmoid", "LeakyRelu", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Tanh", "ThresholdedRelu"}
    )
    blocked_unary: frozenset[str] = frozenset({"Gelu", "HardSigmoid", "QuickGelu", "Relu", "Sigmoid", "Tanh"})
    patterns: frozenset[str] = PATTERNS

    @classmethod
    def of(cls, facts: Fusions | int) -> Fusions:
        """The facts themselves; a bare number is the block of an otherwise usual runtime."""
        return cls(block=facts) if isinstance(facts, int) else facts

    def as_entries(self) -> dict[str, Any]:
        """Entries for a profile or a card: `block`, and the table `fusions`, in which each pattern says whether the runtime knows it."""
        facts = {key: sorted(getattr(self, key)) for key in _SETS}
        return {"block": self.block, "fusions": {**facts, "patterns": {name: name in self.patterns for name in sorted(PATTERNS)}}}

    @classmethod
    def from_entries(cls, entries: Mapping[str, Any]) -> Fusions:
        """What `as_entries` said, among others; what was not asked for when it was written has its default.

        Raises:
            FormatError: for facts or patterns that this version does not know.
        """
        facts = dict(entries.get("fusions", {}))
        patterns = dict(facts.pop("patterns", {}))
        _refuse_unknown("fact", facts, _SETS)
        _refuse_unknown("pattern", patterns, PATTERNS)
        off = {name for name, known in patterns.items() if not known}
        return cls(block=entries["block"], patterns=PATTERNS - off, **{key: frozenset(ops) for key, ops in facts.items()})


UNFUSED = Fusions(
    block=1,
    conv_activations=frozenset(),
    blocked_activations=frozenset(),
    gemm_activations=frozenset(),
    blocked_unary=frozenset(),
    patterns=frozenset(),
)
"""A runtime that runs every node by itself."""

_SETS = tuple(field.name for field in fields(Fusions) if field.name not in ("block", "patterns"))


def _refuse_unknown(what: str, found: Iterable[str], known: Collection[str]) -> None:
    unknown = sorted(set(found).difference(known))
    if unknown:
        hint = did_you_mean(unknown[0], known)
        raise FormatError(f"unknown {what} about fusions '{unknown[0]}'{hint}; use the hwnas that wrote it, or profile again")
