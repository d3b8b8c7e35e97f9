"""Zero-cost proxies: scores of an untrained network that claim to tell how accurate it would become.

Two of them are counts (`params`, `flops`), the bar that the others have to clear; see `hwnas.accuracy.quality` for whether they do.
Conventions, the same for all:

- Weights that have no values yet are drawn from the seed; weights that have some are kept, so a trained network is scored as it is.
- A proxy lowers the graph anew, which copies the weights: no proxy sees what another did, and the graph never changes. What two
  proxies share (the gradients of `grad_norm` and `snip`) `score_all` computes once.
- "Layers" are convolutions and fully connected layers, each by its weight (no biases, no normalisation), and a weight that
  two nodes share counts once. The loss is cross-entropy over one batch.
- Normalisation by batch uses the batch's own statistics (train mode): those stored at initialisation say nothing about the network.
- One thread and deterministic algorithms: the same seed and batch give the same score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from time import perf_counter
from types import MappingProxyType
from typing import Protocol

import numpy as np

from hwnas.accuracy.data import Batch, Dataset
from hwnas.accuracy.running import LAYERS, NORMALISATIONS, module_of, reproducible, tensor_of
from hwnas.errors import UsageError, did_you_mean, require
from hwnas.ir import Graph, Node, TensorSpec, Weight, cost
from hwnas.ir.torch import GraphModule, lower

try:
    import torch
    import torch.nn.functional as F
    from torch import Tensor
except ImportError:
    require("torch")

RECTIFIERS = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Selu"})
SMOOTH = frozenset({"HardSwish", "Gelu", "Mish", "Softplus", "Sigmoid", "HardSigmoid", "Tanh", "Softsign", "Erf"})
ACTIVATIONS = RECTIFIERS | SMOOTH
FEWEST_IMAGES = 4  # two halves of two: what zico needs


class Proxy(Protocol):
    """A score of an untrained network; higher claims to be more accurate.

    `score` must not change the graph, must depend on nothing but its arguments, and must be a finite number for every network that
    runs; one that overflows may be NaN, which ranks last.
    """

    @property
    def name(self) -> str:
        """What it is called in tables and options."""

    def score(self, graph: Graph, batch: Batch, seed: int) -> float:
        """Scores a network.

        Args:
            graph: a classifier whose image input fits the batch (in all but the batch size).
            batch: at least four labelled images.
            seed: of the weights that have no values yet.
        """


class Subject:
    """A network with values for all weights, before a batch: what proxies look at.

    Attributes:
        graph: never changed.
        batch: never changed.
    """

    def __init__(self, graph: Graph, batch: Batch) -> None:
        if len(batch) < FEWEST_IMAGES:
            raise UsageError(f"proxies need a batch of at least {FEWEST_IMAGES} images, got {len(batch)}")
        self.graph, self.batch = graph, batch

    @cached_property
    def gradients(self) -> list[tuple[Tensor, Tensor]]:
        """Each layer's weight with dL/dW."""
        return gradients(self.graph, self.batch)


@dataclass(frozen=True, slots=True)
class SubjectProxy:
    """A proxy given by a function.

    Attributes:
        name: what it is called.
        compute: the score of a subject.
    """

    name: str
    compute: Callable[[Subject], float]

    def score(self, graph: Graph, batch: Batch, seed: int) -> float:
        """See `Proxy.score`."""
        return self.of(Subject(graph.materialize(np.random.default_rng(seed)), batch))

    def of(self, subject: Subject) -> float:
        """The score of a network whose weights are drawn."""
        with reproducible():
            return self.compute(subject)


def params(subject: Subject) -> float:
    """Number of weights."""
    return float(cost.params(subject.graph))


def flops(subject: Subject) -> float:
    """Floating-point operations for one image, as `hwnas.ir.cost` counts them."""
    (spec,) = subject.graph.inputs.values()
    return cost.flops(subject.graph) / spec.shape[0]


def grad_norm(subject: Subject) -> float:
    """Sum over layers of the L2 norm of dL/dW (Abdelfattah et al., ICLR 2021)."""
    return sum(float(torch.linalg.vector_norm(gradient)) for _, gradient in subject.gradients)


def snip(subject: Subject) -> float:
    """Sum over all layers' weights of |w dL/dw| (Lee et al., ICLR 2019)."""
    return sum(float((weight * gradient).abs().sum()) for weight, gradient in subject.gradients)


def synflow(subject: Subject) -> float:
    """log(1 + S), S = sum over all layers' weights of |w dR/dw|, where R sums the output for one all-ones input (Tanaka et al., 2020).

    R is that of the network with |w| for every weight, without normalisation, in float64; the batch is not looked at. The upper
    bound of a Clip is lifted too: without normalisation every activation exceeds it, and the score of any network with ReLU6 would
    be that of its last layer. S grows exponentially with depth, so its logarithm is reported: the order is kept, and a score is
    finite (beyond the range of float64 it is that of the largest number, 709.8).
    """
    module = lower(_synaptic(subject.graph))
    (spec,) = subject.graph.inputs.values()
    weights = _layer_weights(module)
    total = module(torch.ones(1, *spec.shape[1:], dtype=torch.float64)).sum()
    flow = sum(float((w.detach() * g).abs().sum()) for w, g in zip(weights, _derivatives(total, weights), strict=True))
    return math.log1p(flow) if math.isfinite(flow) else math.log(np.finfo(np.float64).max)


def naswot(subject: Subject) -> float:
    """Log |det K|, K = sum over activations of C C^T + (1 - C)(1 - C)^T, C the binary codes of the batch (Mellor et al., ICML 2021).

    A code tells which side of zero the input of an activation is on, for every activation that the graph has: for a ReLU that is
    whether it is open; for Clip (ReLU6), HardSwish, SiLU (a Sigmoid whose input is also the factor), Gelu, and the gates' Sigmoid
    and HardSigmoid it is the sign of the pre-activation as well. A value that two activations read counts once.

    Images that get the same code make K singular. Eigenvalues below the rounding error of the largest, t = N eps max(lambda), are then
    taken as t: such a network scores below every regular one, as log 0 would, by an amount that grows with what is missing, and finite.
    """
    module = module_of(subject.graph).train()
    inputs = {node.inputs[0]: node.name for node in subject.graph.nodes if node.op in ACTIVATIONS}
    n = len(subject.batch)
    agreement = np.zeros((n, n))

    def see(layer: torch.nn.Module, arguments: tuple[Tensor, ...]) -> None:
        nonlocal agreement
        sign = (arguments[0].moveaxis(1, -1).reshape(n, -1) > 0).to(torch.float32).mul_(2).sub_(1)  # channels last: no copy
        agreement += (sign.shape[1] + (sign @ sign.T).double().numpy()) / 2  # C C^T + (1-C)(1-C)^T for the code C = (sign + 1) / 2

    for name in inputs.values():
        module.layers[name].register_forward_pre_hook(see)
    with torch.no_grad():
        module(tensor_of(subject.batch.images))
    return log_det(agreement)


def zico(subject: Subject) -> float:
    """Sum over layers of log sum over weights of mean |g| / std(g), over the gradients g of two batches (Li et al., ICLR 2023).

    The two batches are the halves of the one given; the deviation is the population's; weights with std = 0 are skipped, and so are layers
    where that is all.
    """
    one, two = (gradients(subject.graph, half) for half in subject.batch.halves())
    score = 0.0
    for (_, a), (_, b) in zip(one, two, strict=True):
        mean, deviation = (a.abs() + b.abs()) / 2, (a - b).abs() / 2
        varies = deviation > 0
        ratio = float((mean[varies] / deviation[varies]).double().sum())
        score += math.log(ratio) if ratio != 0 else 0.0
    return score


PROXIES: Mapping[str, SubjectProxy] = MappingProxyType(
    {function.__name__: SubjectProxy(function.__name__, function) for function in (params, flops, grad_norm, snip, synflow, naswot, zico)}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What proxies say of one network.

    Attributes:
        values: the score of each proxy.
        seconds: how long each took; what two of them share is counted with the first.
    """

    values: Mapping[str, float]
    seconds: Mapping[str, float]


def score_all(graph: Graph, dataset: Dataset, names: Sequence[str] | None = None, seed: int = 0, *, batch_size: int = 16) -> Scores:
    """Scores a network by several proxies, all on the same weights and the same batch of training images.

    Args:
        graph: a classifier for the data set's classes; the images are resized to its input.
        dataset: at any resolution.
        names: which proxies; by default all.
        seed: of the weights and of the choice of images.
        batch_size: number of images.

    Raises:
        UsageError: for an unknown proxy, or a network that the data set does not fit.
    """
    chosen = tuple(PROXIES) if names is None else tuple(names)
    for name in chosen:
        if name not in PROXIES:
            raise UsageError(f"no proxy '{name}'{did_you_mean(name, PROXIES)}; there is: {', '.join(PROXIES)}")
    train = dataset.fit(graph).train
    batch = train.batch(np.random.default_rng(seed).permutation(len(train))[:batch_size])
    subject = Subject(graph.materialize(np.random.default_rng(seed)), batch)
    values, seconds = {}, {}
    for name in chosen:
        start = perf_counter()
        values[name] = PROXIES[name].of(subject)
        seconds[name] = perf_counter() - start
    return Scores(values=MappingProxyType(values), seconds=MappingProxyType(seconds))


def log_det(matrix: np.ndarray) -> float:
    """Log |det| of a positive semi-definite matrix, with the treatment of singular ones that `naswot` describes.

    >>> round(log_det(np.diag([2.0, 8.0])), 6) == round(math.log(16), 6)
    True
    >>> math.isfinite(log_det(np.ones((3, 3)))) and log_det(np.ones((3, 3))) < 0
    True
    """
    eigenvalues = np.linalg.eigvalsh(matrix)
    floor = len(matrix) * np.finfo(np.float64).eps * max(1.0, float(eigenvalues[-1]))
    if eigenvalues[0] > floor:
        return float(np.linalg.slogdet(matrix).logabsdet)
    return float(np.log(np.maximum(eigenvalues, floor)).sum())


def gradients(graph: Graph, batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """Each layer's weight with dL/dW for the mean cross-entropy of a batch, batch normalisation in train mode."""
    module = module_of(graph).train()
    weights = _layer_weights(module)
    loss = F.cross_entropy(module(tensor_of(batch.images)), torch.from_numpy(batch.labels))
    return [(weight.detach(), gradient) for weight, gradient in zip(weights, _derivatives(loss, weights), strict=True)]


def _derivatives(of: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(of, weights, allow_unused=True)
    return [torch.zeros_like(weight) if gradient is None else gradient for weight, gradient in zip(weights, found, strict=True)]


def _layer_weights(module: GraphModule) -> list[Tensor]:
    """The weights of the layers in graph order, each once."""
    nodes = [node for node in module.graph.nodes if node.op in LAYERS and node.inputs[1] in module.graph.weights]
    by_name = {node.inputs[1]: module.layers[node.name].constant(1) for node in nodes}
    return list(by_name.values())


def _synaptic(graph: Graph) -> Graph:
    """The network whose flow `synflow` measures."""

    def weight(given: Weight) -> Weight:
        value = given.value
        return given if value is None or not given.spec.dtype.startswith("float") else Weight.of(np.abs(value.astype(np.float64)))

    def node(given: Node) -> Node:
        if given.op in NORMALISATIONS:
            return replace(given, op="Identity", inputs=given.inputs[:1], attrs=())
        return replace(given, op="Relu", attrs=()) if given.op == "Clip" else given

    return Graph.make(
        name=graph.name,
        inputs={name: TensorSpec(spec.shape, "float64") for name, spec in graph.inputs.items()},
        outputs=graph.outputs,
        nodes=[node(given) for given in graph.nodes],
        weights={name: weight(given) for name, given in graph.weights.items()},
    )
