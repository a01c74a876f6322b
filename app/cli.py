"""The command line: the same recipes as the web, one command for each verb.

Results go to standard output, progress and errors to standard error; ``--json PATH`` writes a result for
scripts (``-`` for standard output). Knows nothing about streamlit until ``app`` is asked for.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
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
from typer.exceptions import TyperException
from typer.rich_utils import rich_format_error

from analysis.errors import Cancelled, PlanError, SlicescopeError, brief, visible
from analysis.sources.hub import FETCHING
from analysis.storage import check_folder, check_new_file, check_new_folder, check_output, write_whole
from analysis.values import first_fault
from app.options import (
    TEXT_HELP,
    Alike,
    AmountOptions,
    CalibrationOptions,
    DrawOptions,
    Embedding,
    Method,
    MethodOption,
    ModelOptions,
    ProfileOptions,
    Rounding,
    SharingOptions,
    SlicingOptions,
    grouped,
    numbers,
    whole_numbers,
)
from app.quiet import quieten

if TYPE_CHECKING:
    from analysis.evaluate import Difference
    from analysis.sources.model import ModelSource
    from slicing.study.run import Executor
    from slicing.runs import CompareResult
    from slicing.study.recipe import Recipe
    from slicing.study.results import Run

CACHED_TOKENS = 4096
"""For so many tokens a plan tells the size of the cache."""
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
runs_app = typer.Typer(invoke_without_command=True)
app.add_typer(runs_app, name="runs")
queue_app = typer.Typer(invoke_without_command=True)
app.add_typer(queue_app, name="queue")


class _Terminal(Console):
    """Shows strings as they are: names of runs and models come from anybody, and may hold anything."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)


out = _Terminal()
err = _Terminal(stderr=True)


EvaluationOption = Annotated[str, typer.Option(help=f"Text the perplexity is measured on: {TEXT_HELP}")]
OtherOption = Annotated[str, typer.Option(help=f"A second text to evaluate on, or '' for none: {TEXT_HELP}")]
TasksOption = Annotated[
    str, typer.Option(help="Tasks of the lm-evaluation-harness for every model, with commas.")
]
LimitOption = Annotated[int | None, typer.Option(min=1, help="With --tasks: examples per task at most.")]
IncludeOption = Annotated[
    Path | None,
    typer.Option(help="With --tasks: a folder of further tasks in YAML; functions it names are run."),
]
EvaluationWindowsOption = Annotated[int, typer.Option(min=1, help="Evaluation windows, from the start.")]
LengthOption = Annotated[int, typer.Option(min=2, help="Tokens in a window.")]
ExecutorOption = Annotated[
    str,
    typer.Option(help="Where trials run: local, or ray (needs the extra 'cluster'), a GPU or CPU slot each."),
]
AddressOption = Annotated[
    str | None, typer.Option(help="ray: of the cluster to join, such as auto or host:port; else a local one.")
]
WorkersOption = Annotated[
    int | None,
    typer.Option(min=1, help="ray: at most so many; each opens the model.", show_default="a slot each"),
]
SpeedOption = Annotated[
    int,
    typer.Option(
        min=0, max=1000, help="Rounds of timing each smaller model in turn with the dense one; 0 for none."
    ),
]
LensOption = Annotated[
    bool,
    typer.Option(
        "--lens", help="The logit lens too: the loss when the head follows straight after each block."
    ),
]
JsonOption = Annotated[
    Path | None,
    typer.Option(
        "--json",
        callback=lambda path: path if path is None or str(path) == "-" else check_output(path),
        help="Write the result there as JSON; '-' prints it instead.",
    ),
]
NewFolder = Annotated[
    Path,
    typer.Option(
        "--out", callback=check_new_folder, help="Folder to write the model to; it must not exist yet."
    ),
]
NewFile = Annotated[
    Path, typer.Option("--out", callback=check_new_file, help="File to write; it must not exist yet.")
]


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"slicescope {importlib.metadata.version('slicescope')}", highlight=False)
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The options that stand before a command."""


@app.command()
@grouped
def profile(
    which: ModelOptions,
    measure: ProfileOptions,
    first_token: Annotated[
        bool, typer.Option("--first-token", help="Count the first token of each window in the score.")
    ] = False,
    bases: Annotated[
        bool, typer.Option("--bases", help="Keep the bases of the stream too, for previews in the app.")
    ] = False,
    probe: Annotated[
        str,
        typer.Option(
            help="Scores with passes of their own to measure too, with commas: leave-one-out, slice-one, "
            "discarded-energy, heavy-tail, depth."
        ),
    ] = "",
    lens: LensOption = False,
    json_path: JsonOption = None,
) -> None:
    """Measure how much every block changes its input: LR score, block influence, angular distance."""
    from analysis.evaluate import at_a_time
    from app import wording
    from slicing.runs import ProfileRecipe
    from slicing.study.store import find_details

    probes = tuple(name.strip() for name in probe.split(",") if name.strip())
    recipe = ProfileRecipe(model=which.source(), **measure.fields(), bases=bases, probes=probes, lens=lens)
    run = _perform(recipe)
    profile = run.result.profile
    frame = profile.to_frame(first_token)
    further = list(probes)
    if lens and (details := find_details(run)) and details.lens is not None:
        frame["logit lens"] = details.lens.mean(axis=0, dtype=float)
        further.append("logit lens")
    data = {"key": run.key, "recipe": _plain(recipe), "blocks": frame.to_dict("records")}
    if _printed_as_json(data, json_path):
        return
    table = _table("block", "cosine", "LR score", "± sd", "block influence", "angular distance", *further)
    for row in frame.to_dict("records"):
        numbers = ("cosine", "lr", "lr sd", "block-influence", "angular", *further)
        table.add_row(row["module"], *(f"{row[column]:.3f}" for column in numbers))
    out.print(table)
    out.print("LR score: 1 is the block that changes its input least, 0 the one that changes it most.")
    measured = f"{wording.profiled(recipe)}{at_a_time(profile.batch)}"
    out.print(f"{profile.text}: {measured}.", style="dim", highlight=False)
    _where(run)


@app.command()
@grouped
def plan(
    which: ModelOptions,
    amount: AmountOptions,
    cut: SharingOptions,
    measure: ProfileOptions,
    json_path: JsonOption = None,
) -> None:
    """Show what a target and a base would cut where, and what would be left; cuts nothing.

    The profile of an earlier run of the same recipe is used again, so only the first call takes long.
    """
    from analysis.device import DTYPES
    from analysis.errors import StorageError, UnsupportedError
    from app import wording
    from slicing.runs import ProfileRecipe
    from slicing.study.store import find_run

    chosen = cut.plan(amount.target, amount.base)
    recipe = ProfileRecipe(model=which.source(), **measure.fields())
    try:
        run = find_run(recipe.key)
    except StorageError:
        run = _perform(recipe)
    result: Any = run.result
    if result.shape is None:
        raise UnsupportedError(result.not_sliceable)
    redundancy = result.profile.redundancy(chosen.score, chosen.first_token)
    fractions = chosen.fractions(redundancy)
    schedule, constant = chosen.schedule(redundancy, result.shape), chosen.constant(result.shape)
    shape = schedule.shape_after(result.shape)
    itemsize = DTYPES[run.environment.dtype].itemsize
    data = {
        "key": run.key,
        "plan": _plain(chosen),
        "schedule": _plain(schedule),
        "capped": list(fractions.capped),
        "mean_slice": schedule.mean_slice,
        "parameters": shape.parameters,
        "flops_per_token": shape.flops_per_token,
        "dense_parameters": result.shape.parameters,
        "dense_flops_per_token": result.shape.flops_per_token,
        "weight_bytes": shape.weight_bytes(itemsize),
        "dense_weight_bytes": result.shape.weight_bytes(itemsize),
        "cache_bytes": result.shape.cache_bytes(CACHED_TOKENS, itemsize),
    }
    if _printed_as_json(data, json_path):
        return
    table = _table("block", "redundancy", "slice", "width", "")
    for block, value in enumerate(redundancy):
        share = schedule.block_fractions[block]
        mark = "capped" if fractions.capped[block] else ""
        table.add_row(str(block), f"{value:.3f}", f"{share:.1%}", str(schedule.widths[block]), mark)
    out.print(table)
    out.print(f"{result.profile.text}: {wording.profiled(recipe)}.", style="dim", highlight=False)
    dense = result.shape.parameters
    for name, each in (("planned", schedule), ("constant", constant)):
        shape = each.shape_after(result.shape)
        size = wording.told_memory(shape.weight_bytes(itemsize))
        out.print(
            f"{name}: mean slice {each.mean_slice:.1%}, {shape.parameters:,} parameters "
            f"({shape.parameters / dense - 1:+.1%} against dense), {size} on disk, "
            f"{shape.flops_per_token:,} FLOPs per token"
        )
    cache = wording.told_memory(data["cache_bytes"])
    told = (
        f"Keys and values of {CACHED_TOKENS:,} tokens take {cache}, as before: slicing does not change them."
    )
    out.print(told, style="dim", highlight=False)


@app.command(name="slice")
@grouped
def slice_command(
    output: NewFolder,
    which: ModelOptions,
    amount: AmountOptions,
    cut: SharingOptions,
    calibrate: SlicingOptions,
    evaluation: EvaluationOption = "demo",
    evaluation_windows: Annotated[
        int, typer.Option(min=0, help="Evaluation windows, for the model card; 0 for none.")
    ] = 8,
    json_path: JsonOption = None,
) -> None:
    """Slice a model and keep it, with its model card, for any command here and for transformers."""
    from analysis.sources.text import TextSource
    from slicing.runs import SliceRecipe

    text = TextSource.parse(evaluation, "evaluation")
    recipe = SliceRecipe(
        model=which.source(),
        plan=cut.plan(amount.target, amount.base),
        **calibrate.fields(),
        evaluation=text if evaluation_windows else None,
        evaluation_windows=evaluation_windows or 8,
    )
    run = _perform(recipe)
    _copy_model(run, output)
    result: Any = run.result
    data = {
        "key": run.key,
        "recipe": _plain(recipe),
        "folder": str(output),
        "schedule": _plain(result.schedule),
        "parameters": result.parameters,
        "seconds": result.seconds,
        "peak_memory": result.peak_memory,
        "perplexity": result.sliced and result.sliced.perplexity,
        "dense_perplexity": result.dense and result.dense.perplexity,
    }
    if _printed_as_json(data, json_path):
        return
    dense = result.shape.parameters
    out.print(
        f"Sliced to {result.parameters:,} parameters ({result.parameters / dense - 1:+.1%} against dense), "
        f"mean slice {result.schedule.mean_slice:.1%}, in {result.seconds:.0f} s: {output}"
    )
    if result.sliced:
        out.print(
            f"Perplexity {result.sliced.perplexity:.2f}, dense {result.dense.perplexity:.2f}: "
            f"{result.sliced.protocol}."
        )


@app.command()
@grouped
def remove(
    output: NewFolder,
    which: ModelOptions,
    calibrate: DrawOptions,
    blocks: Annotated[int, typer.Option(min=1, help="How many blocks go.")] = 4,
    by: Annotated[
        str,
        typer.Option(
            help="Which ones: method[:setting=value...], such as greedy, shortgpt, angular, streamline, top, "
            "below-last, leave-one-out, laco:merge=mean, sliding:merge=top, random:draw=1.",
        ),
    ] = "greedy",
    closing: Annotated[
        str,
        typer.Option(
            help="What closes the gaps: none; matrix, one for each; writer, the one in front of each; block, "
            "the one in front of each, trained; writers, all from there on. All but the matrix leave a plain "
            "model."
        ),
    ] = "writers",
    search_windows: Annotated[
        int, typer.Option(min=1, help="Of the calibration windows, so many decide which blocks go.")
    ] = 4,
    evaluation: EvaluationOption = "demo",
    evaluation_windows: Annotated[
        int, typer.Option(min=0, help="Evaluation windows, for the model card; 0 for none.")
    ] = 8,
    json_path: JsonOption = None,
) -> None:
    """Take whole blocks out of a model, close the gaps, and keep it.

    It is a plain checkpoint that other tools open too; with a matrix in a gap it needs transformers 5.23.
    """
    from analysis.sources.text import TextSource
    from app.journal import Entry
    from slicing.runs import RemoveRecipe

    text = TextSource.parse(evaluation, "evaluation")
    closed = "" if closing == "none" else f"+{closing}"
    recipe = RemoveRecipe(
        model=which.source(),
        **calibrate.fields(),
        removal=Entry.parse(f"remove:{by}{closed}").removal,  # type: ignore[arg-type]
        blocks=blocks,
        search_windows=search_windows,
        evaluation=text if evaluation_windows else None,
        evaluation_windows=evaluation_windows or 8,
    )
    run = _perform(recipe)
    _copy_model(run, output)
    result: Any = run.result
    data = {
        "key": run.key,
        "recipe": _plain(recipe),
        "folder": str(output),
        "layout": {"label": result.layout.label, **_plain(result.layout)},
        "parameters": result.parameters,
        "plain": result.plain,
        "seconds": result.seconds,
        "perplexity": result.reduced and result.reduced.perplexity,
        "dense_perplexity": result.dense and result.dense.perplexity,
    }
    if _printed_as_json(data, json_path):
        return
    out.print(
        f"{len(result.layout.groups)} of {result.layout.blocks} blocks ({result.layout.label}), "
        f"{result.parameters:,} parameters ({result.parameters / result.dense_parameters - 1:+.1%} against "
        f"dense): {output}"
    )
    if result.repair is None and recipe.removal.closing != "none":
        out.print("No gap has a block in front that could close it, so they stay open.")
    if result.repair and not result.repair.kept:
        out.print("Closing the gaps lowered no loss on the windows held out, so they stay open.")
    if result.reduced:
        out.print(
            f"Perplexity {result.reduced.perplexity:.2f}, dense {result.dense.perplexity:.2f}: "
            f"{result.reduced.protocol}."
        )


@app.command()
@grouped
def compare(
    which: ModelOptions,
    amount: AmountOptions,
    cut: SharingOptions,
    calibrate: SlicingOptions,
    evaluation: EvaluationOption = "demo",
    evaluation_windows: EvaluationWindowsOption = 16,
    prompt: Annotated[str | None, typer.Option(help="The prompt of the sample text.")] = None,
    new_tokens: Annotated[int, typer.Option(min=0, help="Its length in tokens; 0 for none.")] = 40,
    lens: LensOption = False,
    speed_rounds: SpeedOption = 5,
    tasks: TasksOption = "",
    limit: LimitOption = None,
    include: IncludeOption = None,
    json_path: JsonOption = None,
) -> None:
    """Evaluate the dense model, constant slicing and the plan, paired on the same windows; keep the run."""
    from analysis.sources.text import TextSource
    from slicing.study.requests import PROMPT
    from slicing.runs import CompareRecipe

    recipe = CompareRecipe(
        model=which.source(),
        plan=cut.plan(amount.target, amount.base),
        **calibrate.fields(),
        evaluation=TextSource.parse(evaluation, "evaluation"),
        evaluation_windows=evaluation_windows,
        prompt=prompt or PROMPT,
        new_tokens=new_tokens,
        lens=lens,
        speed_rounds=speed_rounds,
        tasks=tuple(name.strip() for name in tasks.split(",") if name.strip()),
        task_limit=limit,
        task_folder=include,
    )
    run = _perform(recipe)
    result: Any = run.result
    if not _printed_as_json(_comparison(run, result), json_path):
        _print_comparison(result, recipe.method)
        _where(run)


@app.command()
@grouped
def sweep(
    which: ModelOptions,
    cut: SharingOptions,
    calibrate: SlicingOptions,
    bases: Annotated[str, typer.Option(help="SB of the columns, with commas.")] = "0,.1,.2",
    targets: Annotated[str, typer.Option(help="SP of the rows, with commas.")] = (".15,.25,.35"),
    evaluation: EvaluationOption = "demo",
    evaluation_windows: EvaluationWindowsOption = 16,
    executor: ExecutorOption = "local",
    address: AddressOption = None,
    workers: WorkersOption = None,
    json_path: JsonOption = None,
) -> None:
    """Try a grid of bases and targets beside constant slicing; what is stored already is not tried again."""
    from analysis.sources.text import TextSource
    from app import wording
    from app.tables import grid_table
    from slicing.grid import read_grid
    from slicing.runs import SweepRecipe

    recipe = SweepRecipe(
        model=which.source(),
        plan=cut.plan(),
        bases=numbers("bases", bases),
        targets=numbers("targets", targets),
        **calibrate.fields(),
        evaluation=TextSource.parse(evaluation, "evaluation"),
        evaluation_windows=evaluation_windows,
    )
    run = _perform(recipe, _executor(executor, address, workers))
    if _printed_as_json(_plain(run), json_path):
        return
    out.print(grid_table(read_grid(recipe)).to_string(index=False), highlight=False)
    out.print(wording.GRID_READING)
    _where(run)


@app.command()
@grouped
def contest(
    which: ModelOptions,
    calibrate: CalibrationOptions,
    method: MethodOption = Method.FAITHFUL,
    target: Annotated[
        float, typer.Option(help="SP of constant slicing, whose size all others are brought to.")
    ] = 0.25,
    entries: Annotated[
        str,
        typer.Option(
            help="With commas, each: allocation [:score] [:setting=value] [+span=blocks] [+repair], "
            "without spaces, such as "
            "constant,dynamic:lr:base=0+span=3+repair. Constant has to be among them.",
            show_default="everyone",
        ),
    ] = "",
    seeds: Annotated[str, typer.Option(help="Of the calibration windows, with commas.")] = "0,1,2",
    equal: Annotated[
        Alike, typer.Option(help="What all have alike: parameters, or the mean slice.")
    ] = Alike.PARAMETERS,
    evaluation: EvaluationOption = "demo",
    other: OtherOption = "demo:out-of-style",
    evaluation_windows: EvaluationWindowsOption = 16,
    rounding: Annotated[Rounding, typer.Option(help="Widths are multiples of this.")] = Rounding.EIGHT,
    max_fraction: Annotated[float, typer.Option(help="No block loses more than this.")] = 0.9,
    embedding: Annotated[
        Embedding, typer.Option(help="Tied models: share the table with the head, or untie.")
    ] = Embedding.AUTO,
    executor: ExecutorOption = "local",
    address: AddressOption = None,
    workers: WorkersOption = None,
    json_path: JsonOption = None,
) -> None:
    """Set ways to decide where to cut against each other at equal size; stored trials are not run again."""
    from analysis.sources.text import TextSource
    from app import wording
    from app.tables import contest_table
    from slicing.contest import read_contest
    from slicing.plan import Plan
    from slicing.runs import ContestRecipe
    from app.journal import Entry

    chosen: dict[str, Any] = {
        "plan": Plan(
            target=target, rounding=int(rounding), max_fraction=max_fraction, embedding=embedding.value
        )
    }
    if entries:
        chosen["entries"] = tuple(Entry.parse(each) for each in entries.split(","))
    recipe = ContestRecipe.model_validate(
        {
            "model": which.source(),
            **calibrate.fields(),
            "method": method.value,
            **chosen,
            "seeds": whole_numbers("seeds", seeds),
            "equal": equal.value,
            "evaluation": TextSource.parse(evaluation, "evaluation"),
            "other": TextSource.parse(other, "evaluation") if other else None,
            "evaluation_windows": evaluation_windows,
        }
    )
    run = _perform(recipe, _executor(executor, address, workers))
    if _printed_as_json(_plain(run), json_path):
        return
    found = read_contest(recipe)
    out.print(contest_table(found).to_string(index=False), highlight=False)
    for sentence in wording.contest(found):
        out.print(sentence, highlight=False)
    _where(run)


@app.command()
@grouped
def leaderboard(
    which: ModelOptions,
    calibrate: CalibrationOptions,
    method: MethodOption = Method.FAITHFUL,
    sizes: Annotated[
        str, typer.Option(help="The shares of the parameters that go, with commas; each to a whole block.")
    ] = "0.1,0.2,0.3",
    entries: Annotated[
        str,
        typer.Option(
            help="As in a contest, and remove:method [:setting=value] [+matrix or +writer or +block or "
            "+writers], or both: remove:greedy:share=0.5/constant+span=3+repair.",
            show_default="width, depth and both",
        ),
    ] = "",
    seeds: Annotated[str, typer.Option(help="Of the calibration windows, with commas.")] = "0",
    search_windows: Annotated[
        int, typer.Option(min=1, help="Of the calibration windows, so many decide which blocks go.")
    ] = 4,
    evaluation: EvaluationOption = "demo",
    other: OtherOption = "demo:out-of-style",
    evaluation_windows: EvaluationWindowsOption = 16,
    rounding: Annotated[Rounding, typer.Option(help="Widths are multiples of this.")] = Rounding.EIGHT,
    embedding: Annotated[
        Embedding, typer.Option(help="Tied models: share the table with the head, or untie.")
    ] = Embedding.AUTO,
    speed_rounds: SpeedOption = 0,
    tasks: TasksOption = "",
    limit: LimitOption = None,
    include: IncludeOption = None,
    executor: ExecutorOption = "local",
    address: AddressOption = None,
    workers: WorkersOption = None,
    json_path: JsonOption = None,
) -> None:
    """Slicing beside removing whole blocks, at several sizes and equal at each; stored trials are kept."""
    from analysis.sources.text import TextSource
    from app import wording
    from app.tables import board_table
    from slicing.study.verdicts import read_board
    from slicing.plan import Plan
    from app.journal import Entry
    from slicing.runs import LeaderboardRecipe

    chosen: dict[str, Any] = {"plan": Plan(rounding=int(rounding), embedding=embedding.value)}
    if entries:
        chosen["entries"] = tuple(Entry.parse(each) for each in entries.split(","))
    recipe = LeaderboardRecipe.model_validate(
        {
            "model": which.source(),
            **calibrate.fields(),
            "method": method.value,
            **chosen,
            "sizes": numbers("sizes", sizes),
            "seeds": whole_numbers("seeds", seeds),
            "search_windows": search_windows,
            "evaluation": TextSource.parse(evaluation, "evaluation"),
            "other": TextSource.parse(other, "evaluation") if other else None,
            "evaluation_windows": evaluation_windows,
            "speed_rounds": speed_rounds,
            "tasks": tuple(name.strip() for name in tasks.split(",") if name.strip()),
            "task_limit": limit,
            "task_folder": include,
        }
    )
    run = _perform(recipe, _executor(executor, address, workers))
    if _printed_as_json(_plain(run), json_path):
        return
    board = read_board(recipe)
    for table in board.tables:
        out.print(f"{wording.percent(table.recipe.fewer or 0.0)} fewer parameters", highlight=False)
        out.print(board_table(table, run.result.shape).to_string(index=False), highlight=False)  # type: ignore[union-attr]
    for sentence in wording.board(board):
        out.print(sentence, highlight=False)
    _where(run)


@app.command()
@grouped
def evaluate(
    which: ModelOptions,
    evaluation: EvaluationOption = "demo",
    evaluation_windows: EvaluationWindowsOption = 16,
    window_length: LengthOption = 512,
    tasks: Annotated[
        str, typer.Option(help="Tasks of the lm-evaluation-harness instead, such as 'arc_easy,hellaswag'.")
    ] = "",
    include: IncludeOption = None,
    limit: LimitOption = None,
    num_fewshot: Annotated[int | None, typer.Option(min=0, help="Worked examples per question.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per forward pass of the tasks.")] = 1,
    json_path: JsonOption = None,
) -> None:
    """Measure the perplexity of one model, dense or sliced, or what it scores on tasks."""
    from analysis.evaluate import perplexity, safe_precision
    from analysis.sources.opening import fetch_missing
    from analysis.sources.text import TextSource
    from analysis.sources.windows import token_windows
    from slicing.store import open_model

    if tasks:
        names = [name.strip() for name in tasks.split(",") if name.strip()]
        _evaluate_tasks(which.source(), names, limit, num_fewshot, include, batch_size, json_path)
        return
    source, text = which.source(), TextSource.parse(evaluation, "evaluation")
    with _progress() as listen:
        fetch_missing(source, listen)
        listen("Opening", 0, 1)
        opened = open_model(source)
        windows = token_windows(text, opened.tokenizer, window_length, evaluation_windows)
        precision = safe_precision(source, windows, opened.model)
        measured = perplexity(opened.model, windows, listen, precision=precision)
    parameters = sum(parameter.numel() for parameter in opened.model.parameters())
    interval = measured.interval
    data = {"model": source.label, "text": text.label, "parameters": parameters, **_plain(measured)}
    if _printed_as_json({**data, "protocol": measured.protocol}, json_path):
        return
    between = f" (95 % interval {interval[0]:.2f} to {interval[1]:.2f})" if interval else ""
    out.print(f"{source.label}, {parameters:,} parameters: perplexity {measured.perplexity:.2f}{between}")
    out.print(f"{text.label}: {measured.protocol}")


def _evaluate_tasks(
    source: ModelSource,
    names: list[str],
    limit: int | None,
    num_fewshot: int | None,
    include: Path | None,
    batch_size: int,
    json_path: Path | None,
) -> None:
    from analysis.sources.opening import fetch_missing
    from analysis.tasks import evaluate_tasks
    from slicing.store import open_model

    with _progress() as listen:
        fetch_missing(source, listen)
        listen("Opening", 0, 1)
        opened = open_model(source)
        listen("Opening", 1, 1)
    # The harness draws bars of its own.
    scores = evaluate_tasks(
        opened, names, limit=limit, num_fewshot=num_fewshot, include=include, batch_size=batch_size
    )
    if _printed_as_json({"model": source.label, "scores": [_plain(score) for score in scores]}, json_path):
        return
    table = _table("task", "metric", "value", "± standard error", "examples", "few-shot")
    for each in scores:
        error = "-" if each.standard_error is None else f"{each.standard_error:.4f}"
        table.add_row(
            each.task, each.metric, f"{each.value:.4f}", error, f"{each.examples:,}", str(each.few_shot)
        )
    out.print(source.label, style="bold")
    out.print(table)


@app.command()
@grouped
def generate(
    which: ModelOptions,
    prompt: Annotated[str, typer.Option(help="What to continue.")] = "Mr. Speaker, the state of our Union is",
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to add at most.")] = 60,
    json_path: JsonOption = None,
) -> None:
    """Continue a prompt greedily with a model, dense or sliced."""
    from analysis.evaluate import continue_text
    from analysis.sources.opening import fetch_missing
    from slicing.store import open_model

    source = which.source()
    with _progress() as listen:
        fetch_missing(source, listen)
        listen("Opening", 0, 1)
        opened = open_model(source)
        listen("Generating", 0, 1)
        sample = continue_text(opened, prompt, new_tokens)
    if not _printed_as_json({"model": source.label, "prompt": prompt, **_plain(sample)}, json_path):
        out.print(prompt + sample.text, highlight=False)
        err.print(f"{sample.tokens} tokens", style="dim")


@runs_app.callback()
def runs(context: typer.Context, json_path: JsonOption = None) -> None:
    """Stored runs: list them (as without a command), show, rename, export, import, delete, trash, restore."""
    if not context.invoked_subcommand:
        list_command(json_path)


@runs_app.command(name="list")
def list_command(json_path: JsonOption = None) -> None:
    """List stored runs, newest first."""
    from app.wording import UNREADABLE
    from slicing.study.store import summaries

    listed, broken = summaries()
    rows = [
        {
            "key": each.name,
            "kind": each.kind,
            "model": each.model,
            "created": each.created.isoformat(),
            "seconds": each.seconds,
        }
        for each in listed
    ]
    if _printed_as_json(
        {"runs": rows, "broken": [{"key": each.name, "problem": each.problem} for each in broken]}, json_path
    ):
        return
    table = _table("key", "kind", "model", "created", "seconds")
    for row in rows:
        table.add_row(
            _cell(row["key"]), row["kind"], _cell(row["model"]), row["created"][:16], f"{row['seconds']:.0f}"
        )
    for each in broken:
        table.add_row(_cell(each.name), UNREADABLE)
    out.print(table if table.rows else "No runs yet: 'slicescope compare' makes one.")
    for each in broken:
        err.print(each.problem, style="yellow", highlight=False, soft_wrap=True)


@runs_app.command()
def show(
    key: Annotated[str, typer.Argument(help="The key, or its first digits.")],
    json_path: JsonOption = None,
) -> None:
    """Show one run; --json gives all of it."""
    from slicing.runs import CompareResult
    from slicing.study.store import find_run

    run = find_run(key)
    if _printed_as_json(_plain(run), json_path):
        return
    if isinstance(run.result, CompareResult):
        _print_comparison(run.result, run.recipe.method)  # type: ignore[union-attr]
    else:
        out.print(run.result.profile.to_frame().round(3).to_string(index=False), highlight=False)
    _where(run)


@runs_app.command()
def delete(key: Annotated[str, typer.Argument(help="The whole key.")]) -> None:
    """Move one run, and for a slice run its model, into the trash."""
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
    from slicing.library import Note, annotate, note_of

    annotate(key, Note(label=label, text=note_of(key).text if note is None else note))
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
            "what": title(each.entry.recipe),
        }
        for each in jobs
    ]
    if _printed_as_json({"jobs": rows, "broken": broken}, json_path):
        return
    table = _table("job", "state", "asked, UTC", "by", "what")
    for row in rows:
        table.add_row(
            row["job"], row["state"], row["asked"][5:16].replace("T", " "), row["by"][-12:], row["what"]
        )
    out.print(table if rows else "No job waits or runs.")
    for sentence in broken:
        err.print(sentence, style="yellow")


@queue_app.command()
def cancel(job: Annotated[str, typer.Argument(help="A job that 'slicescope queue' lists.")]) -> None:
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
    from slicing.study.store import find_run

    _write_new(output, pack(find_run(key).key))


@runs_app.command(name="import")
def import_command(
    file: Annotated[Path, typer.Argument(help="A zip file that 'export' wrote, or a run.json.")],
) -> None:
    """Store a run that was made elsewhere."""
    from slicing.library import bring_in, read_packed

    content = read_packed(file)
    run = bring_in(content, f"'{file}'")
    out.print(f"Run {run.key} is stored.", highlight=False)


@app.command()
def report(key: Annotated[str, typer.Argument(help="The key, or 'demo'.")], output: NewFile) -> None:
    """Write a run as one HTML file that needs no network: charts, tables, recipe, citations."""
    from app.report import build_report

    _write_new(output, build_report(_run_named(key)).encode())


@app.command()
def cite(key: Annotated[str, typer.Argument(help="The key, or 'demo'.")] = "demo") -> None:
    """Print BibTeX of the methods that a run used."""
    from app.citations import bibtex

    out.print(bibtex(_run_named(key).recipe), highlight=False, soft_wrap=True)


def _run_named(key: str) -> Run:
    from slicing.study.store import bundled_run, find_run

    return bundled_run() if key == "demo" else find_run(key)


def _write_new(path: Path, content: bytes) -> None:
    """Write a file whole, and never over another one."""
    write_whole(check_new_file(path), content)
    out.print(f"{path}", highlight=False)


@app.command(name="app")
def app_command(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to serve on.")] = 8501,
    address: Annotated[str, typer.Option(help="Address to bind; the default serves this machine only.")] = (
        "127.0.0.1"
    ),
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the browser.")] = True,
    demo_mode: Annotated[
        bool, typer.Option("--demo-mode", help="For strangers: fixed models and texts, small budgets.")
    ] = False,
    allow_model: Annotated[
        list[str] | None, typer.Option(help="Offer this model and no other; repeat it for several.")
    ] = None,
    root: Annotated[
        list[Path] | None,
        typer.Option(help="A folder that paths may reach, in place of your home and the working folder."),
    ] = None,
    host: Annotated[
        list[str] | None, typer.Option(help="A name under which others reach it, such as that of a proxy.")
    ] = None,
    allow_embedding: Annotated[
        list[str] | None, typer.Option(help="An origin whose pages may show it in a frame.")
    ] = None,
    job_minutes: Annotated[
        int | None,
        typer.Option(min=1, help="Stop a job that ran so long.", show_default="none; 15 with --demo-mode"),
    ] = None,
) -> None:
    """Serve the app in the browser."""
    from analysis.sources.model import ModelSource
    from app.policy import Policy
    from app.serve import serve

    for folder in root or ():
        check_folder(folder)
    models = tuple(ModelSource.parse(model) for model in allow_model or ())
    policy = Policy(models=models or None, roots=tuple(root) if root else None, minutes=job_minutes)
    if demo_mode:
        policy = Policy.demo(models, job_minutes)
    serve(port, address, open_browser, policy, hosts=host or (), frames=allow_embedding or ())


@app.command()
@grouped
def prepare(which: ModelOptions) -> None:
    """Have a model ready: fetch it from the Hub, or convert the weights of a GGUF file (the demo's too)."""
    from analysis.sources.opening import dequantise, fetch_missing

    source = which.source()
    with _progress() as listen:
        fetch_missing(source, listen)
    if source.kind in ("demo", "gguf"):
        with err.status(Text(visible(f"Converting {source.label}"))):
            dequantise(source)
    out.print(f"{source.label} is ready.")


def main() -> None:
    """The console script: every error of ours is one sentence and its exit code."""
    quieten()
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except SlicescopeError as error:
        _refuse(error)
    except ValidationError as error:  # of a recipe: flags take numbers that it does not
        _refuse(PlanError(f"This cannot be done ({first_fault(error, 'all of it')}): give another value."))
    except TyperException as error:  # a flag or a command that cannot be parsed
        error.message = brief(visible(error.message))
        rich_format_error(error)  # type: ignore[arg-type]
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        err.print("slicescope: stopped; only what had been finished is stored.", style="red")
        sys.exit(Cancelled.exit_code)


def _refuse(error: SlicescopeError) -> NoReturn:
    err.print(f"slicescope: {error}", style="red", highlight=False, soft_wrap=True)
    sys.exit(error.exit_code)


def _executor(name: str, address: str | None, workers: int | None) -> Executor | None:
    if name == "ray":
        from slicing.cluster import on_ray

        return on_ray(address, workers=workers)
    if name != "local" or address:
        raise PlanError(
            f"The executor '{name}' with the address '{address}' is not known: choose 'local' without an "
            "address, or 'ray'."
        )
    return None


def _perform(recipe: Recipe, executor: Executor | None = None) -> Run:
    from analysis.errors import UnsupportedError
    from analysis.sources.configuration import shape_of
    from slicing.bench import memory_need
    from slicing.study.run import perform
    from slicing.runs import CompareRecipe, SliceRecipe

    shape = None
    with suppress(UnsupportedError):  # which says so itself where it is in the way
        shape = shape_of(recipe.model)
    if shape and isinstance(recipe, SliceRecipe | CompareRecipe):
        need = memory_need(recipe, shape)
        err.print(f"Slicing takes {need} at its peak.", style="dim", highlight=False)
    for warning in recipe.warnings(shape):
        err.print(warning, style="yellow", highlight=False)
    with _progress() as listen:
        run = perform(recipe, listen, executor=executor)
    for warning in run.result.profile.warnings():
        err.print(warning, style="yellow", highlight=False)
    return run


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
def _progress() -> Iterator[Any]:
    """A progress callback that draws one bar per phase on standard error."""
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


def _plain(value: Any) -> dict[str, Any]:
    return value.model_dump(mode="json")


def _printed_as_json(data: dict[str, Any], path: Path | None) -> bool:
    """Write ``data`` where ``--json`` says; true when that was standard output."""
    if path is None:
        return False
    text = json.dumps(data, indent=2, allow_nan=False)
    if str(path) == "-":
        print(text)  # noqa: T201
        return True
    write_whole(path, (text + "\n").encode())
    return False


def _comparison(run: Run, result: CompareResult) -> dict[str, Any]:
    shape = result.shape
    return {
        "key": run.key,
        "recipe": _plain(run.recipe),
        "warning": " ".join(run.recipe.warnings(shape) + result.profile.warnings()) or None,
        "evaluations": [each.summary(shape.hidden_size, shape.block_count) for each in result.contestants],
        "differences": [
            {
                **_plain(each),
                "percent": each.percent,
                "percent_interval": each.percent_interval,
                "verdict": each.verdict,
            }
            for each in result.differences
        ],
        "calibration": _plain(result.calibration),
        "evaluation": _plain(result.evaluation),
        "environment": _plain(run.environment),
        "seconds": run.seconds,
    }


def _table(*columns: str) -> Table:
    """A table that fits 80 columns: ruled by its head alone."""
    return Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)


def _cell(text: str) -> str:
    """A text on one line, so that nobody's name looks like a row of its own."""
    return text.replace("\n", "\\n").replace("\t", "\\t")


def _print_comparison(result: CompareResult, method: str) -> None:
    from app.tables import task_table
    from app.wording import METHODS, window_reading

    table = _table()
    for column in ("model", "perplexity", "95 % interval", "slice", "parameters", "MFLOPs"):
        table.add_column(column, no_wrap=True, justify="left" if column == "model" else "right")
    dense = result.contestant("dense")
    for each in result.contestants:
        interval = each.evaluation.interval
        table.add_row(
            each.name,
            f"{each.evaluation.perplexity:.2f}",
            f"{interval[0]:.1f} to {interval[1]:.1f}" if interval else "-",
            f"{each.mean_slice:.1%}",
            f"{each.parameters / 1e6:.1f}M {each.parameters / dense.parameters - 1:+.1%}",
            f"{each.flops_per_token / 1e6:.0f}",
        )
    out.print(table)
    for each in result.differences:
        out.print(_sentence(each), highlight=False)
    if (scores := task_table(result.contestants)) is not None:
        out.print(scores.to_string(index=False), highlight=False)
    out.print("MFLOPs are those of the linear maps for one token.", style="dim")
    out.print(f"{result.evaluation.label}: {dense.evaluation.protocol}.", style="dim", highlight=False)
    out.print(window_reading(result.evaluation), style="dim", highlight=False)
    out.print(METHODS[method], style="dim")
    for each in result.contestants:
        if each.sample:
            out.print(f"{each.title} continues (an illustration, not evidence):", style="bold")
            out.print(each.sample.text.strip(), highlight=False)


def _sentence(each: Difference) -> str:
    between = ""
    if each.percent_interval:
        low, high = each.percent_interval
        between = f", 95 % interval {low:+.1f} to {high:+.1f} %"
    return (
        f"{each.contender} against {each.baseline}: {each.percent:+.1f} % perplexity "
        f"({each.nats:+.3f} nats per token{between}): {each.verdict}"
    )


def _copy_model(run: Run, output: Path) -> None:
    """Copy the model that a run keeps to a new folder, whole or not at all."""
    from analysis.storage import require_space, runs_folder, whole_folder
    from slicing.study.store import MODEL_FOLDER

    model = runs_folder() / run.key / MODEL_FOLDER
    require_space(output, sum(file.stat().st_size for file in model.rglob("*") if file.is_file()))
    with whole_folder(output) as draft:
        shutil.copytree(model, draft, dirs_exist_ok=True)


def _where(run: Run) -> None:
    from analysis.storage import runs_folder

    err.print(f"Run {run.key}, {run.seconds:.0f} s, stored in {runs_folder() / run.key}", style="dim")


if __name__ == "__main__":
    main()
