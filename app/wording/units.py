"""What is said of the units inside blocks: which can be taken out, and what that costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from analysis.numbers import as_ranges
from analysis.sources.card import ModelCard
from analysis.statistics import rank_correlation
from analysis.units import Kind
from app.wording.numbers import minus
from slicing.inner.costs import SCALED_BLOCKS, BranchCosts, Part, PartCost, Prediction, UnitCosts
from slicing.inner.widths import KINDS

OFF = 2.0
"""A prediction fails where it is off by this factor or more."""
SMALLEST_RATIO = 1e-6
MOST = 0.5
"""Massive tokens are told of where they would have so much of the curvature or more."""
_OF_EXPERTS: tuple[Kind, ...] = ("experts", "expert_channels")
"""Kinds that nobody misses in a model without experts."""
BRANCHES = {"attention": "attention", "mlp": "MLP"}
"""What branches are called."""
PARTS: dict[Part, str] = {
    "attention": "attention, whole",
    "kv_groups": "KV heads",
    "value_pairs": "value ranks",
    "mlp": "MLP, whole",
    "channels": "channels",
}
"""What parts are called in a few letters, in the order in which they are shown."""
UNITS_READING = (
    "Predicted by optimal brain surgery with the curvature of the loss, from one pass forward and one back. "
    "Where units go, the others are refitted; where a whole attention or MLP goes, nothing is. Costs of "
    "single parts add up only while little goes. Source: slicescope, after Kurtic et al., ZipLM, NeurIPS "
    "2023."
)
"""What costs of units are."""


def part_title(part: Part) -> str:
    """Call a part by a few letters."""
    return PARTS[part]


def in_nats(cost: float) -> str:
    """A cost in nats per token, to three digits."""
    return minus(f"{cost:.3g} nats per token")


def times_perplexity(cost: float) -> float:
    """How many times the perplexity is, where the loss rises by so many nats per token."""
    return math.exp(min(cost, 700.0))  # a broken model may be so bad that it overflows


def as_perplexity(cost: float) -> str:
    """What a rise of the loss makes of the perplexity: in percent, or if that is much how many times it."""
    rise = 100.0 * (times_perplexity(cost) - 1.0)
    if rise >= 1000.0:
        return f"×\N{NO-BREAK SPACE}{times_perplexity(cost):,.3g}"
    digits = 0 if abs(rise) >= 10.0 else 1 if abs(rise) >= 1.0 else 2 if abs(rise) >= 0.01 else 4
    return minus(f"{rise:+.{digits}f}\N{NO-BREAK SPACE}%")


def part_gone(each: PartCost) -> str:
    """Say what is gone of a block."""
    if each.units is None:
        return f"all of the {BRANCHES[each.part]}"
    return f"{each.gone:,} of {each.units:,} {_kind(each.part)}"


def _kind(part: Part) -> str:
    return KINDS[part] if part not in ("attention", "mlp") else BRANCHES[part]


def units_found(costs: UnitCosts) -> str:
    """Say on what the costs were found."""
    measured = f"; measured on {costs.measured_windows} of them" if costs.measured_windows else ""
    return (
        f"Found on {costs.windows} windows of {costs.window_length:,} tokens, the curvature of the loss "
        f"on {costs.curvature_windows} of them{measured}.{_massive(costs)}"
    )


def _massive(costs: UnitCosts) -> str:
    """Say where massive tokens would have most of the curvature; empty where they have less than half."""
    every = [(place, branch) for place, block in enumerate(costs.blocks) for branch in block]
    most = [(place, branch) for place, branch in every if (branch.massive or 0.0) >= MOST]
    if not most:
        return ""
    shares = [100 * (branch.massive or 0.0) for _, branch in most]
    return (
        " Massive tokens, such as the first of a window, do not count in it: they would have "
        f"{min(shares):.0f} to {max(shares):.0f}\N{NO-BREAK SPACE}% of it at {_named(most)}."
    )


def units_told(found: Sequence[PartCost], per_million: bool = False) -> str:
    """Say which of these parts cost most and least."""

    def value(each: PartCost) -> float:
        return each.per_million if per_million else each.cost

    def told(each: PartCost) -> str:
        what = BRANCHES[each.part] if each.units is None else part_gone(each)
        return f"block {each.block} ({what}, {minus(f'{value(each):.2g}')})"

    measure = "nats per token for every million parameters" if per_million else "nats per token"
    wholes = [each for each in found if each.units is None]
    units = [each for each in found if each.units is not None]
    sentences = [
        f"{what} most in {told(max(own, key=value))} and least in {told(min(own, key=value))}"
        for what, own in (("Whole attentions and MLPs cost", wholes), ("Units cost", units))
        if own
    ]
    return f"{'. '.join(sentences)}: {measure}." if sentences else "Nothing is predicted here."


def branch_told(block: int, branch: BranchCosts) -> str:
    """Say what a quarter of its units and all of a branch cost."""
    name = f"Block {block}, {BRANCHES[branch.kind]}"
    parts = []
    for kind in ("channels", "kv_groups", "value_pairs"):
        curve = branch.curve(kind)
        if curve and (found := curve.nearest(0.25)):
            gone, cost = found
            parts.append(f"without {gone:,} of {curve.count:,} {KINDS[kind]} {_both(cost)}")
    if branch.whole is not None:
        parts.append(f"without all of it {_both(branch.whole)}")
    if not parts:
        return f"{name}: nothing is predicted of it."
    measured = "" if branch.measured is None else f". Measured without all of it: {_both(branch.measured)}"
    return f"{name}, by prediction: {'; '.join(parts)}{measured}."


def _both(cost: float) -> str:
    return f"{in_nats(cost)} (perplexity {as_perplexity(cost)})"


PREDICTIONS: dict[Prediction, str] = {"whole": "Averages apart", "paired": "Token by token"}
"""What the two predictions of whole branches are called."""
PREDICTIONS_READING = (
    "Averages apart: the curvature of the loss and what a branch writes are averaged over tokens, each for "
    "itself, as costs of units need it. Token by token: they are multiplied first, so that a token with a "
    "far larger state than others, as the first one has, does not raise what all others cost."
)
"""How the two differ."""


def agreement_of_units(costs: UnitCosts, after: int = 0, by: Prediction = "whole") -> float | None:
    """Spearman's rank correlation of predicted and measured costs of whole branches, from a block on.

    ``None`` where fewer than three were measured.
    """
    pairs = [(getattr(each, by), each.measured) for block, each in costs.compared(by) if block >= after]
    if len(pairs) < 3:
        return None
    predicted, measured = np.asarray(pairs).T
    return rank_correlation(predicted, measured)


def units_agreement(costs: UnitCosts, by: Prediction = "whole") -> tuple[str, ...]:
    """Say how well the costs of whole branches were predicted, and where not; empty if none were measured."""
    every = agreement_of_units(costs, by=by)
    if every is None:
        return ()
    told = (
        f"Spearman's rank correlation of predicted and measured cost is {every:+.2f} over "
        f"{len(costs.compared(by))} attentions and MLPs"
    )
    later = agreement_of_units(costs, SCALED_BLOCKS, by)
    told += "." if later is None else f", {later:+.2f} without the first {SCALED_BLOCKS} blocks."
    off = units_off(costs, by)
    if not off:
        return (minus(told), f"No prediction is off by a factor of {OFF:g} or more.")
    low = [(block, branch) for block, branch in off if (branch.ratio_to(by) or 0.0) > 1.0]
    sentences = [minus(told)]
    for word, some in (("low", low), ("high", [each for each in off if each not in low])):
        if some:
            ratios = [max(branch.ratio_to(by) or 0.0, SMALLEST_RATIO) for _, branch in some]
            block, worst = some[int(np.abs(np.log(ratios)).argmax())]
            sentences.append(
                f"Too {word} by a factor of {OFF:g} or more: {_named(some)}; most in the "
                f"{BRANCHES[worst.kind]} of block {block}, where {_times(worst, by)}."
            )
    return tuple(sentences)


def _named(some: Sequence[tuple[int, BranchCosts]]) -> str:
    """The branches by their kinds and blocks."""
    by_kind = {kind: [block for block, branch in some if branch.kind == kind] for kind in BRANCHES}
    return " and ".join(
        f"the {BRANCHES[kind]} of block{'s' * (len(blocks) > 1)} {as_ranges(blocks)}"
        for kind, blocks in by_kind.items()
        if blocks
    )


def units_off(costs: UnitCosts, by: Prediction = "whole") -> tuple[tuple[int, BranchCosts], ...]:
    """The branches whose measured cost is twice what is predicted or more, or half of it or less."""
    return tuple(
        (block, branch)
        for block, branch in costs.compared(by)
        if not 1 / OFF < (branch.ratio_to(by) or 0.0) < OFF
    )


def _times(branch: BranchCosts, by: Prediction) -> str:
    if (branch.measured or 0.0) <= 0.0:
        return "the loss falls"
    return f"{in_nats(branch.measured or 0.0)} were measured and {getattr(branch, by):.3g} predicted"


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
