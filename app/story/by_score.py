"""What two scenes say where the plan goes by a score that is not of the change a block makes to its input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.scores import find_score
from app.story import guesses
from app.story.case import Case
from app.story.scene import Exercise, Notes

_SAY = {
    "discarded-energy": " The first token of every window counts here, as it does for a slice. Its state can "
    "be far longer than the others, which makes every share small. The cloud of tokens leaves it out."
}
"""What is to be said of single scores besides."""
_ALONE = (
    "“What costs little alone costs little together.” Every block was changed alone here. When all are cut, "
    "each reads the errors of those before it, and the costs do not add up."
)
SHOWN = {"discarded-energy": " The first token of each window counts here, other than in the cloud."}
"""What a slide says of single scores besides, in few words."""
_MISCONCEPTIONS = {
    "leave-one-out": _ALONE,
    "slice-one": _ALONE,
    "discarded-energy": "“What holds little energy is not needed.” Energy is not loss. The score foretells "
    "at best what a cut costs.",
}
_MISCONCEPTION = (
    "“The score is what a cut costs.” It is measured on the dense model and foretells that cost at best. "
    "What the cut costs is a scene of its own."
)
"""What is often got wrong of scores that have no sentence of their own."""


def profile(case: Case) -> Mapping[str, Any]:
    """Give what the scene of the profile says otherwise; nothing for a score of the change."""
    if case.by_change:
        return {}
    score = find_score(case.score)
    whiskers = " The whiskers are the standard deviation over windows." if _varies(case) else ""
    misconception = _MISCONCEPTIONS.get(score.name, _MISCONCEPTION)
    return {
        "title": f"{score.title}: where is it redundant?",
        "question": f"Which block {score.ends[1]}: the first, one in the middle, or the last?",
        "notes": Notes(
            say=f"One number for every block, and without training. {score.description}"
            f"{_SAY.get(score.name, '')}{whiskers}",
            minutes=4,
            misconception=misconception,
            exercise=Exercise(
                f"Hold the LR score against this one, the {score.title}. Which blocks change places?",
                "app_pages/profile.py",
                {"shown": "LR score"},
            ),
        ),
    }


def target(case: Case) -> Mapping[str, Any]:
    """Give what the scene of the target says otherwise; nothing for a score of the change."""
    return {} if case.by_change else {"guess": guesses.SPARED_BY_SCORE}


def _varies(case: Case) -> bool:
    """Tell whether the score was measured window by window, and on more than one."""
    return bool(case.result.profile.spread(case.score, case.asked.first_token).any())
