"""The terminal: what is printed, how loud it is, and results as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.errors import visible
from analysis.storage import check_new_file, write_whole

if TYPE_CHECKING:
    from slicing.studies.results import Run


class Terminal(Console):
    """Shows strings as they are: names of runs and models come from anybody, and may hold anything."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Show a text with its control characters written out."""
        return super().render_str(visible(text), **options)


out = Terminal()
err = Terminal(stderr=True)


@dataclass
class Loudness:
    """How much is said beside results, warnings and errors."""

    quiet: bool = False
    """Neither progress nor notes."""
    verbose: bool = False
    """Show what other libraries say too, and where an error arose."""


loudness = Loudness()
"""Of this process: the options in front of the command set it."""


def note(text: str) -> None:
    """Print a remark on standard error that nobody needs, unless ``--quiet`` is said."""
    if not loudness.quiet:
        err.print(text, style="dim", highlight=False, soft_wrap=True)


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


def tell_where(run: Run) -> None:
    """Say where a run is stored."""
    from analysis.storage import runs_folder

    note(f"Run {run.key}, {run.seconds:.0f} s, stored in {runs_folder() / run.key}")
