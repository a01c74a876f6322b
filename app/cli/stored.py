"""Commands for what is stored: runs, their reports and citations, and the queue of the servers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analysis.errors import PlanError
from analysis.storage import check_new_file, check_new_folder
from app.cli.options import JsonOption, NewFile
from app.cli.rows import print_rows
from app.cli.showing import print_asked, print_run
from app.cli.terminal import err, out, plain, printed_as_json, tell_where, write_new

if TYPE_CHECKING:
    from slicing.studies.index import Broken

runs_app = typer.Typer(invoke_without_command=True)
queue_app = typer.Typer(invoke_without_command=True)


@runs_app.callback()
def runs(context: typer.Context, json_path: JsonOption = None) -> None:
    """Stored runs: list them (as without a command), show, rename, export, import, delete, trash, restore."""
    if not context.invoked_subcommand:
        list_command(json_path)


@runs_app.command(name="list")
def list_command(json_path: JsonOption = None) -> None:
    """List stored runs, newest first."""
    from slicing.healing.resume import trainings_told
    from slicing.studies.index import label_of, summaries

    listed, broken = summaries()
    rows = [
        {
            "key": each.name,
            "kind": each.kind,
            "model": each.model,
            "created": each.created.isoformat(),
            "seconds": each.seconds,
            "label": label_of(each.name),
        }
        for each in listed
    ]
    if printed_as_json(
        {"runs": rows, "broken": [{"key": each.name, "problem": each.problem} for each in broken]}, json_path
    ):
        return
    print_rows([*map(_listed, rows), *map(_unreadable, broken)])
    if not rows and not broken:
        out.print("No runs yet: 'slicescope compare' makes one.")
    for each in broken:
        err.print(each.problem, style="yellow", highlight=False, soft_wrap=True)
    if told := trainings_told():
        out.print(told, highlight=False, soft_wrap=True)


def _listed(row: dict[str, Any]) -> dict[str, Any]:
    made = row["created"][:16].replace("T", " ")
    shown = {"key": row["key"], "kind": row["kind"], "made, UTC": made, "seconds": round(row["seconds"])}
    return {**shown, "called": row["label"], "model": row["model"]}


def _unreadable(each: Broken) -> dict[str, Any]:
    from app.wording import UNREADABLE

    return {"key": each.name, "kind": UNREADABLE}


@runs_app.command()
def show(
    key: Annotated[str, typer.Argument(help="The key, or its first digits.")],
    json_path: JsonOption = None,
) -> None:
    """Show what a run asked and what came of it; --json gives all of it."""
    from slicing.studies.store import find_run

    run = find_run(key)
    if printed_as_json(plain(run), json_path):
        return
    print_asked(run)
    print_run(run)
    tell_where(run)


@runs_app.command()
def delete(key: Annotated[str, typer.Argument(help="The whole key.")]) -> None:
    """Move one run, with the model that it keeps, into the trash."""
    from slicing.library import throw_away

    name = throw_away(key)
    out.print(f"Deleted run {key}. 'slicescope runs restore {name}' takes it back.", highlight=False)


@runs_app.command()
def trash() -> None:
    """List what can be restored, newest first."""
    from slicing.library import trashed

    for name in trashed():
        out.print(name, highlight=False)


@runs_app.command()
def restore(name: Annotated[str, typer.Argument(help="A name that 'slicescope runs trash' lists.")]) -> None:
    """Take a deleted run back."""
    from slicing.library import take_back

    out.print(f"Run {take_back(name)} is back.", highlight=False)


@runs_app.command()
def rename(
    key: Annotated[str, typer.Argument(help="The whole key.")],
    label: Annotated[str, typer.Argument(help="What to call it; '' for its own title.")],
    note: Annotated[str | None, typer.Option(help="What to remember about it.")] = None,
) -> None:
    """Give a run a name of your own, and a note."""
    from slicing.library import annotate, note_of

    said = note_of(key)
    annotate(key, said.renamed(label, said.text if note is None else note))
    out.print(f"Run {key} is called '{label}'." if label else f"Run {key} has its own title again.")


@queue_app.callback()
def queue(context: typer.Context, json_path: JsonOption = None) -> None:
    """Jobs of the servers on this machine: list them (as without a command), cancel one."""
    if context.invoked_subcommand:
        return
    from app.journal import listed
    from app.wording import title

    jobs, broken = listed()
    rows = [
        {
            "job": each.name,
            "state": each.state,
            "asked": each.entry.submitted.isoformat(),
            "by": each.entry.owner,
            "what": title(each.entry.request),
        }
        for each in jobs
    ]
    if printed_as_json({"jobs": rows, "broken": broken}, json_path):
        return
    print_rows(
        [{**row, "asked": row["asked"][5:16].replace("T", " "), "by": row["by"][-12:]} for row in rows]
    )
    if not rows:
        out.print("No job waits or runs.")
    for sentence in broken:
        err.print(sentence, style="yellow")


@queue_app.command(name="cancel")
def cancel_command(job: Annotated[str, typer.Argument(help="A job that 'slicescope queue' lists.")]) -> None:
    """Cancel a job, whoever asked for it. A running one stops at its next batch."""
    from app import journal

    journal.cancel(job)
    out.print(f"The job {job} is cancelled.", highlight=False)


@runs_app.command()
def export(
    key: Annotated[str, typer.Argument(help="The key, or its first digits.")], output: NewFile
) -> None:
    """Write a run to a zip file, for another machine: all but its model and its bases."""
    from slicing.library import pack
    from slicing.studies.store import find_run

    write_new(output, pack(find_run(key).key))


@runs_app.command(name="import")
def import_command(
    file: Annotated[Path, typer.Argument(help="A zip file that 'export' wrote, or a run.json.")],
) -> None:
    """Store a run that was made elsewhere."""
    from slicing.library import bring_in, read_packed

    content = read_packed(file)
    run = bring_in(content, f"'{file}'")
    out.print(f"Run {run.key} is stored.", highlight=False)


def report(
    key: Annotated[str, typer.Argument(help="The key, 'demo' or 'demo-energy'.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--out",
            callback=lambda path: path and check_new_file(path),
            help="HTML file to write; it must not exist yet.",
        ),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            callback=lambda path: path and check_new_folder(path),
            help="Folder to write every figure to, as SVG; it must not exist yet.",
        ),
    ] = None,
) -> None:
    """Write a run as one HTML file that needs no network: charts, tables, what repeats it, citations.

    With --figures every chart is written as an SVG file of its own too, or without --out alone.
    """
    from app.report import build_report
    from app.report import figures as drawn
    from slicing.studies.store import named_run

    if output is None and figures is None:
        raise PlanError("A report has no place to go: give --out report.html, --figures FOLDER, or both.")
    run = named_run(key)
    if figures:
        write_figures(figures, drawn(run))
    if output:
        write_new(output, build_report(run).encode())


def write_figures(folder: Path, drawn: dict[str, str]) -> None:
    """Write figures into a new folder, whole or not at all, and say what they are called."""
    from analysis.storage import whole_folder

    with whole_folder(folder) as draft:
        for name, content in drawn.items():
            (draft / name).write_text(content, encoding="utf-8")
    for name in drawn:
        out.print(f"{folder / name}", highlight=False)


def cite(key: Annotated[str, typer.Argument(help="The key, 'demo' or 'demo-energy'.")] = "demo") -> None:
    """Print BibTeX of the methods that a run used."""
    from app.citations import bibtex
    from slicing.studies.store import named_run

    out.print(bibtex(named_run(key).request), highlight=False, soft_wrap=True)
