"""A custom kernel as it lies in the `kernels/` tree: what it fuses, how exact it is, how it is launched, and its code.

The tree is no package. Its code is loaded by path, as `hwnas._kernels.<kernel>.triton_impl` and `.reference`, when it is asked for.
"""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from hwnas.assets import root
from hwnas.errors import FormatError, UsageError, did_you_mean, one_line, require

FORMAT = 1
PRECISIONS: Mapping[str, str] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}  # to torch's name of the element type
ATTR_TYPES: Mapping[str, type] = {"int": int, "float": float, "str": str}

Attrs = Mapping[str, int | float | str]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """The largest difference from the truth that a kernel may have: `absolute + relative * |truth|`."""

    absolute: float
    relative: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """A way to launch a kernel.

    Attributes:
        warps: of a program.
        sizes: what the kernel's own `constants` reads, such as `tile`.
    """

    warps: int
    sizes: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One use of a kernel.

    Attributes:
        name: for people.
        shapes: of the inputs; those that the attributes leave out are absent.
        attrs: the kernel's attributes.
    """

    name: str
    shapes: Shapes
    attrs: Attrs

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for uses that run the same work."""
        return tuple(sorted(self.shapes.items())), tuple(sorted(self.attrs.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSource:
    """A folder of the `kernels/` tree.

    Attributes:
        name: of the kernel and of its folder.
        summary: one line for people.
        fuses: the operators whose work it does, in order.
        layout: of the tensors.
        attrs: its attributes and their types.
        tolerance: by precision.
        tunings: ways to launch it, the default first.
        cases: typical uses.
        folder: where it lies.
    """

    name: str
    summary: str
    fuses: tuple[str, ...]
    layout: str
    attrs: Mapping[str, type]
    tolerance: Mapping[str, Tolerance]
    tunings: tuple[Tuning, ...]
    cases: tuple[Case, ...]
    folder: Path

    @classmethod
    def read(cls, folder: Path) -> KernelSource:
        """Reads `kernel.toml`.

        Raises:
            FormatError: it is damaged, lacks something, or is of another format.
        """
        path = folder / "kernel.toml"
        try:
            plain = tomllib.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise FormatError(f"'{path}' cannot be read ({one_line(error)}); install hwnas again") from error
        if plain.get("format") != FORMAT:
            raise FormatError(f"'{path}' has format {plain.get('format')}, this hwnas reads {FORMAT}; install a hwnas that fits it")
        try:
            return cls(
                name=plain["name"],
                summary=plain["summary"],
                fuses=tuple(plain["fuses"]),
                layout=plain["layout"],
                attrs={key: ATTR_TYPES[value] for key, value in plain["attrs"].items()},
                tolerance={precision: Tolerance(**plain["tolerance"][precision]) for precision in PRECISIONS},
                tunings=tuple(Tuning(warps=row.pop("warps"), sizes=row) for row in plain["tunings"]),
                cases=tuple(_case(row) for row in plain["cases"]),
                folder=folder,
            )
        except (KeyError, TypeError) as error:
            raise FormatError(f"'{path}' lacks or misspells {one_line(error)}; docs/kernels.md lists what it must have") from error

    @property
    def code(self) -> ModuleType:
        """`triton_impl.py`: `ENTRY`, `INPUTS`, `OUTPUTS`, and how shapes become outputs, scalars, constants and a grid.

        Raises:
            MissingExtraError: triton is not installed.
        """
        require("triton", "triton")
        return _load(self.name, self.folder / "triton_impl.py")

    def reference(self, tensors: Mapping[str, Any], attrs: Attrs) -> tuple[Any, ...]:
        """What the kernel must compute, in PyTorch and in the tensors' own precision.

        Raises:
            MissingExtraError: torch is not installed.
        """
        require("torch")
        found: tuple[Any, ...] = _load(self.name, self.folder / "reference.py").reference(**tensors, **attrs)
        return found


def _case(row: Mapping[str, Any]) -> Case:
    return Case(name=row["name"], shapes={key: tuple(shape) for key, shape in row["shapes"].items()}, attrs=row["attrs"])


def _load(kernel: str, path: Path) -> ModuleType:
    name = f"hwnas._kernels.{kernel}.{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise FormatError(f"kernel '{kernel}' has no '{path}'; install hwnas again")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


@cache
def all_kernels() -> tuple[KernelSource, ...]:
    """The kernels that ship, by name."""
    return tuple(KernelSource.read(path.parent) for path in sorted(root("kernels").glob("*/kernel.toml")))


def find(name: str) -> KernelSource:
    """The kernel of that name.

    Raises:
        UsageError: none has it.
    """
    known = {source.name: source for source in all_kernels()}
    if name not in known:
        raise UsageError(f"unknown kernel '{name}'{did_you_mean(name, known)}; there are: {', '.join(known)}")
    return known[name]
