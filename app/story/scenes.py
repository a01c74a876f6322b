"""The method in seven scenes, for talks and lessons: what each asks, and what the teacher needs to know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from app.figures.base import Drawing, Theme
from app.story import telling
from app.story.case import Case


@dataclass(frozen=True)
class Exercise:
    """Something to try after the scene, with the page and the settings to begin from."""

    task: str
    page: str
    parameters: dict[str, str]


@dataclass(frozen=True)
class Notes:
    """What the teacher needs to know about a scene."""

    say: str
    minutes: int
    misconception: str
    """What students often get wrong, and what is right."""
    exercise: Exercise


@dataclass(frozen=True)
class Dial:
    """The one setting of a scene that the speaker moves."""

    name: str
    title: str
    value: Callable[[Case], float]
    lowest: Callable[[Case], float]
    highest: Callable[[Case], float]


@dataclass(frozen=True)
class Scene:
    """One scene of the story. ``setting`` is where its dial stands; scenes without one pass it over."""

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
        """Give the place of the dial before it is moved."""
        return self.dial.value(case) if self.dial else 0.0


RULE = r"FS_l = {base} + ({target} - {base})\, \frac{{r_l}}{{\overline{{r}}}}"


def _rule(base: str, target: str) -> Callable[[Case], str]:
    return lambda _: RULE.format(base=base, target=target)


def _line(latex: str) -> Callable[[Case], str]:
    return lambda _: latex


PROFILE, TUNE, COMPARE = (f"app_pages/{page}.py" for page in ("profile", "tune", "compare"))

SCENES = (
    Scene(
        title="What does a block do to its input?",
        sentence=telling.turns_sentence,
        formula=_line(r"x_{l+1} = x_l + f_l(x_l)"),
        question="A block adds something to the state of every token. By how many degrees does that turn it?",
        answer=telling.turns_answer,
        draw=telling.turns_drawing,
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
    Scene(
        title="One number for the turn: the cosine",
        sentence=telling.cosine_sentence,
        formula=_line(r"\cos_l = \frac{x_l \cdot x_{l+1}}{\lVert x_l \rVert\, \lVert x_{l+1} \rVert}"),
        question="Do all tokens pass a block alike, or do some stand apart?",
        answer=telling.cosine_answer,
        draw=telling.cosines_drawing,
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
    Scene(
        title="The profile: where is it redundant?",
        sentence=telling.profile_sentence,
        formula=lambda case: telling.SCORE_FORMULAS.get(case.score, r"r_l"),
        question="Which block changes its input most: the first, one in the middle, or the last?",
        answer=telling.profile_answer,
        draw=telling.profile_drawing,
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
    Scene(
        title="The slice base: what everyone gives",
        sentence=telling.base_sentence,
        formula=_rule(r"\boldsymbol{SB}", "SP"),
        question="Every block loses the base. Who decides about the rest of the target, and what if there is "
        "no rest?",
        answer=telling.base_answer,
        draw=telling.base_drawing,
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
    Scene(
        title="The target: how much in all",
        sentence=telling.target_sentence,
        formula=_rule("SB", r"\boldsymbol{SP}"),
        question="The line is constant slicing. Which blocks will the plan cut less than that?",
        answer=telling.target_answer,
        draw=telling.target_drawing,
        dial=Dial(
            "SP",
            "Target (SP)",
            value=lambda case: case.plan.target,
            lowest=lambda case: case.base,
            highest=telling.highest_target,
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
    Scene(
        title="The cut: a narrower stream",
        sentence=telling.cut_sentence,
        formula=_line(r"W_l = (1 - FS_l)\, D"),
        question="The width shrinks by the target. Do the parameters shrink by the same share?",
        answer=telling.cut_answer,
        draw=telling.cut_drawing,
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
    Scene(
        title="What did it cost?",
        sentence=telling.cost_sentence,
        formula=_line(r"PPL = \exp\Bigl(-\tfrac{1}{N} \textstyle\sum_t \ln p(x_t \mid x_{<t})\Bigr)"),
        question="Same mean slice, same text: does the plan predict better than constant slicing, worse, or "
        "can nobody tell?",
        answer=telling.cost_answer,
        draw=telling.costs_drawing,
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
