"""What LaCo and Sliding Layer Merging have in common: neighbouring blocks become one, from the top down, as
long as the output stays alike. No method itself.

What size comes out depends on a threshold of likeness. Where none is given, the highest is found that removes
as many blocks as asked for; the search stops as soon as they are gone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import Field

from analysis.errors import PlanError
from slicing.depth.layout import Layout, Merge
from slicing.depth.memory import TEXT_TOKENS, TEXTS, Looked
from slicing.steps.removal import Removal

if TYPE_CHECKING:
    from slicing.view import ModelView

_STEPS = 7
"""Halvings of the range of thresholds, which ends up a hundredth wide."""


class Merging(Removal):
    """Merge neighbouring blocks as long as the output stays alike."""

    tries = True
    variants = ("merge=top", "merge=sum", "merge=mean")

    merge: Merge = Field(default="sum", title="Merge rule")
    threshold: float | None = Field(default=None, title="Threshold of likeness")
    """The least cosine of the outputs; ``None`` for the highest that removes enough."""

    @abstractmethod
    def search(self, blocks: int, count: int, alike: Callable[[Layout], bool]) -> Layout:
        """The layout with ``count`` of the ``blocks`` fewer at most, of merges after which the output is
        still ``alike``.
        """

    def merged(
        self, view: ModelView, threshold: float, count: int, searched: int = 0, searches: int = 1
    ) -> Layout:
        """The layout at a threshold, with ``count`` blocks fewer at most.

        It is one of so many ``searches``, of which some were ``searched`` before. A search tries at most one
        merge for each block.
        """
        blocks, tries = view.block_count, 0

        def alike(tried: Layout) -> bool:
            nonlocal tries
            view.progress("Merging", searched * blocks + tries, searches * blocks)
            found = view.similarity(tried, self.windows) > threshold
            tries = min(tries + 1, blocks)
            return found

        layout = self.search(blocks, count, alike)
        view.progress("Merging", (searched + 1) * blocks, searches * blocks)
        return layout

    def looked(self, view: ModelView) -> Looked:
        """A few short texts, of which what enters every block is kept."""
        windows = view.windows[: self.windows]
        return Looked(min(windows.numel(), TEXTS * TEXT_TOKENS), view.block_count + 3)

    def likely(self, blocks: int, count: int) -> Layout:
        """The layout with as many merged blocks as there can be: each of them is made anew."""
        if self.merge == "top" or not count:
            return super().likely(blocks, count)
        many = min(count, blocks - count)
        ends = [2 * place for place in range(many)]
        last = many + count  # one in front of which all merged ones lie
        groups = [tuple(range(at, at + 2)) for at in ends[:-1]] + [tuple(range(ends[-1], last))]
        groups += [(place,) for place in range(last, blocks)]
        return Layout(blocks=blocks, groups=tuple(groups), merge=self.merge)

    def most(self, blocks: int) -> int:
        """What is gone where every merge is accepted."""
        return self.search(blocks, blocks - 1, lambda _: True).count

    def layout(self, view: ModelView, count: int) -> Layout:
        """At the threshold, or at the highest one that takes away ``count`` blocks."""
        if self.threshold is not None:
            found = self.merged(view, self.threshold, count)
            if found.count < count:
                raise PlanError(
                    f"At a threshold of {self.threshold:g} '{self.name}' merges away {found.count} of the "
                    f"{view.block_count} blocks, but {count} are to go: leave the threshold out, and the "
                    "highest that is enough is found."
                )
            return found
        low, high = -1.0, 1.0  # at the lower one every merge is accepted
        best = self.merged(view, low, count, 0, 1 + _STEPS)
        for step in range(_STEPS):
            middle = (low + high) / 2
            found = self.merged(view, middle, count, 1 + step, 1 + _STEPS)
            if found.count == count:
                best, low = found, middle
            else:
                high = middle
        return best

    def joined(
        self, blocks: int, groups: list[tuple[int, ...]], before: tuple[tuple[int, ...], ...] = ()
    ) -> Layout:
        """The layout of these groups; ``before`` them, some of their parts had become one."""
        inner = [(part[0], part[-1]) for part in before if part not in groups]
        # The last of some parts is the last of them all, whatever became one first.
        return Layout(
            blocks=blocks,
            groups=tuple(groups),
            merge=self.merge,
            inner=() if self.merge == "top" else tuple(inner),
        )
