"""Local reconstruction: block by block, each is trained to follow the dense stream."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from analysis.anatomy import blocks
from analysis.late import no_grad, torch
from analysis.stream import BlockStream
from slicing.depth.layout import Layout
from slicing.healing.block import train_block
from slicing.healing.examples import Examples
from slicing.healing.judged import held_loss
from slicing.healing.need import reconstruction_need
from slicing.healing.record import Healed, Look
from slicing.healing.resume import Resume
from slicing.healing.student import merged, student_of
from slicing.steps.base import Axis, Made, step
from slicing.steps.healing import HELD, Healing

if TYPE_CHECKING:
    from torch import Tensor

    from analysis.needs import MemoryNeed
    from analysis.shape import ModelShape
    from slicing.view import ModelView


@step
class Reconstruct(Healing):
    """Train block after block on the stream that really enters it, towards the dense stream behind it.

    ``min sum_t |f_l(x_t) - y_t|^2 / |y_t|^2``, x the smaller model's stream in front of its block l, y the
    dense one behind the dense blocks that it stands for. One block is in training at a time, which takes
    little memory, and what is gone behind a block is made up for by it. It follows the stream of every token,
    whether a label counts or not.
    """

    name = "reconstruct"
    title = "Local reconstruction, block by block"
    source = "Wagner et al., A Free Lunch in LLM Compression, 2025"
    cite = "wagner2025freelunch"
    known_issue = "A block that follows the dense stream more closely need not predict better."

    tokens: int = Field(default=65_536, ge=1, title="Tokens to train on")
    """Of the healing text through every block, each counted as often as it is seen."""
    passes: int = Field(default=4, ge=1, title="Passes over the windows")
    """So often every token is seen at most: fewer windows, but more of each."""

    def why_not_after(self, axes: Collection[Axis]) -> str:
        """Sliced streams have other directions than the dense one."""
        if "stream" not in axes:
            return ""
        return (
            "'reconstruct' trains blocks to follow the dense stream, and that of a sliced model has other "
            "directions: choose 'distil' instead."
        )

    def trained(self, shape: ModelShape, size: int) -> int:
        """One block."""
        return max(shape.block_parameters(place) for place in range(shape.block_count))

    def training_need(
        self, shape: ModelShape, size: int, length: int, batch: int, itemsize: int, twice: bool
    ) -> MemoryNeed:
        """One block at a time, and two streams over what is trained on and held out."""
        kept = max(length, self.tokens // self.passes) + HELD * length
        return reconstruction_need(shape, size, kept, min(batch, kept), itemsize)

    @no_grad
    def healed(
        self,
        view: ModelView,
        made: Made,
        examples: Examples,
        held: Examples,
        resume: Resume | None,
        twice: bool,
    ) -> tuple[Any, Healed]:
        """Train a copy in fp32, from the first block to the last; what is done goes to ``resume``."""
        stored = (resume and resume.load()) or {"blocks": [], "seconds": 0.0}
        # Weights of the blocks that are done, from the first on.
        done: list[dict[str, Tensor]] = stored["blocks"]
        start = time.perf_counter() - stored["seconds"]
        dense, student = view.model, student_of(made.model)
        layout = made.layout or Layout.whole(len(blocks(dense)))
        some = examples[: max(1, self.tokens // (self.passes * examples.tokens.shape[1]))]
        before = held_loss(student, held, view.precision)
        windows = torch.cat([some.tokens, held.tokens])
        true = BlockStream(dense, windows, precision="exact")  # it trains, and is no calibration
        short, listed, passed = true.beside(student), blocks(student), 0
        following = layout.following
        for place, first in enumerate(following):
            for block in range(passed, first):
                true.through(blocks(dense)[block], block)
            passed = first
            if place < len(done):
                listed[place].load_state_dict(done[place])
            else:
                left = 60.0 * self.minutes - (time.perf_counter() - start) if self.minutes else np.inf
                listed[place], _ = train_block(
                    true,
                    short,
                    place,
                    listed[place],
                    len(held),
                    (self.rate, self.rate / 4),
                    self.passes,
                    max(0.0, left / (len(following) - place)),
                )
                done.append(dict(listed[place].state_dict()))
                if resume:
                    resume.save(lambda: {"blocks": done, "seconds": time.perf_counter() - start})
            short.through(listed[place], place)
            view.progress("Healing", place + 1, len(following))
        after = held_loss(student, held, "exact")
        seen = some.size
        told = Healed(
            step=self.name,
            windows=len(held),
            before=before,
            after=after,
            tokens=seen * self.passes,
            distinct=seen,
            parameters=sum(each.numel() for block in listed for each in block.parameters()),
            looks=(Look(0, before), Look(seen * self.passes, after)),
            seconds=time.perf_counter() - start,
        )
        return merged(student, dense.dtype), told
