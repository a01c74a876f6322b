"""The method in twelve scenes, for talks and lessons: what each asks, and what the teacher needs to know."""

from __future__ import annotations

from collections.abc import Callable

from app.story import by_score, guesses, sizes, stream, telling
from app.story.case import Case
from app.story.scene import Dial, Exercise, Notes, Scene

RULE = r"FS_l = {base} + ({target} - {base})\, \frac{{r_l}}{{\overline{{r}}}}"


def _rule(base: str, target: str) -> Callable[[Case], str]:
    return lambda _: RULE.format(base=base, target=target)


def _line(latex: str) -> Callable[[Case], str]:
    return lambda _: latex


PROFILE, TUNE, COMPARE, STUDY, PLAY = (
    f"app_pages/{page}.py" for page in ("profile", "tune", "compare", "study", "play")
)

SCENES = (
    Scene(
        title="The stream: a cloud of tokens",
        sentence=stream.turn_sentence,
        formula=_line(r"(x\,Q)\,(Q^{\top} W) = x\,W, \qquad Q^{\top} Q = I"),
        question="The state of every token is turned, and every matrix that reads or writes it. What does "
        "the "
        "model say now?",
        guess=guesses.TURN,
        answer=stream.turn_answer,
        draw=stream.cloud_drawing(("askew", "turned")),
        stages=("askew", "turned"),
        source=telling.sliced,
        why=stream.turn_why,
        told_of=stream.has_cloud,
        notes=Notes(
            say="Every point is a token of a real text, as the model holds it before one block. The picture "
            "stands for all its directions: the two long ones for those that will be kept, the thin one for "
            "those "
            "that will be cut, each as large as their energy. The grey axes are those that the weights are "
            "written in. The angle at which "
            "the cloud lies at first is chosen for the eye; the bars below are measured. As it turns, look "
            "at the counter: it stands still.",
            minutes=3,
            misconception="“The rotation is an approximation.” It is exact, up to rounding. Nothing is lost "
            "before something is cut.",
            exercise=Exercise(
                "Open the profile from near. At which depths do the states of two blocks resemble each other "
                "most?",
                PROFILE,
                {},
            ),
        ),
    ),
    Scene(
        title="Thin directions hold little",
        sentence=stream.thin_sentence,
        formula=_line(
            r"\sum_{i > W} \lambda_i \Big/ \sum_i \lambda_i, \qquad X^{\top} X = Q\, \Lambda\, Q^{\top}"
        ),
        question="Some of the directions are to go. How much of the energy do the thinnest of them hold?",
        guess=guesses.thin,
        answer=stream.thin_answer,
        draw=stream.cloud_drawing(("turned", "shaded")),
        stages=("turned", "shaded"),
        source=telling.sliced,
        why=stream.thin_why,
        told_of=stream.has_cloud,
        notes=Notes(
            say="Energy is the mean square of the states along a direction. The scale of the bars is "
            "logarithmic: the strongest direction has a thousand times the energy of a thin one. Point at "
            "the "
            "bars to the right of the line: that is the shaded side of the cloud. Before the turn the energy "
            "was spread more evenly over the model's own axes.",
            minutes=3,
            misconception="“Thin directions are noise.” They hold little energy. Whether the model needs "
            "them "
            "is another question, which the next scene answers.",
            exercise=Exercise(
                "Choose another block above the bars. Where do the thin directions hold most?", TUNE, {}
            ),
        ),
    ),
    Scene(
        title="The cut: what does it cost?",
        sentence=stream.collapse_sentence,
        formula=_line(r"x \;\mapsto\; x\, Q_{:,\,1:W}, \qquad W = (1 - SP)\, D"),
        question="So little of the energy goes. What happens to the perplexity?",
        guess=guesses.cut,
        answer=stream.collapse_answer,
        draw=stream.cloud_drawing(("shaded", "cut")),
        stages=("shaded", "cut"),
        source=telling.sliced,
        why=stream.collapse_why,
        told_of=stream.has_cloud,
        notes=Notes(
            say="The thin side collapses, and every token falls to the plane; the short lines are what each "
            "token lost. Then drag the width below the bars. The dots are measured sizes, and the counter "
            "comes to rest on them; between two of them it shows in grey what lies between. It is the "
            "perplexity of the model when every block is cut so, and not this block alone.",
            minutes=4,
            misconception="“Half a percent of the energy costs half a percent of the quality.” The cut is "
            "made "
            "before every sub-layer, each sees the error of all before it, and what is thin is not unused.",
            exercise=Exercise(
                "Set the target to what the counter showed. How large is the model then?",
                TUNE,
                {"base": "25"},
            ),
        ),
    ),
    Scene(
        title="What does a block do to its input?",
        sentence=telling.turns_sentence,
        formula=_line(r"x_{l+1} = x_l + f_l(x_l)"),
        question="A block adds something to the state of every token. By how many degrees does that turn it?",
        guess=guesses.turn,
        answer=telling.turns_answer,
        draw=telling.turns_drawing,
        source=telling.turned,
        why=telling.turns_why,
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
        guess=guesses.tokens,
        answer=telling.cosine_answer,
        draw=telling.cosines_drawing,
        source=telling.turned,
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
        title="Layer redundancy (LR): where is it redundant?",
        sentence=telling.profile_sentence,
        formula=lambda case: telling.SCORE_FORMULAS.get(case.score, r"r_l"),
        question="Which block changes its input most: the first, one in the middle, or the last?",
        guess=guesses.most,
        answer=telling.profile_answer,
        draw=telling.profile_drawing,
        source=telling.profiled,
        why=telling.profile_why,
        other=by_score.profile,
        notes=Notes(
            say="One number for every block, from one pass over a few windows and without training. The LR "
            "score is the mean cosine, scaled so that the block that changes most has 0 and the one that "
            "changes least has 1. The whiskers are the standard deviation over windows: they say "
            "whether more text is needed.",
            minutes=4,
            misconception="“An LR score of 0 means that the block is not redundant at all.” The scale is "
            "relative: one block is always at 0, one always at 1, and an outlier presses the rest together.",
            exercise=Exercise(
                "Count the first token of each window too. Which blocks seem to change less now, and why can "
                "one token do that?",
                PROFILE,
                {"shown-first": "true"},
            ),
        ),
    ),
    Scene(
        title="The slice base: what every block gives",
        sentence=telling.base_sentence,
        formula=_rule(r"\boldsymbol{SB}", "SP"),
        question="Every block loses the base. Who decides about the rest of the target, and what if there is "
        "no rest?",
        guess=guesses.SHARING,
        answer=telling.base_answer,
        draw=telling.base_drawing,
        dial=Dial(
            "SB",
            "Slice base (SB)",
            value=lambda case: case.base,
            lowest=lambda _: 0.0,
            highest=lambda case: case.plan.target,
        ),
        source=telling.allotted,
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
        guess=guesses.SPARED,
        answer=telling.target_answer,
        draw=telling.target_drawing,
        dial=Dial(
            "SP",
            "Target (SP)",
            value=lambda case: case.plan.target,
            lowest=lambda case: case.base,
            highest=telling.highest_target,
        ),
        source=telling.allotted,
        why=telling.target_why,
        other=by_score.target,
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
        title="The price: matrices between the widths",
        sentence=telling.cut_sentence,
        formula=_line(r"W_l = (1 - FS_l)\, D"),
        question="The width shrinks by the target. Do the parameters shrink by the same share?",
        guess=guesses.price,
        answer=telling.cut_answer,
        draw=telling.cut_drawing,
        source=telling.sliced,
        why=telling.cut_why,
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
        question="How much worse than dense is the model now, and does the plan predict better than constant "
        "slicing?",
        guess=guesses.verdict,
        answer=telling.cost_answer,
        draw=telling.costs_drawing,
        source=telling.judged,
        why=telling.cost_why,
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
    Scene(
        title="And removing blocks, at the same size?",
        sentence=stream.rivals_sentence,
        formula=stream.rivals_formula,
        question="The same number of parameters could go by taking whole blocks out. Does that cost more or "
        "less?",
        guess=guesses.removal,
        answer=stream.rivals_answer,
        draw=stream.rivals_drawing,
        source=telling.rivalled,
        why=stream.rivals_why,
        told_of=stream.has_rivals,
        notes=Notes(
            say="The last question is the honest one: what else could be done for the same size? All of "
            "these "
            "are measured on the same windows, at about the same number of parameters. Slicing in its "
            "published form is not the best of them on a model as small as this.",
            minutes=4,
            misconception="“So slicing is useless.” This is one small model, one text, and no training "
            "afterwards. The paper of SliceGPT reports smaller losses on larger models, and slicing makes "
            "every matrix smaller, which removing blocks does not.",
            exercise=Exercise(
                "Open the study. Which family wins at the largest cut?", STUDY, {"study": "demo-frontier"}
            ),
        ),
    ),
    Scene(
        title="Turn the dial: one prompt, five sizes",
        sentence=sizes.dial_sentence,
        formula=_line(r"x_{t+1} = \arg\max_x\, p(x \mid x_1, \dots, x_t)"),
        question="The same prompt, continued by smaller models. At which size does it become another text?",
        guess=guesses.parting,
        answer=sizes.dial_answer,
        draw=sizes.dial_drawing,
        live=sizes.dial_live,
        still=sizes.dial_still,
        source=sizes.dialled,
        why=sizes.dial_why,
        told_of=sizes.has_dial,
        notes=Notes(
            say="Begin at the dense model and read its text aloud. Then turn the dial, with the mouse or "
            "with the arrow keys up and down, and read again. Every model writes its likeliest token each "
            "time, so one other token early on leads to another text. Let the room listen for what goes "
            "first: sense, or grammar.",
            minutes=4,
            misconception="“It still writes good English, so nothing was lost.” Look at the perplexity: it "
            "rises at every step, long before a sentence breaks. And one text proves nothing: another prompt "
            "may break earlier or later.",
            exercise=Exercise(
                "Type a prompt of your own. At which word do the dense and a smaller model part?", PLAY, {}
            ),
        ),
    ),
)


def scenes_of(case: Case) -> tuple[Scene, ...]:
    """Choose the scenes that can be told of a case, as they are told of it: earlier runs kept no cloud."""
    return tuple(scene.of(case) for scene in SCENES if scene.told_of(case))
