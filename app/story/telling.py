"""What each scene of the story says, answers and draws, with the numbers of its case."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from analysis.errors import StorageError
from analysis.scores import find_score
from analysis.shape import ModelShape
from app import wording
from app.figures.base import Drawing, Theme
from app.figures.profile import outliers
from app.figures.story import (
    Spread,
    draw_cosines,
    draw_costs,
    draw_floor,
    draw_pipe,
    draw_plan,
    draw_scores,
    draw_turns,
)
from app.story import by_score
from app.story.case import Case

# Where things come from, in small type

SLICEGPT = "method: SliceGPT (Ashkboos et al., 2024)"
DYNAMIC = "method: dynamic slicing (Dumitru et al., 2024)"


def profiled(case: Case) -> str:
    """Name model and text of the profile, and whose score it is."""
    return _profiled_by(case, case.score)


def _profiled_by(case: Case, name: str) -> str:
    profile, score = case.result.profile, find_score(name)
    text = f"{profile.windows} windows of {profile.window_length} tokens of {profile.text}"
    return f"{case.model} · {text} · score: {score.title}, {score.source}"


def turned(case: Case) -> str:
    """Name model and text of the profile, and whose measure the cosine is, whatever the plan goes by."""
    return _profiled_by(case, "lr")


def allotted(case: Case) -> str:
    """Name model and text that the plan was made from, and whose rule it is."""
    return f"{case.model} · plan made on {case.result.profile.text} · {DYNAMIC}"


def sliced(case: Case) -> str:
    """Name model, the text that bases were found on, and the one that perplexity is of."""
    return f"{_both_texts(case)} · {SLICEGPT}"


def judged(case: Case) -> str:
    """Name model and both texts, and both methods."""
    return f"{_both_texts(case)} · {SLICEGPT}, {DYNAMIC.removeprefix('method: ')}"


def rivalled(case: Case) -> str:
    """Name model and text, and where the other methods are named."""
    judged_on = case.result.evaluation
    text = f"perplexity on {judged_on.label}, {judged_on.windows} windows of {judged_on.window_length} tokens"
    text += ", mean over all draws of calibration text"
    return f"{case.model} · {text} · the leaderboard that ships; sources of all methods: Study page"


def _both_texts(case: Case) -> str:
    cut, judged_on = case.result.calibration, case.result.evaluation
    return (
        f"{case.model} · cut by {cut.label}, {wording.draws(1)}, judged by perplexity on {judged_on.label}, "
        f"{judged_on.windows} windows of {judged_on.window_length} tokens"
    )


# What a block does to its input


def turns_why(case: Case) -> str:
    """Say why angles matter."""
    if not case.by_change:
        return (
            "No block replaces the stream, each adds to it. The LR score takes this turn for what a block "
            "needs of the stream. The plan of this run goes by another score, the "
            f"**{wording.within_sentence(find_score(case.score).title)}**."
        )
    return (
        "No block replaces the stream, each adds to it. The smaller the turn, the less would be missed if "
        "the "
        "block saw less of the stream."
    )


def turns_sentence(case: Case, _: float) -> str:
    """Say how far the blocks turn a state that change it most and least."""
    most, least = case.turns
    longer = f" and makes it **{most.growth:.3g} times** as long" if most.growth else ""
    kept = "" if most.growth else " (this run kept no lengths, so they are drawn equal)"
    return (
        f"On average block {most.block} turns the state of a token by **{most.degrees:.0f}°**{longer}; "
        f"block {least.block} turns it by only **{least.degrees:.0f}°**{kept}."
    )


def turns_answer(case: Case) -> str:
    """Say from where to where the angles go, and what is typical."""
    most, least = case.turns
    typical = float(np.degrees(np.arccos(np.median(case.cosine))))
    return (
        f"From {least.degrees:.0f}° (block {least.block}) to {most.degrees:.0f}° (block {most.block}); a "
        f"typical block turns it by {typical:.0f}°. Every block adds to its input, and most add little."
    )


def turns_drawing(case: Case, _: float, theme: Theme, concealed: bool) -> Drawing:
    """Draw both turns as arrows."""
    return draw_turns(case.turns, theme, concealed)


# The cosine


def cosine_sentence(case: Case, _: float) -> str:
    """Say by which cosine the typical token passes the two blocks whose turns were drawn before."""
    spread = case.spread
    low, high = (turn.block for turn in case.turns)
    unit = "token" if case.details is not None else "window (this run kept no single tokens)"
    return (
        f"The typical {unit} passes block {high} with a cosine of **{_signed(spread.middle[high])}** and "
        f"block {low} with **{_signed(spread.middle[low])}**{_first_apart(spread)}."
    )


def _first_apart(spread: Spread) -> str:
    if spread.first is None:
        return ""
    outside = int(((spread.first < spread.low) | (spread.first > spread.high)).sum())
    return f"; first tokens fall outside the bar in **{outside} of {spread.middle.size}** blocks"


def cosine_answer(case: Case) -> str:
    """Say where tokens differ most."""
    spread = case.spread
    widest = int((spread.high - spread.low).argmax())
    return (
        f"They differ most in block {widest}, where 90 % lie between {_signed(spread.low[widest])} and "
        f"{_signed(spread.high[widest])}{_first_apart(spread)}. That is why the first token is kept apart."
    )


def cosines_drawing(case: Case, _: float, theme: Theme, concealed: bool) -> Drawing:
    """Draw the cosines of every block."""
    return draw_cosines(case.spread, theme, concealed)


# The profile


def profile_sentence(case: Case, _: float) -> str:
    """Say which block is the most redundant, and which the least."""
    score = find_score(case.score)
    values = case.result.profile.values(score.name, case.asked.first_token)
    redundancy = np.asarray(case.redundancy)
    most, least = int(redundancy.argmin()), int(redundancy.argmax())
    far = outliers(values)
    rest = np.delete(values, far)
    named = f"block{'s' * (len(far) > 1)} {' and '.join(map(str, far))}"
    digits = ".2f" if case.by_change else ".2g"
    apart = f"; all but {named} lie between {rest.min():{digits}} and {rest.max():{digits}}" if far else ""
    return wording.typeset(
        f"Block **{least}** is the most redundant ({wording.within_sentence(score.title)} "
        f"{values[least]:{digits}}), block **{most}** "
        f"the least ({values[most]:{digits}}){apart}."
    )


def profile_why(case: Case) -> str:
    """Say what the score stands for, and why blocks that have much of it are cut more."""
    if not case.by_change:
        score = find_score(case.score)
        besides = by_score.SHOWN.get(score.name, "")
        return f"{score.description}{besides} The rule cuts **more** where a block is more redundant."
    if not find_score(case.score).name.startswith("lr"):
        return "The more redundant a block, the less it changes its input, and the more of its stream is cut."
    return (
        "LR stands for **layer redundancy**: the mean cosine, scaled to 0 for the block that changes most "
        "and 1 "
        "for the one that changes least. A block with a high LR hands its input on nearly unchanged. So it "
        "needs "
        "less of the stream, and the rule cuts **more** there."
    )


SCORE_FORMULAS = {
    "lr": r"LR_l = \frac{c_l - \min c}{\max c - \min c}, \quad c_l = \overline{\cos}_l",
    "lr-published": r"LR_l = \frac{c_l - \min c}{\max c - \min c}, \quad "
    r"c_L = \overline{\cos}(h_{L-1}, \operatorname{norm}(h_L))",
    "block-influence": r"BI_l = 1 - \overline{\cos}_l",
    "discarded-energy": r"E_l = \sum_{i > 3D/4} \lambda_i \Big/ \sum_i \lambda_i",
    "leave-one-out": r"\Delta_l = \overline{L}(\text{without block } l) - \overline{L}",
    "slice-one": r"\Delta_l = \overline{L}(\text{block } l \text{ alone cut by a quarter}) - \overline{L}",
    "angular": r"d_l = \tfrac{1}{\pi} \arccos \cos_l \quad \text{at the last token}",
}


def profile_answer(case: Case) -> str:
    """Say which blocks are the least redundant."""
    redundancy = np.asarray(case.redundancy)
    order = [str(block) for block in np.argsort(redundancy)[:3]]
    first = f"Block {int(redundancy.argmin())} {find_score(case.score).ends[1]}"
    if len(order) < 3:
        return f"{first}."
    return (
        f"{first}; the three least redundant are {', '.join(order[:2])} and {order[2]}, of {redundancy.size}."
    )


def profile_drawing(case: Case, _: float, theme: Theme, concealed: bool) -> Drawing:
    """Draw the score of every block."""
    plan = case.asked
    return draw_scores(case.result.profile, case.score, plan.first_token, theme, concealed)


# The slice base


def base_sentence(case: Case, base: float) -> str:
    """Say what the base takes from all blocks, and what the scores decide."""
    left = case.plan.target - base
    if left <= 1e-9:
        return (
            f"With the base at the target of **{_share(base)}** nothing is left to share out: this is "
            "constant slicing."
        )
    return (
        f"Every block loses **{_share(base)}** whatever its score, up to the rounding of widths; the other "
        f"**{_points(left)}** of the target of {_share(case.plan.target)} go where the model is redundant."
    )


def base_answer(case: Case) -> str:
    """Say how much the scores decide."""
    return (
        f"The scores decide: at a base of {_share(case.base)} about {_points(case.plan.target - case.base)}. "
        f"At a base of {_share(case.plan.target)} nothing is left to decide, which is constant slicing."
    )


def base_drawing(case: Case, base: float, theme: Theme, concealed: bool) -> Drawing:
    """Draw the base as the floor of every cut."""
    fractions = case.planned_at(base=base).fractions(case.redundancy)
    return draw_floor(fractions, base, case.largest_cut(0.0, case.plan.target), theme, concealed)


# The target


def target_sentence(case: Case, target: float) -> str:
    """Say what the least and the most redundant blocks lose at a target."""
    cut = np.asarray(
        case.planned_at(target=target).schedule(case.redundancy, case.result.shape).block_fractions
    )
    low, high = int(cut.argmin()), int(cut.argmax())
    return (
        f"At **{_share(target)}** on average block {low} loses **{wording.percent(cut[low])}** and "
        f"block {high} loses **{wording.percent(cut[high])}**; constant slicing takes the same of all."
    )


def target_why(case: Case) -> str:
    """Say which block has most of what the plan spares against constant slicing."""
    schedule = case.measured[case.planned].schedule
    if schedule is None or case.planned == "constant":
        return ""
    spared = np.maximum(case.asked.target - np.asarray(schedule.block_fractions), 0.0)
    most = int(spared.argmax())
    if spared.sum() <= 0.0:
        return "This plan spares no block against constant slicing."
    share = spared[most] / spared.sum()
    if share < 0.5:
        return (
            f"The plan spares several blocks against constant slicing. Block {most} gets the largest part of "
            f"that width, {100 * share:.0f}\N{NO-BREAK SPACE}%."
        )
    return (
        f"On this model dynamic slicing mostly means sparing **block {most}**: it gets "
        f"**{100 * share:.0f}\N{NO-BREAK SPACE}%** of the width that the plan spares against constant "
        "slicing."
    )


def highest_target(case: Case) -> float:
    """Give the end of the target's dial: beyond it little of a model is left to talk about.

    The axis of the chart ends with it, so that a dial that went further would leave the bars little height.
    """
    return max(0.4, case.plan.target)


def target_answer(case: Case) -> str:
    """Say which blocks lose less than the mean."""
    plan, shape = case.plan, case.result.shape
    cut = np.asarray(plan.schedule(case.redundancy, shape).block_fractions)
    less = np.flatnonzero(cut < plan.target - 0.5 * plan.rounding / shape.hidden_size)
    named = ", ".join(map(str, less[:6])) + (f" and {less.size - 6} more" if less.size > 6 else "")
    where = "the blocks that change their input most" if case.by_change else "the least redundant blocks"
    return (
        f"In {where}: {named or 'none'}. What they keep, the others give, so "
        f"that the mean stays {_share(plan.target)}."
    )


def target_drawing(case: Case, target: float, theme: Theme, concealed: bool) -> Drawing:
    """Draw the plan beside constant slicing."""
    plan, shape = case.planned_at(target=target), case.result.shape
    return draw_plan(
        plan.schedule(case.redundancy, shape),
        plan.constant(shape),
        plan.fractions(case.redundancy),
        plan.allocation,
        case.result.profile.block_path,
        case.largest_cut(case.base, highest_target(case)),
        theme,
        concealed,
    )


# What is left


def cut_sentence(case: Case, _: float) -> str:
    """Say what the cut leaves of the parameters."""
    planned, dense = case.measured[case.planned], case.measured["dense"]
    change = planned.parameters / dense.parameters - 1.0
    return (
        f"A slice of {_share(case.asked.target)} leaves **{wording.millions(planned.parameters)}** of "
        f"{wording.millions(dense.parameters)} parameters: **{wording.percent(abs(change))} "
        f"{'fewer' if change <= 0 else 'more'}**."
    )


def cut_why(case: Case) -> str:
    """Say what the shortcut matrices take."""
    planned = case.measured[case.planned]
    if planned.schedule is None:
        return ""
    shape = case.result.shape
    sites = [site for site in planned.schedule.sites(shape) if site.turns]
    took = sum(site.shortcut for site in sites)
    without = 1.0 - (planned.parameters - took) / case.measured["dense"].parameters
    return (
        "The price of a slice: every sub-layer leaves the stream in another basis, so that its shortcut "
        "needs a "
        f"matrix. The **{len(sites)} shortcut matrices** take {wording.millions(took)} parameters; without "
        "them "
        f"{wording.percent(without)} would be gone. The matrices inside stay as wide as they were."
    )


def cut_answer(case: Case) -> str:
    """Say why that is another number than the mean slice."""
    planned, constant = case.measured[case.planned], case.measured["constant"]
    dense = case.measured["dense"].parameters
    return (
        f"By another: the mean slice is {wording.percent(planned.mean_slice)}, the parameters change by "
        f"{wording.percent(planned.parameters / dense - 1.0, signed=True)} (constant slicing: "
        f"{wording.percent(constant.parameters / dense - 1.0, signed=True)}). Every cut adds a shortcut "
        "matrix between two widths, and the embedding is counted too."
    )


def cut_drawing(case: Case, _: float, theme: Theme, concealed: bool) -> Drawing:
    """Draw the width of the stream along the depth."""
    name = case.planned
    planned, constant = case.measured[name].schedule, case.measured["constant"].schedule
    if planned is None or constant is None:
        raise StorageError(
            "This comparison does not say how its models were sliced: run it again to tell the story."
        )
    shape, places = case.result.shape, []
    for site, (block, part) in zip(planned.sites(shape), _parts(shape), strict=True):
        if site.turns:
            places.append(block - 0.5 + part)
    return draw_pipe(planned, constant, name, theme, concealed, places)


def _parts(shape: ModelShape) -> Iterator[tuple[int, float]]:
    """Give the block of every sub-layer, and how far into the block it stands, from 0 to 1."""
    for index, block in enumerate(shape.blocks):
        for place in range(len(block)):
            yield index, (place + 0.5) / len(block)


# Perplexity


def cost_sentence(case: Case, _: float) -> str:
    """Say what the plan costs against the dense model."""
    dense, planned = case.measured["dense"], case.measured[case.planned]
    before, after = dense.evaluation.perplexity, planned.evaluation.perplexity
    size = planned.parameters / dense.parameters - 1.0
    return (
        f"Against dense: perplexity goes from **{before:.2f}** to **{after:.2f}**, **{after / before:.1f} "
        "times** as "
        f"much, for **{wording.percent(abs(size))} {'fewer' if size <= 0 else 'more'}** parameters."
    )


def cost_why(case: Case) -> str:
    """Say what the comparison with constant slicing found."""
    found = wording.verdict(case.comparison)
    if case.planned == "constant":
        return found
    return f"Constant slicing: {case.measured['constant'].evaluation.perplexity:.2f}. {found}"


def cost_answer(case: Case) -> str:
    """Say the evidence, and what the dense model has."""
    told = [
        f"{how.capitalize()}: {each.verdict}, {wording.evidence(each)}."
        for how, each in wording.deciding(case.comparison)
    ]
    dense = case.measured["dense"].evaluation
    return " ".join([*told, f"The dense model has a perplexity of {dense.perplexity:.2f}: {dense.protocol}."])


def costs_drawing(case: Case, _: float, theme: Theme, concealed: bool) -> Drawing:
    """Draw the perplexities."""
    names = dict.fromkeys(("dense", "constant", case.planned))
    return draw_costs([case.measured[name] for name in names], theme, concealed)


def _share(fraction: float) -> str:
    """A share set on a dial, in whole percent where it is whole."""
    return f"{100 * fraction:.3g}\N{NO-BREAK SPACE}%"


def _signed(cosine: float) -> str:
    return f"{cosine:.2f}".replace("-", "−")


def _points(fraction: float) -> str:
    points = f"{100 * fraction:.3g}"
    return f"{points}\N{NO-BREAK SPACE}{'point' if points == '1' else 'points'}"
