"""Units at the edge of hwnas: what is typed is read exactly, what is printed reads back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas import units
from hwnas.errors import UsageError

KINDS: tuple[units.Kind, ...] = ("time", "energy", "bytes", "count", "fraction")


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("3ms", "time", 0.003),
        ("250ns", "time", 2.5e-7),
        ("7 us", "time", 7e-6),
        ("7µs", "time", 7e-6),
        ("90s", "time", 90),
        ("3m", "time", 180),
        ("1.5h", "time", 5400),
        ("20mJ", "energy", 0.02),
        ("5uJ", "energy", 5e-6),
        ("2J", "energy", 2),
        ("8MiB", "bytes", 8 * 1024**2),
        ("8MB", "bytes", 8e6),
        ("12kB", "bytes", 12e3),
        ("1GiB", "bytes", 1024**3),
        ("64B", "bytes", 64),
        ("500M", "count", 5e8),
        ("1.2G", "count", 1.2e9),
        ("3k", "count", 3e3),
        ("4%", "fraction", 0.04),
        ("1e3 ns", "time", 1e-6),
        (".5s", "time", 0.5),
    ],
)
def test_a_quantity_is_read_with_its_kind(text, kind, value):
    """The unit alone decides what is meant, and the value is the nearest float to what was written."""
    assert units.parse_quantity(text) == units.Quantity(value, kind)
    assert units.parse_quantity(text, kind).value == value


def test_b_means_billions_among_counts_and_bytes_elsewhere():
    """`B` is the one unit of two meanings; the kind that is wanted decides."""
    assert units.parse_quantity("2B") == units.Quantity(2, "bytes")
    assert units.parse_quantity("2B", "count").value == 2e9


@pytest.mark.parametrize(("kind", "example"), [("time", "3ms"), ("energy", "20mJ"), ("bytes", "8MiB")])
def test_a_bare_number_is_refused_where_a_unit_is_needed(kind, example):
    """3 what? The message shows how it is written."""
    with pytest.raises(UsageError, match=f"needs a unit, such as '{example}'; got '3'"):
        units.parse_quantity("3", kind)


def test_counts_and_shares_need_no_unit():
    """A count and a share are plain numbers already."""
    assert units.parse_quantity("1500", "count").value == 1500
    assert units.parse_fraction("0.25") == 0.25


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("3", None, "needs a unit"),
        ("3MB", "time", "expected a time such as '3ms', and '3MB' is a size"),
        ("3ms", "count", "expected a count such as '2M', and '3ms' is a time"),
        ("3 parsec", "time", "unknown unit 'parsec' in '3 parsec'; known: ns, us, ms, s, m, min, h"),
        ("fast", "time", "expected a time such as '3ms', got 'fast'"),
        ("", None, "expected a number with a unit"),
        ("-3ms", "time", "neither negative nor infinite"),
        ("1e999s", "time", "neither negative nor infinite"),
        ("1e99999999999999999999s", "time", "neither negative nor infinite"),
        ("nan s", "time", "got 'nan s'"),
        ("1,5s", "time", "got '1,5s'"),
    ],
)
def test_what_does_not_parse_is_a_usage_error(text, kind, message):
    """The message gives the rule, the value and an example."""
    with pytest.raises(UsageError) as caught:
        units.parse_quantity(text, kind)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["4", "101%", "1.01"])
def test_a_share_is_at_most_one(text):
    """`4` is far more often a forgotten percent sign than 400 %."""
    with pytest.raises(UsageError, match="between 0 and 1"):
        units.parse_fraction(text)


@pytest.mark.parametrize(
    ("formatted", "expected"),
    [
        (units.format_seconds(0), "0 s"),
        (units.format_seconds(9.9996e-4), "1 ms"),
        (units.format_seconds(0.0031249), "3.12 ms"),
        (units.format_seconds(0.0031249, digits=5), "3.1249 ms"),
        (units.format_seconds(119), "119 s"),
        (units.format_seconds(480), "8 min"),
        (units.format_seconds(7200), "2 h"),
        (units.format_seconds(math.inf), "inf"),
        (units.format_seconds(-0.002), "-2 ms"),
        (units.format_joules(0.0421), "42.1 mJ"),
        (units.format_bytes(1536), "1.5 KiB"),
        (units.format_count(1000), "1 k"),
        (units.format_count(999), "999"),
        (units.format_fraction(1), "100 %"),
        (str(units.Quantity(0.003, "time")), "3 ms"),
    ],
)
def test_formatting_chooses_the_unit_and_rounds(formatted, expected):
    """Significant digits are kept across units, and rounding up reaches the next unit."""
    assert formatted == expected


@given(st.sampled_from(KINDS), st.floats(1e-9, 1e12), st.integers(2, 15))
def test_what_is_printed_reads_back(kind, value, digits):
    """Parsing what was formatted gives the value back to the digits that were printed."""
    back = units.parse_quantity(units.format_quantity(value, kind, digits), kind).value
    assert back == pytest.approx(value, rel=0.5 * 10.0 ** (1 - digits) + 1e-15, abs=0)


@given(st.sampled_from([("ns", 1e9), ("us", 1e6), ("ms", 1e3), ("s", 1.0)]), st.integers(1, 10**6))
def test_reading_adds_no_rounding_error(unit, number):
    """`number unit` gives the float nearest to the exact value, as a division by a power of ten does."""
    name, per_second = unit
    assert units.parse_seconds(f"{number}{name}") == number / per_second


@given(st.text())
def test_any_text_either_parses_or_is_a_usage_error(text):
    """Nothing a user can type is a traceback."""
    try:
        quantity = units.parse_quantity(text)
    except UsageError:
        return
    assert quantity.value >= 0
