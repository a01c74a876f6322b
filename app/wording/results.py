"""What one result says, in sentences."""

from __future__ import annotations

import math
from typing import Any

from analysis.evaluate import Difference
from analysis.needs import MemoryNeed
from analysis.shape import ModelShape
from analysis.sources.windows import count_documents
from analysis.speed import Speed
from app.wording.markup import verbatim
from app.wording.numbers import change, counted, draws, fewer, minus, percent, typeset, within_sentence
from slicing.preview import Preview
from slicing.schedule import SlicingSchedule
from slicing.studies.options import Option
from slicing.studies.recipe import Recipe
from slicing.studies.results import Measurement, Request, TextUsed
from slicing.studies.study import Study
from slicing.studies.verdicts import Comparison


def reduction(schedule: SlicingSchedule, shape: ModelShape) -> str:
    """Say what the mean slice means in parameters, which is not the same number."""
    grown = schedule.shape_after(shape).parameters / shape.parameters - 1.0
    parameters = f"{percent(abs(grown))} {'fewer' if grown <= 0 else 'more'} parameters"
    if schedule.plain:
        why = "one basis takes no shortcut matrices, but the embedding and the head have a table each"
    elif schedule.span:
        why = f"a shortcut matrix stands after every {schedule.span} blocks, not after every sub-layer"
    else:
        why = "every cut adds shortcut matrices"
    return (
        f"A {percent(schedule.mean_slice)} mean slice means **{parameters}** here: {why}, and the embedding "
        "is counted too."
    )


APART = 0.02
"""A block whose slice differs from the target by more counts as cut otherwise than by constant slicing."""


def spread_of_cut(comparison: Comparison) -> str:
    """Say how unequally the plan of a comparison cuts the blocks; empty for a plan that slices nothing."""
    schedule = comparison.measured[comparison.planned].schedule
    if schedule is None:
        return ""
    cut, target = schedule.block_fractions, comparison.study.budgets[0].amount
    apart = sum(abs(each - target) > APART for each in cut)
    return (
        f"Blocks lose {percent(min(cut))} to {percent(max(cut))} of the width. {apart} of {len(cut)} blocks "
        f"lose more or less than constant slicing by more than {100 * APART:g} points."
    )


def memory_taken(need: MemoryNeed) -> str:
    """Say what work takes in memory, in the same words before it on the page and on the command line."""
    return f"The work takes {need} at its peak."


def deciding(comparison: Comparison) -> list[tuple[str, Difference]]:
    """Find the differences that decide, each with the condition it holds at.

    Two models at a mean slice have unequal parameters, so that such a comparison is told at both. All other
    budgets name a number of parameters.
    """
    planned = comparison.planned
    if planned == "constant":
        return [("against dense", comparison.difference("dense", planned))]
    found = {
        "at equal mean slice": comparison.difference("constant", planned),
        "at equal parameters": comparison.difference("constant-matched", planned),
    }
    if comparison.study.budgets[0].measure != "mean_slice":
        del found["at equal mean slice"]
    elif not comparison.study.matched:
        del found["at equal parameters"]
    return list(found.items())


def cost(comparison: Comparison) -> str:
    """Say in one sentence of Markdown what the model that was planned costs against the dense one."""
    dense, planned = comparison.measured["dense"], comparison.measured[comparison.planned]
    before, after = dense.evaluation.perplexity, planned.evaluation.perplexity
    told = comparison.difference("dense", comparison.planned)
    return (
        f"{before:.2f} → {after:.2f} ({draws(1)}): perplexity {_multiplied(math.exp(told.nats))} for "
        f"{_fewer(planned.parameters, dense.parameters)}."
    )


def cost_against(dense: Measurement, parameters: int, after: float, count: int = 1) -> str:
    """Say in one sentence what any model that was made costs against the dense one.

    ``after`` is its perplexity, on the mean over ``count`` draws.
    """
    before = dense.evaluation.perplexity
    return (
        f"{before:.2f} → {after:.2f} ({draws(count)}): perplexity {_multiplied(after / before)} for "
        f"{_fewer(parameters, dense.parameters)}."
    )


def _multiplied(times: float) -> str:
    """Say what happened to a perplexity that became so many times as high."""
    if times < 0.995:
        return f"falls by {percent(1.0 - times)}"
    if times < 1.005:
        return "stays the same"
    for whole, word in ((2.0, "doubles"), (3.0, "triples")):
        if abs(times / whole - 1.0) <= 0.05:
            return word
    if times < 2.0:
        return f"rises by {percent(times - 1.0)}"
    return f"becomes {times:,.1f} times as high"


def _fewer(parameters: int, dense: int) -> str:
    return fewer(1.0 - parameters / dense)


def other_way(comparison: Comparison, best: Option | None) -> str:
    """Say in a sentence what the best other way costs at about the same size."""
    if best is None:
        return "No other way has been tried on this model at this size."
    dense, planned = comparison.measured["dense"], comparison.measured[comparison.planned]
    ours = math.exp(comparison.difference("dense", comparison.planned).nats)
    size = _fewer(best.measured.parameters, best.dense.parameters)
    ending = (
        "on the same windows"
        if best.dense.evaluation.nll == dense.evaluation.nll
        else "on the windows of that study"
    )
    than = "less" if best.times < ours else "more"
    return (
        f"The best other way that is known costs {than}: “{best.recipe.title}” has {best.times:.2f} times "
        f"the dense model's perplexity ({draws(best.draws)}) at {size}, {ending}; "
        f"{within_sentence(planned.title)} has {ours:.2f} times."
    )


def verdict(comparison: Comparison) -> str:
    """Say a comparison in one sentence of Markdown, at each condition that decides."""
    if comparison.planned == "constant":
        cost = change(comparison.difference("dense", "constant"))
        return f"Constant slicing costs {cost} perplexity against dense."
    found = deciding(comparison)
    name = _contender(comparison)
    (first, one), (last, other) = found[0], found[-1]
    if "too few windows to tell" in (one.verdict, other.verdict):
        return (
            f"Too few windows to tell: {name} measured {change(one)} perplexity against constant, "
            "but a verdict needs 8 evaluation windows or more."
        )
    words = {
        "better": "predicts :green[better] than constant slicing",
        "worse": "predicts :orange[worse] than constant slicing",
        "no clear difference": "shows no clear difference from constant slicing",
    }
    if one.verdict == other.verdict:
        more = f", {change(other)} {last}" if len(found) > 1 else ""
        if more and change(one) == change(other):
            more = f" and {last}"
        return f"{name} {words[one.verdict]}: {change(one)} perplexity {first}{more}."
    return (
        f"{name} {words[one.verdict]} {first} ({change(one)} perplexity), and "
        f"{words[other.verdict]} {last} ({change(other)})."
    )


def _contender(comparison: Comparison) -> str:
    """Name what is compared with constant slicing, in Markdown: not all of it slices."""
    recipe = comparison.study.recipes[-1]
    if recipe.kind == "width":
        return f"{comparison.planned.capitalize()} slicing"
    return verbatim(comparison.measured[comparison.planned].title)


def window_reading(evaluation: TextUsed) -> str:
    """Say from how many documents the windows are, and what that means for intervals over them."""
    windows, documents = evaluation.windows, count_documents(evaluation.passages)
    if not documents:
        return "From how many documents the windows are was not stored with this run."
    told = f"{counted(windows, 'window')} from {counted(documents, 'document')}"
    if documents == windows:
        return f"{told}, by what stands in the middle of each."
    return (
        f"{told}: windows of one document resemble each other, so that an interval over them is narrower "
        "than one over as many new documents would be."
    )


SEQUENTIAL = "Sequential: each basis is found on the part of the model that is sliced already."
ONE_SHOT = (
    "One-shot: all bases come from one pass over the dense model. Sequential slicing costs less perplexity."
)
BOTH_WAYS = (
    "Some recipes find all bases in one pass over the dense model (one-shot); the others find each basis on "
    "the part that is sliced already (sequential)."
)


def sequential_or_one_shot(asked: Recipe | Request) -> str:
    """Say how a recipe, or those of a request, find their bases; empty where nothing is sliced."""
    recipes: list[Any] = [asked, getattr(asked, "recipe", None), *getattr(asked, "recipes", ())]
    steps = (step for each in recipes for step in getattr(each, "steps", ()))
    ways = {
        getattr(step, "one_shot", False) or getattr(step, "plain", False)
        for step in steps
        if step.axis == "stream"
    }
    if not ways:
        return ""
    return BOTH_WAYS if len(ways) > 1 else ONE_SHOT if ways.pop() else SEQUENTIAL


BODY_READING = (
    "Every column is a block, the first on the left; the line is the residual stream, with attention above "
    "it and the MLP below. Areas are parameters. A box is lower where heads, channels or experts went. It is "
    "narrower where its heads or its experts lost something inside, or where it reads a narrower stream."
)
"""How to read the picture of a model's body."""


def preview_verdict(gain: Difference) -> str:
    """Say what a preview tells of the plan against constant slicing."""
    if gain.percent_interval is None:
        return gain.verdict
    low, high = gain.percent_interval
    between = minus(f"95\N{NO-BREAK SPACE}% {low:+.1f} to {high:+.1f}\N{NO-BREAK SPACE}%")
    return f"{gain.verdict}; {between}"


def previewed(found: Preview) -> str:
    """Say how a preview was measured, and what it is not."""
    return (
        f"Preview in {found.seconds:.1f} s: bases of the dense stream, no calibration; "
        f"{found.planned.protocol}. Sequential slicing, as Compare does it, costs less perplexity."
    )


def speed(timed: Speed) -> str:
    """Say how speed was measured, and how to read it."""
    at_once = ""
    if many := timed.at_once:
        at_once = (
            f" At batch {many.batch}: prompt {many.prompt.median:.2f}×, generation "
            f"{many.generation.median:.2f}×."
        )
    return typeset(
        f"Prompt and generation: times as fast as dense. {timed.protocol.capitalize()}.{at_once} The range "
        f"over rounds holds the true median in {100 * timed.coverage:.0f} % of cases. Where it spans more "
        "than a fifth, the machine was too busy to tell: time again when it is quiet, with more rounds."
    )


def evidence(each: Difference, change_told: bool = False) -> str:
    """Say one paired difference with its interval, in percent and in nats.

    ``change_told``: its change stands above already, and is left out.
    """
    between = "no interval below 8 windows"
    if each.percent_interval:
        low, high = each.percent_interval
        between = minus(f"95\N{NO-BREAK SPACE}% interval {low:+.1f} to {high:+.1f}\N{NO-BREAK SPACE}%")
    nats = minus(f"{each.nats:+.3f} nats per token")
    among = f" · verdict corrected for {each.comparisons} comparisons" if each.comparisons > 1 else ""
    first = "" if change_told else f"{change(each)} perplexity · "
    told = f"{first}{between} · {nats} · {each.windows} windows, paired{among}"
    return f"{told} · {moved}" if (moved := noise(each)) else told


def noise(each: Difference) -> str:
    """Say what noise on the Gram matrices does to a difference; empty where nothing was repeated."""
    if each.noise is None:
        return ""
    told = f"noise moves it by {percent(math.expm1(each.noise))}"
    return f"{told}, more than its size" if each.drowned else told


def noise_reading(study: Study) -> str:
    """Say what the noise of a study is, and what it means for verdicts; empty where nothing is repeated."""
    if not study.jitter:
        return ""
    times = "once" if study.jitter == 1 else f"{study.jitter} times"
    return (
        f"Each calibrated recipe is repeated {times} on the same windows, with relative noise of 1e-6 on the "
        "Gram matrices that its bases and fits are found from. What the noise moves is the range over these "
        "repetitions, the recipe without noise among them; a difference smaller than that is no clear "
        "difference."
    )


def study_reading(study: Study) -> list[str]:
    """Say what holds for all models of a study: how they were calibrated, and what noise there was."""
    return [each for each in (precision_reading(study), noise_reading(study)) if each]


def precision_reading(request: Request) -> str:
    """Say how models multiplied while they read the calibration text; empty where they did so exactly."""
    if getattr(request, "calibration_precision", "exact") == "exact":
        return ""
    return "Bases, moments and fits were found with matrix products in bfloat16."


def repaired(each: Measurement) -> str | None:
    """Say what repair did to a model; ``None`` where it was not asked for."""
    told = each.repair
    if told is None:
        return None
    back = sum(row.ridge is None for row in told.sublayers)
    losses = f"{told.unrepaired:.3f} to {told.repaired:.3f} nats per token on held-out windows"
    kept = "it was kept" if told.kept else "it was not kept"
    return (
        f"Repair of {each.title.lower()} took the loss from {losses}: {kept}; {back} of its "
        f"{len(told.sublayers)} fits gained nothing and were left out."
    )


def healed(each: Measurement) -> str | None:
    """Say what the steps that heal did to a model; ``None`` where there were none."""
    if not each.healed:
        return None
    return f"{each.title}. {' '.join(told.told for told in each.healed)}"


def kept_model(plain: bool) -> str:
    """Say who opens a model that was kept; ``plain`` is one that any tool opens."""
    others = (
        "and so do other tools for models of its architecture."
        if plain
        else "and transformers 5.23 or later does with `trust_remote_code=True`, by the modelling files in "
        "the folder; other tools do not open it."
    )
    return f"This model is kept in this folder; the Model page opens it, {others}"
