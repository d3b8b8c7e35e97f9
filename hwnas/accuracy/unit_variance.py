"""Start values for networks that normalise nothing.

He-normal weights keep the variance of a plain chain of ReLUs. In a residual network without normalisation the branches add up, gates and
saturating activations change the gain, and a dozen blocks start with logits in the tens, or behind ReLU6 with no gradient at all.
So each layer's weights are divided by the deviation of its own outputs on a batch, in one pass from the input to the output:
layer-sequential unit variance (Mishkin & Matas, ICLR 2016), which is what batch normalisation does at its first step.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from hwnas.errors import require
from hwnas.ir.torch import GraphModule, Layer

try:
    import torch
    from torch import Tensor
except ImportError:
    require("torch")

_SMALLEST = 1e-8  # outputs that vary less are constant: there is nothing to scale


def scale_to_unit_variance(module: GraphModule, images: Tensor, nodes: Collection[str]) -> None:
    """Scales the weights of layers, in place, so that the outputs of each have a standard deviation of 1 on these images.

    Args:
        module: biases must be zero, as they are when drawn.
        images: [N, C, H, W].
        nodes: names of the layers to scale, each with its weight as the second input.
    """
    handles = [module.layers[name].register_forward_hook(partial(_scale, weight=module.layers[name].constant(1))) for name in nodes]
    try:
        with torch.no_grad():
            module(images)
    finally:
        for handle in handles:
            handle.remove()


def _scale(layer: Layer, inputs: tuple[Tensor, ...], output: Tensor, *, weight: Tensor) -> Tensor:
    deviation = output.std()
    if not torch.isfinite(deviation) or deviation < _SMALLEST:
        return output
    weight /= deviation
    return output / deviation  # what the layers behind it see, in the same pass
