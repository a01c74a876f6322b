"""What can be taken out inside the blocks of a model, and why the rest cannot."""

from collections.abc import Iterable

from analysis.sources.card import ModelCard
from analysis.units import Kind
from slicing.inner.widths import KINDS

_OF_EXPERTS: tuple[Kind, ...] = ("experts", "expert_channels")
"""Kinds that nobody misses in a model without experts."""


def units_inside(kinds: Iterable[Kind]) -> str:
    """Say which kinds of units can go."""
    return f"Inside its blocks these can be taken out: {', '.join(KINDS[kind] for kind in kinds)}"


def inside_blocks(card: ModelCard) -> str:
    """Say which kinds of units of a model can go, and of each other kind why it cannot."""
    missing = [
        f"No {KINDS[kind]}: {why[0].lower()}{why[1:]}"
        for kind, why in card.no_units.items()
        if kind not in _OF_EXPERTS
    ]
    return " ".join([f"{units_inside(card.units)}.", *missing])
