"""Lowers a graph to a torch module that has the same weights and computes the same function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hwnas.errors import GraphError, require
from hwnas.ir.graph import Graph
from hwnas.ir.node import Array, Node
from hwnas.ir.torch_ops import DTYPES, LOWERINGS
from hwnas.ir.torch_window import Run

try:
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn
except ImportError:
    require("torch")

_AFFINE = {1: "weight", 2: "bias"}
_ROLES: Mapping[str, Mapping[int, str]] = {
    "Conv": _AFFINE,
    "ConvTranspose": _AFFINE,
    "Gemm": _AFFINE,
    "MatMul": _AFFINE,
    "InstanceNormalization": _AFFINE,
    "GroupNormalization": _AFFINE,
    "LayerNormalization": _AFFINE,
    "BatchNormalization": {**_AFFINE, 3: "running_mean", 4: "running_var"},
}


def lower(graph: Graph) -> GraphModule:
    """The graph as a torch module.

    Args:
        graph: its weights must have values; the module gets copies of them.

    Raises:
        GraphError: names the weight that has no values, or the node that torch cannot run.
    """
    return GraphModule(graph)


class Layer(nn.Module):
    """One node of the graph; called with the node's activations, its constants are its own.

    Constants are Parameters where they are of a floating type and train (`weight`, `bias`, or `constant_<position>`), else buffers.

    Attributes:
        node: what it computes.
    """

    def __init__(self, node: Node, run: Run, constants: Mapping[int, Tensor]) -> None:
        super().__init__()
        self.node = node
        self._run = run
        roles = _ROLES.get(node.op, {})
        self._arguments: list[str | None] = []
        for position, value in enumerate(node.inputs):
            role = roles.get(position, f"constant_{position}") if position in constants else None
            if value:
                self._arguments.append(role)
            if role:
                constant = constants[position]
                if isinstance(constant, nn.Parameter):
                    self.register_parameter(role, constant)
                else:
                    self.register_buffer(role, constant)

    def constant(self, position: int) -> Tensor:
        """The constant that the node reads at a position of its inputs."""
        role = self._arguments[position]
        if role is None:
            raise GraphError(f"node '{self.node.name}' ({self.node.op}): input {position} is no constant")
        return self.get_parameter(role) if role in self._parameters else self.get_buffer(role)

    def arguments(self, activations: Iterator[Tensor]) -> list[Tensor]:
        """All inputs of the node in order: constants from here, the others from `activations`."""
        return [next(activations) if role is None else getattr(self, role) for role in self._arguments]

    def forward(self, *activations: Tensor) -> Any:
        """The node's output, or a sequence of them where the operator has several."""
        return self._run(*self.arguments(iter(activations)))

    def extra_repr(self) -> str:
        """What torch prints inside the brackets."""
        return f"{self.node.op}, {self.node.name}"


class BatchNormLayer(Layer):
    """Batch normalisation: by the running statistics in `eval()` mode, by the batch's own, and updating them, in `train()` mode."""

    MOMENTUM = 0.1

    def forward(self, *activations: Tensor) -> Tensor:
        """Normalises x of shape [N, C, ...]."""
        x, scale, shift, mean, var = self.arguments(iter(activations))
        trains = self.training and isinstance(self._buffers.get("running_mean"), Tensor)
        return F.batch_norm(x, mean, var, scale, shift, trains, self.MOMENTUM, float(self.node.attr("epsilon")))


class GraphModule(nn.Module):
    """A network that runs, and trains, in torch.

    It takes other batch sizes than the graph's as long as no node mixes the batch with other dimensions.

    Attributes:
        graph: what it computes; its weights are the values at the time of lowering.
        layers: by node name, every node's layer, on which forward hooks can be set.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self._holders: dict[str, tuple[str, int]] = {}  # where the present value of each weight is: node name, input position
        statistics = {value for node in graph.nodes if node.op == "BatchNormalization" for value in node.inputs[3:]}
        tensors = {name: _tensor(name, weight.value, trains=name not in statistics) for name, weight in graph.weights.items()}
        self.layers: dict[str, Layer] = {}
        for node in graph.nodes:
            constants = {position: tensors[value] for position, value in enumerate(node.inputs) if value in tensors}
            for position in constants:
                self._holders.setdefault(node.inputs[position], (node.name, position))
            self.layers[node.name] = _layer(graph, node, constants)
        self._ordered = nn.ModuleList(self.layers.values())
        self._last_use = {value: node.name for node in graph.nodes for value in node.inputs if value not in graph.weights}

    def forward(self, *inputs: Tensor) -> Any:
        """Runs the network.

        Args:
            inputs: in the order of `graph.inputs`.

        Returns:
            The output, or a tuple of them where the graph has several.
        """
        values = self._run(inputs, keep=False)
        found = tuple(self._weight(name) if name in self.graph.weights else values[name] for name in self.graph.outputs)
        return found[0] if len(found) == 1 else found

    def forward_values(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Runs the network and returns every value that a node writes, by its name in the graph."""
        values = self._run(inputs, keep=True)
        return {name: value for name, value in values.items() if name not in self.graph.inputs}

    def to_graph(self) -> Graph:
        """The graph with the weights that the module has now, running statistics included."""
        values = {}
        for name in self._holders:
            tensor = self._weight(name).detach().cpu()
            values[name] = _array(tensor.to(DTYPES[self.graph.weights[name].spec.dtype]))
        return self.graph.with_weights(values)

    def _weight(self, name: str) -> Tensor:
        if name not in self._holders:  # an output that no node reads
            return _tensor(name, self.graph.weights[name].value, trains=False)
        node, position = self._holders[name]
        return self.layers[node].constant(position)

    def _run(self, inputs: tuple[Tensor, ...], *, keep: bool) -> dict[str, Tensor]:
        if len(inputs) != len(self.graph.inputs):
            raise GraphError(f"graph '{self.graph.name}' takes {len(self.graph.inputs)} inputs, got {len(inputs)}")
        values = dict(zip(self.graph.inputs, inputs, strict=True))
        wanted = set(self.graph.outputs)
        for name, layer in self.layers.items():
            reads = [value for value in layer.node.inputs if value and value not in self.graph.weights]
            result = layer(*[values[value] for value in reads])
            outputs = layer.node.outputs
            values.update({outputs[0]: result} if isinstance(result, Tensor) else zip(outputs, result, strict=True))
            if not keep:
                for value in set(reads):
                    if self._last_use[value] == name and value not in wanted:
                        del values[value]
        return values


def _layer(graph: Graph, node: Node, constants: Mapping[int, Tensor]) -> Layer:
    if node.op == "BatchNormalization":
        return BatchNormLayer(node, F.batch_norm, constants)
    try:
        run = LOWERINGS[node.op](node, graph.input_specs(node), graph.output_specs(node))
    except GraphError as error:
        raise GraphError(f"node '{node.name}' ({node.op}): {error}") from error
    return Layer(node, run, constants)


def _tensor(name: str, value: Array | None, *, trains: bool) -> Tensor:
    if value is None:
        raise GraphError(f"weight '{name}' has no values yet; call graph.materialize(rng) first")
    if str(value.dtype) == "bfloat16":  # torch reads no NumPy extension types
        tensor = torch.from_numpy(value.view(np.int16).copy()).view(torch.bfloat16)
    else:
        tensor = torch.from_numpy(np.array(value))
    return nn.Parameter(tensor) if trains and tensor.is_floating_point() else tensor


def _array(tensor: Tensor) -> Array:
    if tensor.dtype == torch.bfloat16:
        bits: Array = tensor.view(torch.int16).numpy().copy()
        return bits.view("bfloat16")
    array: Array = tensor.numpy().copy()
    return array
