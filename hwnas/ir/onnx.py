"""ONNX files in and out, opset 17 to 21 (older ones are converted when they are read).

The file and the graph have the same node names, value names and weights; what ONNX passes as constant inputs and hwnas keeps
as attributes is translated both ways.
"""

from hwnas.ir.onnx_read import Shipped, from_model, load, load_shipped
from hwnas.ir.onnx_write import needed_opset, save, to_bytes, to_model

__all__ = ["Shipped", "from_model", "load", "load_shipped", "needed_opset", "save", "to_bytes", "to_model"]
