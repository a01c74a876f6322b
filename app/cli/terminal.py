"""The terminal: what is printed, how work goes on, and results as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from analysis.errors import visible
from analysis.sources.hub import FETCHING
from analysis.storage import check_new_file, write_whole

if TYPE_CHECKING:
    from analysis.shape import ModelShape
    from analysis.sources.model import ModelSource
    from analysis.sources.opening import OpenModel
    from slicing.study.results import Request, Run
    from slicing.study.run import Executor


class Terminal(Console):
    """Shows strings as they are: names of runs and models come from anybody, and may hold anything."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Show a text with its control characters written out."""
        return super().render_str(visible(text), **options)


out = Terminal()
err = Terminal(stderr=True)


# Tables and files


def table_of(*columns: str) -> Table:
    """Make a table that fits 80 columns: ruled by its head alone."""
    return Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)


def cell(text: str) -> str:
    """Put a text on one line, so that nobody's name looks like a row of its own."""
    return text.replace("\n", "\\n").replace("\t", "\\t")


def plain(value: Any) -> dict[str, Any]:
    """Give a value as JSON has it."""
    return value.model_dump(mode="json")


def printed_as_json(data: dict[str, Any], path: Path | None) -> bool:
    """Write ``data`` where ``--json`` says; true when that was standard output."""
    if path is None:
        return False
    text = json.dumps(data, indent=2, allow_nan=False)
    if str(path) == "-":
        print(text)  # noqa: T201
        return True
    write_whole(path, (text + "\n").encode())
    return False


def write_new(path: Path, content: bytes) -> None:
    """Write a file whole, and never over another one."""
    write_whole(check_new_file(path), content)
    out.print(f"{path}", highlight=False)


# Work


def open_source(source: ModelSource, listen: Any) -> OpenModel:
    """Fetch what a model lacks and open it, with progress."""
    from analysis.sources.opening import fetch_missing
    from slicing.store import open_model

    fetch_missing(source, listen)
    listen("Opening", 0, 1)
    opened = open_model(source)
    listen("Opening", 1, 1)
    return opened


def carry_out(request: Request, executor: Executor | None = None) -> Run:
    """Do what a request says, with progress, and store the run; memory and warnings are told before."""
    from analysis.errors import UnsupportedError
    from analysis.sources.configuration import shape_of
    from slicing.study.results import warnings
    from slicing.study.run import perform

    shape = None
    with suppress(UnsupportedError):  # which says so itself where it is in the way
        shape = shape_of(request.model)
    if shape:
        _tell_memory(request, shape)
    for warning in request.warnings(shape):
        err.print(warning, style="yellow", highlight=False)
    with progress_bars() as listen:
        run = perform(request, listen, executor=executor)
    for warning in warnings(run.result):
        err.print(warning, style="yellow", highlight=False)
    return run


def _tell_memory(request: Request, shape: ModelShape) -> None:
    from app.wording import memory_taken
    from slicing.study.needs import request_need

    if need := request_need(request, shape):
        err.print(memory_taken(need), style="dim", highlight=False)


def tell_where(run: Run) -> None:
    """Say where a run is stored."""
    from analysis.storage import runs_folder

    err.print(f"Run {run.key}, {run.seconds:.0f} s, stored in {runs_folder() / run.key}", style="dim")


class _Amount(ProgressColumn):
    """How much of a phase is done: bytes where it fetches, else a count."""

    _bytes, _count = DownloadColumn(binary_units=True), MofNCompleteColumn()

    def render(self, task: Task) -> Text:
        """Draw it for one phase."""
        if task.description == FETCHING:
            return self._bytes.render(task) if (task.total or 0) > 1 else Text("asking the Hub")
        return self._count.render(task)


class _Time(ProgressColumn):
    """The time that fetching will take, or another phase has taken."""

    _left, _taken = TimeRemainingColumn(), TimeElapsedColumn()

    def render(self, task: Task) -> Text:
        """Draw it for one phase."""
        if task.description == FETCHING and not task.finished:
            return Text.assemble(self._left.render(task), " left")
        return self._taken.render(task)


@contextmanager
def progress_bars() -> Iterator[Any]:
    """Give a progress callback that draws one bar per phase on standard error."""
    columns = (TextColumn("{task.description:<28}", markup=False), BarColumn(), _Amount(), _Time())
    with Progress(*columns, console=err) as bars:
        tasks: dict[str, Any] = {}

        def listen(phase: str, done: int, total: int) -> None:
            for earlier, task in tasks.items():
                if earlier != phase:
                    bars.stop_task(task)
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total)
            bars.update(tasks[phase], completed=done, total=total)

        yield listen
