"""The program: all commands under one name, and the exit code of every error."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError
from typer.exceptions import TyperException
from typer.rich_utils import rich_format_error

from analysis.errors import Cancelled, PlanError, SlicescopeError, brief, visible
from analysis.values import first_fault
from analysis.versions import version_of
from app.cli.differences import difference
from app.cli.exporting import export
from app.cli.looking import evaluate, generate, plan_command, profile
from app.cli.making import compress, remove, slice_command
from app.cli.notes import note
from app.cli.serving import app_command, prepare
from app.cli.shrinking import shrink
from app.cli.stored import cite, queue_app, report, runs_app
from app.cli.studies import compare, study_app
from app.cli.terminal import err, loudness, out
from app.quiet import quieten

EXIT_CODES = (
    "Exit codes: 0 done, 2 unknown flag, 3 model, 4 text, 5 plan, 6 storage, 7 out of memory, 130 cancelled, "
    "1 anything else."
)
app = typer.Typer(
    help="See where a language model is redundant, decide how much to cut where, cut it, and read honestly "
    f"what that cost.\n\nStart with: [bold]slicescope profile --model demo[/bold]\n\n{EXIT_CODES}",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"slicescope {version_of('slicescope')}", highlight=False)
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print results, warnings and errors alone.")
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Print too what other libraries say, and where an error arose."),
    ] = False,
) -> None:
    """Read the options that stand before a command."""
    loudness.quiet, loudness.verbose = quiet, verbose
    if not verbose:
        quieten()


app.command()(profile)
app.command(name="plan")(plan_command)
app.command()(compress)
app.command(name="slice")(slice_command)
app.command()(remove)
app.command()(shrink)
app.command()(compare)
app.add_typer(study_app, name="study")
app.command()(evaluate)
app.command()(generate)
app.command()(export)
runs_app.command()(difference)
runs_app.command()(note)
app.add_typer(runs_app, name="runs")
app.command()(report)
app.command()(cite)
app.add_typer(queue_app, name="queue")
app.command(name="app")(app_command)
app.command()(prepare)


def main() -> None:
    """Run the console script: every error of ours is one sentence and its exit code."""
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except SlicescopeError as error:
        _refuse(error)
    except ValidationError as error:  # of a request: flags take numbers that it does not
        _refuse(PlanError(f"This cannot be done ({first_fault(error, 'all of it')}): give another value."))
    except TyperException as error:  # a flag or a command that cannot be parsed
        error.message = brief(visible(error.message))
        rich_format_error(error)  # type: ignore[arg-type]
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        err.print("slicescope: stopped; only what had been finished is stored.", style="red")
        sys.exit(Cancelled.exit_code)


def _refuse(error: SlicescopeError) -> NoReturn:
    if loudness.verbose:
        err.print(visible(traceback.format_exc()), style="dim", highlight=False, soft_wrap=True)
    err.print(f"slicescope: {error}", style="red", highlight=False, soft_wrap=True)
    sys.exit(error.exit_code)
