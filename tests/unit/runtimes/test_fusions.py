"""What a runtime fuses, as plain entries of a profile or a card."""

from __future__ import annotations

import tomllib

import pytest
import tomli_w

from hwnas.errors import FormatError
from hwnas.runtimes.fusions import PATTERNS, UNFUSED, Fusions

OTHER = Fusions(
    block=16,
    conv_activations=frozenset({"Relu"}),
    blocked_activations=frozenset({"HardSwish", "Relu"}),
    gemm_activations=frozenset({"Tanh"}),
    blocked_unary=frozenset({"Gelu"}),
    patterns=PATTERNS - {"ConvNorm", "QuickGelu"},
)


@pytest.mark.parametrize("facts", [Fusions(), OTHER, UNFUSED], ids=["usual", "other", "none"])
def test_the_round_trip_is_exact(facts: Fusions) -> None:
    """Facts that were written as TOML, among other entries, come back."""
    text = tomli_w.dumps({"seed": 3, **facts.as_entries()})
    assert Fusions.from_entries(tomllib.loads(text)) == facts


def test_entries_are_for_people() -> None:
    """The block stands by itself, as it did before there was more; sets are sorted lists; every pattern says whether it is known."""
    entries = OTHER.as_entries()
    assert entries["block"] == 16
    assert entries["fusions"]["blocked_activations"] == ["HardSwish", "Relu"]
    assert entries["fusions"]["patterns"] == {name: name not in ("ConvNorm", "QuickGelu") for name in sorted(PATTERNS)}


def test_a_file_from_before_has_the_usual_facts() -> None:
    """Files once kept the block alone."""
    assert Fusions.from_entries({"block": 16, "seed": 3}) == Fusions(block=16)


def test_what_was_not_asked_for_has_its_default() -> None:
    """A pattern that was not probed when the file was written is not taken for one that the runtime lacks."""
    entries = OTHER.as_entries()
    del entries["fusions"]["patterns"]["Gelu"], entries["fusions"]["patterns"]["QuickGelu"], entries["fusions"]["gemm_activations"]
    found = Fusions.from_entries(entries)
    assert found.patterns == PATTERNS - {"ConvNorm"}
    assert found.gemm_activations == Fusions().gemm_activations
    assert found.conv_activations == OTHER.conv_activations


def test_what_this_version_does_not_know_is_refused() -> None:
    """Facts of a later version are an error that names the nearest known one and the remedy, since kernels would be told wrongly."""
    with pytest.raises(FormatError, match=r"unknown pattern about fusions 'ConvNorms' \(did you mean 'ConvNorm'\?\); use the hwnas"):
        Fusions.from_entries({"block": 8, "fusions": {"patterns": {"ConvNorms": True}}})
    with pytest.raises(FormatError, match=r"unknown fact about fusions 'zebra'; .*profile again"):
        Fusions.from_entries({"block": 8, "fusions": {"zebra": ["Relu"]}})


def test_a_bare_number_is_a_block() -> None:
    """It stands for an otherwise usual runtime."""
    assert Fusions.of(16) == Fusions(block=16)
    assert Fusions.of(OTHER) is OTHER
