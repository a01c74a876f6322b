"""The command that takes a wish: shrink."""

from __future__ import annotations

import shutil
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import (
    DrawOptions,
    EvaluationOptions,
    JsonOption,
    ModelOptions,
    NewFolder,
    OtherOption,
    SpeedOption,
    TaskOptions,
    second_text,
)
from app.cli.reading import grouped
from app.cli.rows import NARROW, tables
from app.cli.showing import print_shrunk
from app.cli.terminal import err, out, plain, printed_as_json
from app.cli.work import carry_out

if TYPE_CHECKING:
    from slicing.studies.requests import ShrinkRequest
    from slicing.studies.results import Run

SHOWN = 5
"""Options that are known already, at most."""
REPORT = "report.html"


class Opens(StrEnum):
    """Where the model must open."""

    TRANSFORMERS = "transformers"
    EVERYWHERE = "everywhere"


@grouped
def shrink(
    output: NewFolder,
    which: ModelOptions,
    calibrate: DrawOptions,
    judge: EvaluationOptions,
    asked: TaskOptions,
    fewer: Annotated[
        str, typer.Option(help="How small: the share of the parameters that goes, as 20%.")
    ] = "",
    memory: Annotated[str, typer.Option(help="Or: what the weights take at most, as 5GB.")] = "",
    flops: Annotated[str, typer.Option(help="Or: the share of the FLOPs that stays, as 0.8.")] = "",
    minutes: Annotated[float, typer.Option(help="How long all of it may take.")] = 30.0,
    quality: Annotated[
        str, typer.Option(help="The perplexity that is hoped for beside the dense model's, as 'ppl<=1.3x'.")
    ] = "",
    opens: Annotated[
        Opens,
        typer.Option(
            help="everywhere: an ordinary checkpoint that every tool opens. transformers: also a folder "
            "with modelling code of its own."
        ),
    ] = Opens.TRANSFORMERS,
    preview_windows: Annotated[
        int, typer.Option(min=2, max=16, help="Of the calibration windows, so many make the previews.")
    ] = 8,
    search_windows: Annotated[
        int, typer.Option(min=2, max=16, help="Windows that choose; previews are judged on half of them.")
    ] = 8,
    other: OtherOption = None,
    speed_rounds: SpeedOption = 5,
    json_path: JsonOption = None,
) -> None:
    """Make a model as small as is wished for: find the way, make it, and prove what it cost.

    Many methods are tried cheaply, the best in full, the best of these to the end; trials that are stored are
    not run again. The folder holds the model, its card and the report of it all.
    """
    from slicing.studies.requests import ShrinkRequest
    from slicing.wish import Wish

    wish = Wish.parse(fewer, memory, flops, minutes, quality, opens.value)
    request = ShrinkRequest(
        model=which.source(),
        **calibrate.fields(),
        **(judged := judge.fields()),
        **asked.fields(),
        other=second_text(other, judged["evaluation"]),
        speed_rounds=speed_rounds,
        wish=wish,
        preview_windows=preview_windows,
        search_windows=search_windows,
    )
    _tell_known(request)
    run = carry_out(request)
    _write(run, output)
    if not printed_as_json({"folder": str(output), **plain(run)}, json_path):
        _show(run, output)


def _tell_known(request: ShrinkRequest) -> None:
    """Print what stored trials, or those that ship, say of the wish, before anything runs."""
    from analysis.device import itemsize_of
    from analysis.errors import UnsupportedError
    from analysis.sources.configuration import shape_of
    from analysis.sources.model import must_fetch
    from app.repeat import command
    from app.shrink_tables import option_table
    from slicing.studies.options import known_options

    source = request.model
    if must_fetch(source):  # then nothing of it is stored here
        return
    with suppress(UnsupportedError):  # which the job says itself
        itemsize = itemsize_of(source.dtype, source.device)
        known = known_options(source, request.wish, shape_of(source), itemsize)
        if known:
            err.print(f"Known already of sizes near {request.wish.line}, best first:", highlight=False)
            rows = [
                {name: f"{value:.2f}" if isinstance(value, float) else value for name, value in row.items()}
                for row in option_table(known[:SHOWN]).to_dict("records")
            ]
            for table in tables(rows, max(err.width, NARROW)):
                err.print(table)
            again = known[0].trial.compress_request().model_copy(update={"model": source})
            err.print("This command makes the first of them at once:", highlight=False)
            err.print(f"  {command(again)}", highlight=False, soft_wrap=True)  # on one line, to be copied


def _write(run: Run, output: Path) -> None:
    """Put the model with its card, and the report, into a new folder, whole or not at all."""
    from analysis.storage import require_space, runs_folder, whole_folder
    from app.report import build_report
    from slicing.studies.store import MODEL_FOLDER

    model = runs_folder() / run.key / MODEL_FOLDER
    require_space(output, sum(file.stat().st_size for file in model.rglob("*") if file.is_file()))
    with whole_folder(output) as draft:
        shutil.copytree(model, draft, dirs_exist_ok=True)
        (draft / REPORT).write_text(build_report(run), encoding="utf-8")


def _show(run: Run, output: Path) -> None:
    """Print the answer, its evidence and the finalists."""
    print_shrunk(run)
    out.print(f"{output}: the model, its card (README.md) and {REPORT}.", highlight=False)
