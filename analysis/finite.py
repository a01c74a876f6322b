"""Weights that are no numbers: looked for where a result is none, so that the sentence names the weight."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from analysis.errors import ModelError, NotFiniteError
from analysis.late import torch

Given = ParamSpec("Given")
Result = TypeVar("Result")
_ROWS = 4096
"""Rows of a weight that are looked at together."""


def broken_weight(model: Any) -> str | None:
    """Name the first weight of a model that holds NaN or infinity; ``None`` where all are finite.

    Weights that accelerate keeps elsewhere are passed by.
    """
    for name, weight in model.named_parameters():
        if weight.is_meta or not weight.is_floating_point():
            continue
        parts = weight.detach().split(_ROWS) if weight.ndim else (weight.detach(),)
        if not all(bool(torch.isfinite(part).all()) for part in parts):
            return name
    return None


def naming_weights(
    work: Callable[Concatenate[Any, Given], Result],
) -> Callable[Concatenate[Any, Given], Result]:
    """Decorate work on a model, its first argument: where no number comes out, a broken weight is named."""

    @functools.wraps(work)
    def run(model: Any, *args: Given.args, **settings: Given.kwargs) -> Result:
        try:
            return work(model, *args, **settings)
        except NotFiniteError as error:
            if (name := broken_weight(model)) is None:
                raise
            raise ModelError(
                f"The weight '{name}' holds NaN or infinity, so that nothing can be computed: fetch or save "
                "the model again."
            ) from error

    return run
