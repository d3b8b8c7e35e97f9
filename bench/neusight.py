"""NeuSight's public measurements (MIT licence; Lee, Phanishayee and Mahajan, ASPLOS 2025) as kernels and networks of hwnas.

Operators: single PyTorch calls in float32 with TF32 off, timed with CUDA events; `train` and `test` are the paper's split. Networks: the
operators of one layer of each transformer, and what the whole took.
"""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.csv as csv
import pyarrow.parquet as pq

from hwnas.devices import DeviceSpec, catalogue
from hwnas.ir import Kernel, TensorSpec
from hwnas.predict.features import tabulate
from hwnas.predict.gpu_model import Measured

# Two parts that lent their measurements and are no devices of ours. The P100's figures are from a digest of TechPowerUp's database
# (sysrqmts.com), the P4's from NeuSight's own description; the P4's base clock and power limit are written from memory.
OTHERS = {
    "Tesla P100-PCIE-16GB": DeviceSpec(
        name="p100",
        kind="gpu",
        model="Tesla P100-PCIE-16GB",
        units=56,
        clock_hz=1.329e9,
        peak_flops={"fp32": 9.5e12},
        caches_bytes={"l2": 4 * 2**20},
        memory_bytes=16 * 2**30,
        base_clock_hz=1.19e9,
        memory_bytes_per_s=732e9,
        power_limit_w=250,
        compute_capability="6.0",
        lanes=64,
        process_nm=16,
    ),
    "Tesla P4": DeviceSpec(
        name="p4",
        kind="gpu",
        model="Tesla P4",
        units=20,
        clock_hz=1.114e9,
        peak_flops={"fp32": 5.7e12},
        caches_bytes={"l2": 2 * 2**20},
        memory_bytes=8 * 2**30,
        base_clock_hz=0.886e9,
        memory_bytes_per_s=192e9,
        power_limit_w=75,
        compute_capability="6.1",
        lanes=128,
        process_nm=16,
    ),
}
# Parts that run the same generation of library kernels learn from each other.
FAMILIES = {
    "Volta and later": (
        "Tesla V100-PCIE-32GB",
        "Tesla T4",
        "NVIDIA A100-PCIE-40GB",
        "NVIDIA A100 80GB PCIe",
        "NVIDIA H100 80GB HBM3",
        "NVIDIA L4",
    ),
    "Pascal": ("Tesla P100-PCIE-16GB", "Tesla P4"),
}
UNSEEN = ("NVIDIA H100 80GB HBM3", "NVIDIA L4", "NVIDIA A100 80GB PCIe")  # in no training row but the A100-80GB's convolutions
SCALARS = {"addu": "Add", "divu": "Div", "mulu": "Mul", "powu": "Pow"}
PAIRS = {"add": "Add", "div": "Div", "mul": "Mul", "pow": "Pow"}
SINGLES = {"relu": "Relu", "tanh": "Tanh", "gelu": "Gelu"}


def spec_of(model: str) -> DeviceSpec:
    """A part by the name that NVML reports."""
    return OTHERS[model] if model in OTHERS else catalogue.find_model(model).spec


def gemm(m: int, n: int, k: int) -> Kernel:
    """What `torch.nn.functional.linear` runs."""
    return Kernel(
        op="Gemm",
        inputs=(TensorSpec((m, k)),),
        weights=(TensorSpec((n, k)),),
        outputs=(TensorSpec((m, n)),),
        attrs=(("alpha", 1.0), ("beta", 1.0), ("transA", 0), ("transB", 1)),
    )


def bmm(b: int, m: int, n: int, k: int) -> Kernel:
    """What `torch.bmm` runs."""
    return Kernel(op="MatMul", inputs=(TensorSpec((b, m, k)), TensorSpec((b, k, n))), outputs=(TensorSpec((b, m, n)),))


def conv(batch: int, c_in: int, c_out: int, size: int, window: int, stride: int, pad: int) -> Kernel:
    """A square convolution without groups."""
    out = (size + 2 * pad - window) // stride + 1
    return Kernel(
        op="Conv",
        inputs=(TensorSpec((batch, c_in, size, size)),),
        weights=(TensorSpec((c_out, c_in, window, window)),),
        outputs=(TensorSpec((batch, c_out, out, out)),),
        attrs=(
            ("dilations", (1, 1)),
            ("group", 1),
            ("kernel_shape", (window, window)),
            ("pads", (pad,) * 4),
            ("strides", (stride, stride)),
        ),
    )


def rowwise(op: str, rows: int, length: int) -> Kernel:
    """Softmax or LayerNormalization over the last axis."""
    weights = (TensorSpec((length,)), TensorSpec((length,))) if op == "LayerNormalization" else ()
    x = TensorSpec((rows, length))
    return Kernel(op=op, inputs=(x,), weights=weights, outputs=(x,), attrs=(("axis", 1),))


def elementwise(op: str, shape: Sequence[int], tensors: int = 1) -> Kernel:
    """An element-wise operator that reads so many tensors and writes one."""
    x = TensorSpec(tuple(shape))
    return Kernel(op=op, inputs=(x,) * tensors, outputs=(x,))


def kernel_of(op: str, row: Mapping[str, int]) -> Kernel:
    """The kernel of a row of `nvidia_ops.parquet`."""
    if op == "linear":
        return gemm(row["M"] * row["B"], row["N"], row["K"])
    if op == "bmm":
        return bmm(row["B"], row["M"], row["N"], row["K"])
    if op == "conv":
        return conv(row["B"], row["c_in"], row["c_out"], row["in_hw"], row["ksize"], row["stride"], row["pad"])
    if op in ("softmax", "ln"):
        return rowwise({"softmax": "Softmax", "ln": "LayerNormalization"}[op], row["B"], row["H"])
    tensors = 2 if op in PAIRS else 1
    return elementwise((PAIRS | SCALARS | SINGLES)[op], (row["B"], row["H"]), tensors)


class Operators(NamedTuple):
    """Measured operators of one part: names as in the data, kernels, seconds, and which belong to the paper's test split."""

    ops: np.ndarray
    kernels: list[Kernel]
    seconds: np.ndarray
    test: np.ndarray


def operators(folder: Path) -> dict[str, Operators]:
    """The measured operators of every NVIDIA part, by the name that NVML reports."""
    table = pq.read_table(folder / "nvidia_ops.parquet")
    columns = ["B", "M", "N", "K", "H", "c_in", "c_out", "ksize", "in_hw", "stride", "pad"]
    sizes = {name: table[name].to_pylist() for name in columns}
    ops, devices, splits = (np.array(table[name].cast("string").to_pylist()) for name in ("op", "device", "split"))
    seconds = table["latency_ms"].to_numpy() * 1e-3
    found = {}
    for device in np.unique(devices).tolist():
        rows = np.flatnonzero(devices == device)
        kernels = [kernel_of(ops[i], {name: sizes[name][i] for name in columns}) for i in rows.tolist()]
        found[device] = Operators(ops[rows], kernels, seconds[rows], splits[rows] == "test")
    return found


def measured(device: str, data: Operators, rows: np.ndarray) -> Measured:
    """Some rows of a part, for learning."""
    kernels = [data.kernels[i] for i in np.flatnonzero(rows)]
    session = np.array([f"{device} {op}" for op in data.ops[rows].tolist()])
    return Measured(spec=spec_of(device), table=tabulate([[kernel] for kernel in kernels]), seconds=data.seconds[rows], session=session)


# ---- networks

Shape = tuple[int, ...]
VIEWS = frozenset({"view", "permute", "transpose", "unsqueeze", "expand", "getitem", "getattr", "size", "to", "type", "type_as"})
CREATED = frozenset({"arange", "ones", "full"})
LAYERS = {  # the first operator of a layer, and the first one behind it
    "bert": ("bert.encoder.layer.0.attention.self.query", ("bert.pooler.dense",)),
    "gpt": ("transformer.h.0.ln_1", ("transformer.ln_f",)),
    "opt": ("model.decoder.layers.0.self_attn_layer_norm", ("model.decoder.final_layer_norm",)),
}


class Step(NamedTuple):
    """An operator of a network: its kernels forwards and backwards, whether the layer that repeats contains it, its measured times in s."""

    forward: tuple[Kernel, ...]
    backward: tuple[Kernel, ...]
    repeated: bool
    forward_s: float
    all_s: float


class Network(NamedTuple):
    """A transformer as it ran on one part.

    Attributes:
        device: name that NVML reports.
        run: such as `gpt2_large-train-1024-4`: model, inference or training, length of the sequence, batch.
        layers: how often the repeated steps run.
        steps: in order.
        latency_s: measured of the whole: forwards, and in training backwards.
        forward_s: measured of the forward part.
    """

    device: str
    run: str
    layers: int
    steps: tuple[Step, ...]
    latency_s: float
    forward_s: float

    @property
    def trains(self) -> bool:
        """Whether it was trained."""
        return "-train-" in self.run

    def kernels(self) -> list[Kernel]:
        """Every kernel of a run, as often as it runs."""
        found = []
        for step in self.steps:
            kernels = (*step.forward, *step.backward) if self.trains else step.forward
            found.extend(kernels * (self.layers if step.repeated else 1))
        return found

    def operators_s(self) -> float:
        """The sum of the measured operators: what a perfect prediction of every operator would give."""
        return self._sum_s("all_s" if self.trains else "forward_s")

    def forward_operators_s(self) -> float:
        """The same of the forward pass alone."""
        return self._sum_s("forward_s")

    def _sum_s(self, times: str) -> float:
        return float(sum(getattr(step, times) * (self.layers if step.repeated else 1) for step in self.steps))


def networks(folder: Path) -> list[Network]:
    """Every NVIDIA network whose operators are there."""
    rows = pq.read_table(folder / "e2e_ops.parquet").to_pylist()
    wholes = {(row["device"], row["run"]): row for row in csv.read_csv(folder / "e2e_models.csv").to_pylist()}
    grouped: dict[tuple[str, str], list[Mapping[str, object]]] = {}
    for row in rows:
        if not str(row["device"]).startswith("AMD"):
            grouped.setdefault((str(row["device"]), str(row["run"])), []).append(row)
    found = []
    names = {
        model.replace(" ", "_"): model for model in (*OTHERS, *(p.spec.model for n in catalogue.names() for p in catalogue.entry(n).parts))
    }
    for (device, run), ops in grouped.items():
        whole = wholes[device, run]
        first, behind = LAYERS[next(key for key in LAYERS if run.startswith(key))]
        targets = [_name(str(op["target"])) for op in ops]
        begin, end = targets.index(first), targets.index(behind[0])
        if run.startswith("bert"):
            end = targets.index("bert.encoder.layer.0.output.LayerNorm") + 1
        trains = "-train-" in run
        steps = tuple(_step(name, op, begin <= i < end, trains) for i, (name, op) in enumerate(zip(targets, ops, strict=True)))
        latency, forward = float(whole["e2e_latency"]) * 1e-3, float(whole["fw_latency"]) * 1e-3
        found.append(Network(names[device], run, int(whole["num_layer"]), steps, latency, forward))
    return found


def _name(target: str) -> str:
    """The operator's or module's name without what Python prints around it."""
    for mark in ("<built-in method ", "<built-in function ", "<function "):
        target = target.removeprefix(mark)
    return target.split(" of type")[0].split(" at 0x")[0].rstrip(">")


def _step(name: str, op: Mapping[str, object], repeated: bool, trains: bool) -> Step:
    shapes = [tuple(shape) for shape in literal_eval(str(op["input_shapes"])) if shape != [1]]
    out: Shape = literal_eval(str(op["output_shape"]))
    forward, backward = _kernels(name, str(op["op"]), shapes, out, trains) if out != (1,) else ((), ())
    scalar = out == (1,)  # sizes and other numbers: they cost the host a little, and it runs ahead
    return Step(
        tuple(forward),
        tuple(backward),
        repeated,
        0.0 if scalar else float(op["fw_latency"]) * 1e-3,
        0.0 if scalar else float(op["latency"]) * 1e-3,
    )


Pair = tuple[list[Kernel], list[Kernel]]


def _moves(op: str, reads: Sequence[Shape], writes: Shape) -> Kernel:
    """An element-wise kernel that reads and writes tensors of these shapes."""
    return Kernel(op=op, inputs=tuple(TensorSpec(shape) for shape in reads), outputs=(TensorSpec(writes),))


def _accumulate(*weights: Shape) -> list[Kernel]:
    """A new gradient added to the one that is there."""
    return [_moves("Add", [shape, shape], shape) for shape in weights]


def _linear(m: int, n: int, k: int) -> Pair:
    """Forwards one product; backwards two, of the same three sizes, and the sum over the rows for the bias."""
    forward = [gemm(m, n, k)]
    return forward, [gemm(m, k, n), gemm(n, k, m), _moves("ReduceSum", [(m, n)], (n,)), *_accumulate((n, k), (n,))]


def _product(a: Shape, b: Shape) -> Pair:
    """Forwards one product of batches; backwards one for each operand."""
    count, m, k, n = prod(a[:-2]), a[-2], a[-1], b[-1]
    return [bmm(count, m, n, k)], [bmm(count, m, k, n), bmm(count, k, n, m)]


def _module(name: str, shapes: Sequence[Shape], out: Shape, trains: bool) -> Pair:
    last = name.rsplit(".", 1)[-1].lower()
    if "norm" in last or last.startswith("ln_"):
        rows, length = prod(out[:-1]), out[-1]
        backward = [_moves("LayerNormalizationGrad", [out, out], out), _moves("ReduceSum", [out, out], (length,))]
        return [rowwise("LayerNormalization", rows, length)], backward
    if "drop" in last:
        return _dropout(out) if trains else ([], [])
    if "embed" in last or last in ("wte", "wpe"):
        return [_moves("Gather", [out], out)], [_moves("ScatterElements", [out], out)]
    if last.startswith("activation"):
        return _activation("Tanh" if "pooler" in name else "Relu", out)
    x = shapes[0]
    return _linear(prod(x[:-1]), out[-1], x[-1])


def _dropout(x: Shape) -> Pair:
    """Forwards one kernel that writes a mask of bytes besides; backwards the mask becomes float, is scaled, and multiplies."""
    byte = TensorSpec(x, "uint8")
    mask = Kernel(op="Dropout", inputs=(TensorSpec(x),), outputs=(TensorSpec(x), byte))
    cast = Kernel(op="Cast", inputs=(byte,), outputs=(TensorSpec(x),))
    return [mask], [cast, _moves("Mul", [x], x), _moves("Mul", [x, x], x)]


def _activation(op: str, x: Shape) -> Pair:
    """Backwards it reads the gradient and what it wrote or read."""
    return [_moves(op, [x], x)], [_moves(op, [x, x], x)]


def _arithmetic(name: str, shapes: Sequence[Shape], out: Shape) -> Pair:
    op = {"add": "Add", "sub": "Sub", "mul": "Mul", "truediv": "Div", "pow": "Pow"}[name]
    forward = [_moves(op, shapes, out)]
    if name in ("add", "sub"):
        return forward, []  # the gradient passes through
    if name == "pow":  # the power below it, scaled, times the gradient
        return forward, [_moves("Pow", [out], out), _moves("Mul", [out], out), _moves("Mul", [out, out], out)]
    return forward, [_moves("Mul", shapes, out)] * len(shapes)


def _kernels(name: str, kind: str, shapes: Sequence[Shape], out: Shape, trains: bool) -> Pair:
    """The kernels of an operator in PyTorch, forwards and backwards."""
    if kind == "call_module":
        return _module(name, shapes, out, trains)
    if name in VIEWS:
        return [], []
    if name == "addmm":
        x = next(shape for shape in shapes if len(shape) == 2)
        return _linear(x[0], out[1], x[1])
    if name in ("matmul", "bmm"):
        return _product(shapes[0], shapes[1])
    if name == "softmax":
        # backwards PyTorch first multiplies the gradient with what it wrote
        return [rowwise("Softmax", prod(out[:-1]), out[-1])], [_moves("Mul", [out, out], out), _moves("SoftmaxGrad", [out, out], out)]
    if name in ("add", "sub", "mul", "truediv", "pow"):
        return _arithmetic(name, shapes, out)
    if name in ("gelu", "tanh"):
        return _activation(name.capitalize(), out)
    if name == "dropout":
        return _dropout(out) if trains else ([], [])
    if name in CREATED:
        return [_moves("Expand", [(1,)], out)], []
    if name in ("where", "masked_fill", "masked_fill_", "max"):
        return [_moves("Where", shapes or [out], out)], [_moves("Where", [out], out)]
    return [_moves("Copy", shapes or [out], out)], []  # contiguous, reshape of what is not, casts of masks
