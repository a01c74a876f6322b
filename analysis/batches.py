"""Windows of tokens in the batches that pass through a model at a time.

All of a job takes its batches from here, so that windows of one length pass alike in all its parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from analysis.device import batch_tokens
from analysis.late import torch

if TYPE_CHECKING:
    from torch import Tensor


def batch_size(windows: Tensor, device: torch.device) -> int:
    """Tell how many windows of (N, T) pass at a time: about ``batch_tokens``, and one window at least."""
    return max(1, min(len(windows), batch_tokens(device) // windows.shape[1]))


def batches_of(windows: Tensor, device: torch.device) -> Iterator[Tensor]:
    """Split (N, T) into batches of ``batch_size``."""
    return iter(windows.split(batch_size(windows, device)))


def tokens_at_a_time(windows: Tensor, device: torch.device) -> int:
    """Tokens of the windows (N, T) that pass at a time."""
    return batch_size(windows, device) * windows.shape[1]
