"""Commands that make a smaller model and keep it: compress, and its short forms slice and remove."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analysis.errors import PlanError
from app.cli.amount import AmountOptions
from app.cli.methods import MethodsOption
from app.cli.options import (
    CardOptions,
    DrawOptions,
    JsonOption,
    ModelOptions,
    NewFolder,
    SharingOptions,
    SlicingOptions,
)
from app.cli.reading import grouped
from app.cli.showing import compressed
from app.cli.terminal import out, plain, printed_as_json
from app.cli.work import carry_out

if TYPE_CHECKING:
    from slicing.steps import Step
    from slicing.studies.recipe import Recipe
    from slicing.studies.requests import CompressRequest
    from slicing.studies.results import CompressResult


@grouped
def compress(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="Steps with '|' between them, such as 'sleb(share=0.5) | slice(dynamic, base=0)'.",
        ),
    ],
    output: NewFolder,
    which: ModelOptions,
    calibrate: DrawOptions,
    card: CardOptions,
    budget: Annotated[
        str,
        typer.Option(
            help="How much smaller: mean_slice=SP, like_constant=SP, parameters=SHARE, blocks=COUNT or "
            "size=PARAMETERS."
        ),
    ] = "mean_slice=0.25",
    methods: MethodsOption = False,
    json_path: JsonOption = None,
) -> None:
    """Make a model smaller by a recipe and keep it, with its model card.

    Without slicing it is a plain checkpoint that other tools open too, but for the repair 'linear'.
    """
    from slicing.budget import Budget
    from slicing.studies.recipe import Recipe
    from slicing.studies.requests import CompressRequest

    asked = CompressRequest(
        model=which.source(),
        **calibrate.fields(),
        recipe=Recipe.parse(recipe),
        budget=Budget.parse(budget),
        **card.fields(),
    )
    _make(asked, output, json_path)


@grouped
def slice_command(
    output: NewFolder,
    which: ModelOptions,
    amount: AmountOptions,
    cut: SharingOptions,
    calibrate: DrawOptions,
    how: SlicingOptions,
    card: CardOptions,
    json_path: JsonOption = None,
) -> None:
    """Slice a model and keep it: 'compress' by the one step 'slice', at a target."""
    from slicing.budget import Budget
    from slicing.studies.requests import CompressRequest
    from slicing.studies.study import sliced

    fewer = amount.share()
    plan = amount.plan(cut, which.device)
    asked = CompressRequest(
        model=which.source(),
        **calibrate.fields(),
        recipe=sliced(plan, **how.fields()),
        budget=Budget(amount=plan.target) if fewer is None else Budget(measure="parameters", amount=fewer),
        **card.fields(),
    )
    _make(asked, output, json_path)


@grouped
def remove(
    output: NewFolder,
    which: ModelOptions,
    calibrate: DrawOptions,
    card: CardOptions,
    blocks: Annotated[int, typer.Option(min=1, help="How many blocks go.")] = 4,
    by: Annotated[
        str,
        typer.Option(
            help="Which ones: a method with its settings, such as sleb, shortgpt, gromov, llm-streamline, "
            "'laco(merge=mean)', 'random-blocks(draw=1)'; 'compress --methods' lists all.",
        ),
    ] = "sleb",
    closing: Annotated[
        str | None,
        typer.Option(
            help="The repair: none; linear, a map for each cut; last-writer, the output projection in front "
            "of each; train-block, the block in front of each; writers, all from there on. All but the "
            "linear map leave a plain model.",
            show_default="writers",
        ),
    ] = None,
    search_windows: Annotated[
        int | None,
        typer.Option(
            min=1, help="Of the calibration windows, so many decide which blocks go.", show_default="4"
        ),
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """Take whole blocks out of a model and keep it: 'compress' by one method of removal."""
    from slicing.budget import Budget
    from slicing.studies.requests import CompressRequest

    asked = CompressRequest(
        model=which.source(),
        **calibrate.fields(),
        recipe=_removal(by, closing, search_windows),
        budget=Budget(measure="blocks", amount=blocks),
        **card.fields(),
    )
    _make(asked, output, json_path)


def _removal(by: str, closing: str | None, windows: int | None) -> Recipe:
    """The recipe of one method of removal (``PlanError`` for a name that it had before, with the new one)."""
    from slicing.studies.former import renamed
    from slicing.studies.recipe import Recipe

    for flag, said in (("by", by), ("closing", closing or "")):
        old = re.split(r"[:(]", said.strip(), maxsplit=1)[0]
        if new := renamed(old):
            raise PlanError(f"'{old}' is called '{new}' now: write '--{flag} {new}'.")
    steps: tuple[Step, ...] = Recipe.parse(by).steps
    if len(steps) != 1 or steps[0].axis != "blocks":
        raise PlanError(
            f"'--by' takes one method that removes blocks, such as 'sleb', but got '{by}': 'slicescope "
            "compress' takes any recipe."
        )
    (step,) = steps
    usual = "writers" if step.repair == "none" else step.repair
    said = {"repair": closing or usual, **({"windows": windows} if windows else {})}
    return Recipe(steps=(step.read({**dict(step), **said}),))


def _make(asked: CompressRequest, output: Path, json_path: Path | None) -> None:
    """Carry a request out, copy the model that its run keeps, and tell what it is."""
    from slicing.studies.store import copy_model

    begun = time.perf_counter()
    run = carry_out(asked)
    copy_model(run, output)
    seconds = time.perf_counter() - begun
    result: Any = run.result
    data = {
        "key": run.key,
        "request": plain(asked),
        "recipe": asked.recipe.line,
        "budget": asked.budget.line,
        "folder": str(output),
        "schedule": result.schedule and plain(result.schedule),
        "layout": result.layout and {"label": result.layout.label, **plain(result.layout)},
        "inner": result.inner and {"label": result.inner.label, **plain(result.inner)},
        "healed": [plain(told) for told in result.healed],
        "sink": result.sink and plain(result.sink),
        "parameters": result.parameters,
        "dense_parameters": result.dense_parameters,
        "plain": result.plain,
        "seconds": result.seconds,
        "command_seconds": seconds,
        "peak_memory": result.peak_memory,
        "perplexity": result.smaller and result.smaller.perplexity,
        "dense_perplexity": result.dense and result.dense.perplexity,
    }
    if not printed_as_json(data, json_path):
        _show(asked, result, seconds, output)


def _show(asked: CompressRequest, result: CompressResult, seconds: float, output: Path) -> None:
    for sentence in compressed(asked, result, seconds, str(output)):
        out.print(sentence, highlight=False)
    if result.smaller and result.dense:
        out.print(
            f"Perplexity {result.smaller.perplexity:.2f}, dense {result.dense.perplexity:.2f}: "
            f"{result.smaller.protocol}."
        )
