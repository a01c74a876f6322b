"""How steep the loss is in a factor, now 1, on every column that writes the stream, token by token.

The gradient of such a factor is ``z_j (W' g)_j``, with ``z`` what the writer W reads and ``g`` the gradient
of the loss at what it writes. Its square, with labels that the model draws itself, is the Fisher information
of the factor. Changes no weight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analysis.curvature import Streams, gradients
from analysis.device import HOST
from analysis.errors import ModelError
from analysis.late import no_grad, torch
from analysis.precision import in_calibration
from analysis.sublayers import out_in, sublayers
from analysis.values import Progress, no_progress

if TYPE_CHECKING:
    from torch import Tensor

Slopes = tuple[tuple[tuple["Tensor", ...], ...], ...]
"""By block, row and writer, (F,) fp32, on the host: the mean over tokens of the squares."""


def writer_slopes(model: Any, windows: Tensor, seed: int = 0, progress: Progress = no_progress) -> Slopes:
    """Measure the mean squares on ``windows`` (N, T) of token ids, in one pass back through the blocks.

    Raises ``ModelError`` where one is not finite, ``TextError`` for windows that do not fit,
    ``OutOfMemoryError``.
    """
    every = sublayers(model)
    found = [[[torch.zeros(out_in(each).shape[1]) for each in s.writers] for s in rows] for rows in every]

    @no_grad
    def visit(block: int, row: int, streams: Streams, gradient: Tensor, context: dict[str, Any]) -> None:
        sublayer, read = every[block][row], dict[int, torch.Tensor]()
        with sublayer.reading(read.__setitem__), in_calibration(streams[0]):
            sublayer.added(streams[0], context)
        for place, writer in enumerate(sublayer.writers):
            back = sublayer.scale * (gradient.float() @ out_in(writer).float())
            squares = (read[place].float().reshape(back.shape) * back).square()
            found[block][row][place] += squares.flatten(0, -2).sum(0).to(HOST)

    gradients(model, windows, visit, "sampled", seed, progress)
    tokens = windows.numel()
    told = tuple(tuple(tuple(each / tokens for each in row) for row in rows) for rows in found)
    if not all(each.isfinite().all() for rows in told for row in rows for each in row):
        raise ModelError("A gradient is not finite: open the model in float32.")
    return told
