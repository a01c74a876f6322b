"""Commands that look at a model and change nothing: profile, plan, evaluate, generate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import (
    AmountOptions,
    EvaluationOptions,
    Int8Option,
    JsonOption,
    LensOption,
    ModelOptions,
    ProfileOptions,
    SharingOptions,
    TaskOptions,
    UnitsMeasuredOption,
    UnitsOption,
)
from app.cli.reading import grouped
from app.cli.terminal import (
    carry_out,
    err,
    open_source,
    out,
    plain,
    printed_as_json,
    progress_bars,
    table_of,
    tell_where,
)

if TYPE_CHECKING:
    from analysis.evaluate import Perplexity
    from analysis.sources.model import ModelSource
    from slicing.inner.costs import UnitCosts
    from slicing.plan import Plan
    from slicing.study.results import Run


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
            "discarded-energy, heavy-tail, depth, activation, wanda, leverage, fisher, taylor."
        ),
    ] = "",
    lens: LensOption = False,
    units: UnitsOption = False,
    units_measured: UnitsMeasuredOption = False,
    json_path: JsonOption = None,
) -> None:
    """Measure how much every block changes its input: LR score, block influence, angular distance."""
    from slicing.study.requests import ProfileRequest

    probes = tuple(name.strip() for name in probe.split(",") if name.strip())
    fields = {**measure.fields(), "bases": bases, "probes": probes, "lens": lens}
    fields |= {"units": units or units_measured, "units_measured": units_measured}
    run = carry_out(ProfileRequest(model=which.source(), **fields))
    _show_profile(run, first_token, json_path)


def _show_profile(run: Run, first_token: bool, json_path: Path | None) -> None:
    from analysis.evaluate import at_a_time
    from analysis.scores import find_score
    from app import wording
    from slicing.study.store import find_details

    request: Any = run.request
    measured, further = run.result.profile, list(request.probes)
    frame = measured.to_frame(first_token)
    if request.lens and (details := find_details(run)) and details.lens is not None:
        frame["logit lens"] = details.lens.mean(axis=0, dtype=float)
        further.append("logit lens")
    shape = getattr(run.result, "shape", None)
    units = list(shape.kinds) if shape else []
    data = {
        "key": run.key,
        "request": plain(request),
        "blocks": frame.to_dict("records"),
        "units": units,
    }
    costs = run.result.units if run.result.kind == "profile" else None
    if costs:
        data["unit_costs"] = plain(costs)
    if printed_as_json(data, json_path):
        return
    table = table_of("block", "cosine", "LR score", "± sd", "block influence", "angular distance", *further)
    for row in frame.to_dict("records"):
        columns = ("cosine", "lr", "lr sd", "block-influence", "angular", *further)
        table.add_row(row["module"], *(f"{row[column]:.3f}" for column in columns))
    out.print(table)
    out.print("LR score: 1 is the block that changes its input least, 0 the one that changes it most.")
    if "lr-published" in measured.scores():  # apart from the scale it differs in the last block alone
        true, released = (measured.values(name, first_token)[-1] for name in ("lr", "lr-published"))
        score = find_score("lr-published")
        out.print(f"{score.title}: {released:.3f} for the last block, not {true:.3f}. {score.about}")
    if units:
        out.print(f"{wording.units_inside(units)}.", highlight=False)
    told = f"{measured.text}: {wording.profiled(request)}{at_a_time(measured.batch)}."
    out.print(told, style="dim", highlight=False)
    if costs:
        _show_units(costs)
    tell_where(run)


def _show_units(costs: UnitCosts) -> None:
    """Print what every branch and its units cost, and how well that was predicted."""
    from app import wording
    from app.unit_tables import unit_table

    frame = unit_table(costs).drop(columns="× predicted", errors="ignore")  # which sentences tell
    names = frame["block"].astype(str) + " " + frame["part"]
    frame = frame.drop(columns=["block", "part"])
    table = table_of("part")
    for column in frame.columns:
        table.add_column(column, justify="right", min_width=7)  # a number is never cut
    for name, row in zip(names, frame.itertuples(index=False), strict=True):
        table.add_row(name, *(_number(value) for value in row))
    shares = ", and the share of the curvature of massive tokens" if "massive tokens" in frame else ""
    out.print(f"What parts inside the blocks cost, in nats per token{shares}", style="bold")
    out.print(table)
    for sentence in (wording.units_found(costs), *wording.units_agreement(costs)):
        out.print(sentence, highlight=False)
    if paired := wording.units_agreement(costs, "paired"):
        out.print(f"Predicted token by token: {' '.join(paired)}", highlight=False)


def _number(value: float) -> str:
    """A number of a table in two digits, and nothing where there is none."""
    return "" if value != value else f"{value:.2g}"


@grouped
def plan_command(
    which: ModelOptions,
    amount: AmountOptions,
    cut: SharingOptions,
    measure: ProfileOptions,
    json_path: JsonOption = None,
) -> None:
    """Show what a target and a base would cut where, and what would be left; cuts nothing.

    The profile of an earlier run of the same request is used again, so only the first call takes long.
    """
    from analysis.errors import UnsupportedError
    from slicing.study.requests import ProfileRequest
    from slicing.study.store import find_stored

    chosen = cut.plan(amount.target, amount.base)
    request = ProfileRequest(model=which.source(), **measure.fields())
    run = find_stored(request) or carry_out(request)
    result: Any = run.result
    if result.shape is None:
        raise UnsupportedError(result.not_sliceable)
    data = _planned(run, chosen)
    if not printed_as_json(data, json_path):
        _show_plan(run, chosen, data)


def _planned(run: Run, chosen: Plan) -> dict[str, Any]:
    from analysis.device import DTYPES
    from analysis.shape import CACHED_TOKENS

    result: Any = run.result
    redundancy = result.profile.redundancy(chosen.score, chosen.first_token)
    schedule = chosen.schedule(redundancy, result.shape)
    shape = schedule.shape_after(result.shape)
    itemsize = DTYPES[run.environment.dtype].itemsize
    return {
        "key": run.key,
        "plan": plain(chosen),
        "schedule": plain(schedule),
        "capped": list(chosen.fractions(redundancy).capped),
        "mean_slice": schedule.mean_slice,
        "parameters": shape.parameters,
        "flops_per_token": shape.flops_per_token,
        "dense_parameters": result.shape.parameters,
        "dense_flops_per_token": result.shape.flops_per_token,
        "weight_bytes": shape.weight_bytes(itemsize),
        "dense_weight_bytes": result.shape.weight_bytes(itemsize),
        "cache_bytes": result.shape.cache_bytes(CACHED_TOKENS, itemsize),
    }


def _show_plan(run: Run, chosen: Plan, data: dict[str, Any]) -> None:
    from analysis.device import DTYPES
    from analysis.shape import CACHED_TOKENS
    from app import wording

    result: Any = run.result
    redundancy = result.profile.redundancy(chosen.score, chosen.first_token)
    schedule, constant = chosen.schedule(redundancy, result.shape), chosen.constant(result.shape)
    table = table_of("block", "redundancy", "slice", "width", "")
    for block, value in enumerate(redundancy):
        share = schedule.block_fractions[block]
        mark = "capped" if data["capped"][block] else ""
        table.add_row(str(block), f"{value:.3f}", f"{share:.1%}", str(schedule.widths[block]), mark)
    out.print(table)
    out.print(f"{result.profile.text}: {wording.profiled(run.request)}.", style="dim", highlight=False)
    dense = result.shape.parameters
    for name, each in (("planned", schedule), ("constant", constant)):
        shape = each.shape_after(result.shape)
        size = wording.memory(shape.weight_bytes(DTYPES[run.environment.dtype].itemsize))
        out.print(
            f"{name}: mean slice {each.mean_slice:.1%}, {shape.parameters:,} parameters "
            f"({shape.parameters / dense - 1:+.1%} against dense), {size} on disk, "
            f"{shape.flops_per_token:,} FLOPs per token"
        )
    cache = wording.memory(data["cache_bytes"])
    told = (
        f"Keys and values of {CACHED_TOKENS:,} tokens take {cache}, as before: slicing does not change them."
    )
    out.print(told, style="dim", highlight=False)


@grouped
def evaluate(
    which: ModelOptions,
    judge: EvaluationOptions,
    asked: TaskOptions,
    window_length: Annotated[int, typer.Option(min=2, help="Tokens in a window.")] = 512,
    num_fewshot: Annotated[
        int | None, typer.Option(min=0, help="With --tasks: worked examples per question.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="With --tasks: rows per forward pass.")] = 1,
    int8: Int8Option = False,
    json_path: JsonOption = None,
) -> None:
    """Measure the perplexity of one model, dense or smaller, or with --tasks what it scores on tasks."""
    from analysis.errors import PlanError
    from analysis.evaluate import perplexity, safe_precision
    from analysis.int8 import evaluate_int8
    from analysis.sources.windows import token_windows
    from app.wording import memory

    source = which.source()
    if asked.names and int8:
        raise PlanError("Tasks are not scored in int8: leave out --int8, or --tasks for the perplexity.")
    if asked.names:
        _evaluate_tasks(source, asked, num_fewshot, batch_size, json_path)
        return
    text = judge.fields()["evaluation"]
    with progress_bars() as listen:
        opened = open_source(source, listen)
        windows = token_windows(text, opened.tokenizer, window_length, judge.evaluation_windows)
        precision = safe_precision(source, windows, opened.model)
        measured = perplexity(opened.model, windows, listen, precision=precision)
        eight = evaluate_int8(opened.model, windows, listen, precision=precision) if int8 else None
    parameters = sum(parameter.numel() for parameter in opened.model.parameters())
    size = sum(parameter.nbytes for parameter in opened.model.parameters())
    data = {"model": source.label, "text": text.label, "parameters": parameters, **plain(measured)}
    data |= {"protocol": measured.protocol}
    data |= {"bytes": size, "int8": plain(eight)} if eight else {}
    if printed_as_json(data, json_path):
        return
    out.print(f"{source.label}, {parameters:,} parameters: {_perplexity(measured)}")
    if eight:
        out.print(
            f"in int8, {memory(eight.bytes)} of weights instead of {memory(size)}: "
            f"{_perplexity(eight.evaluation)}"
        )
    out.print(f"{text.label}: {measured.protocol}")


def _perplexity(measured: Perplexity) -> str:
    """A perplexity with its interval."""
    between = measured.interval
    interval = f" (95 % interval {between[0]:.2f} to {between[1]:.2f})" if between else ""
    return f"perplexity {measured.perplexity:.2f}{interval}"


def _evaluate_tasks(
    source: ModelSource,
    asked: TaskOptions,
    num_fewshot: int | None,
    batch_size: int,
    json_path: Path | None,
) -> None:
    from analysis.tasks import evaluate_tasks

    with progress_bars() as listen:
        opened = open_source(source, listen)
    # The harness draws bars of its own.
    scores = evaluate_tasks(
        opened,
        list(asked.names),
        limit=asked.limit,
        num_fewshot=num_fewshot,
        include=asked.include,
        batch_size=batch_size,
    )
    if printed_as_json({"model": source.label, "scores": [plain(score) for score in scores]}, json_path):
        return
    table = table_of("task", "metric", "value", "± standard error", "examples", "few-shot")
    for each in scores:
        error = "-" if each.standard_error is None else f"{each.standard_error:.4f}"
        table.add_row(
            each.task, each.metric, f"{each.value:.4f}", error, f"{each.examples:,}", str(each.few_shot)
        )
    out.print(source.label, style="bold")
    out.print(table)


@grouped
def generate(
    which: ModelOptions,
    prompt: Annotated[str, typer.Option(help="What to continue.")] = "Mr. Speaker, the state of our Union is",
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to add at most.")] = 60,
    json_path: JsonOption = None,
) -> None:
    """Continue a prompt greedily with a model, dense or smaller."""
    from analysis.evaluate import continue_text

    source = which.source()
    with progress_bars() as listen:
        opened = open_source(source, listen)
        listen("Generating", 0, 1)
        sample = continue_text(opened, prompt, new_tokens)
    if not printed_as_json({"model": source.label, "prompt": prompt, **plain(sample)}, json_path):
        out.print(prompt + sample.text, highlight=False)
        err.print(f"{sample.tokens} tokens", style="dim")
