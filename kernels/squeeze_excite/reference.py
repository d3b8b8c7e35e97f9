"""What the kernel computes, in PyTorch: the truth in float64, and what a compiler would have to fuse in the network's own precision."""

from __future__ import annotations

from torch.nn import functional

ACTIVATIONS = {"relu": functional.relu, "silu": functional.silu}
GATES = {"sigmoid": lambda x: x.sigmoid(), "hardsigmoid": functional.hardsigmoid}


def reference(x, reduce, reduce_bias, expand, expand_bias, *, activation, gate):
    """Every channel scaled by a gate that is computed from the means of all channels (Hu et al., CVPR 2018).

    Args:
        x: [N, C, H, W].
        reduce: [R, C].
        reduce_bias: [R].
        expand: [C, R].
        expand_bias: [C].
        activation: a key of `ACTIVATIONS`.
        gate: a key of `GATES`.
    """
    hidden = ACTIVATIONS[activation](functional.linear(x.mean((2, 3)), reduce, reduce_bias))
    scale = GATES[gate](functional.linear(hidden, expand, expand_bias))
    return (x * scale[:, :, None, None],)
