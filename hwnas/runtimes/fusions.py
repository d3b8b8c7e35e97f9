"""What a runtime fuses: facts of its version and of the processor, found by probing and kept in a profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from hwnas.errors import UsageError, did_you_mean

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
        {"Elu", "HardSigmoid", "LeakyRelu", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Tanh"}
    )
    blocked_unary: frozenset[str] = frozenset({"Gelu", "HardSigmoid", "QuickGelu", "Relu", "Sigmoid", "Tanh"})
    patterns: frozenset[str] = PATTERNS

    @classmethod
    def of(cls, facts: Fusions | int) -> Fusions:
        """The facts themselves; a bare number is the block of an otherwise usual runtime."""
        return cls(block=facts) if isinstance(facts, int) else facts

    def as_dict(self) -> dict[str, Any]:
        """Plain values, sets as sorted lists, for a file."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: sorted(value) if isinstance(value, frozenset) else value for key, value in plain.items()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Fusions:
        """The value that `as_dict` wrote; a missing key has its default.

        Raises:
            UsageError: for a key that this version does not know.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(plain) - set(known))
        if unknown:
            hint = did_you_mean(unknown[0], known)
            raise UsageError(
                f"unknown fact about fusions '{unknown[0]}'{hint}; this version has: {', '.join(known)}; measure a new profile"
            )
        values: dict[str, Any] = {key: frozenset(value) if isinstance(value, (list, tuple)) else value for key, value in plain.items()}
        return cls(**values)
