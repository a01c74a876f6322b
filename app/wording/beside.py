"""What is said of two runs side by side."""

from __future__ import annotations

import numpy as np

from analysis.differences import ProfileDifference
from analysis.evaluate import Difference
from analysis.numbers import as_ranges
from analysis.scores import find_score
from analysis.statistics import FEWEST_WINDOWS
from app.wording.numbers import counted, interval, minus, typeset


def change_title(score: str) -> str:
    """Name what two profiles are held side by side in: of a score derived from a cosine its change."""
    entry = find_score(score)
    return "1 − mean cosine" if entry.of_cosine else entry.title


def how_sure(found: ProfileDifference) -> str:
    """Say whether the windows were paired, and what the intervals are."""
    one, other = found.windows
    if found.interval is None:
        return (
            f"No interval: there are {one} and {other} windows, and below {FEWEST_WINDOWS} an interval would "
            "be a pretence."
        )
    if found.paired:
        return (
            f"Both profiles passed the same {counted(one, 'window')}, so blocks are paired window by window: "
            "Student's 95\N{NO-BREAK SPACE}% interval of each block alone."
        )
    return typeset(
        f"Not paired: the profiles did not pass the same windows ({one} and {other}). Welch's 95 % interval "
        "of each block alone, which also holds how much windows differ from one another."
    )


def profiles_apart(found: ProfileDifference) -> str:
    """Say how many blocks differ clearly, and where most."""
    if not found.difference.any():
        return f"The profiles are equal in all {found.blocks.size} blocks."
    most = int(np.abs(found.difference).argmax())
    size = _size(found, most)
    where = f"Block {found.blocks[most]} differs most ({size})."
    if found.p_values is None:
        return f"Too few windows to tell which blocks differ. {where}"
    clear = found.blocks[found.clear]
    verb = "differs" if clear.size == 1 else "differ"
    told = typeset(
        f"{clear.size} of {found.blocks.size} blocks {verb} clearly at 5 %, corrected for all of them (Holm)"
    )
    if not clear.size:
        told = f"No block differs clearly at 5 %, corrected for all {found.blocks.size} (Holm)."
        return f"{typeset(told)} {where}"
    named = f": {as_ranges([int(each) for each in clear])}" if clear.size < found.blocks.size else ""
    up = int((found.difference[found.clear] > 0).sum())
    down = clear.size - up
    turned = f"{up} change their input more, {down} less"
    if not up or not down:
        turned = ("It changes its" if clear.size == 1 else "All change their") + (
            " input more" if up else " input less"
        )
    return f"{told}{named}. {turned}. {where}"


def _size(found: ProfileDifference, place: int) -> str:
    unit = "\N{NO-BREAK SPACE}%" if found.relative else ""
    digits = 1 if found.relative else 4
    told = minus(f"{found.difference[place]:+.{digits}f}{unit}")
    if found.interval is not None:
        low, high = found.interval[place]
        told += f", 95\N{NO-BREAK SPACE}% interval {interval((low, high), digits)}{unit}"
    return told


def models_apart(each: Difference) -> str:
    """Say how two models of two runs differ on the same windows."""
    told = minus(f"{each.percent:+.1f}\N{NO-BREAK SPACE}% perplexity")
    between = (
        ""
        if each.percent_interval is None
        else f", 95\N{NO-BREAK SPACE}% interval {interval(each.percent_interval, 1)}\N{NO-BREAK SPACE}%"
    )
    return (
        f"{each.contender} against {each.baseline}: {told}{between}, on the same "
        f"{counted(each.windows, 'window')}: {each.verdict}."
    )
