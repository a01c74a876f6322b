"""Second moments of what the writers read, block by block, so that one block's are in memory at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from analysis.anatomy import blocks
from analysis.bases import Covariance
from analysis.device import present
from analysis.late import no_grad
from analysis.stream import BlockStream
from analysis.sublayers import Sublayer, out_in, rms, sublayers
from analysis.values import Progress, no_progress

if TYPE_CHECKING:
    from torch import Tensor

Look = Callable[[int, int, Sublayer, list["Tensor"]], None]
"""``look(block, row, sublayer, moments)``: of each of its writers, (F, F) fp64, the mean over tokens of
``z z' / r²``, with ``z`` what it reads and ``r`` the RMS of the stream behind the sub-layer."""


@no_grad
def writer_moments(
    model: Any,
    windows: Tensor,
    look: Look,
    progress: Progress = no_progress,
    budget: tuple[int, int] | None = None,
    relative: bool = True,
) -> None:
    """Carry the stream over ``windows`` (N, T) through the model, and show what all writers read.

    The inverse RMS gives every token its part: else the massive first token would own the moments. Without
    ``relative`` tokens count as they are, ``z z'``.
    """
    stream = BlockStream(model, windows, budget)
    every = sublayers(model)
    for place, rows in enumerate(every):
        with present(blocks(model)[place]) as device:
            stream.move(device)
            for row, sublayer in enumerate(rows):
                maps = sublayer.writers
                sums = [Covariance(out_in(each).shape[1], stream.device) for each in maps]

                def passed(
                    index: int,
                    states: Tensor,
                    sublayer: Sublayer = sublayer,
                    sums: list[Covariance] = sums,
                    place: int = place,
                ) -> Tensor:
                    read: dict[int, Tensor] = {}
                    with sublayer.reading(read.__setitem__):
                        states = states + sublayer.added(states, stream.context(index, place))
                    size = rms(states)
                    for at, total in enumerate(sums):
                        # A shared expert is given all tokens in one row.
                        inputs = read[at].to(size.dtype).reshape(*size.shape[:-1], -1)
                        total.add(inputs / size if relative else inputs)
                    return states

                stream.change(passed)
                tokens = windows.numel()
                # A sum goes once it is read: a moment has as many numbers.
                look(place, row, sublayer, [sums.pop(0).moment().div_(tokens) for _ in maps])
        progress("Looking inside the blocks", place + 1, len(every))
