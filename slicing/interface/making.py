"""The verbs that make smaller models: compress and heal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analysis.errors import PlanError
from analysis.precision import Precision
from slicing.budget import Budget
from slicing.interface.asking import Asked, checked, share_of
from slicing.interface.outcomes import Planned, Smaller, plan_in
from slicing.interface.telling import ProgressLike
from slicing.plans import Plan
from slicing.studies.grammar import parse_line
from slicing.studies.recipe import Recipe
from slicing.studies.requests import CompressRequest
from slicing.studies.study import sliced

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from slicing.interface.models import ModelLike
    from slicing.interface.texts import TextLike


def compress(
    model: ModelLike,
    how: str | Recipe | Plan | Planned,
    *,
    budget: str | Budget | None = None,
    fewer: float | str | None = None,
    text: TextLike = "demo",
    windows: int | None = None,
    window_length: int | None = None,
    seed: int = 0,
    search_text: TextLike | None = None,
    healing_text: TextLike | None = None,
    evaluation: TextLike | None = None,
    evaluation_windows: int | None = None,
    calibration_precision: Precision = "exact",
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str = "auto",
    dtype: str = "auto",
    store: bool = True,
    progress: ProgressLike = True,
) -> Smaller:
    """Make a smaller model, and leave the one that was given as it is.

    ``model`` and ``text``: as in ``profile``; ``windows`` of ``window_length`` tokens of the text calibrate:
    16 of 512, or up to 16 of the given token ids, drawn by ``seed``. ``how``: a plan, which slices; or the
    line of a recipe, such as ``mixed(repair=projections)`` or ``sleb(share=0.5) | slice(dynamic, base=0)``:
    see docs/recipes.md. ``budget`` says how much smaller: ``mean_slice=SP``, ``parameters=SHARE``,
    ``blocks=COUNT`` or ``size=PARAMETERS``; by default that of the plan, or ``mean_slice=0.25``.
    ``fewer=0.2``, or ``"20%"``, is ``budget="parameters=0.2"``. With an ``evaluation`` text both models are
    judged on its first ``evaluation_windows`` (8), and the model card tells their perplexities. With
    ``calibration_precision="fast"`` a float32 model multiplies in bfloat16 while it reads the calibration
    text.

    The smaller model is written to the folder of the run, which takes its size on disk. While it is made it
    takes its own size in memory beside the dense one; afterwards none, until ``.model`` opens it. It shares
    no tensor with the dense model. Runs are stored as in ``profile``.

    Raises ``PlanError`` for an unknown recipe, or a budget that it cannot keep; ``UnsupportedError`` for a
    model that it cannot be done to; ``ModelError``, ``TextError``, ``StorageError``, ``OutOfMemoryError``.

    >>> import slicing
    >>> smaller = slicing.compress(
    ...     model, "shortgpt", budget="blocks=1", text=text, tokenizer=tokenizer, windows=8, window_length=32,
    ...     progress=False,
    ... )
    >>> len(smaller.model.model.layers)
    2
    >>> smaller.dense_parameters - smaller.parameters
    7744
    """
    asked = Asked(model, tokenizer, device, dtype, store, window_length)
    recipe, amount = _recipe(how), _budget(how, budget, fewer)
    texts = asked.texts
    fields: dict[str, Any] = {"calibration": texts.read(text, "calibration")}
    fields["calibration_windows"] = count = texts.windows("windows", windows, 16)
    for name, value in (("search_text", search_text), ("healing_text", healing_text)):
        fields[name] = None if value is None else texts.read(value, "calibration")
    texts.count = None
    if evaluation is not None:
        fields["evaluation"] = texts.read(evaluation, "evaluation")
    fields["evaluation_windows"] = texts.windows("evaluation_windows", evaluation_windows, 8)
    request = checked(
        CompressRequest,
        model=asked.model.source,
        recipe=recipe,
        budget=amount,
        window_length=texts.window_length,
        profile_windows=min(8, count),
        seed=seed,
        calibration_precision=calibration_precision,
        **fields,
    )
    return Smaller(asked.carried_out(request, progress), asked.model, asked.home)


def heal(
    smaller: Smaller,
    text: TextLike | None = None,
    *,
    how: str = "distil",
    tokens: int | None = None,
    minutes: float | None = None,
    store: bool = True,
    progress: ProgressLike = True,
) -> Smaller:
    """Train what ``compress`` left, and give the better one as a new smaller model; the first one stays.

    It is one run with the recipe of ``smaller`` and the step ``how`` behind it, as on the command line: the
    model is cut anew in the same way, then trained. ``how``: ``distil`` (the dense model's outputs are
    learned), ``finetune`` or ``reconstruct``, with settings as in a recipe, such as ``distil(train=lora)``;
    see docs/healing.md. ``tokens`` or ``minutes`` say how long. ``text``: what is learned, by default the
    part of the calibration text that calibration does not see; a table with labels is named by
    ``file.jsonl#text:label``.

    Raises ``PlanError`` for a step that does not train, or for too little text, and what ``compress`` raises.

    >>> import slicing
    >>> smaller = slicing.compress(
    ...     model, "shortgpt", budget="blocks=1", text=text, tokenizer=tokenizer, windows=8, window_length=32,
    ...     progress=False,
    ... )
    >>> healed = slicing.heal(smaller, tokens=512, progress=False)
    >>> healed.parameters == smaller.parameters
    True
    >>> healed.run.request.recipe.line
    'shortgpt | distil(tokens=512)'
    """
    if not isinstance(smaller, Smaller):
        kind = type(smaller).__name__
        raise PlanError(
            f"What slicing.compress gave can be healed, but got {kind}: make a smaller model first."
        )
    before: Any = smaller.run.request
    steps = parse_line(how) if isinstance(how, str) else ()
    if len(steps) != 1 or steps[0].axis != "weights":
        raise PlanError(f"Healing takes one step that trains, such as 'distil', but got {how!r}: name one.")
    (step,) = steps
    said = {"tokens": tokens, "minutes": minutes}
    said = {name: value for name, value in said.items() if value is not None}
    recipe = checked(Recipe, steps=(*before.recipe.steps, step.read({**dict(step), **said})))
    asked = Asked(smaller._model, store=store, home=smaller._home if smaller._home.folder else None)
    healing = before.healing_text if text is None else asked.texts.read(text, "calibration")
    fields = {**dict(before), "recipe": recipe, "healing_text": healing}
    request = checked(CompressRequest, **{name: each for name, each in fields.items() if name != "kind"})
    return Smaller(asked.carried_out(request, progress), asked.model, asked.home)


def _recipe(how: Any) -> Recipe:
    """Read how a model is to become smaller (``PlanError``)."""
    if isinstance(how, str):
        return Recipe.parse(how)
    if (plan := plan_in(how)) is not None:
        return sliced(plan)
    if (steps := getattr(how, "steps", None)) is not None:
        return checked(Recipe, steps=steps)
    raise PlanError(
        "How a model becomes smaller is the line of a recipe, such as 'slice(dynamic)', or a plan, but got "
        f"{type(how).__name__}: give one of these."
    )


def _budget(how: Any, budget: Any, fewer: Any) -> Budget | None:
    """Read how much smaller a model is to become; ``None`` where nobody says it (``PlanError``)."""
    if fewer is not None:
        if budget is not None:
            raise PlanError(
                f"Give either budget or fewer, but got '{budget}' and {fewer!r}: leave one of them out."
            )
        return checked(Budget, measure="parameters", amount=share_of(fewer))
    if isinstance(budget, str):
        return Budget.parse(budget)
    if budget is not None and not isinstance(budget, Budget):
        raise PlanError(f"A budget is a line such as 'parameters=0.2', but got {budget!r}: write it so.")
    plan = plan_in(how)
    return checked(Budget, amount=plan.target) if budget is None and plan is not None else budget
