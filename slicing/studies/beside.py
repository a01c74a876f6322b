"""Two stored runs side by side: their profiles block by block, their models window by window.

Makes no runs. What cannot be paired is told in a sentence.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from analysis.differences import ProfileDifference, profile_difference
from analysis.errors import PlanError, StorageError
from analysis.evaluate import Difference, Perplexity, difference
from analysis.scores import find_score
from slicing.studies.results import Measurement, Run, TextUsed
from slicing.studies.store import find_details
from slicing.studies.verdicts import read_board, read_comparison

# Profiles


def profile_windows(run: Run) -> str | None:
    """Name the windows that a run's profile passed by their tokens; ``None`` where the run kept no name."""
    result = run.result
    used: TextUsed | None = getattr(result, "text", None) or getattr(result, "calibration", None)
    if used and used.windows == result.profile.windows:
        return used.digest
    details = None
    with suppress(StorageError):  # damaged details are told where they are looked at
        details = find_details(run)
    if details is None or len(details.tokens) != result.profile.windows:
        return None
    return hashlib.sha256(details.tokens.astype(np.int64).tobytes()).hexdigest()[:16]


def block_numbers(run: Run) -> tuple[int, tuple[int, ...]]:
    """Give the count of blocks of the dense model, and the number there of each block of the profile.

    A block that several became has the number of the last of them.
    """
    count = run.result.profile.blocks
    layout = run.result.layout if run.result.kind == "profile" else None
    return (layout.blocks, layout.tops) if layout else (count, tuple(range(count)))


def difference_of_profiles(
    first: Run, second: Run, score: str, first_token: bool = False, relative: bool = False
) -> ProfileDifference:
    """Hold the profiles of two runs side by side, second less first, blocks by their numbers when dense.

    Windows are paired where both profiles passed the same ones. Raises ``PlanError`` where nothing tells
    which blocks belong together, and what ``analysis.differences.profile_difference`` raises.
    """
    (dense, numbers), (other, others) = map(block_numbers, (first, second))
    if dense != other:
        raise PlanError(
            f"These profiles are of models of {dense} and {other} blocks, and nothing tells which blocks "
            "belong together: profile models of equal depth, or one that slicescope took blocks out of."
        )
    seen = [profile_windows(run) for run in (first, second)]
    same = seen[0] is not None and seen[0] == seen[1]
    # A probe may have looked at other windows than the profile did.
    same &= find_score(score).measure is not None or {first.result.kind, second.result.kind} == {"profile"}
    return profile_difference(
        first.result.profile,
        second.result.profile,
        score,
        first_token,
        same_windows=same,
        numbers=(numbers, others),
        relative=relative,
    )


# Models that were judged


class Judged(NamedTuple):
    """A model of a run with what it lost on every evaluation window."""

    name: str
    title: str
    evaluation: Perplexity


def judged_models(run: Run) -> list[Judged]:
    """List the models of a run that were judged, each title once, in the run's own order."""
    result = run.result
    measured: list[Measurement] = []
    if result.kind == "trial":
        measured = [result.measurement]
    elif result.kind == "study":
        measured = [*result.measurements, *result.matched]
    elif result.kind == "shrink":
        measured = [result.dense, *(each.measurement for each in result.finalists)]
    found: dict[str, Judged] = {}
    for each in measured:
        title = each.title if each.title not in found else f"{each.title} ({len(found)})"
        found[title] = Judged(each.name, title, each.evaluation)
    return list(found.values())


def deciding_model(run: Run) -> int:
    """Give the place in ``judged_models`` of what a run is about: the planned one, the best, the winner."""
    request, result, models = run.request, run.result, judged_models(run)
    if request.kind == "study" and result.kind == "study":
        if request.view == "comparison":
            found = read_comparison(request, result)
            about = found.measured[found.planned].title
        else:
            best = next((table.best for table in read_board(request, result).tables if table.best), None)
            about = best.runs[0].title if best else ""
        return next((place for place, each in enumerate(models) if each.title == about), 0)
    return min(1, len(models) - 1)


def why_not_paired(first: Run, second: Run) -> str | None:
    """Say in one sentence why the models of two runs cannot be paired; ``None`` where they can."""
    for run in (first, second):
        if not judged_models(run):
            return f"The run {run.key} judged no model window by window, so there is nothing to pair."
    one, other = (run.result.evaluation for run in (first, second))  # type: ignore[union-attr]
    if one.window_length != other.window_length:
        return (
            f"The windows have {one.window_length:,} and {other.window_length:,} tokens, so they cannot be "
            "paired: judge both runs with windows of one length."
        )
    if one.digest != other.digest:
        where = f"on {one.label} and on {other.label}" if one.label != other.label else f"both on {one.label}"
        return (
            f"The evaluation windows are not the same tokens ({one.windows} and {other.windows} windows, "
            f"{where}), so they cannot be paired: judge both runs on the same text with as many windows."
        )
    return None


def difference_of_models(first: Judged, second: Judged) -> Difference:
    """Pair two models on the same windows, second less first (``PlanError`` where they were judged unlike).

    The windows must be those that ``why_not_paired`` allows.
    """
    one, other = first.evaluation, second.evaluation
    if one.precision != other.precision or one.bos != other.bos:
        raise PlanError(
            "These two models were judged in different ways (precision of the matrix products, or a BOS "
            "token before each window), so their windows cannot be paired: judge both on the same device."
        )
    return difference(first.title, one, second.title, other)
