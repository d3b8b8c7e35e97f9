"""ONNX files in and out, opset 17 to 21 (older ones are converted when they are read).

The file and the graph have the same node names, value names and weights; what ONNX passes as constant inputs and hwnas keeps
as attributes is translated both ways.
"""

from hwnas.ir.onnx_read import from_model, load
from hwnas.ir.onnx_write import needed_opset, save, to_bytes, to_model

__all__ = ["from_model", "load", "needed_opset", "save", "to_bytes", "to_model"]
