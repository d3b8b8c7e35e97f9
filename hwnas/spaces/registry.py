"""Finds a space by its name, or in a user's file."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from hwnas.errors import UsageError, did_you_mean
from hwnas.spaces.base import SearchSpace

T = TypeVar("T")
GROUP = "hwnas.spaces"
GENERIC = "generic"  # carrier networks, which stand for those that nobody here wrote: what is profiled unless another space is asked for
_SHIPPED = {
    GENERIC: "hwnas.spaces.generic:GenericSpace",
    "mobilenet": "hwnas.spaces.mobilenet:MobileNetSpace",
    "mobilenet-small": "hwnas.spaces.mobilenet:small",
    "resnet": "hwnas.spaces.resnet:ResNetSpace",
    "resnet-small": "hwnas.spaces.resnet:small",
}


def _known() -> Mapping[str, EntryPoint]:
    """The spaces by name; an installed package cannot replace a shipped one."""
    shipped = {name: EntryPoint(name, value, GROUP) for name, value in _SHIPPED.items()}
    return {point.name: point for point in entry_points(group=GROUP)} | shipped


def names() -> list[str]:
    """The names that `load` knows: spaces that ship with hwnas, and those that installed packages registered."""
    return sorted(_known())


def load(name_or_path: str, *, num_classes: int | None = None) -> SearchSpace:
    """The space of this name, or the one that a class in a Python file describes.

    Args:
        name_or_path: one of `names()`, or `path/to/file.py:Class`. **The file is executed.**
        num_classes: of the networks' classifiers, where it is not the space's own; its constructor must take it.

    Raises:
        UsageError: for an unknown name, a file or class that is not there, or one that does not work; the message names the file,
            the line and what went wrong.
    """
    options = {} if num_classes is None else {"num_classes": num_classes}
    path, colon, attribute = name_or_path.rpartition(":")
    if path.endswith(".py") or name_or_path.endswith(".py"):
        if not colon:
            raise UsageError(f"a space in a file is given as 'path.py:Class', got '{name_or_path}' without a class")
        return _from_file(Path(path), attribute, options)
    known = _known()
    if name_or_path not in known:
        raise UsageError(
            f"no space '{name_or_path}'{did_you_mean(name_or_path, known)}; there are {', '.join(sorted(known))}, "
            "and your own as 'path.py:Class' (docs/spaces.md)"
        )
    point = known[name_or_path]
    return _made(f"space '{name_or_path}' ({point.value})", None, lambda: point.load()(**options))


def _from_file(path: Path, attribute: str, options: Mapping[str, Any]) -> SearchSpace:
    if not path.is_file():
        raise UsageError(f"no file '{path}'; a space in a file is given as 'path.py:Class'")
    what = f"space '{path}:{attribute}'"
    module = _guarded(what, path, lambda: _execute(path))
    if not hasattr(module, attribute):
        classes = [key for key, value in vars(module).items() if isinstance(value, type) and value.__module__ == module.__name__]
        raise UsageError(f"'{path}' has no class '{attribute}'{did_you_mean(attribute, classes)}; it has {', '.join(classes) or 'none'}")
    return _made(what, path, lambda: getattr(module, attribute)(**options))


def _execute(path: Path) -> ModuleType:
    name = f"_hwnas_space_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # a .py file always has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while the file is still running
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _made(what: str, path: Path | None, make: Callable[[], Any]) -> SearchSpace:
    space = _guarded(what, path, make)
    if not isinstance(space, SearchSpace):
        raise UsageError(f"{what} must be a subclass of hwnas.spaces.SearchSpace, and it made a {type(space).__name__}")
    if path is not None:
        _guarded(what, path, lambda: _try_out(space))
    return space


def _try_out(space: SearchSpace) -> None:
    """Builds the reference network, so that a mistake in a user's file shows here and not in the middle of a run."""
    graph = space.graph(space.reference())
    shapes = [graph.specs[value].shape for value in graph.outputs]
    if shapes != [(1, space.num_classes)]:
        raise UsageError(f"a network must end in one output of shape [1, num_classes] = [1, {space.num_classes}], got {shapes}")


def _guarded(what: str, path: Path | None, action: Callable[[], T]) -> T:
    try:
        return action()
    except Exception as error:  # somebody else's code may raise anything, and is to be named for it
        message = " ".join(str(error).split())
        raise UsageError(f"{what} does not work: {_place(error, path)}{type(error).__name__}: {message}") from error


def _place(error: Exception, path: Path | None) -> str:
    """File and line of the innermost frame in the user's file (in any file, where there is none), or where its syntax breaks."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: "
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if path is None or Path(frame.filename).resolve() == path.resolve()]
    return f"{own[-1].filename}, line {own[-1].lineno}: " if own else ""
