"""The dense stream behind every sub-layer, kept for all fits and slicings of a study that aim at it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from analysis.device import HOST, memory_of
from analysis.stream import BlockStream
from analysis.sublayers import sublayers
from slicing.inner.moments import Asked

if TYPE_CHECKING:
    from torch import Tensor

SPARE = 8
"""The dense stream is kept where so many times its size is free: 1.1 GB for the demo model and 16 windows of
512 tokens."""


class DenseStates:
    """The dense stream behind sub-layers, which fits and slicings leave to later ones on the same windows."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, int], tuple[list[Tensor], float]] = {}
        """By block and row: the batches, and the seconds that it took to pass that sub-layer, or more."""
        self.saved = 0.0

    def claim(self) -> float:
        """Give the seconds that were saved since this was asked last: they count as if the stream had passed,
        so that a method takes as long whoever came before.
        """
        saved, self.saved = self.saved, 0.0
        return saved


def dense_states(view: Asked) -> DenseStates | None:
    """Give what is kept of the dense stream for a view, once for all methods and sizes.

    ``None`` unless others will ask for the same and ``SPARE`` times its size is free, on a CPU: elsewhere a
    pass takes no longer than the states take to be fetched.
    """

    def begin() -> DenseStates | None:
        sites = sum(map(len, sublayers(view.model)))
        tokens, width = view.windows.numel(), view.model.get_input_embeddings().weight.shape[1]
        fits = memory_of(HOST)[0] >= SPARE * sites * tokens * width * view.model.dtype.itemsize
        return DenseStates() if fits else None

    if not view.shares or view.model.device.type != HOST:
        return None
    return view.once("dense states", begin)


def pass_dense(
    stream: BlockStream,
    place: tuple[int, int],
    advance: Callable[[], None],
    kept: DenseStates | None,
    spent: float | None = None,
) -> None:
    """Bring the dense stream behind a sub-layer: by ``advance``, or from where it is kept.

    ``spent``: seconds of a pass that a fit has made already, where one has.
    """
    if kept is None:
        advance()
        return
    if place in kept.known and spent is None:
        states, seconds = kept.known[place]
        for index, each in enumerate(states):
            stream.states[index] = each
        kept.saved += seconds
        return
    start = time.perf_counter()
    advance()
    seconds = time.perf_counter() - start + (spent or 0.0)
    if place not in kept.known:
        kept.known[place] = [stream.at(index) for index in range(len(stream))], seconds
