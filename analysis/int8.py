"""A model with its matrices in 8 bits: what it loses, and how many bytes it takes.

Weight-only and symmetric, one scale for each output channel (for each token of an embedding): with the
channel's weights w, ``s = max |w| / 127`` and ``w -> s round(w / s)``. Vectors (norms, biases) stay. The
rounded weights are put in the place of the model's, in its own dtype, so that every family and device runs
them; kernels that keep the integers give the same losses up to rounding. In 16 bits the dtype rounds the
weights once more. Knows nothing about how a model was made.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from analysis.device import out_of_memory_told
from analysis.evaluate import Perplexity, perplexity
from analysis.late import nn, no_grad, torch, transformers
from analysis.needs import refuse_spread
from analysis.precision import Precision
from analysis.values import Progress, Value, no_progress

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 127
"""The largest integer; its negative is the smallest, so that zero is in the middle."""
INT8_WHOLE = "The int8 form of a model is measured on one device"
SCALE_BYTES = 4
"""Bytes of a scale, which is kept in fp32."""
_READ_BY_COLUMN = ("shortcut", "rotation", "bridge")
"""Matrices M of our own models, of which states x make ``x @ M``: an output channel is a column."""


class Int8(Value):
    """Hold the perplexity and the size of a model with its matrices in 8 bits."""

    evaluation: Perplexity
    """On the windows that the model itself is evaluated on."""
    bytes: int
    """All weights take so many: integers, scales, and vectors in the model's dtype; what is shared, once."""


def evaluate_int8(
    model: Any,
    windows: Tensor,
    progress: Progress = no_progress,
    phase: str = "Evaluating in int8",
    precision: Precision = "exact",
) -> Int8:
    """Measure the perplexity of a model's int8 form on ``windows`` (N, T), and count its bytes.

    The model itself stays as it is; its form takes as much memory again. Raises what ``in_int8`` and
    ``perplexity`` raise.
    """
    made, size = in_int8(model)
    return Int8(evaluation=perplexity(made, windows, progress, phase, precision), bytes=size)


@no_grad
def in_int8(model: Any) -> tuple[Any, int]:
    """The int8 form of a model, and the bytes that its weights take. Vectors are shared with the model.

    Raises ``UnsupportedError`` for a model that accelerate spreads over devices, ``OutOfMemoryError``.
    """
    refuse_spread(model, INT8_WHOLE)
    size = 0
    found: dict[int, nn.Parameter] = {}
    with out_of_memory_told("rounding weights to int8", model.device):
        shared = {id(each): each for each in (*model.parameters(), *model.buffers())}
        made = copy.deepcopy(model, shared)
        for module in made.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                if id(weight) not in found:
                    rounded, taken = _rounded(weight, 0 if _by_column(module, name) else -1)
                    found[id(weight)] = rounded
                    size += taken
                setattr(module, name, found[id(weight)])
    return made, size


def _by_column(module: nn.Module, name: str) -> bool:
    return (
        isinstance(module, transformers.pytorch_utils.Conv1D) and name == "weight"
    ) or name in _READ_BY_COLUMN


def _rounded(weight: nn.Parameter, axis: int) -> tuple[nn.Parameter, int]:
    """A weight whose channels lie along ``axis``, rounded, and its bytes."""
    if weight.ndim < 2:
        return weight, weight.nbytes
    precise = weight.to(torch.promote_types(weight.dtype, torch.float32))
    scale = precise.abs().amax(axis, keepdim=True) / LARGEST
    # A channel of zeros has any scale.
    rounded = (precise / scale.where(scale > 0, 1.0)).round() * scale
    taken = weight.numel() + SCALE_BYTES * scale.numel()
    return nn.Parameter(rounded.to(weight.dtype), requires_grad=False), taken
