"""The text that healing draws from, and the name under which an interrupted training is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analysis.errors import TextError
from analysis.late import torch
from analysis.sources.text import TextSource
from analysis.sources.windows import token_windows
from analysis.values import key_of
from slicing.healing.examples import Examples
from slicing.healing.labelled import labelled_examples
from slicing.studies.judge import digest
from slicing.studies.requests import SEARCHED, Calibrated

if TYPE_CHECKING:
    from torch import Tensor


def healing_examples(request: Calibrated, tokenizer: Any) -> Examples:
    """Give all examples (N, T) that healing may see, in a random order.

    They are windows of plain text, or the rows of a text with labels, of which only the labels count.
    """
    text = request.healing_text
    if text is None or not text.label_column:
        return Examples.of(healing_windows(request, tokenizer))
    examples = labelled_examples(text, tokenizer, request.window_length)
    return examples[_shuffled(len(examples), request.seed)]


def healing_windows(request: Calibrated, tokenizer: Any) -> Tensor:
    """Give all windows (N, T) of plain text that healing may see, in a random order.

    They are of a text of its own, or else of the calibration text. Calibration and searches see none of them,
    whichever texts these are on.
    """
    text, length, seed = request.healing_text or request.calibration, request.window_length, request.seed
    skip = _seen(request, text)
    there = len(token_windows(text, tokenizer, length, None))
    if there <= skip:
        raise TextError(
            f"The text '{text.label}' has {there:,} windows of {length:,} tokens, and calibration and "
            f"searches take the first {skip:,}, so that none is left to heal on: give more text, or a "
            "healing text."
        )
    windows = token_windows(text, tokenizer, length, there - skip, seed, skip)
    return windows[_shuffled(len(windows), seed)]


def _shuffled(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def _seen(request: Calibrated, text: TextSource) -> int:
    """Tell how many windows of a draw of this text are for calibration and searches."""
    if text == request.calibration:
        return request.calibration_windows + SEARCHED
    return SEARCHED if text == request.search_text else 0


def training_key(request: Calibrated, windows: Tensor) -> str:
    """Name all but its steps that decides what a training of this request does."""
    healing = request.healing_text and request.healing_text.key
    said = [request.model.key, digest(windows), healing, getattr(request, "jitter", 0)]
    if request.calibration_precision != "exact":
        said.append(request.calibration_precision)
    return key_of(said)
