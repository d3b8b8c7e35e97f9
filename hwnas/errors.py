"""What can go wrong, by how a caller handles it.

Every message is one line: the rule, the value that broke it, the remedy. The command line prints it without a traceback and
exits with the class's `exit_code`: 2 when the call itself was wrong, 1 when the work failed.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class HwnasError(Exception):
    """The base of all errors that hwnas raises on purpose."""

    exit_code = 1


class UsageError(HwnasError):
    """What was asked for is not well formed: an unknown name, a limit that does not parse, two options that exclude each other."""

    exit_code = 2


class GraphError(HwnasError):
    """A model is corrupt, dynamic, or uses an operator that hwnas does not represent; the message names the node."""


class DeviceUnavailable(HwnasError):  # noqa: N818  (a state of the world, named as style.md names it)
    """The device asked for is not on this machine."""


class MissingExtraError(HwnasError):
    """An optional dependency is not installed; the message names the extra."""


class UncoveredKernelError(HwnasError):
    """A kernel is of a kind that the device was not profiled for, and no fallback was asked for."""


class FormatError(HwnasError):
    """A file is damaged, or of a format version that this hwnas does not read."""


class NotFoundError(HwnasError):
    """A profile, predictor or run that was asked for does not exist yet."""


class InfeasibleError(HwnasError):
    """No network of the space keeps the limit; the message gives the smallest reachable value."""


class DiskError(HwnasError):
    """A file cannot be written: the disk is full, or the folder is read-only."""


class BusyError(HwnasError):
    """Another process is at work on the same run."""


class MeasurementError(HwnasError):
    """A measurement could not be taken or did not settle well enough to be used."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A clause that suggests the nearest known word, or an empty string.

    >>> did_you_mean("h10", ["h100", "cpu"])
    " (did you mean 'h100'?)"
    >>> did_you_mean("zebra", ["h100", "cpu"])
    ''
    """
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def one_line(error: BaseException) -> str:
    """An exception's message on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def require(module: str, extra: str = "cpu") -> ModuleType:
    """Imports an optional dependency.

    Args:
        module: the module to import, such as `onnxruntime`.
        extra: the extra of hwnas that installs it.

    Raises:
        MissingExtraError: when it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        alternative = " (or 'hwnas[gpu]' on an NVIDIA machine, never both)" if extra == "cpu" else ""
        raise MissingExtraError(f"'{module}' cannot be imported ({error}); run: pip install 'hwnas[{extra}]'{alternative}") from error
