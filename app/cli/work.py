"""Work that commands do: opening a model, and carrying out a request, with progress."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from app.cli.progress import progress_bars
from app.cli.terminal import err, note

if TYPE_CHECKING:
    from analysis.shape import ModelShape
    from analysis.sources.model import ModelSource
    from analysis.sources.opening import OpenModel
    from slicing.studies.results import Request, Run
    from slicing.studies.run import Executor


def open_source(source: ModelSource, listen: Any) -> OpenModel:
    """Fetch what a model lacks and open it, with progress."""
    from analysis.device import reuse_memory
    from analysis.sources.opening import fetch_missing
    from slicing.store import open_telling

    reuse_memory()
    fetch_missing(source, listen)
    return open_telling(source, listen)


def carry_out(request: Request, executor: Executor | None = None) -> Run:
    """Do what a request says, with progress, and store the run; memory and warnings are told before."""
    from analysis.device import reuse_memory
    from analysis.errors import UnsupportedError
    from analysis.sources.configuration import shape_of
    from slicing.studies.results import warnings
    from slicing.studies.run import perform

    reuse_memory()
    shape = None
    with suppress(UnsupportedError):  # which says so itself where it is in the way
        shape = shape_of(request.model)
    if shape:
        _tell_memory(request, shape)
    for warning in request.warnings(shape):
        err.print(warning, style="yellow", highlight=False)
    with progress_bars(request) as listen:
        run = perform(request, listen, executor=executor)
    for warning in warnings(run.result):
        err.print(warning, style="yellow", highlight=False)
    return run


def _tell_memory(request: Request, shape: ModelShape) -> None:
    from app.wording import memory_taken
    from slicing.studies.needs import request_need

    if need := request_need(request, shape):
        note(memory_taken(need))
