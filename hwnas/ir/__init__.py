"""The graph: its nodes and kernels, ONNX in and out, lowering to torch, cost."""

from hwnas.ir.builder import GraphBuilder
from hwnas.ir.graph import Graph
from hwnas.ir.kernel import Kernel, KernelCall
from hwnas.ir.node import Node, TensorSpec, Weight

__all__ = ["Graph", "GraphBuilder", "Kernel", "KernelCall", "Node", "TensorSpec", "Weight"]
