"""Second moments of what the writers read, block by block, so that one block's are in memory at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from analysis.anatomy import blocks
from analysis.bases import Covariance
from analysis.device import memory_of, precise_home, present
from analysis.late import no_grad, torch
from analysis.needs import FP64
from analysis.stream import BlockStream
from analysis.sublayers import Sublayer, out_in, rms, sublayers
from analysis.values import Progress, no_progress

if TYPE_CHECKING:
    from torch import Tensor

SPARE = 4
"""Moments are kept where the device has room for so many times as much."""
Look = Callable[[int, int, Sublayer, list["Tensor"]], None]
"""``look(block, row, sublayer, moments)``: of each of its writers, (F, F) fp64, the mean over tokens of
``z z' / r²``, with ``z`` what it reads and ``r`` the RMS of the stream behind the sub-layer."""


@no_grad
def writer_moments(
    model: Any,
    windows: Tensor,
    look: Look | None,
    progress: Progress = no_progress,
    budget: tuple[int, int] | None = None,
    relative: bool = True,
) -> None:
    """Carry the stream over ``windows`` (N, T) through the model, and show what all writers read.

    Without ``look`` the stream is carried alone, for whoever watches the model meanwhile.

    The inverse RMS gives every token its part: else the massive first token would own the moments. Without
    ``relative`` tokens count as they are, ``z z'``.
    """
    stream = BlockStream(model, windows, budget)
    every = sublayers(model)
    for place, rows in enumerate(every):
        with present(blocks(model)[place]) as device:
            stream.move(device)
            for row, sublayer in enumerate(rows):
                maps = sublayer.writers if look else []
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
                        states = states + stream.added(sublayer, place, index, states)
                    size = rms(states) if sums else states
                    for at, total in enumerate(sums):
                        # A shared expert is given all tokens in one row.
                        inputs = read[at].to(size.dtype).reshape(*size.shape[:-1], -1)
                        total.add(inputs / size if relative else inputs)
                    return states

                stream.change(passed)
                tokens = windows.numel()
                # A sum goes once it is read: a moment has as many numbers.
                if look:
                    look(place, row, sublayer, [sums.pop(0).moment().div_(tokens) for _ in maps])
        progress("Looking inside the blocks", place + 1, len(every))


class Asked(Protocol):
    """Answers questions about a model on windows of a text, as ``ModelView`` does."""

    model: Any
    windows: Tensor
    """Token ids, (N, T)."""
    shares: bool
    """Whether others will ask for the same."""

    def once(self, key: Any, measure: Callable[[], Any]) -> Any:
        """Give the answer of this key, measured now or known already."""

    def progress(self, phase: str, done: int, total: int, /) -> None:
        """Tell whoever listens."""


def view_moments(view: Asked, look: Look, relative: bool = True) -> None:
    """Do what ``writer_moments`` does on the view's windows; nothing that is looked at may be changed.

    Where others will ask for the same, and there is room for ``SPARE`` times as much, all moments are kept,
    and one pass serves everybody: different scores, sizes and methods.
    """
    model, windows = view.model, view.windows
    if not (view.shares and _has_room(model)):
        writer_moments(model, windows, look, view.progress, relative=relative)
        return

    def measure() -> dict[tuple[int, int], list[Tensor]]:
        found: dict[tuple[int, int], list[Tensor]] = {}

        def keep(place: int, row: int, _: Sublayer, moments: list[Tensor]) -> None:
            found[place, row] = moments

        writer_moments(model, windows, keep, view.progress, relative=relative)
        return found

    found = view.once(("moments", relative), measure)
    with torch.no_grad():
        for place, rows in enumerate(sublayers(model)):
            with present(blocks(model)[place]):
                for row, sublayer in enumerate(rows):
                    look(place, row, sublayer, list(found[place, row]))


def _has_room(model: Any) -> bool:
    """Tell whether the device of the sums has room for many times the moments of all writers."""
    widths = (out_in(each).shape[1] for rows in sublayers(model) for own in rows for each in own.writers)
    return memory_of(precise_home(model.device))[0] >= SPARE * FP64 * sum(width * width for width in widths)
