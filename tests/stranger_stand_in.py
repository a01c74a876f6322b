"""Runs of a stranger, one of every kind, in which every string that can be chosen is hostile."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from board_stand_in import board_run
from contest_stand_in import contest_run
from slicing.runs import (
    CompareRecipe,
    CompareResult,
    Contestant,
    ProfileRecipe,
    ProfileResult,
    Removal,
    RemoveRecipe,
    RemoveResult,
    Run,
    SearchRecipe,
    SearchResult,
    SliceRecipe,
    SliceResult,
    TrialRecipe,
    TrialResult,
)

from analysis.source import ModelSource
from analysis.storage import runs_folder
from analysis.tasks import TaskScore
from analysis.texts import TextSource
from analysis.values import Value
from slicing.depth.layout import Layout
from slicing.plan import Plan
from slicing.study.store import (
    DETAILS_FILE,
    NOTE_FILE,
    bundled_run,
    bundled_sweep,
    find_details,
    write_run,
)

NAME = (
    "=1+1 <b>x [red]x[red] :red[x] [a](https:evil.example) www.evil.example \x1b[31mx $x$ **x** :smile: "
    ":material-x: &lt;i&gt;"
)
"""What may stand in a file name too."""
TEXT = f'{NAME} <a href="https://evil.example">x</a> [a](https://evil.example)\n# x'
RAW = ("<b>x", "<a href", ":red[x]", "[a](http", "www.evil.example", "$x$", "**x**", "&lt;i", "\x1b", "\n# x")
"""Parts of these that do something in Markdown, or to a terminal."""
IN_FIGURES = ("<b>x", "<a href", "&lt;i", "\x1b")
"""Parts that do something in the labels of charts."""
FIXED = {
    ("Run", "recorded_key"),
    ("Environment", "dtype"),
    ("Plan", "allocation"),
    ("Plan", "score"),
    ("Removal", "method"),
    ("Removal", "closing"),
    ("Entry", "allocation"),
    ("Entry", "score"),
    ("SublayerShape", "kind"),
}
"""Strings that have to be names we know."""


def hostile(value: Any, fixed: bool = False) -> Any:
    """The same with hostile strings, wherever nothing but our own names is refused."""
    if isinstance(value, ModelSource):
        return ModelSource(kind="folder", location=f"/{NAME}", revision=TEXT)
    if isinstance(value, TextSource):
        return TextSource(kind="file", location=f"/{NAME}", config=TEXT, split=TEXT, column=TEXT)
    if isinstance(value, Value):
        kind = type(value).__name__
        return value.model_copy(
            update={
                name: hostile(each, (kind, name) in FIXED or field.annotation is not str)
                for name, field in type(value).model_fields.items()
                for each in [getattr(value, name)]
            }
        )
    if isinstance(value, Mapping):
        return {name: hostile(each, fixed=True) for name, each in value.items()}
    if isinstance(value, tuple):
        return tuple(hostile(each, fixed) for each in value)
    return TEXT if isinstance(value, str) and not fixed else value


def strange(run: Run) -> Run:
    """The run with all of it hostile."""
    changed: Any = hostile(run)
    result: Any = changed.result
    versions = {**changed.environment.versions, TEXT: TEXT}
    changes: dict[str, Any] = {"environment": changed.environment.model_copy(update={"versions": versions})}
    if isinstance(result, CompareResult):  # whose names have to be those of the recipe
        told: Any = run.result
        everyone = zip(result.contestants, told.contestants, strict=True)
        named = tuple(_with_tasks(each).model_copy(update={"name": own.name}) for each, own in everyone)
        changes["result"] = result.model_copy(update={"contestants": named})
    if isinstance(result, ProfileResult):
        changes["result"] = result.model_copy(update={"shape": None, "not_sliceable": TEXT})
    if hasattr(changed.recipe, "tasks"):
        asked = {"tasks": (TEXT,), "task_folder": Path(f"/{NAME}")}
        changes["recipe"] = changed.recipe.model_copy(update=asked)
    changed = changed.model_copy(update=changes)
    return changed.model_copy(update={"recorded_key": changed.recipe.key})


def _with_tasks(each: Contestant) -> Contestant:
    score = TaskScore(task=TEXT, metric=TEXT, value=0.5, standard_error=None, examples=1, few_shot=0)
    return each.model_copy(update={"tasks": (score,)})


def strangers() -> dict[str, Run]:
    """The runs, by their kinds."""
    shipped = bundled_run()
    recipe, result = shipped.recipe, shipped.result
    assert isinstance(recipe, CompareRecipe) and isinstance(result, CompareResult)
    calibrated = {name: getattr(recipe, name) for name in ("model", "calibration")}
    evaluated = {**calibrated, "evaluation": recipe.evaluation}
    found = {name: getattr(result, name) for name in ("profile", "shape", "calibration")}
    dynamic, dense = result.contestant("dynamic"), result.contestant("dense")
    assert dynamic.schedule and dynamic.discarded
    took = {"parameters": dynamic.parameters, "seconds": 1.0}
    layout = Layout.without(30, (3, 4))
    recipes: tuple[tuple[Any, Any], ...] = (
        (
            ProfileRecipe(model=recipe.model, text=recipe.calibration),
            ProfileResult(profile=result.profile, shape=None, not_sliceable="", text=result.calibration),
        ),
        (
            SliceRecipe(**evaluated),
            SliceResult(
                **found,
                **took,
                fractions=result.fractions,
                schedule=dynamic.schedule,
                discarded=dynamic.discarded,
                peak_memory=1,
                dense=dense.evaluation,
                sliced=dynamic.evaluation,
            ),
        ),
        (
            RemoveRecipe(**evaluated, removal=Removal(), blocks=2),
            RemoveResult(
                **found,
                **took,
                not_sliceable=None,
                layout=layout,
                dense_parameters=dense.parameters,
                plain=True,
                repair=None,
                deciding_seconds=1.0,
                dense=dense.evaluation,
                reduced=dynamic.evaluation,
            ),
        ),
        (
            SearchRecipe(**calibrated, plan=Plan(allocation="searched", settings={})),
            SearchResult(
                profile=result.profile,
                shape=result.shape,
                shares=(0.25,) * 30,
                losses=(1.0,),
                evaluations=1,
                schedule=dynamic.schedule,
                windows=result.calibration,
            ),
        ),
        (
            TrialRecipe(**evaluated, plan=Plan()),
            TrialResult(**found, contestant=dynamic, evaluation=result.evaluation),
        ),
    )
    runs = [shipped, bundled_sweep(), contest_run(), board_run()]
    runs += [shipped.model_copy(update={"recipe": asked, "result": made}) for asked, made in recipes]
    return {run.recipe.kind: strange(run) for run in runs}


def store_strangers() -> dict[str, str]:
    """Store them as they are, past every check at the door, and give their keys."""
    keys: dict[str, str] = {}
    details = find_details(bundled_run())
    assert details
    for kind, run in strangers().items():
        folder: Path = runs_folder() / run.key
        folder.mkdir(parents=True)
        write_run(run, folder)
        details._replace(pieces=dict.fromkeys(details.pieces, TEXT)).save(folder / DETAILS_FILE)
        if kind in ("compare", "sweep"):  # the others are called by what they did
            note = {"label": NAME[:100], "text": TEXT}
            (folder / NOTE_FILE).write_text(json.dumps(note))
        keys[kind] = run.key
    return keys
