"""Writes what a TensorRT package offers as JSON: `python introspect.py MODULE > FILE` (PROVENANCE.md has the rest).

Signatures come from the first line of pybind11's docstrings, without the modules' names, so that versions can be compared.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from typing import Any

# What builds, loads, inspects and runs engines; layers beyond their common base, plugins and refitting are left out.
CLASSES = (
    "Builder",
    "Dims",
    "EngineInspector",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILayer",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProfiler",
    "ITensor",
    "ITimingCache",
    "Logger",
    "OnnxParser",
    "ParserError",
    "Profiler",
    "Runtime",
)


def signatures(text: str | None) -> str:
    """What a docstring says of arguments and result, `(network: INetworkDefinition) -> IHostMemory`; overloads are separated by `;`."""
    lines = [re.sub(r"^\d+\. ", "", line.strip()) for line in (text or "").splitlines()]
    heads = [line for line in lines if re.match(r"\w*\(.*\) -> ", line)]
    return "; ".join(dict.fromkeys(_plain(line) for line in heads))


def _plain(line: str) -> str:
    line = re.sub(r"\b[a-z_0-9]+(?:\.[a-z_0-9]+)*\.(?=[A-Za-z])", "", line.replace("::", "."))
    return re.sub(r"^\w*\((?:(?:self|arg0): [\w.]+(?:, )?)?", "(", line)


def describe(cls: type) -> dict[str, str]:
    """The members of a class: methods with their signatures, properties with their types."""
    found = {}
    for name in dir(cls):
        member = inspect.getattr_static(cls, name)
        if isinstance(member, property):
            found[name] = "property" + signatures(member.fget.__doc__).removeprefix("()")
        elif not name.startswith("_") or name == "__init__":
            found[name] = signatures(getattr(cls, name).__doc__) if callable(getattr(cls, name)) else "constant"
    return found


def introspect(module: Any) -> dict[str, Any]:
    """The enumerations, those of a class included, and the chosen classes of a package."""
    places = [("", module), *((f"{name}.", getattr(module, name)) for name in CLASSES if hasattr(module, name))]
    enums = {
        prefix + name: sorted(member.__members__)
        for prefix, place in places
        for name, member in inspect.getmembers(place, inspect.isclass)
        if hasattr(member, "__members__")
    }
    classes = {name: describe(getattr(module, name)) for name in CLASSES if hasattr(module, name)}
    return {"version": module.__version__, "enums": enums, "classes": classes}


if __name__ == "__main__":
    json.dump(introspect(importlib.import_module(sys.argv[1])), sys.stdout, indent=1, sort_keys=True)
    sys.stdout.write("\n")
