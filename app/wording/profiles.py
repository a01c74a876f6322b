"""What is said of a profile, and of what was looked at from near."""

from __future__ import annotations

import math
from collections.abc import Sequence

from analysis.details import Details
from analysis.scores import find_score
from slicing.studies.results import Request, Run


def outlier_note(blocks: Sequence[int], left_off: bool) -> str:
    """Say what outliers do to a chart, and whether they are left off."""
    listed = ", ".join(map(str, blocks))
    what = "left off" if left_off else "far out"
    if len(blocks) == 1:
        return f"Block {listed} is {what}: it compresses the rest"
    return f"Blocks {listed} are {what}: they compress the rest"


def two_depths(details: Details, first: int, second: int, by: str = "similarity") -> str:
    """Say how alike two depths are by a measure in ``LIKENESSES``."""
    if first == second:
        return "These are the same depth: choose two."
    first, second = min(first, second), max(first, second)
    value = float(details.maps()[by][first, second])
    ends = f"between the stream entering block {first} and after block {second - 1}"
    between = second - first
    blocks = f"block {first}" if between == 1 else f"the {between} blocks {first} to {second - 1}"
    turn = "turns" if between == 1 else "together turn"
    if by == "angular":
        return (
            f"Angle **{value:.3f} π** at the last token, mean over windows, {ends}: {blocks} {turn} it by "
            f"{180 * value:.0f}°."
        )
    if by == "cka":
        return (
            f"CKA **{value:.3f}** {ends}: it would be 1 if {blocks} did no more than turn and scale the "
            "stream as a whole."
        )
    angle = math.degrees(math.acos(max(-1.0, min(1.0, value))))
    return f"Mean cosine **{value:.3f}** {ends}: {blocks} {turn} it by about {angle:.0f}°."


def change_reading(score: str) -> str:
    """Say what the chart of a score draws, and which way is redundant: of a cosine it draws the change."""
    entry = find_score(score)
    if not entry.of_cosine:
        return entry.about
    if not entry.higher_is_redundant:
        return f"Drawn is the {entry.title.lower()}. {entry.about}"
    return (
        "Drawn is how much each block changes its input: one minus the mean cosine of its input and output; "
        f"**lower means more redundant**. The {entry.title}, by which plans cut, is made of the same cosine "
        f"and goes the other way: {entry.about[0].lower()}{entry.about[1:]}"
    )


CLOUD_READING = (
    "Real token states before one block. The two long directions stand for all that are kept, the thin one "
    "for "
    "all that are cut, each drawn as large as their energy. First tokens of windows are left out."
)
LENS_READING = (
    "After each block the stream goes straight to the final norm and the head, and the blocks above are left "
    "out: the loss of the model cut off there, on the windows of the profile. Sources: nostalgebraist, "
    "Interpreting GPT: The Logit Lens, 2020; Yuan et al., Why Lift so Heavy?, IJCNN 2025."
)
"""What the logit lens shows."""


def profile_name(run: Run) -> str:
    """A run's profile in a legend: model and text."""
    profile = run.result.profile
    return f"{profile.model} on {profile.text}"


def profiled(request: Request) -> str:
    """Say which windows the profile of a run was measured on. Equal words mean equal windows."""
    windows, drawn, seed = request.profile_draw
    of = "" if windows == drawn else f"the first {windows} of "
    return f"{of}{drawn} windows of {request.window_length:,} tokens, drawn with seed {seed}"
