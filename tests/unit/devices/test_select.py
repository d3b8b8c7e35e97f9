"""Which card a name means."""

from __future__ import annotations

import pytest

from hwnas.devices import catalogue
from hwnas.devices.nvml import Card
from hwnas.devices.select import identify, select, selects
from hwnas.errors import DeviceUnavailable, NotFoundError

PARTS = catalogue.parts()
GIB = 2**30


def card(index: int, name: str, capability: tuple[int, int], memory_bytes: int = 40 * GIB, uuid: str | None = None) -> Card:
    return Card(index=index, name=name, uuid=uuid or f"GPU-{index}abc", compute_capability=capability, memory_bytes=memory_bytes, mig=None)


A100 = card(0, "NVIDIA A100-SXM4-40GB", (8, 0))
L4 = card(1, "NVIDIA L4", (8, 9))
OTHER_A100 = card(2, "NVIDIA A100-PCIE-40GB", (8, 0))
STRANGE = card(3, "NVIDIA A100-SXM-64GB", (8, 0))
MACHINE = (A100, L4, OTHER_A100, STRANGE)


def refusal(asked: str, *cards: Card) -> str:
    with pytest.raises(DeviceUnavailable) as caught:
        select(asked, cards, PARTS)
    assert caught.value.exit_code == 1
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("part", PARTS, ids=lambda part: f"{part.spec.name}-{part.id}")
def test_every_part_of_the_catalogue_is_known_by_what_its_driver_says(part: catalogue.Part) -> None:
    """Name, compute capability and memory lead to the part, with the brand in the name or, as old drivers have it, without."""
    major, minor = str(part.spec.compute_capability).split(".")
    told = int(0.96 * part.spec.memory_bytes)  # what drivers keep for themselves
    for name in (part.spec.model, part.spec.model.removeprefix("NVIDIA ")):
        assert identify(card(0, name, (int(major), int(minor)), told), PARTS) is part


@pytest.mark.parametrize(
    ("name", "capability"),
    [
        ("NVIDIA A100-SXM-64GB", (8, 0)),
        ("NVIDIA A10G", (8, 6)),
        ("NVIDIA GeForce RTX 3090 Ti", (8, 6)),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", (8, 9)),
        ("NVIDIA A100-SXM4-40GB", (9, 0)),
    ],
)
def test_what_only_sounds_alike_is_not_taken_for_it(name: str, capability: tuple[int, int]) -> None:
    """Relatives with other figures, and a card whose compute capability is not that of its name, are no part of the catalogue."""
    assert identify(card(0, name, capability), PARTS) is None


def test_by_name() -> None:
    """The one card of that kind."""
    chosen = select("l4", MACHINE, PARTS)
    assert (chosen.card, chosen.part.spec.model) == (L4, "NVIDIA L4")


@pytest.mark.parametrize("asked", ["cuda:0", "GPU-0abc", "gpu-0ABC", "GPU-0"])
def test_by_index_and_by_uuid(asked: str) -> None:
    """An index in the driver's order, a UUID in any case, or enough of one."""
    assert selects(asked)
    chosen = select(asked, MACHINE, PARTS)
    assert (chosen.card, chosen.part.id) == (A100, "sxm4-40gb")


def test_several_of_a_kind_are_told_apart_by_the_user() -> None:
    """A name that two cards have is refused with both, and with what to write instead."""
    message = refusal("a100", *MACHINE)
    assert "'a100' means several cards" in message
    assert "cuda:0 NVIDIA A100-SXM4-40GB (a100, GPU-0abc), cuda:2 NVIDIA A100-PCIE-40GB (a100, GPU-2abc)" in message
    assert "--device cuda:0 or --device cuda:2" in message
    assert "L4" not in message


def test_a_uuid_that_is_cut_too_short() -> None:
    """Two cards begin alike."""
    twins = (card(0, "NVIDIA L4", (8, 9), uuid="GPU-aa1"), card(1, "NVIDIA L4", (8, 9), uuid="GPU-aa2"))
    assert "'GPU-aa' means several cards" in refusal("GPU-aa", *twins)
    assert select("GPU-aa2", twins, PARTS).card is twins[1]


def test_a_kind_that_is_not_here() -> None:
    """What is here instead, among it a card that nothing describes, and what to do."""
    message = refusal("h100", *MACHINE)
    assert "no 'h100' on this machine; its NVIDIA cards: cuda:0 NVIDIA A100-SXM4-40GB (a100, GPU-0abc), cuda:1 NVIDIA L4 (l4" in message
    assert "cuda:3 NVIDIA A100-SXM-64GB (unknown, GPU-3abc)" in message
    assert "run this on a machine that has one, or use one that is here, such as --device cuda:0" in message


@pytest.mark.parametrize("asked", ["cuda:4", "GPU-4"])
def test_a_card_that_is_not_here(asked: str) -> None:
    """Another machine is no remedy for a number or a UUID."""
    message = refusal(asked, *MACHINE)
    assert f"no '{asked}' on this machine" in message
    assert "on a machine that has one" not in message


def test_a_driver_without_cards() -> None:
    """Nothing is here but the processor."""
    message = refusal("a100")
    assert "its NVIDIA cards: none" in message
    assert "use --device cpu" in message


def test_a_card_that_nothing_describes() -> None:
    """It is named with its compute capability, and the user is told where to describe it."""
    with pytest.raises(
        NotFoundError, match=r"cuda:3 is a 'NVIDIA A100-SXM-64GB' of compute capability 8\.0, which no device\.toml"
    ) as caught:
        select("cuda:3", MACHINE, PARTS)
    assert "docs/devices.md" in str(caught.value)


def test_memory_tells_modules_of_one_name_apart() -> None:
    """Both Jetson modules give the same name; each tells a little less memory than it is sold with."""
    for told, part in ((61 * GIB, "agx-64gb"), (29 * GIB, "agx-32gb")):
        assert select("orin", [card(0, "Orin (nvgpu)", (8, 7), told)], PARTS).part.id == part


@pytest.mark.parametrize("asked", ["a100", "cuda", "cuda:", "cuda:x", "cpu", "GPU-", "MIG-1"])
def test_what_picks_no_card(asked: str) -> None:
    """Only a whole selector does."""
    assert not selects(asked)
