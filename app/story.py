"""The method in seven steps, for talks and lessons: what each step shows, says, asks and answers.

Every number is of the run that is told. Computes nothing but arithmetic on it, and knows nothing about
streamlit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from slicing.runs import CompareRecipe, CompareResult, Run

from analysis.details import Details
from analysis.errors import StorageError
from analysis.scores import find_score
from app import wording
from app.figures.base import Drawing, Theme
from app.figures.profile import outliers
from app.figures.story import (
    Spread,
    Turn,
    draw_cosines,
    draw_costs,
    draw_floor,
    draw_pipe,
    draw_plan,
    draw_scores,
    draw_turns,
)
from slicing.allocation import Dynamic
from slicing.plan import Plan


class Case(NamedTuple):
    """A comparison as the story needs it."""

    recipe: CompareRecipe
    result: CompareResult
    details: Details | None

    @property
    def cosine(self) -> np.ndarray:
        """The mean cosine of every block, first tokens left out, (L,)."""
        return self.result.profile.measured("lr").mean(axis=0)

    @property
    def score(self) -> str:
        """The score that the plan was made from."""
        return self.result.profile.held(self.recipe.plan.score)

    @property
    def redundancy(self) -> tuple[float, ...]:
        """What the plan was made from, (L,): higher is more redundant."""
        return self.result.profile.redundancy(self.score, self.recipe.plan.first_token)

    @property
    def turns(self) -> tuple[Turn, Turn]:
        """The block that changes its input most, and the one that changes it least."""
        cosine = self.cosine
        growth = None if self.details is None else self.details.growth
        most, least = (
            Turn(block, float(cosine[block]), None if growth is None else float(growth[block]))
            for block in (int(cosine.argmin()), int(cosine.argmax()))
        )
        return most, least

    @property
    def spread(self) -> Spread:
        """The cosine over tokens, or over windows where no single tokens were kept."""
        if self.details is not None:
            cosine = 1.0 - self.details.change.astype(np.float32)
            low, middle, high = np.percentile(cosine[:, 1:], [5, 50, 95], axis=(0, 1))
            return Spread(low, middle, high, cosine[:, 0].mean(axis=0))
        low, middle, high = np.percentile(self.result.profile.measured("lr"), [5, 50, 95], axis=0)
        first = self.result.profile.measurements["cosine"].first
        return Spread(low, middle, high, None if first is None else np.asarray(first).mean(axis=0))

    @property
    def plan(self) -> Plan:
        """The run's plan; where its rule has no base, the dynamic rule at the same target."""
        plan = self.recipe.plan
        if plan.allocation == "dynamic":
            return plan
        base = min(Dynamic.model_fields["base"].default, plan.target)
        return Plan(**{**dict(plan), "allocation": "dynamic", "settings": {"base": base}})

    @property
    def base(self) -> float:
        """SB of the plan."""
        return float(self.plan.rule().model_dump()["base"])

    def largest_cut(self, base: float, target: float) -> float:
        """What the most redundant block loses by the rule, the largest fraction at most."""
        values = np.asarray(self.redundancy)
        mean = float(np.mean(values - values.min()) / np.ptp(values)) if np.ptp(values) > 0 else 1.0
        return min(base + (target - base) / mean, self.plan.max_fraction)

    def planned_at(self, base: float | None = None, target: float | None = None) -> Plan:
        """The same plan with another base or target (``PlanError`` when they do not go together)."""
        plan = self.plan
        settings = plan.settings if base is None else {"base": base}
        target = plan.target if target is None else target
        return Plan(**{**dict(plan), "target": target, "settings": settings})


def case_of(run: Run, details: Details | None) -> Case:
    """The run as a case to tell (``StorageError`` when it is no comparison)."""
    if isinstance(run.recipe, CompareRecipe) and isinstance(run.result, CompareResult):
        return Case(run.recipe, run.result, details)
    raise StorageError(
        f"The story needs a comparison, but the run {run.key} is of the kind '{run.recipe.kind}': open a "
        "comparison instead."
    )


@dataclass(frozen=True)
class Exercise:
    """Something to try after the step, with the page and the settings to begin from."""

    task: str
    page: str
    parameters: dict[str, str]


@dataclass(frozen=True)
class Notes:
    """What the teacher needs to know about a step."""

    say: str
    minutes: int
    misconception: str
    """What students often get wrong, and what is right."""
    exercise: Exercise


@dataclass(frozen=True)
class Dial:
    """The one setting of a step that the speaker moves."""

    name: str
    title: str
    value: Callable[[Case], float]
    lowest: Callable[[Case], float]
    highest: Callable[[Case], float]


@dataclass(frozen=True)
class Step:
    """One step of the story. ``setting`` is where its dial stands; steps without one pass it over."""

    title: str
    sentence: Callable[[Case, float], str]
    """The takeaway, with the numbers of the case, in Markdown."""
    formula: Callable[[Case], str]
    """One line of LaTeX."""
    question: str
    """What to ask before the answer is shown."""
    answer: Callable[[Case], str]
    draw: Callable[[Case, float, Theme, bool], Drawing]
    """The chart; the last argument conceals the answer."""
    notes: Notes
    dial: Dial | None = None

    def setting(self, case: Case) -> float:
        """Where the dial stands before it is moved."""
        return self.dial.value(case) if self.dial else 0.0


# 1: what a block does to its input.


def _turns_sentence(case: Case, _: float) -> str:
    most, least = case.turns
    longer = f" and makes it **{most.growth:.3g} times** as long" if most.growth else ""
    kept = "" if most.growth else " (this run kept no lengths, so they are drawn equal)"
    return (
        f"On average block {most.block} turns the state of a token by **{most.degrees:.0f}°**{longer}; "
        f"block {least.block} turns it by only **{least.degrees:.0f}°**{kept}."
    )


def _turns_answer(case: Case) -> str:
    most, least = case.turns
    typical = float(np.degrees(np.arccos(np.median(case.cosine))))
    return (
        f"From {least.degrees:.0f}° (block {least.block}) to {most.degrees:.0f}° (block {most.block}); a "
        f"typical block turns it by {typical:.0f}°. Every block adds to its input, and most add little."
    )


def _draw_turns(case: Case, _: float, theme: Theme, concealed: bool) -> Drawing:
    return draw_turns(case.turns, theme, concealed)


# 2: cosine.


def _cosine_sentence(case: Case, _: float) -> str:
    spread = case.spread
    order = np.argsort(spread.middle)
    low, high = int(order[0]), int(order[-1])
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


def _cosine_answer(case: Case) -> str:
    spread = case.spread
    widest = int((spread.high - spread.low).argmax())
    return (
        f"They differ most in block {widest}, where 90 % lie between {_signed(spread.low[widest])} and "
        f"{_signed(spread.high[widest])}{_first_apart(spread)}. That is why the first token is kept apart."
    )


def _draw_cosines(case: Case, _: float, theme: Theme, concealed: bool) -> Drawing:
    return draw_cosines(case.spread, theme, concealed)


# 3: the profile.


def _profile_sentence(case: Case, _: float) -> str:
    score = find_score(case.score)
    values = case.result.profile.values(score.name, case.recipe.plan.first_token)
    redundancy = np.asarray(case.redundancy)
    most, least = int(redundancy.argmin()), int(redundancy.argmax())
    far = outliers(values)
    rest = np.delete(values, far)
    apart = f"; the other {rest.size} lie between {rest.min():.2f} and {rest.max():.2f}" if far else ""
    return (
        f"Block **{least}** is the most redundant ({score.title} {values[least]:.2f}), block **{most}** the "
        f"least ({values[most]:.2f}){apart}."
    )


SCORE_FORMULAS = {
    "lr": r"LR_l = \frac{c_l - \min c}{\max c - \min c}, \quad c_l = \overline{\cos}_l",
    "block-influence": r"BI_l = 1 - \overline{\cos}_l",
    "angular": r"d_l = \tfrac{1}{\pi} \arccos \cos_l \quad \text{at the last token}",
}


def _profile_answer(case: Case) -> str:
    redundancy = np.asarray(case.redundancy)
    order = [str(block) for block in np.argsort(redundancy)[:3]]
    return (
        f"Block {int(redundancy.argmin())} changes its input most; the three that change it most are "
        f"{', '.join(order[:2])} and {order[2]}, of {redundancy.size}."
        if len(order) == 3
        else f"Block {int(redundancy.argmin())} changes its input most."
    )


def _draw_profile(case: Case, _: float, theme: Theme, concealed: bool) -> Drawing:
    plan = case.recipe.plan
    return draw_scores(case.result.profile, case.score, plan.first_token, theme, concealed)


# 4: the slice base.


def _base_sentence(case: Case, base: float) -> str:
    left = case.plan.target - base
    if left <= 1e-9:
        return (
            f"With the base at the target of **{_share(base)}** nothing is left to share out: this is "
            "constant slicing."
        )
    return (
        f"Every block loses **{_share(base)}** whatever its score; the other **{_points(left)}** of the "
        f"target of {_share(case.plan.target)} go where the model is redundant."
    )


def _base_answer(case: Case) -> str:
    return (
        f"The scores decide: at a base of {_share(case.base)} about {_points(case.plan.target - case.base)}. "
        f"At a base of {_share(case.plan.target)} nothing is left to decide, which is constant slicing."
    )


def _draw_base(case: Case, base: float, theme: Theme, concealed: bool) -> Drawing:
    fractions = case.planned_at(base=base).fractions(case.redundancy)
    return draw_floor(fractions, base, case.largest_cut(0.0, case.plan.target), theme, concealed)


# 5: the target.


def _target_sentence(case: Case, target: float) -> str:
    cut = np.asarray(
        case.planned_at(target=target).schedule(case.redundancy, case.result.shape).block_fractions
    )
    low, high = int(cut.argmin()), int(cut.argmax())
    return (
        f"To cut **{_share(target)}** on average, block {low} loses **{wording.percent(cut[low])}** and "
        f"block {high} **{wording.percent(cut[high])}**; constant slicing takes the same from all."
    )


def _highest_target(case: Case) -> float:
    """Beyond half of the width there is little left of a model to talk about."""
    return max(0.5, case.plan.target)


def _target_answer(case: Case) -> str:
    plan, shape = case.plan, case.result.shape
    cut = np.asarray(plan.schedule(case.redundancy, shape).block_fractions)
    less = np.flatnonzero(cut < plan.target - 0.5 * plan.rounding / shape.hidden_size)
    named = ", ".join(map(str, less[:6])) + (f" and {less.size - 6} more" if less.size > 6 else "")
    return (
        f"In the blocks that change their input most: {named or 'none'}. What they keep, the others give, so "
        f"that the mean stays {_share(plan.target)}."
    )


def _draw_target(case: Case, target: float, theme: Theme, concealed: bool) -> Drawing:
    plan, shape = case.planned_at(target=target), case.result.shape
    return draw_plan(
        plan.schedule(case.redundancy, shape),
        plan.constant(shape),
        plan.fractions(case.redundancy),
        plan.allocation,
        case.result.profile.block_path,
        case.largest_cut(case.base, _highest_target(case)),
        theme,
        concealed,
    )


# 6: the cut.


def _cut_sentence(case: Case, _: float) -> str:
    planned, dense = case.result.contestant(case.recipe.planned), case.result.contestant("dense")
    change = planned.parameters / dense.parameters - 1.0
    return (
        f"A slice of {_share(case.recipe.plan.target)} leaves **{wording.millions(planned.parameters)}** of "
        f"{wording.millions(dense.parameters)} parameters: **{wording.percent(abs(change))} "
        f"{'fewer' if change <= 0 else 'more'}**."
    )


def _cut_answer(case: Case) -> str:
    result = case.result
    planned, constant = result.contestant(case.recipe.planned), result.contestant("constant")
    dense = result.contestant("dense").parameters
    return (
        f"By another: the mean slice is {wording.percent(planned.mean_slice)}, the parameters change by "
        f"{wording.percent(planned.parameters / dense - 1.0, signed=True)} (constant slicing: "
        f"{wording.percent(constant.parameters / dense - 1.0, signed=True)}). Every cut adds a shortcut "
        "matrix between two widths, and the embedding is counted too."
    )


def _draw_cut(case: Case, _: float, theme: Theme, concealed: bool) -> Drawing:
    name = case.recipe.planned
    planned, constant = case.result.contestant(name).schedule, case.result.contestant("constant").schedule
    if planned is None or constant is None:
        raise StorageError(
            "This comparison does not say how its models were sliced: run it again to tell the story."
        )
    return draw_pipe(planned, constant, name, theme, concealed)


# 7: perplexity.


def _cost_sentence(case: Case, _: float) -> str:
    return wording.verdict(case.result, case.recipe.planned)


def _cost_answer(case: Case) -> str:
    planned = case.recipe.planned
    told = [
        f"{how.capitalize()}: {each.verdict}, {wording.evidence(each)}."
        for how, each in wording.paired(case.result, planned)
    ]
    dense = case.result.contestant("dense").evaluation
    return " ".join([*told, f"The dense model has a perplexity of {dense.perplexity:.2f}: {dense.protocol}."])


def _draw_costs(case: Case, _: float, theme: Theme, concealed: bool) -> Drawing:
    names = dict.fromkeys(("dense", "constant", case.recipe.planned))
    return draw_costs([case.result.contestant(name) for name in names], theme, concealed)


def _share(fraction: float) -> str:
    """A share set on a dial, in whole percent where it is whole."""
    return f"{100 * fraction:.3g}\N{NO-BREAK SPACE}%"


def _signed(cosine: float) -> str:
    return f"{cosine:.2f}".replace("-", "−")


def _points(fraction: float) -> str:
    points = f"{100 * fraction:.3g}"
    return f"{points}\N{NO-BREAK SPACE}{'point' if points == '1' else 'points'}"


RULE = r"FS_l = {base} + ({target} - {base})\, \frac{{r_l}}{{\overline{{r}}}}"


def _rule(base: str, target: str) -> Callable[[Case], str]:
    return lambda _: RULE.format(base=base, target=target)


def _line(latex: str) -> Callable[[Case], str]:
    return lambda _: latex


PROFILE, TUNE, COMPARE = (f"app_pages/{page}.py" for page in ("profile", "tune", "compare"))

STEPS = (
    Step(
        title="What does a block do to its input?",
        sentence=_turns_sentence,
        formula=_line(r"x_{l+1} = x_l + f_l(x_l)"),
        question="A block adds something to the state of every token. By how many degrees does that turn it?",
        answer=_turns_answer,
        draw=_draw_turns,
        notes=Notes(
            say="A token travels through the model as a vector, the residual stream. No block replaces it; "
            "each adds something. So a block can be judged by how far the vector has turned when it leaves. "
            "The two arrows of a pair lie in the plane they span; the cosine of their angle is the mean over "
            "tokens.",
            minutes=4,
            misconception="“A block that turns the state little does nothing.” It may turn few tokens far, "
            "or prepare what later blocks need; the angle says that little would be lost in the stream, not "
            "that nothing would be lost in the prediction.",
            exercise=Exercise(
                "Choose the angular distance. Which blocks change places against the LR score, and why could "
                "the last token of a window be a poor witness?",
                PROFILE,
                {"shown": "Angular distance"},
            ),
        ),
    ),
    Step(
        title="One number for the turn: the cosine",
        sentence=_cosine_sentence,
        formula=_line(r"\cos_l = \frac{x_l \cdot x_{l+1}}{\lVert x_l \rVert\, \lVert x_{l+1} \rVert}"),
        question="Do all tokens pass a block alike, or do some stand apart?",
        answer=_cosine_answer,
        draw=_draw_cosines,
        notes=Notes(
            say="One token gives one cosine, a text gives thousands. The bar holds nine of ten, the line is "
            "the one in the middle, the diamond is the first token of a window. It has nothing before it to "
            "attend to, and many models park a very large vector there.",
            minutes=4,
            misconception="“The cosine also sees the length.” It does not: a state that doubles its length "
            "and keeps its direction has a cosine of 1.",
            exercise=Exercise(
                "Count the first token in. Which blocks move, and would the plan move with them?",
                PROFILE,
                {"shown-first": "true"},
            ),
        ),
    ),
    Step(
        title="The profile: where is it redundant?",
        sentence=_profile_sentence,
        formula=lambda case: SCORE_FORMULAS.get(case.score, r"r_l"),
        question="Which block changes its input most: the first, one in the middle, or the last?",
        answer=_profile_answer,
        draw=_draw_profile,
        notes=Notes(
            say="One number for every block, from one pass over a few windows and without training. The LR "
            "score is the mean cosine, scaled so that the block that changes most has 0 and the one that "
            "changes least has 1. The whiskers are the standard deviation over windows: they say "
            "whether more text is needed.",
            minutes=4,
            misconception="“An LR score of 0 means that the block is not redundant at all.” The scale is "
            "relative: one block is always at 0, one always at 1, and an outlier presses the rest together.",
            exercise=Exercise(
                "Leave the outliers off, if there are any. What differs among the other blocks now that "
                "could not be seen before?",
                PROFILE,
                {"zoom": "true"},
            ),
        ),
    ),
    Step(
        title="The slice base: what everyone gives",
        sentence=_base_sentence,
        formula=_rule(r"\boldsymbol{SB}", "SP"),
        question="Every block loses the base. Who decides about the rest of the target, and what if there is "
        "no rest?",
        answer=_base_answer,
        draw=_draw_base,
        dial=Dial(
            "SB",
            "Slice base (SB)",
            value=lambda case: case.base,
            lowest=lambda _: 0.0,
            highest=lambda case: case.plan.target,
        ),
        notes=Notes(
            say="Move the base up and watch the hatched part shrink: the base decides how much the scores "
            "may say. At 0 they decide everything, and at the target they decide nothing.",
            minutes=3,
            misconception="“A higher base cuts more.” The mean stays at the target; a higher base only makes "
            "the plan more even.",
            exercise=Exercise(
                "Begin at a base of 0. Which block keeps its whole width, and at which base do its "
                "neighbours get the cut of constant slicing to within one point?",
                TUNE,
                {"base": "0"},
            ),
        ),
    ),
    Step(
        title="The target: how much in all",
        sentence=_target_sentence,
        formula=_rule("SB", r"\boldsymbol{SP}"),
        question="The line is constant slicing. Which blocks will the plan cut less than that?",
        answer=_target_answer,
        draw=_draw_target,
        dial=Dial(
            "SP",
            "Target (SP)",
            value=lambda case: case.plan.target,
            lowest=lambda case: case.base,
            highest=_highest_target,
        ),
        notes=Notes(
            say="The target is the mean over blocks, the dashed line. Whatever the scores say, the mean is "
            "met exactly, up to rounding to widths that hardware likes. That makes the comparison with "
            "constant slicing a fair one: both cut the same share.",
            minutes=4,
            misconception="“A block at 40 % has lost 40 % of its parameters.” It has lost 40 % of the width "
            "of the stream it reads and writes; its inner width stays.",
            exercise=Exercise(
                "Raise the target until a block is held back by the largest fraction. Who takes over what it "
                "cannot give?",
                TUNE,
                {"sp": "60", "base": "0", "max": "65"},
            ),
        ),
    ),
    Step(
        title="The cut: a narrower stream",
        sentence=_cut_sentence,
        formula=_line(r"W_l = (1 - FS_l)\, D"),
        question="The width shrinks by the target. Do the parameters shrink by the same share?",
        answer=_cut_answer,
        draw=_draw_cut,
        notes=Notes(
            say="The stream is first turned so that its most important directions come first; a turn that "
            "all readers and writers take part in changes nothing. Then the last directions are cut off. "
            "Where two widths meet, a small matrix on the shortcut takes one basis to the next.",
            minutes=4,
            misconception="“Slicing sets weights to zero.” Nothing is sparse: the matrices become smaller "
            "and stay dense, so ordinary hardware can gain, and each cut pays with a shortcut matrix.",
            exercise=Exercise(
                "Raise the target until the sliced model has fewer parameters than the dense one. Why does "
                "that not begin at 0?",
                TUNE,
                {"sp": "5", "base": "0"},
            ),
        ),
    ),
    Step(
        title="What did it cost?",
        sentence=_cost_sentence,
        formula=_line(r"PPL = \exp\Bigl(-\tfrac{1}{N} \textstyle\sum_t \ln p(x_t \mid x_{<t})\Bigr)"),
        question="Same mean slice, same text: does the plan predict better than constant slicing, worse, or "
        "can nobody tell?",
        answer=_cost_answer,
        draw=_draw_costs,
        notes=Notes(
            say="All models read the same windows, so they are compared window by window. The whiskers of "
            "the bars overlap easily, since some windows are hard for every model; the paired interval takes "
            "that out. Say also what the dense bar says: slicing without training afterwards is not free.",
            minutes=5,
            misconception="“The whiskers overlap, so there is no difference.” Whiskers show how perplexity "
            "varies over text. The verdict is about the difference on the same text, which varies far less.",
            exercise=Exercise(
                "Read the verdict at equal parameters beside the one at equal mean slice. Which of the two "
                "would you show to somebody who pays for memory?",
                COMPARE,
                {},
            ),
        ),
    ),
)
