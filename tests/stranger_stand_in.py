"""Runs of a stranger, one of every kind, in which every string that can be chosen is hostile."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from board_stand_in import board_run
from contest_stand_in import contest_run

from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from analysis.storage import runs_folder
from analysis.tasks import TaskScore
from analysis.values import Value
from slicing.budget import Budget
from slicing.depth.layout import Layout
from slicing.plans import Plan
from slicing.studies.recipe import Recipe
from slicing.studies.requests import CompressRequest, ProfileRequest, SearchRequest, Trial
from slicing.studies.results import (
    CompressResult,
    Measurement,
    ProfileResult,
    Run,
    SearchResult,
    TrialResult,
)
from slicing.studies.store import (
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
    ("SublayerShape", "kind"),
}
"""Strings that have to be names we know."""


def hostile(value: Any, fixed: bool = False) -> Any:
    """The same with hostile strings, wherever nothing but our own names is refused."""
    if isinstance(value, ModelSource):
        return ModelSource(kind="folder", location=f"/{NAME}", revision=TEXT)
    if isinstance(value, TextSource):
        return TextSource(kind="file", location=f"/{NAME}", config=TEXT, split=TEXT, column=TEXT)
    if isinstance(value, Recipe):  # of which every word is a name that we know
        return value
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
    if result.kind == "study":
        judged = tuple(map(_with_tasks, result.measurements))
        changes["result"] = result.model_copy(update={"measurements": judged})
    if result.kind == "profile":
        changes["result"] = result.model_copy(update={"shape": None, "not_sliceable": TEXT})
    if hasattr(changed.request, "tasks"):
        asked = {"tasks": (TEXT,), "task_folder": Path(f"/{NAME}")}
        changes["request"] = changed.request.model_copy(update=asked)
    changed = changed.model_copy(update=changes)
    return changed.model_copy(update={"recorded_key": changed.request.key})


def _with_tasks(each: Measurement) -> Measurement:
    score = TaskScore(task=TEXT, metric=TEXT, value=0.5, standard_error=None, examples=1, few_shot=0)
    return each.model_copy(update={"tasks": (score,)})


def strangers() -> dict[str, Run]:
    """The runs, by their kinds, and studies by their views."""
    shipped = bundled_run()
    request, result = shipped.request, shipped.result
    assert request.kind == "study" and result.kind == "study"
    calibrated = {name: getattr(request, name) for name in ("model", "calibration")}
    evaluated = {**calibrated, "evaluation": request.evaluation}
    found = {name: getattr(result, name) for name in ("profile", "shape", "calibration")}
    dense, _, dynamic = result.measurements
    assert dynamic.schedule and dynamic.discarded
    made: dict[str, Any] = {
        **found,
        "parameters": dynamic.parameters,
        "dense_parameters": dense.parameters,
        "seconds": 1.0,
        "dense": dense.evaluation,
        "smaller": dynamic.evaluation,
    }
    sliced = CompressResult(
        **made, plain=False, schedule=dynamic.schedule, discarded=dynamic.discarded, peak_memory=1
    )
    removed = CompressResult(
        **made, plain=True, layout=Layout.without(30, (3, 4)), repair=None, deciding_seconds=1.0
    )
    requests: dict[str, tuple[Any, Any]] = {
        "profile": (
            ProfileRequest(model=request.model, text=request.calibration),
            ProfileResult(profile=result.profile, shape=None, not_sliceable="", text=result.calibration),
        ),
        "slice": (CompressRequest(**evaluated, recipe=Recipe.parse("slice(dynamic)")), sliced),
        "remove": (
            CompressRequest(**evaluated, recipe=Recipe.parse("sleb"), budget=Budget.parse("blocks=2")),
            removed,
        ),
        "search": (
            SearchRequest(**calibrated, plan=Plan(allocation="searched")),
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
        "trial": (
            Trial(**evaluated, recipe=Recipe.parse("slice(dynamic)"), budget=Budget()),
            TrialResult(**found, measurement=dynamic, evaluation=result.evaluation),
        ),
    }
    studies = {
        "comparison": shipped,
        "map": bundled_sweep(),
        "ranking": contest_run(),
        "frontier": board_run(),
    }
    runs = {
        kind: shipped.model_copy(update={"request": asked, "result": made})
        for kind, (asked, made) in requests.items()
    }
    return {kind: strange(run) for kind, run in {**studies, **runs}.items()}


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
        if kind in ("comparison", "map"):  # the others are called by what they did
            note = {"label": NAME[:100], "text": TEXT}
            (folder / NOTE_FILE).write_text(json.dumps(note))
        keys[kind] = run.key
    return keys
