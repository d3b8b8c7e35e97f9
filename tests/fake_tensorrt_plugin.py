"""A stand-in for what `hwnas.kernels.plugin` uses of `tensorrt` and `tensorrt.plugin`.

It refuses what TensorRT refuses: expressions on the right of an integer, signatures that a plugin may not have. Its names and parameters
are compared with those of the real packages in tests/unit/kernels/test_plugin.py.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any


class SymInt32:
    """A size that is known when an engine runs; here its value is at hand, and says whether it would be a constant."""

    def __init__(self, value: Any = None) -> None:
        self._value: int = value._value if isinstance(value, SymInt32) else value
        self.is_constant = value.is_constant if isinstance(value, SymInt32) else True

    def _with(self, other: Any, result: int) -> Any:
        made = type(self)(result)
        made.is_constant = self.is_constant and getattr(other, "is_constant", True)
        return made

    def constant_value(self) -> int:
        """The value, where it is a constant."""
        if not self.is_constant:
            raise RuntimeError("Not accessible for non-constant integer expressions.")
        return self._value

    def __add__(self, other: Any) -> Any:
        return self._with(other, self._value + number(other))

    def __sub__(self, other: Any) -> Any:
        return self._with(other, self._value - number(other))

    def __mul__(self, other: Any) -> Any:
        return self._with(other, self._value * number(other))

    def __floordiv__(self, other: Any) -> Any:
        return self._with(other, self._value // number(other))


class ShapeExpr(SymInt32):
    """A dimension."""


def number(value: Any) -> int:
    """What an expression comes to."""
    return value._value if isinstance(value, SymInt32) else int(value)


class SymExprs:
    """Expressions in order."""

    def __init__(self, length: int) -> None:
        self._items: list[Any] = [None] * length

    def __setitem__(self, index: int, value: Any) -> None:
        self._items[index] = value

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)


class SymIntExprs(SymExprs):
    """Those that a kernel is called with."""


class Shape:
    """Sizes at build time; -1 where they vary."""

    def __init__(self, tensor_desc: Sequence[int], opt: Sequence[int] = ()) -> None:
        self._sizes, self._opt = tuple(tensor_desc), tuple(opt)

    def __iter__(self) -> Iterator[int]:
        return iter(self._sizes)

    @property
    def is_dynamic(self) -> bool:
        """Whether any varies."""
        return -1 in self._sizes

    @property
    def opt(self) -> tuple[int, ...]:
        """The sizes that an engine is tuned for."""
        if not self.is_dynamic:
            raise ValueError("opt property is only accessible if is_dynamic is true")
        return self._opt


class TensorDesc:
    """A tensor of a plugin."""

    def __init__(self, shape_expr: Sequence[Any], dtype: Any) -> None:
        self.shape_expr, self.dtype = shape_expr, dtype
        self.shape = Shape(())


class KernelLaunchParams:
    """Grid, block and shared memory."""

    def __init__(
        self, grid_x: Any = 1, grid_y: Any = 1, grid_z: Any = 1, block_x: Any = 1, block_y: Any = 1, block_z: Any = 1, shared_mem: Any = 0
    ) -> None:
        for name, value in list(locals().items()):
            if name != "self":
                setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in inspect.signature(KernelLaunchParams).parameters:
            raise AttributeError(f"KernelLaunchParams object has no attribute '{name}'")
        self.__dict__[name] = SymInt32(value)


def cdiv(first: Any, second: Any) -> Any:
    """Division rounded up."""
    if isinstance(first, int) and isinstance(second, int):
        raise ValueError("Both arguments cannot be 'int's")
    return ShapeExpr(-(-number(first) // number(second)))


def from_shape_expr(shape_expr: Sequence[Any], dtype: Any) -> TensorDesc:
    """A tensor of that shape."""
    return TensorDesc([size if isinstance(size, ShapeExpr) else ShapeExpr(size) for size in shape_expr], dtype)


class Plugin:
    """What was registered under a name."""

    def __init__(self, describe: Callable[..., Any]) -> None:
        self.describe = describe
        parameters = inspect.signature(describe).parameters
        self.tensors = [name for name, it in parameters.items() if it.annotation is TensorDesc]
        self.attrs = {name: it.annotation for name, it in parameters.items() if it.annotation is not TensorDesc}
        self.implement: Callable[..., Any] | None = None


PLUGINS: dict[str, Plugin] = {}


def register(plugin_id: str, lazy_register: bool = False) -> Callable[[Any], Any]:
    """Takes a function whose parameters are tensors, then attributes of plain types, and whose result is one or several tensors."""

    def decorator(function: Any) -> Any:
        space, name = plugin_id.split("::")
        if plugin_id in PLUGINS or space in ("", "trt", "tensorrt", "std") or "." in name:
            raise ValueError(f"'{plugin_id}' already has a definition, or is reserved")
        signature = inspect.signature(function)
        kinds = [it.annotation for it in signature.parameters.values()]
        first_attr = next((i for i, kind in enumerate(kinds) if kind is not TensorDesc), len(kinds))
        if first_attr == 0 or not all(kind in (int, float, str, bool, bytes) for kind in kinds[first_attr:]):
            raise ValueError(f"not a plugin's signature: {signature}")
        returned = signature.return_annotation
        if returned is not TensorDesc and (typing.get_origin(returned) is not tuple or set(typing.get_args(returned)) != {TensorDesc}):
            raise ValueError(f"not a plugin's result: {returned}")
        PLUGINS[plugin_id] = Plugin(function)
        return function

    return decorator


def aot_impl(plugin_id: str) -> Callable[[Any], Any]:
    """Takes a function with the same parameters, then `outputs` and `tactic`, whose result is name, code, launch and arguments."""

    def decorator(function: Any) -> Any:
        plugin, signature = PLUGINS[plugin_id], inspect.signature(function)
        expected = [*plugin.tensors, *plugin.attrs, "outputs", "tactic"]
        if list(signature.parameters) != expected:
            raise ValueError(f"{signature} is not {expected}")
        results = typing.get_args(signature.return_annotation)
        if len(results) != 4 or results[:2] != (str, str) or results[2] is not KernelLaunchParams or not issubclass(results[3], SymExprs):
            raise ValueError(f"not an implementation's result: {signature.return_annotation}")
        plugin.implement = function
        return function

    return decorator


tensorrt = types.SimpleNamespace(DataType=types.SimpleNamespace(FLOAT="float", HALF="half", BF16="bf16", INT8="int8"))
