"""The kernels as TensorRT plugins, by its ahead-of-time Python interface (`tensorrt.plugin`): an engine keeps compiled code, not Python.

TensorRT calls a kernel with the input tensors, then the integers, then the output tensors: the order in which the sources of `kernels/`
declare their parameters. The integers and the grid come from the functions that launch a kernel elsewhere, called with TensorRT's
expressions in place of sizes. Not yet run on hardware: checked against the interface of TensorRT 10.16 and 11.4 alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from hwnas.errors import HwnasError, require
from hwnas.kernels.compile import compile_kernel
from hwnas.kernels.source import Attrs, Case, KernelSource

NAMESPACE = "hwnas"
_VARIABLE = frozenset({"x", "residual"})  # activations; all other inputs are weights, whose sizes are fixed


def plugin_id(source: KernelSource, inputs: Sequence[str]) -> str:
    """The name by which a network asks for a kernel with these inputs, such as `hwnas::depthwise_conv_residual`."""
    extra = "".join(f"_{name}" for name in _optional(source) if name in inputs)
    return f"{NAMESPACE}::{source.name}{extra}"


def _optional(source: KernelSource) -> tuple[str, ...]:
    """Inputs that some of a kernel's cases leave out."""
    return tuple(name for name in source.code.INPUTS if any(name not in case.shapes for case in source.cases))


def input_sets(source: KernelSource) -> tuple[tuple[str, ...], ...]:
    """The sets of inputs with which a kernel can be used: a plugin's are fixed."""
    every = tuple(source.code.INPUTS)
    optional = _optional(source)
    return (every, tuple(name for name in every if name not in optional)) if optional else (every,)


def register(source: KernelSource, *, arch: str, lazy: bool = False) -> tuple[str, ...]:
    """Registers a kernel's plugins for an architecture, in this process.

    Args:
        source: the kernel.
        arch: of the card for which engines will be built, such as `sm90`.
        lazy: tell TensorRT's registry only when a network first uses a plugin.

    Returns:
        Their names, such as `hwnas::squeeze_excite`; a network gets one by `add_plugin(tensorrt.plugin.op.hwnas.squeeze_excite(x, ...))`.

    Raises:
        MissingExtraError: TensorRT is not installed.
        HwnasError: the plugins are registered already.
    """
    trt, trtp = require("tensorrt", "tensorrt"), require("tensorrt.plugin", "tensorrt")
    names = []
    for inputs in input_sets(source):
        name = plugin_id(source, inputs)
        describe, implement = _functions(trt, trtp, source, inputs, arch)
        try:
            trtp.register(name, lazy_register=lazy)(describe)
            trtp.aot_impl(name)(implement)
        except ValueError as error:
            raise HwnasError(f"TensorRT refuses the plugin '{name}' ({error}); it can be registered once in a process") from error
        names.append(name)
    return tuple(names)


def _functions(trt: Any, trtp: Any, source: KernelSource, inputs: tuple[str, ...], arch: str) -> tuple[Any, Any]:
    """The two functions that a plugin is: what it writes, and its code. TensorRT reads their signatures, so these are made to measure."""
    code, tuning = source.code, source.tunings[0]
    precisions = {trt.DataType.FLOAT: "fp32", trt.DataType.HALF: "fp16", trt.DataType.BF16: "bf16"}

    def split(values: Sequence[Any]) -> tuple[Mapping[str, Any], Attrs]:
        return dict(zip(inputs, values, strict=False)), dict(zip(source.attrs, values[len(inputs) :], strict=False))

    def symbolic(tensors: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
        """Sizes: expressions for activations, numbers for weights."""
        return {name: tuple(tensor.shape_expr) if name in _VARIABLE else _numbers(tensor.shape_expr) for name, tensor in tensors.items()}

    def describe(*values: Any, **named: Any) -> Any:
        tensors, attrs = split([*values, *named.values()])
        made = code.outputs({name: tuple(tensor.shape_expr) for name, tensor in tensors.items()}, attrs)
        descs = tuple(trtp.from_shape_expr(shape, tensors["x"].dtype) for shape in made.values())
        return descs if len(descs) > 1 else descs[0]

    def implement(*values: Any) -> Any:
        *values_in, _, _ = values
        tensors, attrs = split(values_in)
        dtypes = {tensor.dtype for tensor in tensors.values()}
        if len(dtypes) != 1 or not dtypes <= set(precisions):
            raise HwnasError(
                f"'{source.name}' takes tensors of one type, float, half or bfloat16, and got {sorted(map(str, dtypes))}; add casts"
            )
        typical = {name: _typical(tensor.shape) for name, tensor in tensors.items()}
        case = Case(name="engine", shapes=typical, attrs=attrs)
        built = compile_kernel(source, case, arch=arch, precision=precisions[dtypes.pop()], tuning=tuning, static=False)
        shapes = symbolic(tensors)
        launch = trtp.KernelLaunchParams()
        for axis, size in zip("xyz", code.grid(shapes, attrs, built.constants, trtp.cdiv), strict=False):
            setattr(launch, f"grid_{axis}", size)
        launch.block_x = built.threads
        launch.shared_mem = built.usage.shared_bytes
        scalars = [trtp.SymInt32(size) for size in code.scalars(shapes, attrs).values()]
        arguments = trtp.SymIntExprs(len(scalars))
        for i, scalar in enumerate(scalars):
            arguments[i] = scalar
        return built.symbol, built.ptx, launch, arguments

    desc, count = trtp.TensorDesc, len(code.OUTPUTS)
    returned = tuple[(desc,) * count] if count > 1 else desc  # type: ignore[misc]  # made at run time
    typed = [*((name, desc) for name in inputs), *source.attrs.items()]
    extra = [("outputs", tuple[(desc,) * count]), ("tactic", int)]  # type: ignore[misc]  # made at run time
    _sign(describe, typed, returned)
    _sign(implement, [*typed, *extra], tuple[str, str, trtp.KernelLaunchParams, trtp.SymIntExprs])
    return describe, implement


def _typical(shape: Any) -> tuple[int, ...]:
    """The sizes for which TensorRT tunes."""
    return tuple(int(size) for size in (shape.opt if shape.is_dynamic else shape))


def _numbers(shape: Sequence[Any]) -> tuple[int, ...]:
    return tuple(int(size.constant_value()) for size in shape)


def _sign(function: Any, parameters: Sequence[tuple[str, Any]], returned: Any) -> None:
    """Gives a function a signature."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    made = [inspect.Parameter(name, kind, annotation=annotation) for name, annotation in parameters]
    function.__signature__ = inspect.Signature(made, return_annotation=returned)
