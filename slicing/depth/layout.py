"""What becomes of the blocks of a model when it is made shallower: which stay, which go, which become one.

Knows nothing about models, weights or how this was decided.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from typing import Literal, NamedTuple, Self

from pydantic import model_validator

from analysis.errors import PlanError
from analysis.numbers import as_ranges
from analysis.shape import ModelShape, bridge
from analysis.values import Value

Merge = Literal["top", "sum", "mean"]
"""What several blocks become. ``top``: the last of them (what the released codes of LaCo and Sliding Layer
Merging do). ``sum``: the first and all differences from it, ``theta_l + sum_k (theta_l+k - theta_l)`` (LaCo,
2402.11187, equation 1). ``mean``: their mean."""


class Cut(NamedTuple):
    """A place where the stream goes on otherwise than in the dense model."""

    after: int
    """The reduced model's block in front of it, or -1 in front of all."""
    to: int
    """The dense block that would come next but for the cut; its number, for the head the count of blocks."""


class Layout(Value):
    """The blocks of the reduced model, by what they are made of."""

    blocks: int
    """L, of the dense model."""
    groups: tuple[tuple[int, ...], ...]
    """For every block that is left, the neighbouring dense blocks that it stands for; others are gone."""
    merge: Merge = "top"
    inner: tuple[tuple[int, int], ...] = ()
    """First and last blocks of what became one before the group around it did, in that order: to the rules of
    merging, such a part of a group is one block."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        places = [place for group in self.groups for place in group]
        if not self.groups or not all(self.groups):
            raise PlanError("A model needs one block at least: remove fewer.")
        if places != sorted(set(places)) or places[0] < 0 or places[-1] >= self.blocks:
            raise PlanError(
                f"A layout names blocks from 0 to {self.blocks - 1}, each once and in order; got {places}."
            )
        if any(b - a != 1 for group in self.groups for a, b in pairwise(group)):
            raise PlanError("Only neighbouring blocks can become one.")
        if not all(any({first, last} <= set(group) for group in self.groups) for first, last in self.inner):
            raise PlanError("What became one before its group did must be part of it.")
        return self

    @classmethod
    def whole(cls, blocks: int) -> Self:
        """Nothing removed."""
        return cls.without(blocks, ())

    @classmethod
    def without(cls, blocks: int, removed: Collection[int]) -> Self:
        """All of ``blocks`` but those that are ``removed``, by their places."""
        unknown = sorted(place for place in removed if not 0 <= place < blocks)
        if unknown:
            raise PlanError(f"There is no block {unknown[0]}: they go from 0 to {blocks - 1}.")
        return cls(blocks=blocks, groups=tuple((place,) for place in range(blocks) if place not in removed))

    @property
    def following(self) -> tuple[int, ...]:
        """Give, for every reduced block, the dense block that begins where it has to lead, L for the head."""
        return (*(group[0] for group in self.groups[1:]), self.blocks)

    def weights(self, place: int) -> tuple[float, ...]:
        """Give the weights of the blocks that become the reduced block at ``place``, by the merge rule."""
        group = self.groups[place]
        parts = {(block, block): {block: 1.0} for block in group}
        for first, last in (*self.inner, (group[0], group[-1])):
            joined = [part for part in parts if first <= part[0] and part[1] <= last]
            if len(joined) < 2:  # of another group, or all of one block
                continue
            many = [parts.pop(part) for part in joined]
            found = dict.fromkeys(range(first, last + 1), 0.0)
            for part, share in zip(many, _shares(len(many), self.merge), strict=True):
                for block, weight in part.items():
                    found[block] += share * weight
            parts[first, last] = found
            parts = dict(sorted(parts.items()))
        return tuple(parts[group[0], group[-1]].values())

    @property
    def alike(self) -> int:
        """Count the blocks from the first on that are the dense ones."""
        return next((place for place, group in enumerate(self.groups) if group != (place,)), len(self.groups))

    @property
    def tops(self) -> tuple[int, ...]:
        """For every block that is left, the last dense block that it stands for."""
        return tuple(group[-1] for group in self.groups)

    @property
    def removed(self) -> tuple[int, ...]:
        """The dense blocks that do not come back, in order; of merged ones all but the last."""
        return tuple(place for place in range(self.blocks) if place not in self.tops)

    @property
    def count(self) -> int:
        """Count the blocks that are gone."""
        return self.blocks - len(self.groups)

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """Name the places where blocks are missing, in order; a merged block stands for all of its own."""
        firsts = [*(group[0] for group in self.groups), self.blocks]
        before = [0, *(top + 1 for top in self.tops)]
        return tuple(
            Cut(place - 1, first)
            for place, (first, due) in enumerate(zip(firsts, before, strict=True))
            if first != due
        )

    @property
    def seams(self) -> tuple[int, ...]:
        """The blocks of the reduced model behind which the stream is no longer the dense one's: those in
        front of a cut, and those that several became.
        """
        merged = {place for place, group in enumerate(self.groups) if len(group) > 1}
        return tuple(sorted({cut.after for cut in self.cuts if cut.after >= 0} | merged))

    def shape_after(self, shape: ModelShape, bridges: Collection[int] = ()) -> ModelShape:
        """The shape of the reduced model, from that of the dense one.

        ``bridges`` are the blocks of the reduced model that have a matrix behind them.
        """
        if self.blocks != shape.block_count:
            raise PlanError(
                f"The layout is for a model of {self.blocks} blocks, and this one has {shape.block_count}: "
                "make a layout for this model."
            )
        blocks = tuple(
            (*shape.blocks[top], bridge()) if place in bridges else shape.blocks[top]
            for place, top in enumerate(self.tops)
        )
        return shape.model_copy(update={"blocks": blocks})

    @property
    def label(self) -> str:
        """The blocks that are gone or merged, in words."""
        parts = []
        alone = sorted(set(range(self.blocks)) - {place for group in self.groups for place in group})
        if alone:
            parts.append(f"without {as_ranges(alone)}")
        merged = [group for group in self.groups if len(group) > 1]
        parts += [f"{group[0]}-{group[-1]} as one" for group in merged]
        return ", ".join(parts) or "all blocks"


def _shares(count: int, merge: Merge) -> list[float]:
    """How much of each of ``count`` blocks the one that they become is."""
    if merge == "mean":
        return [1.0 / count] * count
    first, others = (2.0 - count, 1.0) if merge == "sum" else (0.0, 0.0)
    return [first, *([others] * (count - 2)), 1.0]
