"""What the writers read of some tokens, block by block, so that one block's are in memory at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from analysis.anatomy import blocks
from analysis.device import present
from analysis.late import no_grad, torch
from analysis.stream import BlockStream
from analysis.sublayers import Sublayer, sublayers
from analysis.values import Progress, no_progress

if TYPE_CHECKING:
    from torch import Tensor

Look = Callable[[int, int, Sublayer, list["Tensor"]], None]
"""``look(block, row, sublayer, reads)``: what each of its writers reads of the chosen tokens, (tokens, F), at
least in fp32."""


@no_grad
def writer_reads(
    model: Any,
    windows: Tensor,
    tokens: int,
    look: Look,
    progress: Progress = no_progress,
    seed: int = 0,
    budget: tuple[int, int] | None = None,
) -> None:
    """Carry the stream over ``windows`` (N, T), and show what every writer reads of so many ``tokens``.

    They are drawn at random, once for all writers: evenly spaced ones could be the first of every window.
    """
    stream = BlockStream(model, windows, budget)
    draw = torch.randperm(windows.numel(), generator=torch.Generator().manual_seed(seed))[:tokens]
    chosen: list[Tensor] = []
    start = 0
    for batch in stream.batches:
        inside = draw[(draw >= start) & (draw < start + batch.numel())]
        chosen.append((inside - start).sort().values)
        start += batch.numel()
    every = sublayers(model)
    for place, rows in enumerate(every):
        with present(blocks(model)[place]) as device:
            stream.move(device)
            for row, sublayer in enumerate(rows):
                seen: list[list[Tensor]] = [[] for _ in sublayer.writers]

                def passed(
                    index: int,
                    states: Tensor,
                    sublayer: Sublayer = sublayer,
                    seen: list[list[Tensor]] = seen,
                    place: int = place,
                ) -> Tensor:
                    def note(at: int, inputs: Tensor) -> None:
                        flat = inputs.flatten(0, -2)
                        some = flat[chosen[index].to(flat.device)]
                        seen[at].append(some.to(torch.promote_types(some.dtype, torch.float32)))

                    with sublayer.reading(note):
                        return states + stream.added(sublayer, place, index, states)

                stream.change(passed)
                look(place, row, sublayer, [torch.cat(each) for each in seen])
        progress("Looking inside the blocks", place + 1, len(every))
