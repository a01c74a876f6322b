"""What the scenes around the stream say: the cloud, the cut, and other ways to the same size."""

from __future__ import annotations

from collections.abc import Callable

from app import wording
from app.figures.base import Drawing, Theme
from app.figures.cloud import CloudView, Stage, fine
from app.figures.cloud_still import draw_cloud
from app.figures.story import draw_rivals, on_stage
from app.story.case import Case


def has_cloud(case: Case) -> bool:
    """Tell whether the run kept a cloud."""
    return case.cloud is not None


def has_rivals(case: Case) -> bool:
    """Tell whether other ways to this size were measured on the same windows."""
    return any(each.kind == "depth" for each in case.rivals)


def view(case: Case) -> CloudView:
    """Give the cloud of a case that has one."""
    found = case.cloud
    assert found is not None, "scenes with a cloud are told of no other case"
    return found


def _held_by_own(cloud: CloudView) -> float:
    return float(cloud.cloud.own[cloud.cloud.middle(), round(cloud.width) :].sum())


def cloud_drawing(stages: tuple[Stage, Stage]) -> Callable[[Case, float, Theme, bool], Drawing]:
    """Give what draws one of two stages, before the answer and with it, as a still chart."""

    def draw(case: Case, _: float, theme: Theme, concealed: bool) -> Drawing:
        found, stage = view(case), stages[0 if concealed else 1]
        drawing = draw_cloud(found, stage, theme, found.told(stage))
        on_stage(drawing.figure, theme)
        return drawing

    return draw


# The turn


def turn_sentence(case: Case, _: float) -> str:
    """Say what a rotation changes."""
    found = view(case)
    return (
        f"**{found.cloud.tokens.size} real token states** before block {found.block} turn to their "
        "principal "
        f"axes, and the weights turn with them: perplexity stays at **{found.stops[0][1]:.2f}**."
    )


def turn_why(case: Case) -> str:
    """Say what a slice begins with."""
    return (
        f"A slice begins with this rotation of the whole stream, in all {view(case).size} directions. It "
        "keeps "
        "every distance and every logit: this is computational invariance."
    )


def turn_answer(case: Case) -> str:
    """Say why nothing changes."""
    return (
        f"Nothing changes, and perplexity stays at {view(case).stops[0][1]:.2f}. A rotation keeps lengths "
        "and "
        "angles, the norm of a token is one of these lengths, and every matrix that reads or writes the "
        "stream "
        "is turned along."
    )


# The thin axes


def thin_sentence(case: Case, _: float) -> str:
    """Say how little energy the thin directions hold."""
    found = view(case)
    return (
        f"The **{found.gone} thinnest** of {found.size} principal directions hold "
        f"**{fine(found.held())}** of the energy."
    )


def thin_why(case: Case) -> str:
    """Say why the stream is turned before it is cut."""
    found = view(case)
    times = _held_by_own(found) / max(found.held(), 1e-12)
    return (
        f"The model's own {found.gone} weakest axes hold {fine(_held_by_own(found))}, {times:.1f} "
        "times as "
        "much. That is why the stream is turned before it is cut, and why a slice is not a choice of "
        "channels."
    )


def thin_answer(case: Case) -> str:
    """Say how much the thin directions hold at every block that was looked at."""
    found, cloud = view(case), view(case).cloud
    told = ", ".join(
        f"{fine(cloud.beyond(place, round(found.width)))} before block {int(block)}"
        for place, block in enumerate(cloud.blocks)
    )
    return f"They hold little at every depth: {told}. The picture is of tokens that begin no window."


# The cut


def collapse_sentence(case: Case, _: float) -> str:
    """Say what equal slices of all blocks cost."""
    found = view(case)
    cost = case.measured["constant"].evaluation.perplexity
    return (
        f"Cut to **{round(found.width)} of {found.size}** directions at every block, the model goes from a "
        f"perplexity of **{found.stops[0][1]:.2f}** to **{cost:.2f}**."
    )


def collapse_why(case: Case) -> str:
    """Say what a slice is, and why little energy costs much."""
    cuts = len(case.measured["constant"].discarded or ())
    row = f"there are {cuts} cuts in a row, and " if cuts else ""
    return (
        "A slice is a rotation and a cut of the whole stream, not pruned channels: all blocks read and write "
        f"fewer directions. Each cut takes little energy, but {row}thin directions were not idle."
    )


def collapse_answer(case: Case) -> str:
    """Say what every measured width costs."""
    told = ", ".join(f"{cost:.2f} at {round(width)}" for width, cost in view(case).stops)
    return f"Energy is not loss. Measured with equal slices at every block: {told}."


# Other ways to the same size


def rivals_sentence(case: Case, _: float) -> str:
    """Say what removing blocks costs at the size of the plan."""
    rivals = case.rivals
    constant = next(each for each in rivals if each.is_baseline)
    ways = [each for each in rivals if each.kind == "depth"]
    removing = min(ways, key=lambda each: each.perplexity)
    plain = [each for each in ways if not each.name.endswith("repaired")]
    alone = min(plain or ways, key=lambda each: each.perplexity)
    costs = "less" if alone.perplexity < constant.perplexity else "more"
    repaired = f" and **{removing.perplexity:.2f}** ({removing.name})" if removing is not alone else ""
    return (
        f"Removing whole blocks costs {costs} at the same size: **{alone.perplexity:.2f}** ({alone.name})"
        f"{repaired}, against **{constant.perplexity:.2f}** for constant slicing."
    )


def rivals_why(case: Case) -> str:
    """Say which size it is, and what loses least at it."""
    rivals = case.rivals
    dense, others = rivals[0], rivals[1:]
    best = min(others, key=lambda each: each.perplexity)
    slicing = min((each for each in others if each.kind == "width"), key=lambda each: each.perplexity)
    return (
        f"All have {wording.percent(1 - best.parameters / dense.parameters)} fewer parameters"
        f"{_constant_before(case)}. A removed block needs no shortcut matrices. The best slicing here has "
        f"{slicing.perplexity:.2f}, the best of all {best.perplexity:.2f} (“{best.name}”)."
    )


def _constant_before(case: Case) -> str:
    """Say why constant slicing has another perplexity than in the scenes before, where it has."""
    here = next(each for each in case.rivals if each.is_baseline)
    before, dense = case.measured["constant"], case.measured["dense"]
    fewer = wording.percent(1 - before.parameters / dense.parameters)
    if fewer == wording.percent(1 - here.parameters / dense.parameters):
        return ""
    return (
        f", and are means over draws of calibration text. The constant slicing of the scenes before had "
        f"{fewer} fewer, by one draw: hence {before.evaluation.perplexity:.2f} there and "
        f"{here.perplexity:.2f} here"
    )


def rivals_formula(case: Case) -> str:
    """Write what all ways have in common, in LaTeX: their number of parameters."""
    dense, *others = case.rivals
    size = next(each for each in others if each.is_baseline).parameters
    return (
        rf"N \approx {size / 1e6:.1f}\ \text{{M parameters}} = {size / dense.parameters:.3f}"
        r"\; N_{\text{dense}}"
    )


def rivals_answer(case: Case) -> str:
    """Give all of them."""
    told = ", ".join(f"{each.name} {each.perplexity:.2f}" for each in case.rivals)
    return f"At about the same number of parameters: {told}."


def rivals_drawing(case: Case, _: float, theme: Theme, concealed: bool) -> Drawing:
    """Draw the perplexities."""
    return draw_rivals(case.rivals, theme, concealed)
