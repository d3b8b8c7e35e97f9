"""The static graph of ONNX operators that every other part of hwnas reads.

A `Graph` is shape-inferred and immutable. Its operators have ONNX's names and semantics, in one canonical form: whatever
ONNX passes as a small constant input (the shape of a Reshape, the axes of a ReduceMean, the bounds of a Clip) is an attribute
here, so that a node's inputs are tensors and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

import numpy as np

from hwnas.errors import GraphError
from hwnas.ir.node import Node, TensorSpec, Weight
from hwnas.ir.ops import canonical, infer


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """A network: nodes in topological order, with the spec of every value known.

    Make one with `Graph.make` or a `GraphBuilder`, which check it and infer its shapes.

    Attributes:
        name: for people.
        inputs: the activations that a run supplies, with their specs.
        outputs: names of the values that a run returns.
        nodes: canonical, in an order in which they can run.
        weights: constants by name.
        specs: the spec of every value: inputs, weights and node outputs.
    """

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    weights: Mapping[str, Weight]
    specs: Mapping[str, TensorSpec]

    @classmethod
    def make(
        cls,
        *,
        name: str,
        inputs: Mapping[str, TensorSpec],
        outputs: Iterable[str],
        nodes: Iterable[Node],
        weights: Mapping[str, Weight],
    ) -> Graph:
        """Checks the parts, brings every node into canonical form and infers all shapes.

        Raises:
            GraphError: names the node that reads an unknown value, writes a name twice, or does not fit its inputs.
        """
        specs: dict[str, TensorSpec] = {**inputs, **{key: weight.spec for key, weight in weights.items()}}
        done: list[Node] = []
        names: set[str] = set()
        for node in nodes:
            if node.name in names:
                raise GraphError(f"node '{node.name}': the name is used twice; node names must be unique")
            names.add(node.name)
            unknown = [value for value in node.inputs if value and value not in specs]
            if unknown:
                raise GraphError(f"node '{node.name}' ({node.op}) reads '{unknown[0]}', which nothing before it writes")
            given = [specs[value] for value in node.inputs if value]
            node = canonical(node, given)
            for value, spec in zip(node.outputs, infer(node, given), strict=True):
                if value in specs:
                    raise GraphError(f"node '{node.name}' ({node.op}) writes '{value}', which exists already")
                specs[value] = spec
            done.append(node)
        return cls.assemble(name=name, inputs=inputs, outputs=outputs, nodes=done, weights=weights, specs=specs)

    @classmethod
    def assemble(
        cls,
        *,
        name: str,
        inputs: Mapping[str, TensorSpec],
        outputs: Iterable[str],
        nodes: Iterable[Node],
        weights: Mapping[str, Weight],
        specs: Mapping[str, TensorSpec],
    ) -> Graph:
        """A graph of nodes that are canonical already, in order, with the specs of all their values.

        Raises:
            GraphError: an output is missing.
        """
        outputs = tuple(outputs)
        missing = [value for value in outputs if value not in specs]
        if missing or not outputs:
            raise GraphError(f"graph '{name}': " + (f"output '{missing[0]}' is written by no node" if missing else "it has no output"))
        return cls(
            name=name,
            inputs=MappingProxyType(dict(inputs)),
            outputs=outputs,
            nodes=tuple(nodes),
            weights=MappingProxyType(dict(weights)),
            specs=MappingProxyType(dict(specs)),
        )

    def __deepcopy__(self, memo: dict[int, object]) -> Graph:
        """Itself: it cannot change. Modules that hold a graph are copied often, and read-only mappings refuse to be."""
        return self

    @cached_property
    def producers(self) -> Mapping[str, Node]:
        """The node that writes each value."""
        return {value: node for node in self.nodes for value in node.outputs}

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """Where each node stands, by its name."""
        return {node.name: i for i, node in enumerate(self.nodes)}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Node, ...]]:
        """The nodes that read each value, once per node, in order; values nobody reads are absent."""
        readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(node.inputs):
                if value:
                    readers.setdefault(value, []).append(node)
        return {value: tuple(nodes) for value, nodes in readers.items()}

    @cached_property
    def constants(self) -> frozenset[str]:
        """Values that no input of the network changes: its weights, and what nodes compute from them alone."""
        found = set(self.weights)
        for node in self.nodes:
            if all(value in found for value in node.inputs if value):
                found.update(node.outputs)
        return frozenset(found)

    def input_specs(self, node: Node) -> list[TensorSpec]:
        """Specs of the inputs that a node has, those left out skipped."""
        return [self.specs[value] for value in node.inputs if value]

    def output_specs(self, node: Node) -> list[TensorSpec]:
        """Specs of a node's outputs."""
        return [self.specs[value] for value in node.outputs]

    def materialize(self, rng: np.random.Generator) -> Graph:
        """The same graph with the values of all weights drawn (those known are kept)."""
        if all(weight.value is not None for weight in self.weights.values()):
            return self
        return replace(self, weights=MappingProxyType({key: weight.drawn(rng) for key, weight in self.weights.items()}))

    def with_weights(self, values: Mapping[str, np.ndarray]) -> Graph:
        """The same graph with these weights' values replaced; shapes must agree."""
        unknown = sorted(set(values) - set(self.weights))
        if unknown:
            raise GraphError(f"graph '{self.name}' has no weight '{unknown[0]}'")
        updated = {key: replace(weight, value=values[key]) if key in values else weight for key, weight in self.weights.items()}
        return replace(self, weights=MappingProxyType(updated))

    def random_inputs(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Inputs to run the network on: uniform in [0, 1) for floats (measuring.md: never zeros), zeros and ones for integers."""
        feed: dict[str, np.ndarray] = {}
        for key, spec in self.inputs.items():
            if spec.dtype.startswith("float"):
                feed[key] = rng.random(spec.shape, dtype=np.float32).astype(spec.dtype)
            else:
                feed[key] = rng.integers(0, 2, spec.shape).astype(spec.dtype)
        return feed
