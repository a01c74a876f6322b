"""What the scene of the dial says: one prompt, continued by the model at several sizes."""

from __future__ import annotations

from collections.abc import Sequence

from app import wording
from app.figures.base import Drawing, Theme
from app.figures.dial import DialView, draw_sizes, listed, parts_at, turning
from app.story.case import Case


def has_dial(case: Case) -> bool:
    """Tell whether the study that ships is of this model and these windows."""
    return case.dial is not None


def view(case: Case) -> DialView:
    """Give the dial of a case that has one."""
    found = case.dial
    assert found is not None, "the scene of the dial is told of no other case"
    return found


def dialled(case: Case) -> str:
    """Name model and text, and how the models were made smaller."""
    judged = case.result.evaluation
    return (
        f"{case.model} · greedy continuation; perplexity on {judged.label}, {judged.windows} windows of "
        f"{judged.window_length} tokens, {wording.draws(1)} · {case.way}, repaired, without training: "
        "the study that ships; sources of all methods: Study page"
    )


def dial_sentence(case: Case, _: float) -> str:
    """Say from which size and perplexity to which the dial goes."""
    sizes = view(case).sizes
    return (
        f"From **{wording.millions(sizes[0].parameters)}** parameters to "
        f"**{wording.millions(sizes[-1].parameters)}**: perplexity goes from **{sizes[0].perplexity:.2f}** "
        f"to **{sizes[-1].perplexity:.2f}**."
    )


def dial_why(case: Case) -> str:
    """Say what one text shows, and what it does not."""
    judged = case.result.evaluation
    return (
        "One text is an illustration. The evidence is the perplexity, which was measured on "
        f"{judged.windows} windows of another text."
    )


def dial_answer(case: Case) -> str:
    """Give perplexity and first other word of every size."""
    dense, *smaller = view(case).sizes
    told = ", ".join(f"{size.perplexity:.2f} at {wording.percent(size.fewer)} fewer" for size in smaller)
    places = [parts_at(size.text, dense.text) for size in smaller]
    return f"Perplexity is {dense.perplexity:.2f} dense, and {told} parameters. {_parted(places)}"


def _parted(places: Sequence[int | None]) -> str:
    """Say at which word each smaller model leaves the dense one's text; ``None``: it never does."""
    if len(set(places)) == 1:
        return (
            "Every smaller model writes what the dense one does."
            if places[0] is None
            else f"Every smaller model leaves the dense model's text at word {places[0]}."
        )
    words = ", ".join("none" if place is None else str(place) for place in places)
    return f"The first word that differs from the dense text is, in the same order, number {words}."


def dial_live(case: Case, theme: Theme, concealed: bool) -> str:
    """Write the dial that turns; concealed, it shows the dense model alone."""
    return turning(view(case), theme, not concealed)


def dial_still(case: Case, theme: Theme) -> str:
    """Write all sizes under each other."""
    return listed(view(case), theme)


def dial_drawing(case: Case, _: float, theme: Theme, concealed: bool) -> Drawing:
    """Draw perplexity over size."""
    return draw_sizes(view(case), theme, concealed)
