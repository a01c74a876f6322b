"""Warn, in sentences, where calibration text is too short, or is the evaluation text as well.

Knows nothing about recipes or models, only about texts and shapes.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import count
from typing import Literal

from analysis.shape import ModelShape
from analysis.sources.text import TextSource, share_text
from slicing.repair import features, held_out

Fit = Literal["bases", "matrix", "writers"]
"""Things that are fitted to calibration text: bases, linear replacements of blocks, writers."""


PER_DIMENSION = 4
"""Tokens for each dimension of the stream, below which bases are told to be poor. With fewer tokens than
dimensions the others are arbitrary. On the demo model (D = 576), a quarter sliced, the perplexity is 450 by
256 calibration tokens, 210 by 512, 128 by 1,024, 85 by 2,048 and 68 by 4,096; dense it is 24."""


def too_few_tokens(fits: Collection[Fit], shape: ModelShape, windows: int, length: int) -> tuple[str, ...]:
    """A sentence for each thing that is fitted to fewer tokens than it takes.

    ``windows`` of ``length`` tokens are for calibration; matrices and writers see those that are not held
    out.
    """
    width, told = shape.hidden_size, []
    tokens = windows * length
    if "bases" in fits and tokens < PER_DIMENSION * width:
        why = f"fewer than {PER_DIMENSION} for each"
        if tokens < width:
            why = f"so that {width - tokens:,} dimensions or more are arbitrary"
        enough = -(-PER_DIMENSION * width // length)
        told.append(
            f"The bases of a stream of {width:,} dimensions are found on {tokens:,} tokens, {why}, and what "
            f"is sliced by them is far worse than it could be: calibrate on {enough:,} windows of {length:,} "
            "tokens or more."
        )
    fitted = {
        "matrix": ("A linear replacement is", width),
        "writers": ("Writers are", features(shape)),
    }
    for fit, (what, unknowns) in fitted.items():
        if fit not in fits or windows < 2 or _fitted(windows) * length >= unknowns:
            continue
        enough = next(each for each in count(windows) if _fitted(each) * length >= unknowns)
        told.append(
            f"{what} fitted to {_fitted(windows) * length:,} tokens, which are fewer than the {unknowns:,} "
            f"features of a token, so that the fit gains little or nothing: calibrate on {enough:,} "
            f"windows of {length:,} tokens or more."
        )
    return tuple(told)


def _fitted(windows: int) -> int:
    return windows - held_out(windows)


def same_text(
    calibration: TextSource, *others: TextSource | None, what: str = "Calibration"
) -> tuple[str, ...]:
    """A sentence where a text for evaluation has documents of the calibration text in it, or of the one that
    is for something else: ``what`` names it.
    """
    for other in others:
        if other is not None and share_text(calibration, other):
            both = (
                f"both on '{calibration.label}'"
                if other.label == calibration.label
                else f"on '{calibration.label}' and '{other.label}' with documents in common"
            )
            return (
                f"{what} and evaluation are {both}, which flatters every smaller model: choose another "
                "text or split for one of them.",
            )
    return ()
