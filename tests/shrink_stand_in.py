"""The run of a wish that nobody ran, made of the leaderboard that ships, with a healing that is made up."""

from __future__ import annotations

from typing import Any

import numpy as np

from slicing.healing.record import Healed, Look
from slicing.studies.options import known_options
from slicing.studies.recipe import Recipe
from slicing.studies.requests import ShrinkRequest
from slicing.studies.results import Finalist, Run, ShrinkResult, Tried
from slicing.studies.store import bundled_board
from slicing.wish import Wish

WISH = Wish(fewer=0.2, minutes=20.0)
HEALED = Healed(
    step="distil",
    windows=8,
    before=3.52,
    after=3.31,
    tokens=60_000,
    distinct=200_000,
    parameters=106_000_000,
    looks=tuple(Look(6000 * place, 3.52 - 0.21 * (1 - 0.7**place)) for place in range(11)),
    seconds=600.0,
)


def shrink_request(**changes: Any) -> ShrinkRequest:
    """The wish, on the model and texts of the leaderboard that ships."""
    board: Any = bundled_board().request
    shared = {name: getattr(board, name) for name in ("model", "calibration", "evaluation", "other")}
    return ShrinkRequest(**{**shared, "wish": WISH, **changes})


def shrink_run(**changes: Any) -> Run:
    """The run of that wish: the best two that are known are its finalists, and the best one is healed."""
    board = bundled_board()
    request, found = shrink_request(**changes), board.result
    assert found.kind == "study"
    known = known_options(request.model, WISH, found.shape, 4)
    first, second = (
        each.measured.model_copy(update={"search": each.measured.evaluation}) for each in known[:2]
    )
    made = (
        (Recipe.parse(f"{known[0].recipe.line} | distil(minutes=10)"), {"healed": (HEALED,)}),
        (known[1].recipe, {}),
    )
    rungs: Any = ((1, 12, 3), (2, 4, 2), (3, 2, 2))
    tried = [
        Tried(
            rung=rung,
            line=each.recipe.line,
            nats=float(np.mean(each.measured.evaluation.nll)) + 0.3 / rung,
            parameters=each.measured.parameters,
            seconds=20.0,
            dropped="" if place < last else "others lose less",
        )
        for rung, count, last in rungs
        for place, each in enumerate(known[:count])
    ]
    return board.model_copy(
        update={
            "recorded_key": request.key,
            "request": request,
            "result": ShrinkResult(
                profile=found.profile,
                shape=found.shape,
                size=known[0].measured.parameters,
                tokens_per_second=1000.0,
                tried=tuple(tried),
                dense=known[0].dense,
                finalists=tuple(
                    Finalist(
                        recipe=recipe,
                        budget=known[0].budget,
                        measurement=measured.model_copy(update={"title": recipe.title, **more}),
                    )
                    for (recipe, more), measured in zip(made, (first, second), strict=True)
                ),
                plain=False,
                calibration=found.calibration,
                evaluation=found.evaluation,
            ),
        }
    )
