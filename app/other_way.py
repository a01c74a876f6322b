"""What the best other way costs at the size of a comparison, from trials that are stored or that ship.

Knows nothing about streamlit or sessions.
"""

from __future__ import annotations

from collections.abc import Callable

from analysis.device import DTYPES
from analysis.errors import PlanError
from slicing.studies.options import Option, known_options
from slicing.studies.results import Run
from slicing.studies.store import bundled_board
from slicing.studies.verdicts import Comparison
from slicing.wish import Wish


def best_other_way(
    run: Run, comparison: Comparison, may_see: Callable[[str], bool] = lambda key: True
) -> Option | None:
    """Find the recipe that loses least at the size of a comparison and is not the one compared.

    ``may_see`` says of the key of a stored run whether it counts; what ships always does. ``None`` where
    nothing is known at this size, or the model that was compared is no smaller than dense.
    """
    measured, shape = comparison.measured, comparison.result.shape
    gone = 1.0 - measured[comparison.planned].parameters / measured["dense"].parameters
    if gone <= 0.0:
        return None
    itemsize = DTYPES[run.environment.dtype].itemsize
    try:
        known = known_options(comparison.study.model, Wish(fewer=gone), shape, itemsize)
    except PlanError:  # no method reaches the size
        return None
    compared = {recipe.line for recipe in (comparison.study.recipes[-1], comparison.study.baseline)}
    ships = bundled_board().key
    seen = (each for each in known if each.key == ships or may_see(each.key))
    return next((each for each in seen if each.recipe.line not in compared), None)
