"""Apply the head after every block: the logit lens.

One pass through the blocks. Changes no weight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.anatomy import blocks
from analysis.batches import batches_of
from analysis.device import out_of_memory_told
from analysis.errors import ModelError, TextError
from analysis.evaluate import check_windows, refuse_unless_batches_fit, runner_of, window_nll
from analysis.hooks import going_on_from, returns_tuple, watch_blocks
from analysis.late import inference_mode
from analysis.precision import Precision, matmuls
from analysis.stream import pass_windows
from analysis.values import Progress, no_progress

if TYPE_CHECKING:
    from torch import Tensor


@inference_mode
def logit_lens(
    model: Any, windows: Tensor, progress: Progress = no_progress, precision: Precision = "exact"
) -> np.ndarray:
    """Loss when the stream goes from each block straight to the final norm and the head, (N, L).

    In nats per token. The last column is the model's own loss, and column l that of the model cut off after
    block l (Yuan et al., Why Lift so Heavy?, 2402.11700). One pass through the blocks, and the head once for
    every block. Raises ``TextError`` for windows that do not fit, ``ModelError`` when a loss is not finite,
    ``OutOfMemoryError``.
    """
    check_windows(model, windows)
    if windows.shape[1] < 2:
        raise TextError("The logit lens needs windows of at least 2 tokens.")
    refuse_unless_batches_fit("Looking through the head", model, windows, len(blocks(model)))
    count, tuples = len(blocks(model)), returns_tuple(model, windows[:1, :8].to(model.device))
    lens = np.zeros((len(windows), count))
    waiting: list[tuple[slice, int, Tensor]] = []
    """The states (B, T, D) that left blocks, with the rows of their batch."""
    passing, done, steps = slice(0), 0, count * len(list(batches_of(windows, model.device)))

    def settle() -> None:
        nonlocal done
        for rows, block, states in waiting:
            with going_on_from(model, count, states, tuples):
                lens[rows, block] = window_nll(model, windows[rows].to(model.device))
            done += 1
            progress("Looking through the head", done, steps)
        waiting.clear()

    def begin(rows: slice) -> None:
        nonlocal passing
        settle()
        passing = rows

    def look(block: int, _: Tensor, leaving: Tensor) -> None:
        waiting.append((passing, block, leaving))

    precise = matmuls(precision, model.device, model.dtype)
    with out_of_memory_told("looking through the head"), precise:
        runner_of(model)  # how its logits are made is found out once, on all of its blocks
        with watch_blocks(model, look):
            pass_windows(model, windows, lambda rows, output: settle(), begin)
    if not np.isfinite(lens).all():
        raise ModelError("A loss of the logit lens is not finite: open the model in float32.")
    return lens
