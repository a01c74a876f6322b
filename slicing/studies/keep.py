"""Keeping the model that a recipe has made: in its form, with its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analysis.anatomy import blocks
from analysis.sources.opening import OpenModel
from analysis.values import Progress, no_progress
from slicing.depth.layout import Layout
from slicing.depth.reduce import ReducedModel
from slicing.inner.cut import as_narrow_model
from slicing.steps.base import Made
from slicing.store import save_reduced, save_sliced
from slicing.studies.judge import count_parameters
from slicing.studies.results import TextUsed


def save_made(
    made: Made,
    opened: OpenModel,
    folder: Path,
    method: str,
    *,
    made_from: str,
    calibration: TextUsed,
    numbers: tuple[str, ...],
    warnings: tuple[str, ...],
    progress: Progress = no_progress,
) -> bool:
    """Write what was made of the ``opened`` dense model to a folder that does not exist yet.

    ``method``: how the card calls what was done. ``numbers`` and ``warnings``: the card's sentences. Gives
    whether any tool opens the folder as a model of its architecture. Raises ``StorageError``.
    """
    about: dict[str, Any] = {
        "made_from": made_from,
        "calibration": calibration.told,
        "numbers": numbers,
        "warnings": warnings,
        "progress": progress,
    }
    if made.sliced:
        save_sliced(made.sliced, opened.tokenizer, folder, **about)
        return made.sliced.plain
    left = as_narrow_model(made.model) if made.inner else made.model
    layout = made.layout or Layout.whole(len(blocks(opened.model)))
    reduced = ReducedModel(left, layout, made.repair, made.inner)
    about |= {"method": method, "dense_parameters": count_parameters(opened.model)}
    save_reduced(reduced, opened.tokenizer, folder, **about)
    return reduced.plain
