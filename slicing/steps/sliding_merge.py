"""Sliding Layer Merging: a window of blocks grows downward as long as the output stays alike."""

from __future__ import annotations

from collections.abc import Callable

from slicing.depth.layout import Layout
from slicing.steps.base import step
from slicing.steps.merging import Merging


@step
class SlidingMerge(Merging):
    """A window grows downward from below the last block as long as the output stays alike, then becomes one
    block, and the next window begins below it (algorithm 1).
    """

    name = "sliding-merge"
    title = "Sliding layer merging"
    source = "Ding et al., Sliding Layer Merging, AAAI 2026"
    cite = "ding2026sliding"
    known_issue = (
        "The released code keeps the window's last block with the first one's norms (rule 'top' keeps its "
        "own), and drops a window that reaches block 0 unmerged."
    )

    def search(self, blocks: int, count: int, alike: Callable[[Layout], bool]) -> Layout:
        """The last block stays as it is."""
        last = blocks - 1
        done: list[tuple[int, ...]] = [(last,)]
        window = (last - 1,)
        for place in range(last - 2, -1, -1):
            gone = last + 1 - place - len(done) - 1  # if this block joined the window
            wider = (place, *window)
            below = [(each,) for each in range(place - 1, -1, -1)]
            tried = self.joined(blocks, [*done, wider, *below][::-1])
            if gone <= count and alike(tried):
                window = wider
            else:
                done.append(window)
                window = (place,)
        return self.joined(blocks, [*done, window][::-1])
