"""What repeats a request: a command to copy, and for a study the file that it reads.

Both are made from the fields of the request, whatever they are: what is as usual is left out. Knows nothing
about streamlit or the terminal.
"""

from __future__ import annotations

import shlex
from typing import Any

from analysis.numbers import as_briefly
from analysis.writing import Prompt
from app.engine import Play
from slicing.budget import Budget
from slicing.studies.files import TEXTS, model_line, text_line, usual_profile_windows, write_study
from slicing.studies.recipe import Recipe
from slicing.studies.requests import PROMPT, Judged, SearchRequest, ShrinkRequest, Trial, drawn_for
from slicing.studies.results import Request
from slicing.studies.study import USUAL, Study, sliced
from slicing.wish import read_share

STUDY_FILE = "study.toml"
"""What the file of a study is called in its command."""
_FLAGS = {
    "drawn": "calibration-windows",
    "probes": "probe",
    "task_limit": "limit",
    "task_folder": "include",
}
"""Flags that are called otherwise than their fields."""
_OUT = ("--out", "smaller-model")


def command(request: Request) -> str:
    """Write the command that carries the request out again.

    For a study, and for a trial or a search, which are parts of one, it reads the file of ``study_file``.
    """
    if request.kind == "profile":
        return shlex.join(["slicescope", "profile", *_flags(request)])
    if request.kind == "compress":
        return shlex.join(["slicescope", "compress", request.recipe.line, *_flags(request), *_OUT])
    if request.kind == "shrink":
        return shlex.join(["slicescope", "shrink", *_wish(request), *_flags(request), "--out", "small"])
    return shlex.join(["slicescope", "study", STUDY_FILE])


def play_command(task: Play) -> str:
    """Write the command that has a prompt continued again."""
    usual, asked = Prompt(prompt=PROMPT), task.prompt
    said = ["--model", model_line(task.model)]
    said += [
        word
        for name in ("device", "dtype")
        if (value := getattr(task.model, name)) != "auto"
        for word in (f"--{name}", value)
    ]
    said += ["--beside", task.smaller.location] if task.smaller else []
    said += [
        word
        for name in Prompt.model_fields
        if (value := getattr(asked, name)) != getattr(usual, name)
        for word in (
            f"--{name.replace('_', '-')}",
            as_briefly(value) if isinstance(value, float) else str(value),
        )
    ]
    # Without a smaller model and a temperature the command writes text alone.
    return shlex.join(["slicescope", "generate", *said])


def _wish(request: ShrinkRequest) -> list[str]:
    """The flags of a wish, and the one that says that there is no second text."""
    wish = request.wish
    size = {
        "--fewer": wish.fewer and _share(wish.fewer),
        "--memory": wish.memory and _bytes(wish.memory),
        "--flops": wish.flops and _share(wish.flops),
        "--quality": wish.quality and f"ppl<={as_briefly(wish.quality)}x",
    }
    said = [word for flag, value in size.items() if value for word in (flag, value)]
    alone = ["--other", ""] if request.other is None else []
    return [*said, *_changed(wish, "minutes"), *_changed(wish, "opens"), *alone]


def _share(value: float) -> str:
    percent = f"{100 * value:g}%"
    return percent if read_share("share", percent) == value else as_briefly(value)


def _bytes(value: int) -> str:
    units = {"GB": 10**9, "MB": 10**6, "kB": 1000, "B": 1}
    return next(f"{value // each}{unit}" for unit, each in units.items() if value % each == 0)


def study_file(request: Study | Trial | SearchRequest) -> str:
    """Write the study file that repeats a study; of a trial or a search, a study of its one recipe."""
    if request.kind == "study":
        return write_study(request)
    return write_study(_of_trial(request) if request.kind == "trial" else _of_search(request))


def _of_trial(trial: Trial) -> Study:
    """The study of a trial's recipe; where that is the dense model, of the usual baseline beside it."""
    shared = {name: getattr(trial, name) for name in Judged.model_fields}
    recipe = trial.recipe if trial.recipe.steps else Recipe.parse(USUAL[0])
    return Study(
        **shared,
        recipes=(recipe,),
        budgets=(trial.budget or Budget(),),
        seeds=(trial.seed,),
        jitter=trial.jitter,
    )


def _of_search(search: SearchRequest) -> Study:
    """The study of the recipe whose shares a search looks for."""
    shared = {name: getattr(search, name) for name in Judged.model_fields if hasattr(search, name)}
    budget = Budget(measure="like_constant", amount=search.plan.target)
    return Study(
        **shared,
        evaluation=search.calibration,
        recipes=(sliced(search.plan),),
        budgets=(budget,),
        seeds=(search.seed,),
    )


_ONLY_WHERE_GIVEN = ("search_text", "healing_text")
"""Texts that are none where no flag names one; the others are then the demo text."""


def _flags(request: Any) -> list[str]:
    """The flags of all fields that are not as usual; the model is always named."""
    words: list[str] = []
    for name in type(request).model_fields:
        if name not in ("kind", "recipe", "wish"):
            words += _flag(request, name, getattr(request, name))
    return words


def _flag(request: Any, name: str, value: Any) -> list[str]:
    flag = f"--{_FLAGS.get(name, name).replace('_', '-')}"
    if name == "model":
        return [flag, model_line(value), *_changed(value, "device"), *_changed(value, "dtype")]
    if name in TEXTS:
        if value is None:  # a model card without an evaluation, or a search on the calibration text
            return ["--evaluation-windows", "0"] if name == "evaluation" else []
        said = text_line(value, TEXTS[name])
        return [flag, said] if said != "demo" or name in _ONLY_WHERE_GIVEN else []
    if name == "budget":
        return [flag, value.line]
    if name == "evaluation_windows" and request.evaluation is None:
        return []
    if value == _usual(request, name):
        return []
    if isinstance(value, bool):
        return [flag]
    if name == "drawn":
        value = value or request.windows
    return [flag, _said(value)]


def _changed(value: Any, name: str) -> list[str]:
    """The flag of a plain field, unless it is at its default."""
    said = getattr(value, name)
    return [] if said == type(value).model_fields[name].get_default() else [f"--{name}", str(said)]


def _usual(request: Any, name: str) -> Any:
    """Give the value of a field whose flag is left out."""
    if name == "profile_windows":
        return usual_profile_windows(request.calibration_windows)
    if name == "drawn":
        return drawn_for(request.windows)
    return type(request).model_fields[name].get_default(call_default_factory=True)


def _said(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return as_briefly(value) if isinstance(value, float) else str(value)
