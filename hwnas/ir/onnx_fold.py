"""Evaluates what a file computes from constants and static shapes, as exporters write it around Reshape and Resize."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from hwnas.errors import GraphError
from hwnas.ir.node import Array, TensorSpec

# Small arithmetic on shapes. Anything else stays a node: the graph is as the file has it.
# fmt: off
FOLDABLE = frozenset({
    "Abs", "Add", "Cast", "Ceil", "Concat", "ConstantOfShape", "CumSum", "Div", "Equal", "Expand", "Floor",
    "Gather", "GatherElements", "Identity", "Max", "Min", "Mod", "Mul", "Neg", "NonZero", "Pow", "Range", "ReduceMax",
    "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Round", "Shape", "Size", "Slice", "Sqrt", "Squeeze",
    "Sub", "Transpose", "Unsqueeze", "Where",
})
# fmt: on


class GatherElements(OpRun):  # type: ignore[misc]  # onnx has no types
    """Replaces the evaluator's own, which fails on more than 64 elements along the axis."""

    def _run(self, data: Array, indices: Array, axis: int = 0) -> tuple[Array]:
        return (np.take_along_axis(data, indices, axis),)


class Folder:
    """Knows the constants of a file and what follows from them.

    Integer arithmetic on constants folds; floating-point arithmetic folds only on single numbers and where it stems from a shape (a
    scale computed from the input's size, say), so that computation on weights stays in the graph.
    """

    def __init__(self, opset: int) -> None:
        self.known: dict[str, Array] = {}
        self._opset = opset
        self._from_shapes: set[str] = set()

    def fold(self, proto: onnx.NodeProto, name: str, specs: Mapping[str, TensorSpec]) -> bool:
        """Evaluates a node where that is possible; its outputs are then known.

        Args:
            proto: the node.
            name: by which an error calls it.
            specs: of the values that are not constant.

        Raises:
            GraphError: when the constants do not fit the node.
        """
        if proto.op_type not in FOLDABLE:
            return False
        inputs = [value for value in proto.input if value]
        if proto.op_type in ("Shape", "Size"):
            if inputs[0] not in self.known and inputs[0] not in specs:
                return False
            shape = self.known[inputs[0]].shape if inputs[0] in self.known else specs[inputs[0]].shape
            feed = {inputs[0]: np.broadcast_to(np.zeros((), np.uint8), shape)}  # its values are not read
        elif all(value in self.known for value in inputs) and self._wanted(inputs):
            feed = {value: self.known[value] for value in inputs}
        else:
            return False
        try:
            results = ReferenceEvaluator(proto, opsets={"": self._opset}, new_ops=[GatherElements]).run(None, feed)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise GraphError(f"node '{name}' ({proto.op_type}) cannot be computed from its constants: {error}") from error
        for output, value in zip(proto.output, results, strict=True):
            self.known[output] = np.asarray(value)
            self._from_shapes.add(output)
        return True

    def _wanted(self, inputs: list[str]) -> bool:
        stems_from_shape = any(value in self._from_shapes for value in inputs)
        return stems_from_shape or all(self.known[value].dtype.kind in "iub" or self.known[value].size == 1 for value in inputs)
