"""What the kernel computes, in PyTorch: the truth in float64, and what a compiler would have to fuse in the network's own precision."""

from __future__ import annotations

from torch.nn import functional

ACTIVATIONS = {
    "none": lambda x: x,
    "relu": functional.relu,
    "relu6": functional.relu6,
    "hardswish": functional.hardswish,
    "silu": functional.silu,
}


def reference(x, weight, bias, residual=None, *, stride, pad, activation, add):
    """Convolution of every channel with its own window, then bias, residual and activation in the order that `add` says.

    Args:
        x: [N, C, H, W].
        weight: [C, 1, K, K], the batch normalisation folded in.
        bias: [C].
        residual: [N, C, OH, OW], or None where `add` is "none".
        stride: of the window.
        pad: zeros on every side.
        activation: a key of `ACTIVATIONS`.
        add: "none", or whether the residual comes "before" or "after" the activation.
    """
    y = functional.conv2d(x, weight, bias, stride=stride, padding=pad, groups=x.shape[1])
    if add == "before":
        y = y + residual
    y = ACTIVATIONS[activation](y)
    return (y + residual if add == "after" else y,)
