"""What is said of two models that write beside each other."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.writing import Place, first_parting
from app.wording.markup import verbatim
from app.wording.numbers import counted

ILLUSTRATION = (
    "This is an **illustration, not evidence**: one prompt shows how two models differ, and never how much "
    "worse one is. Perplexity over thousands of tokens tells that, on the Compare page."
)
WRITTEN_READING = (
    "No colour: the model was sure of the token. The stronger the colour, the less probable the token was to "
    "it. Point at a token for its probability and the likeliest others; the table lists them all."
)
READ_READING = (
    "Above a token stands what the smaller model would have written in its place. The text is the dense "
    "model's own choice, so the dense model is never wrong here."
)


def parting(dense: Sequence[Place], smaller: Sequence[Place], over: bool) -> str:
    """Say where two texts part first, or how far they are alike. ``over``: whether both are written."""
    at = first_parting(dense, smaller)
    if at is None:
        same = counted(min(len(dense), len(smaller)), "token")
        if not over:
            return f"So far both write the same {same}."
        if len(dense) == len(smaller):
            return f"Both write the same {same}."
        shorter = "dense" if len(dense) < len(smaller) else "smaller"
        return f"Both write the same {same}, where the context of the {shorter} model ends."
    same = (
        "They part **at the first token**"
        if not at
        else f"They write the same **{counted(at, 'token')}**, then part"
    )
    one, other = dense[at], smaller[at]
    return f"{same}: the dense model writes {_quoted(one)}, the smaller one {_quoted(other)}."


def agreement(read: Sequence[Place]) -> str:
    """Say how often the smaller model would have written what the dense one wrote."""
    same = sum(place.taken for place in read)
    return (
        f"At **{same} of {len(read)}** places of the dense model's text the smaller model would have written "
        f"the same token ({100 * same / len(read):.0f}\N{NO-BREAK SPACE}%)."
    )


def _quoted(place: Place) -> str:
    percent = 100 * place.probability
    told = "below 1" if percent < 1 else f"{percent:.0f}"
    what = "its end" if place.ends else f"“{verbatim(place.piece.strip()) or 'a space'}”"
    return f"{what} ({told}\N{NO-BREAK SPACE}%)"
