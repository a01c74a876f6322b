"""The verbs that look and judge: profile, plan, evaluate, compare and study."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from analysis.errors import PlanError, UnsupportedError
from analysis.evaluate import perplexity, safe_precision
from analysis.sources.windows import passages, token_windows
from slicing.budget import Budget
from slicing.interface.asking import Asked, checked, share_of
from slicing.interface.outcomes import Evaluation, Judgement, Planned, Profile, plan_in
from slicing.interface.telling import ProgressLike, telling
from slicing.plans import Plan, take_settings
from slicing.studies.files import TEXTS
from slicing.studies.recipe import Recipe
from slicing.studies.requests import ProfileRequest, drawn_for
from slicing.studies.study import Study, comparison

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from slicing.interface.models import ModelLike
    from slicing.interface.texts import TextLike


def profile(
    model: ModelLike,
    text: TextLike = "demo",
    *,
    windows: int | None = None,
    calibration_windows: int | None = None,
    window_length: int | None = None,
    seed: int = 0,
    probes: Sequence[str] = (),
    lens: bool = False,
    units: bool = False,
    bases: bool = False,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str = "auto",
    dtype: str = "auto",
    store: bool = True,
    progress: ProgressLike = True,
) -> Profile:
    """Measure how redundant every block is, in one forward pass over a few windows of text.

    ``model``: as in ``load``. ``text``: a name (``demo``, a file, a data set on the Hub, a preset such as
    ``wikitext2``), a list of strings, or token ids (windows, tokens in a window). ``windows`` of
    ``window_length`` tokens are profiled: 8 of 512, or what the given token ids have. They are the first of
    ``calibration_windows`` that ``seed`` draws, 16 as in ``compress``, so that the scores are the same there.

    The frame has for every block the LR score (the mean cosine between what enters and what leaves it, scaled
    so that the block that changes most has 0 and the one that changes least 1; Dumitru et al., arXiv
    2411.03513), block influence (one minus the cosine; ShortGPT, arXiv 2403.03853), the angular distance (in
    units of pi; arXiv 2403.17887), and each score's standard deviation over windows. ``probes``
    names scores with passes of their own, such as ``leave-one-out``. ``lens`` adds the logit lens, ``units``
    what every part inside the blocks is predicted to cost, and ``bases`` keeps the bases of the stream, for
    previews in the app.

    The run is stored as that of the command line, unless ``store`` is false or the model is in memory alone.
    Raises ``ModelError``, ``TextError`` (also for too little text), ``PlanError`` for an unknown probe,
    ``UnsupportedError`` for what this model cannot be asked, and ``OutOfMemoryError``.

    >>> import slicing
    >>> found = slicing.profile(model, text, tokenizer=tokenizer, windows=4, window_length=32, progress=False)
    >>> found.frame()[["block", "lr"]].shape
    (3, 2)
    >>> found.plot().layout.xaxis.title.text
    'block (0-based)'
    """
    asked = Asked(model, tokenizer, device, dtype, store, window_length)
    source = asked.texts.read(text, "calibration")
    texts = asked.texts
    count = texts.windows("windows", windows, 8)
    drawn = max(count, texts.windows("calibration_windows", None, 16))
    if calibration_windows is not None:
        drawn = texts.windows("calibration_windows", calibration_windows)
    request = checked(
        ProfileRequest,
        model=asked.model.source,
        text=source,
        windows=count,
        drawn=drawn_for(count, drawn),
        window_length=texts.window_length,
        seed=seed,
        probes=_several(probes),
        lens=lens,
        units=units,
        bases=bases,
    )
    return Profile(asked.carried_out(request, progress), asked.model, asked.home)


def plan(
    profile: Profile,
    target: float | None = None,
    *,
    fewer: float | str | None = None,
    allocation: str = "dynamic",
    **settings: Any,
) -> Planned:
    """Say how much slicing would cut where, by the scores of a profile. No model is touched.

    ``target``: the mean share of the stream's width that goes (SP), by default 0.25; or instead ``fewer``,
    the share of the parameters that goes, to the nearest whole block, for which the target is computed.
    ``allocation``: how the cut is shared out: ``dynamic`` (Dumitru et al., arXiv 2411.03513, equation 3),
    ``constant`` (SliceGPT, arXiv 2401.15024) or another of docs/slicing.md. ``settings``: fields of
    ``slicing.Plan``, such as ``score`` or ``rounding``, and those of the allocation, such as ``base`` (SB),
    the share that every block loses at least.

    Raises ``PlanError`` for what no schedule can meet, ``UnsupportedError`` where the model cannot be sliced.

    >>> import slicing
    >>> found = slicing.profile(model, text, tokenizer=tokenizer, windows=4, window_length=32, progress=False)
    >>> planned = slicing.plan(found, target=0.25, base=0.1, rounding=1)
    >>> round(planned.schedule.mean_slice, 2)
    0.25
    >>> planned.parameters < slicing.plan(found, target=0.15, base=0.1, rounding=1).parameters
    True
    """
    if not isinstance(profile, Profile):
        kind = type(profile).__name__
        raise PlanError(
            f"A plan is made on what slicing.profile gave, but got {kind}: profile the model first."
        )
    result: Any = profile.run.result
    if result.shape is None:
        raise UnsupportedError(result.not_sliceable)
    chosen = _plan_of(target, fewer, {"allocation": allocation, **settings})
    if fewer is not None:
        redundancy = result.profile.redundancy(chosen.score, chosen.first_token)
        size = checked(Budget, measure="parameters", amount=share_of(fewer))
        chosen = chosen.with_fewer(size.amount, redundancy, result.shape)
    found = Planned(chosen, result.profile, result.shape)
    _ = found.schedule  # what cannot be planned is told now
    return found


def _plan_of(target: Any, fewer: Any, settings: dict[str, Any]) -> Plan:
    """Make the plan at a target; where ``fewer`` is given, one whose target is still to be found."""
    if target is not None and fewer is not None:
        raise PlanError(
            f"Give either target or fewer, but got {target!r} and {fewer!r}: leave one of them out."
        )
    base = settings.get("base")
    if fewer is not None and isinstance(base, int | float):
        target = max(Plan.model_fields["target"].default, base)
    plain = take_settings(Plan, settings | ({} if target is None else {"target": target}))
    return checked(Plan, **plain)


def evaluate(
    model: ModelLike,
    text: TextLike = "demo",
    *,
    windows: int | None = None,
    window_length: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str = "auto",
    dtype: str = "auto",
    progress: ProgressLike = True,
) -> Evaluation:
    """Measure the perplexity of a model, dense or smaller, on windows of a text. No run is stored.

    ``model`` and ``text``: as in ``profile``. The first ``windows`` of ``window_length`` tokens are read,
    without overlap: 16 of 512, or all that the given token ids have. Every token of a window but the first is
    predicted from those before it, and the perplexity is exp of the mean negative log-likelihood, in nats, of
    all of them.

    Raises ``ModelError``, ``TextError`` and ``OutOfMemoryError``.

    >>> import slicing
    >>> found = slicing.evaluate(
    ...     model, text, tokenizer=tokenizer, windows=8, window_length=32, progress=False
    ... )
    >>> found.perplexity > 1
    True
    >>> found.frame().columns.tolist()
    ['window', 'document', 'begins', 'nats per token']
    """
    asked = Asked(model, tokenizer, device, dtype, False, window_length)
    source = asked.texts.read(text, "evaluation")
    count = asked.texts.windows("windows", windows)
    with telling(progress) as listen, asked.model.borrowed():
        opened = asked.model.open(listen)
        read = token_windows(source, opened.tokenizer, asked.texts.window_length, count)
        precision = safe_precision(asked.model.source, read, opened.model)
        measured = perplexity(opened.model, read, listen, precision=precision)
    return Evaluation(asked.model.label, source.label, measured, passages(source, opened.tokenizer, read))


def compare(
    model: ModelLike,
    plan: Plan | Planned | None = None,
    *,
    text: TextLike = "demo",
    evaluation: TextLike | None = None,
    windows: int | None = None,
    evaluation_windows: int | None = None,
    window_length: int | None = None,
    seed: int = 0,
    one_shot: bool = False,
    repair: bool = False,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str = "auto",
    dtype: str = "auto",
    store: bool = True,
    progress: ProgressLike = True,
    **settings: Any,
) -> Judgement:
    """Judge the dense model, constant slicing and a plan on the same windows, also at equal parameters.

    ``model``, ``text`` and ``windows``: as in ``compress``. ``plan``: of ``slicing.plan`` or
    ``slicing.Plan(...)``; by default dynamic slicing at 0.25. ``evaluation``: the text that all are judged
    on, the first ``evaluation_windows`` (16) of it; of ``demo``, a preset or a data set on the Hub by default
    the part for that. ``one_shot``: all bases from one pass, which is quicker and costs some perplexity.
    ``repair``: fit the output projections anew. ``settings``: fields of ``slicing.studies.study.Study``, such
    as ``new_tokens`` (40; 0 for no sample texts), ``speed_rounds`` (5; 0 for no timing), ``other`` (a second
    text), ``tasks``, ``jitter`` or ``calibration_precision`` ("fast" for products in bfloat16).

    Differences are paired window by window, with Student's 95 % intervals. Runs are stored as in ``profile``,
    each trial too, so that what was interrupted goes on. Raises what ``compress`` raises.

    >>> import slicing
    >>> plan = slicing.Plan(allocation="dynamic", target=0.25, base=0.1)
    >>> found = slicing.compare(
    ...     model, plan, text=text, evaluation=other, tokenizer=tokenizer, windows=8, window_length=32,
    ...     evaluation_windows=8, new_tokens=0, speed_rounds=0, progress=False,
    ... )
    >>> [each.name for each in found.measurements]
    ['dense', 'constant', 'dynamic', 'constant']
    """
    chosen = Plan() if plan is None else plan_in(plan)
    if chosen is None:
        kind = type(plan).__name__
        raise PlanError(
            f"A plan is what slicing.plan or slicing.Plan gave, but got {kind}: give one of these."
        )
    if not isinstance(repair, bool):
        raise PlanError(
            f"What is sliced is repaired or not (True or False); got {repair!r}: give one of them."
        )
    if own := {"recipes", "budgets", "seeds", "matched", "view"} & {*settings}:
        raise PlanError(f"A comparison chooses {min(own)} itself: leave it out, or use slicing.study.")
    asked = Asked(model, tokenizer, device, dtype, store, window_length)
    make = partial(comparison, chosen, one_shot=one_shot, repair="writers" if repair else "none")
    fields = _judged(asked, text, evaluation, windows, evaluation_windows, settings)
    request = checked(Study, make, seed=seed, **fields)
    return Judgement(asked.carried_out(request, progress), asked.model, asked.home)


def study(
    model: ModelLike,
    recipes: Sequence[str | Recipe],
    budgets: Sequence[str | Budget] | str = ("parameters=0.2",),
    *,
    seeds: Sequence[int] | int = (0,),
    text: TextLike = "demo",
    evaluation: TextLike | None = None,
    windows: int | None = None,
    evaluation_windows: int | None = None,
    window_length: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str = "auto",
    dtype: str = "auto",
    store: bool = True,
    progress: ProgressLike = True,
    **settings: Any,
) -> Judgement:
    """Judge recipes at budgets, with one or several draws of calibration windows, all on the same windows.

    ``model``, texts and windows: as in ``compare``. ``recipes``: lines, the first of which all others are
    measured by; the dense model is always judged too. ``budgets``: as in ``compress``, each for all recipes.
    ``seeds``: of the calibration windows. ``settings``: fields of ``slicing.studies.study.Study``, such as
    ``jitter``, ``healing_tokens``, ``speed_rounds``, ``int8``, ``tasks``, ``other`` or
    ``calibration_precision``.

    With one budget the frame ranks the recipes, with several it has a row for every trial. p-values are
    corrected for the number of differences (Holm). Runs are stored as in ``profile``, each trial too, so that
    what was interrupted goes on. Raises what ``compress`` raises.

    >>> import slicing
    >>> found = slicing.study(
    ...     model, ["slice(constant)", "shortgpt"], ["blocks=1"], text=text, evaluation=other,
    ...     tokenizer=tokenizer, windows=8, window_length=32, evaluation_windows=8, progress=False,
    ... )
    >>> [each.name for each in found.measurements]
    ['dense', 'constant', 'shortgpt']
    """
    asked = Asked(model, tokenizer, device, dtype, store, window_length)
    lines, amounts = _several(recipes), _several(budgets)
    fields = _judged(asked, text, evaluation, windows, evaluation_windows, settings)
    fields = {"view": "ranking" if len(amounts) == 1 else "frontier", **fields}
    request = checked(
        Study,
        recipes=tuple(Recipe.parse(each) if isinstance(each, str) else each for each in lines),
        budgets=tuple(Budget.parse(each) if isinstance(each, str) else each for each in amounts),
        seeds=_several(seeds),
        **fields,
    )
    return Judgement(asked.carried_out(request, progress), asked.model, asked.home)


def _several(values: Any) -> tuple[Any, ...]:
    """Give what stands in a list or a tuple, or the one thing that was given in the place of several."""
    return tuple(values) if isinstance(values, Sequence) and not isinstance(values, str) else (values,)


def _judged(
    asked: Asked,
    text: TextLike,
    evaluation: TextLike | None,
    windows: int | None,
    evaluation_windows: int | None,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """The fields of a study that a verb was given, texts read."""
    texts = asked.texts
    calibration = texts.read(text, "calibration")
    count = texts.windows("windows", windows, 16)
    judged = texts.beside(text, evaluation)
    of_them = texts.windows("evaluation_windows", evaluation_windows, 16)
    read = dict(settings)
    for name in {*TEXTS} & {*settings}:
        read[name] = None if settings[name] is None else texts.read(settings[name], TEXTS[name])
    return {
        "model": asked.model.source,
        "calibration": calibration,
        "calibration_windows": count,
        "profile_windows": min(8, count),
        "evaluation": judged,
        "evaluation_windows": of_them,
        "window_length": texts.window_length,
        **read,
    }
