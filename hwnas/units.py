"""Quantities with units: parsed from what a user types, formatted for what a user reads.

Inside hwnas everything is SI (seconds, joules, bytes, plain counts, shares of one); units live only here, at the edge.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from math import floor, inf, isfinite, log10
from typing import Literal

from hwnas.errors import UsageError

Kind = Literal["time", "energy", "bytes", "count", "fraction"]

_SCALES: Mapping[Kind, Mapping[str, str]] = {
    "time": {"ns": "1e-9", "us": "1e-6", "µs": "1e-6", "μs": "1e-6", "ms": "1e-3", "s": "1", "m": "60", "min": "60", "h": "3600"},
    "energy": {"uJ": "1e-6", "µJ": "1e-6", "μJ": "1e-6", "mJ": "1e-3", "J": "1", "kJ": "1e3"},
    "bytes": {
        **{"B": "1", "kB": "1e3", "KB": "1e3", "MB": "1e6", "GB": "1e9"},
        **{"KiB": str(2**10), "MiB": str(2**20), "GiB": str(2**30)},
    },
    "count": {"": "1", "k": "1e3", "K": "1e3", "M": "1e6", "G": "1e9", "B": "1e9"},
    "fraction": {"": "1", "%": "1e-2"},
}
_NOUN: Mapping[Kind, str] = {"time": "a time", "energy": "an energy", "bytes": "a size", "count": "a count", "fraction": "a share"}
_EXAMPLE: Mapping[Kind, str] = {"time": "3ms", "energy": "20mJ", "bytes": "8MiB", "count": "2M", "fraction": "4%"}
# What a number is divided by, from which value on.
_LADDER: Mapping[Kind, tuple[tuple[float, float, str], ...]] = {
    "time": ((7200, 3600, "h"), (120, 60, "min"), (1, 1, "s"), (1e-3, 1e-3, "ms"), (1e-6, 1e-6, "us"), (0, 1e-9, "ns")),
    "energy": ((1, 1, "J"), (1e-3, 1e-3, "mJ"), (0, 1e-6, "uJ")),
    "bytes": ((2**30, 2**30, "GiB"), (2**20, 2**20, "MiB"), (2**10, 2**10, "KiB"), (0, 1, "B")),
    "count": ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e3, 1e3, "k"), (0, 1, "")),
    "fraction": ((0, 1e-2, "%"),),
}
_BASE: Mapping[Kind, str] = {"time": "s", "energy": "J", "bytes": "B", "count": "", "fraction": "%"}
_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([^\d\s]*)")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number and what it counts.

    Attributes:
        value: in SI: s, J, B, a plain count, or a share of one.
        kind: which of these.
    """

    value: float
    kind: Kind

    def __str__(self) -> str:
        return format_quantity(self.value, self.kind)


def parse_quantity(text: str, kind: Kind | None = None) -> Quantity:
    """Reads a number with its unit.

    Args:
        text: such as `3ms`, `1.5 h`, `20mJ`, `8MiB`, `2M`, `4%`.
        kind: what it must be. It also decides `B`, which is billions in a count and bytes otherwise, and lets counts and shares go
            without a unit.

    Raises:
        UsageError: for no number, a negative one, a missing or unknown unit, or the unit of another kind.

    >>> parse_quantity("3ms")
    Quantity(value=0.003, kind='time')
    >>> parse_quantity("2B", "count").value, parse_quantity("2B").kind
    (2000000000.0, 'bytes')
    """
    wanted = f"{_NOUN[kind]} such as '{_EXAMPLE[kind]}'" if kind else f"a number with a unit such as '{_EXAMPLE['time']}'"
    match = _NUMBER.fullmatch(text.strip())
    if not match:
        raise UsageError(f"expected {wanted}, got '{text}'")
    number, unit = match.groups()
    found = kind if kind and unit in _SCALES[kind] else next((k for k in _SCALES if unit and unit in _SCALES[k]), None)
    if found is None and not unit:
        example = _EXAMPLE[kind or "time"]
        raise UsageError(f"{_NOUN[kind] if kind else 'this number'} needs a unit, such as '{example}'; got '{text}'")
    if found is None:
        known = _SCALES[kind] if kind else {name: scale for scales in _SCALES.values() for name, scale in scales.items()}
        raise UsageError(f"unknown unit '{unit}' in '{text}'; known: {', '.join(name for name in known if name.isascii() and name)}")
    if kind and found != kind:
        raise UsageError(f"expected {wanted}, and '{text}' is {_NOUN[found]}")
    try:
        value = float(Decimal(number) * Decimal(_SCALES[found][unit]))
    except ArithmeticError:
        value = inf
    if value < 0 or not isfinite(value):
        raise UsageError(f"expected {wanted}, neither negative nor infinite, got '{text}'")
    return Quantity(value, found)


def parse_seconds(text: str) -> float:
    """Reads a time; s.

    Raises:
        UsageError: for anything else; shows an example.

    >>> parse_seconds("3m"), parse_seconds("250 us")
    (180.0, 0.00025)
    """
    return parse_quantity(text, "time").value


def parse_fraction(text: str) -> float:
    """Reads a share between 0 and 1, written so or in percent.

    Raises:
        UsageError: for anything else; shows an example.

    >>> parse_fraction("4%"), parse_fraction("0.04")
    (0.04, 0.04)
    """
    value = parse_quantity(text, "fraction").value
    if value > 1:
        raise UsageError(f"a share lies between 0 and 1, or 0% and 100%, such as '4%'; got '{text}'")
    return value


def unit_for(value: float, kind: Kind) -> tuple[float, str]:
    """The unit that suits a size: what to divide by, and its name. An axis takes that of its largest value.

    >>> unit_for(0.00312, "time")
    (0.001, 'ms')
    """
    if value == 0:
        return 1, _BASE[kind]
    return next((scale, unit) for threshold, scale, unit in _LADDER[kind] if abs(value) >= threshold)


def format_quantity(value: float, kind: Kind, digits: int = 3) -> str:
    """A value in the unit that suits its size, with so many significant digits; it parses back.

    >>> format_quantity(0.00312, "time"), format_quantity(0.934, "fraction")
    ('3.12 ms', '93.4 %')
    """
    if not isfinite(value):
        return str(value)
    size = _rounded(abs(value), digits)
    scale, unit = unit_for(size, kind)
    number = _rounded(abs(value) / scale, digits)  # from the value: rounding twice would lose half a digit more
    decimals = max(0, digits - 1 - floor(log10(number))) if number else 0
    text = f"{number:.{decimals}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return f"{'-' if value < 0 and size else ''}{text} {unit}".rstrip()


def _rounded(value: float, digits: int) -> float:
    """To so many significant digits."""
    return float(f"{value:.{digits - 1}e}")


def format_seconds(value: float, digits: int = 3) -> str:
    """A time.

    >>> format_seconds(0.00042), format_seconds(480)
    ('420 us', '8 min')
    """
    return format_quantity(value, "time", digits)


def format_joules(value: float, digits: int = 3) -> str:
    """An energy.

    >>> format_joules(0.0421)
    '42.1 mJ'
    """
    return format_quantity(value, "energy", digits)


def format_bytes(value: float, digits: int = 3) -> str:
    """A size in memory, in binary multiples.

    >>> format_bytes(8 * 2**20)
    '8 MiB'
    """
    return format_quantity(value, "bytes", digits)


def format_count(value: float, digits: int = 3) -> str:
    """A count, in decimal multiples.

    >>> format_count(2_540_000), format_count(12)
    ('2.54 M', '12')
    """
    return format_quantity(value, "count", digits)


def format_fraction(value: float, digits: int = 3) -> str:
    """A share, in percent.

    >>> format_fraction(0.0217)
    '2.17 %'
    """
    return format_quantity(value, "fraction", digits)
