"""Recurrent layers as torch functions: one step after another, in ONNX's order of gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hwnas.errors import GraphError, require
from hwnas.ir.node import Node
from hwnas.ir.op_recurrent import LENGTHS, STATES
from hwnas.ir.torch_window import Lowering, Run, Specs

try:
    import torch
    from torch import Tensor
except ImportError:
    require("torch")

States = tuple[Tensor, ...]
# From what the input gives to the gates [N, gates H], the weight [gates H, H] and bias [gates H] on the state, and the state, each of
# [N, H], to the next state.
_Cell = Callable[[Tensor, Tensor, Tensor, States], States]


def _rnn(node: Node) -> _Cell:
    return lambda own, weight, bias, state: (torch.tanh(own + state[0] @ weight.T + bias),)


def _gru(node: Node) -> _Cell:
    """Gates: update, reset, hidden. The reset acts on the state before the product, or behind it."""
    behind = bool(node.attr("linear_before_reset"))

    def cell(own: Tensor, weight: Tensor, bias: Tensor, state: States) -> States:
        (h,), hidden = state, weight.shape[1]
        gates = torch.sigmoid(own[:, : 2 * hidden] + h @ weight[: 2 * hidden].T + bias[: 2 * hidden])
        update, reset = gates.chunk(2, -1)
        last, shift = weight[2 * hidden :].T, bias[2 * hidden :]
        product = reset * (h @ last + shift) if behind else (reset * h) @ last + shift
        return ((1 - update) * torch.tanh(own[:, 2 * hidden :] + product) + update * h,)

    return cell


def _lstm(node: Node) -> _Cell:
    """Gates: input, output, forget, cell."""

    def cell(own: Tensor, weight: Tensor, bias: Tensor, state: States) -> States:
        h, c = state
        into, out, forget, new = (own + h @ weight.T + bias).chunk(4, -1)
        c = torch.sigmoid(forget) * c + torch.sigmoid(into) * torch.tanh(new)
        return torch.sigmoid(out) * torch.tanh(c), c

    return cell


def _layer(make: Callable[[Node], _Cell]) -> Lowering:
    def lowering(node: Node, inputs: Specs, outputs: Specs) -> Run:
        cell, states = make(node), STATES[node.op]
        given = [i for i, value in enumerate(node.inputs) if value]  # the inputs that are not left out
        if LENGTHS in given or max(given) > LENGTHS + states:
            raise GraphError("lengths of sequences and peepholes are not supported")
        directions = {"forward": (1,), "reverse": (-1,), "bidirectional": (1, -1)}[node.attr("direction")]

        def run(*tensors: Tensor) -> tuple[Tensor, ...] | Tensor:
            at = dict(zip(given, tensors, strict=True))
            x, weights, recurrent = at[0], at[1], at[2]
            blank = x.new_zeros(len(directions), x.shape[1], recurrent.shape[2])
            biases = at.get(3, x.new_zeros(len(directions), 2 * weights.shape[1]))
            start = [at.get(LENGTHS + 1 + i, blank) for i in range(states)]
            series, ends = [], []
            for d, direction in enumerate(directions):
                bias, recurrent_bias = biases[d].chunk(2)
                own = x @ weights[d].T + bias
                state = tuple(first[d] for first in start)
                steps = []
                for step in own if direction > 0 else own.flip(0):
                    state = cell(step, recurrent[d], recurrent_bias, state)
                    steps.append(state[0])
                series.append(torch.stack(steps[::direction]))
                ends.append(state)
            results = (torch.stack(series, 1), *(torch.stack(last) for last in zip(*ends, strict=True)))
            return results[: len(node.outputs)] if len(node.outputs) > 1 else results[0]

        return run

    return lowering


LOWERINGS: Mapping[str, Lowering] = {"GRU": _layer(_gru), "LSTM": _layer(_lstm), "RNN": _layer(_rnn)}
