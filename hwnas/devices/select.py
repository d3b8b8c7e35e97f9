"""Which of a machine's cards `--device` means: `a100`, `cuda:1`, or a card's UUID.

A card is known by the name and the compute capability that its driver tells; where parts share a name, their memory tells them apart.
`cuda:N` counts as `nvidia-smi` does, in the order of the PCI bus.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hwnas.devices.catalogue import Part
from hwnas.devices.nvml import Card
from hwnas.errors import DeviceUnavailable, NotFoundError

_INDEX = re.compile(r"cuda:(\d+)")
_UUID = re.compile(r"GPU-[0-9a-f-]+", re.IGNORECASE)
_BRAND = "NVIDIA "  # older drivers leave it out


class Chosen(NamedTuple):
    """A card of this machine, and the part of the catalogue that it is."""

    card: Card
    part: Part


def selects(asked: str) -> bool:
    """Whether this picks one card of the machine, rather than a kind of card."""
    return bool(_INDEX.fullmatch(asked) or _UUID.fullmatch(asked))


def select(asked: str, cards: Sequence[Card], parts: Iterable[Part]) -> Chosen:
    """The card that is asked for.

    Args:
        asked: a device of the catalogue, `cuda:N`, or a UUID or its beginning.
        cards: of this machine.
        parts: that are known.

    Raises:
        DeviceUnavailable: no card is meant, or several; says which are here.
        NotFoundError: the card that is meant is none of the parts.
    """
    known = tuple(parts)
    if selects(asked):
        card = _only(asked, [card for card in cards if _picks(asked, card)], cards, known)
        part = identify(card, known)
        if part is None:
            raise NotFoundError(undescribed(card))
        return Chosen(card, part)
    found = {card: part for card in cards if (part := identify(card, known)) and part.spec.name == asked}
    card = _only(asked, list(found), cards, known)
    return Chosen(card, found[card])


def identify(card: Card, parts: Iterable[Part]) -> Part | None:
    """The part that a card is, or None where it is none of these."""
    name = card.name.removeprefix(_BRAND)
    capability = ".".join(map(str, card.compute_capability))
    alike = [part for part in parts if part.spec.model.removeprefix(_BRAND) == name and part.spec.compute_capability == capability]
    return min(alike, key=lambda part: abs(part.spec.memory_bytes - card.memory_bytes), default=None)


def undescribed(card: Card) -> str:
    """That a card is none of the parts, and what to do."""
    capability = ".".join(map(str, card.compute_capability))
    return (
        f"card cuda:{card.index} is a '{card.name}' of compute capability {capability}, which no device.toml describes; "
        "write profiles/NAME/device.toml in $HWNAS_HOME or your data folder (docs/devices.md)"
    )


def listed(cards: Iterable[Card], parts: Iterable[Part]) -> str:
    """What is here, for messages."""
    known = tuple(parts)
    described = [(card, identify(card, known)) for card in cards]
    return ", ".join(f"cuda:{card.index} {card.name} ({part.spec.name if part else 'unknown'}, {card.uuid})" for card, part in described)


def _picks(asked: str, card: Card) -> bool:
    index = _INDEX.fullmatch(asked)
    return card.index == int(index[1]) if index else card.uuid.lower().startswith(asked.lower())


def _only(asked: str, meant: Sequence[Card], cards: Sequence[Card], parts: Sequence[Part]) -> Card:
    if len(meant) == 1:
        return meant[0]
    if meant:
        choices = " or ".join(f"--device cuda:{card.index}" for card in meant)
        raise DeviceUnavailable(f"'{asked}' means several cards: {listed(meant, parts)}; use {choices}, or the whole of a UUID")
    others = f"use one that is here, such as --device cuda:{cards[0].index}" if cards else "use --device cpu"
    remedy = others if selects(asked) else f"run this on a machine that has one, or {others}"
    raise DeviceUnavailable(f"no '{asked}' on this machine; its NVIDIA cards: {listed(cards, parts) or 'none'}; {remedy}")
