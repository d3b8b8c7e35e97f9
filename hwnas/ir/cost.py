"""What a network costs on paper: operations, parameters, bytes.

Conventions, the same for a node of a graph and for a kernel of a runtime:

- A multiply-accumulate is 2 operations. Biases ride along in the accumulator and are free.
- An elementwise operator costs 1 per output element, however intricate its function.
- A window of a pool costs 1 per element under it, a reduction over axes 1 per input element.
- Batch normalisation costs 2 per element (scale, shift: its statistics are constants); normalisations that take statistics from the
  data 7 (sum; subtract; square; sum; scale by the deviation; scale; shift); Softmax 5 (maximum; subtract; exp; sum; divide); LRN its
  size and 4 (square; sum over the size; scale; power; divide).
- Resize costs 2 per weighted neighbour; nearest neighbours are copied.
- Einsum costs, for every combination of its indices, one multiplication or addition for each of its inputs: 2 for a product of two.
- Fusions that are a runtime's own operators cost what their parts do, as far as they compute one function: the sum of a
  SkipLayerNormalization 1 more, the bias of a BiasGelu 1 more.
- A recurrent layer costs its two matrix products, for every step, direction and gate; gates and states ride along.
- A cumulative sum costs 1 per element, a discrete Fourier transform 5 n log2 n (the count by which transforms are compared), the k
  largest of n elements 1 per element read and comparison in a heap of k (log2 k), and looking an image up between its pixels 2 per
  weighted neighbour.
- Whatever only moves data costs 0, and so does any other operator that is a runtime's own (layout reorders).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil, log2, prod
from typing import Any

from hwnas.ir.einsum import index_sizes
from hwnas.ir.graph import Graph
from hwnas.ir.node import Attrs, Node, TensorSpec
from hwnas.ir.op_recurrent import DIRECTIONS, GATES
from hwnas.ir.ops import OPS

# Their output is their input under another shape or name: no work, no storage.
VIEWS = frozenset({"Flatten", "Identity", "Reshape"})

Specs = Sequence[TensorSpec]
_Count = Callable[[Mapping[str, Any], Specs, Specs], int]


def _per_output(operations: int) -> _Count:
    return lambda attrs, inputs, outputs: operations * outputs[0].numel


def _per_input(attrs: Mapping[str, Any], inputs: Specs, outputs: Specs) -> int:
    return inputs[0].numel


def _area(attrs: Mapping[str, Any]) -> int:
    kernel: tuple[int, ...] = attrs["kernel_shape"]
    return prod(kernel)


def _conv(attrs: Mapping[str, Any], inputs: Specs, outputs: Specs) -> int:
    return 2 * outputs[0].numel * (inputs[0].shape[1] // int(attrs["group"])) * _area(attrs)


def _conv_transpose(attrs: Mapping[str, Any], inputs: Specs, outputs: Specs) -> int:
    return 2 * inputs[0].numel * (outputs[0].shape[1] // int(attrs["group"])) * _area(attrs)


def _pool(attrs: Mapping[str, Any], inputs: Specs, outputs: Specs) -> int:
    return outputs[0].numel * _area(attrs)


def _gemm(attrs: Mapping[str, Any], inputs: Specs, outputs: Specs) -> int:
    return 2 * outputs[0].numel * inputs[0].shape[0 if attrs["transA"] else 1]


def _matmul(attrs: Mapping[str, Any], inputs: Specs, outputs: Specs) -> int:
    return 2 * outputs[0].numel * inputs[0].shape[-1]


def _fused_matmul(attrs: Mapping[str, Any], inputs: Specs, outputs: Specs) -> int:
    turned, moved = bool(attrs.get("transA")), bool(attrs.get("transBatchA"))  # [M, K], [K, M], [M, batch, K], [K, batch, M]
    shape = inputs[0].shape
    return 2 * outputs[0].numel * shape[-1 if not turned else 0 if moved else -2]


def _einsum(attrs: Mapping[str, Any], inputs: Specs, outputs: Specs) -> int:
    sizes = index_sizes(attrs["equation"], [spec.shape for spec in inputs])
    return len(inputs) * prod(sizes.values()) if len(inputs) > 1 else inputs[0].numel


def _resize(attrs: Mapping[str, Any], inputs: Specs, outputs: Specs) -> int:
    taps = {"nearest": 0, "linear": 2, "cubic": 4}[attrs["mode"]]
    resized = sum(before != after for before, after in zip(inputs[0].shape, outputs[0].shape, strict=True))
    return 2 * outputs[0].numel * taps**resized if taps and resized else 0


def _recurrent(gates: int) -> _Count:
    def count(attrs: Mapping[str, Any], inputs: Specs, outputs: Specs) -> int:
        steps, batch, width = inputs[0].shape
        hidden, directions = int(attrs["hidden_size"]), DIRECTIONS[attrs["direction"]]
        return 2 * steps * batch * directions * gates * hidden * (width + hidden)

    return count


def _dft(attrs: Mapping[str, Any], inputs: Specs, outputs: Specs) -> int:
    length = int(attrs["dft_length"])
    return 5 * ceil(inputs[0].numel // inputs[0].shape[-1] * log2(max(length, 2)))


def _top_k(attrs: Mapping[str, Any], inputs: Specs, outputs: Specs) -> int:
    return ceil(inputs[0].numel * (1 + log2(int(attrs["k"]))))


def _grid_sample(attrs: Mapping[str, Any], inputs: Specs, outputs: Specs) -> int:
    taps = {"nearest": 0, "linear": 2, "cubic": 4}[attrs["mode"]]
    return 2 * outputs[0].numel * taps ** (len(inputs[0].shape) - 2) if taps else 0


def _lrn(attrs: Mapping[str, Any], inputs: Specs, outputs: Specs) -> int:
    return outputs[0].numel * (int(attrs["size"]) + 4)


_ELEMENTWISE = _per_output(1)
_STATISTICS = _per_output(7)
_COUNTS: Mapping[str, _Count] = {
    "ArgMax": _per_input,
    "ArgMin": _per_input,
    "AveragePool": _pool,
    "BatchNormalization": _per_output(2),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Col2Im": _per_input,
    "DFT": _dft,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GlobalAveragePool": _per_input,
    "GlobalMaxPool": _per_input,
    "GridSample": _grid_sample,
    "GroupNormalization": _STATISTICS,
    "InstanceNormalization": _STATISTICS,
    "LayerNormalization": _STATISTICS,
    "MatMul": _matmul,
    "MaxPool": _pool,
    **{op: _per_input for op in OPS if op.startswith("Reduce")},
    **{op: _recurrent(gates) for op, gates in GATES.items()},
    "Resize": _resize,
    "TopK": _top_k,
    "Softmax": _per_output(5),
    "LogSoftmax": _per_output(5),
    "LRN": _lrn,
}
_COPIES = {
    "Cast",
    "Concat",
    "DepthToSpace",
    "Expand",
    "Gather",
    "GatherElements",
    "GatherND",
    "OneHot",
    "Pad",
    "ScatterElements",
    "ScatterND",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Tile",
    "Transpose",
    "Trilu",
}
_MOVES = VIEWS | _COPIES


_FUSIONS: Mapping[str, _Count] = {
    "BiasGelu": _per_output(2),
    "FastGelu": _ELEMENTWISE,
    "FusedMatMul": _fused_matmul,
    "QuickGelu": _ELEMENTWISE,
    "SimplifiedLayerNormalization": _per_output(4),
    "SkipLayerNormalization": _per_output(8),
    "Upsample": _resize,
}


def op_flops(op: str, attrs: Attrs, inputs: Specs, outputs: Specs) -> int:
    """Operations of one node or kernel, by the conventions above.

    Args:
        op: the operator, or a fusion under ONNX Runtime's name for it.
        attrs: its canonical attributes.
        inputs: what it reads, in ONNX order (weights may follow or be left out: only the first input's shape counts).
        outputs: what it writes.
    """
    count = _COUNTS.get(op) or _FUSIONS.get(op)
    if count is not None:
        return count(dict(attrs), inputs, outputs)
    return _ELEMENTWISE({}, inputs, outputs) if op in OPS and op not in _MOVES else 0


def node_flops(graph: Graph, node: Node) -> int:
    """Operations of a node."""
    return op_flops(node.op, node.attrs, graph.input_specs(node), graph.output_specs(node))


def flops(graph: Graph) -> int:
    """Operations of one run, 2 per multiply-accumulate (see the module's conventions)."""
    return sum(node_flops(graph, node) for node in graph.nodes)


def _read_weights(graph: Graph) -> set[str]:
    return {value for node in graph.nodes for value in node.inputs if value in graph.weights}


def params(graph: Graph) -> int:
    """Number of trainable parameters: elements of the weights that nodes read, in floating types, without running statistics."""
    statistics = {value for node in graph.nodes if node.op == "BatchNormalization" for value in node.inputs[3:]}
    specs = [graph.specs[name] for name in _read_weights(graph) - statistics]
    return sum(spec.numel for spec in specs if "float" in spec.dtype)


def weight_bytes(graph: Graph) -> int:
    """Bytes of all constants that nodes read, each counted once."""
    return sum(graph.specs[name].nbytes for name in _read_weights(graph))


def memory_bytes(graph: Graph) -> int:
    """Bytes that a run needs: all weights, and the most that is live at once when the nodes run in order.

    An activation lives from the node that writes it (inputs: from the start) to the last one that reads it (outputs: to the end); a
    node's inputs and outputs are live together; views share the storage of what they view.
    """
    storage: dict[str, str] = {name: name for name in graph.inputs}
    last_use: dict[str, int] = dict.fromkeys(graph.inputs, -1)
    for step, node in enumerate(graph.nodes):
        reads = [value for value in node.inputs if value in storage]
        for value in node.outputs:
            storage[value] = storage[reads[0]] if node.op in VIEWS and reads else value
            last_use.setdefault(storage[value], step)
        last_use.update((storage[value], step) for value in (*reads, *node.outputs))
    last_use.update((storage[value], len(graph.nodes)) for value in graph.outputs if value in storage)
    live = peak = sum(spec.nbytes for spec in graph.inputs.values())
    dying: dict[int, list[str]] = {}
    for name, step in last_use.items():
        dying.setdefault(step, []).append(name)
    for step, node in enumerate(graph.nodes):
        live += sum(graph.specs[value].nbytes for value in node.outputs if storage[value] == value)
        peak = max(peak, live)
        live -= sum(graph.specs[name].nbytes for name in dying.get(step, ()))
    return weight_bytes(graph) + peak


def node_bytes(graph: Graph, node: Node) -> int:
    """Bytes that a node reads and writes when nothing is cached: inputs, weights and outputs; 0 for views."""
    if node.op in VIEWS:
        return 0
    reads = dict.fromkeys(value for value in node.inputs if value)
    return sum(graph.specs[value].nbytes for value in (*reads, *node.outputs))


def bytes_moved(graph: Graph) -> int:
    """Bytes that all nodes read and write when every one of them goes to memory."""
    return sum(node_bytes(graph, node) for node in graph.nodes)
