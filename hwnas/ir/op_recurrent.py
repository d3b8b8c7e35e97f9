"""Recurrent layers: what RNN, GRU and LSTM take, write and cost.

Only what exporters write is represented: all sequences of one length, the default activations, no clipping, no peepholes, the sequence
first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hwnas.errors import GraphError
from hwnas.ir.node import Node, TensorSpec
from hwnas.ir.op_complete import Attributes

GATES: Mapping[str, int] = {"RNN": 1, "GRU": 3, "LSTM": 4}
STATES: Mapping[str, int] = {"RNN": 1, "GRU": 1, "LSTM": 2}  # tensors that a step hands to the next
DIRECTIONS: Mapping[str, int] = {"forward": 1, "reverse": 1, "bidirectional": 2}
LENGTHS = 4  # the input that states how long each sequence is; it is always left out
ACTIVATIONS: Mapping[str, tuple[str, ...]] = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}


def complete(attrs: Attributes, inputs: Sequence[TensorSpec]) -> None:
    """The width of the state, from the recurrent weight."""
    if attrs["direction"] not in DIRECTIONS:
        raise GraphError(f"direction '{attrs['direction']}' does not exist; use {', '.join(DIRECTIONS)}")
    if len(inputs[2].shape) == 3:
        attrs["hidden_size"] = inputs[2].shape[2]


def infer(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """[T, N, I] with weights [D, gates H, I] and [D, gates H, H] gives every step's state [T, D, N, H] and the last ones [D, N, H]."""
    (steps, batch, width), hidden = inputs[0].shape, int(node.attr("hidden_size"))
    directions, rows = DIRECTIONS[node.attr("direction")], GATES[node.op] * hidden
    if inputs[1].shape != (directions, rows, width) or inputs[2].shape != (directions, rows, hidden):
        raise GraphError(f"weights of shapes {list(inputs[1].shape)} and {list(inputs[2].shape)} do not fit a state of {hidden}")
    dtype, state = inputs[0].dtype, (directions, batch, hidden)
    return [TensorSpec((steps, directions, batch, hidden), dtype), *[TensorSpec(state, dtype)] * STATES[node.op]]
