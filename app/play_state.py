"""What a session remembers of the Play page: what was written last, and the smaller models there are."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import streamlit as st

from analysis.errors import StorageError
from analysis.sources.model import ModelSource
from app import state, wording
from app.engine import Play
from app.job import Job
from slicing.library import note_of
from slicing.studies.index import run_folders
from slicing.studies.results import Run
from slicing.studies.store import MODEL_FOLDER, find_run


class Kept(NamedTuple):
    """A smaller model that can write, and the dense one that it was made from."""

    key: str
    """Of its run; for a model that the server offers, its label."""
    title: str
    model: ModelSource
    smaller: ModelSource


def kept_models() -> list[Kept]:
    """Find the kept models of stored runs that this session may see, newest first.

    Behind them, where the server offers only some models, those after the first, which they write beside.
    Strangers, who are shown no folders, have these alone.
    """
    first, *rest = state.policy().models or (state.source(),)
    offered = [Kept(each.label, each.label, first, each) for each in rest]
    if state.policy().demo_mode:
        return offered
    found: list[tuple[float, Kept]] = []
    with suppress(StorageError):
        for folder in run_folders():
            place = folder / MODEL_FOLDER
            if place.is_dir() and state.may_list(folder.name):
                with suppress(StorageError):  # the Runs page tells of broken ones
                    run = find_run(folder.name)
                    base = run.request.model
                    smaller = beside(base, place)
                    found.append((run.created.timestamp(), Kept(run.key, _title(run), base, smaller)))
    return [*(kept for _, kept in sorted(found, key=lambda pair: -pair[0])), *offered]


def beside(model: ModelSource, folder: Path) -> ModelSource:
    """Give a folder as a model on the device, and in the dtype, of the dense one."""
    return ModelSource.parse(str(folder), model.device, model.dtype)


def _title(run: Run) -> str:
    """Name what a run kept: as its people do, or by what made it smaller."""
    request = run.request
    if label := note_of(run.key).label:
        return label
    if request.kind == "compress":
        return f"{request.recipe.title}, {wording.budgets_line((request.budget,))}"
    return wording.title(request)


def begin(task: Play) -> None:
    """Queue it (``SlicescopeError`` when it is refused); the Play page tells of it, and no other page."""
    job = state.submit(task)
    st.session_state["play"] = job
    st.session_state["watched"].remove(job)


def playing() -> Job | None:
    """The job that this session asked for last, done or not; ``None`` before the first."""
    return st.session_state.get("play")
