"""Commands that look at a model and change nothing: profile, plan, evaluate, generate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analysis.numbers import LARGEST_SEED
from app.cli.amount import AmountOptions
from app.cli.options import (
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
from app.cli.progress import progress_bars
from app.cli.reading import grouped
from app.cli.rows import print_rows
from app.cli.showing import print_profile
from app.cli.terminal import note, out, plain, printed_as_json, tell_where
from app.cli.work import carry_out, open_source

if TYPE_CHECKING:
    from analysis.evaluate import Perplexity
    from analysis.sources.model import ModelSource
    from analysis.writing import Place
    from slicing.plans import Plan
    from slicing.studies.results import Run


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
    from slicing.studies.requests import ProfileRequest

    probes = tuple(name.strip() for name in probe.split(",") if name.strip())
    fields = {**measure.fields(), "bases": bases, "probes": probes, "lens": lens}
    fields |= {"units": units or units_measured, "units_measured": units_measured}
    run = carry_out(ProfileRequest(model=which.source(), **fields))
    _show_profile(run, first_token, json_path)


def _show_profile(run: Run, first_token: bool, json_path: Path | None) -> None:
    from slicing.studies.store import find_details

    request: Any = run.request
    frame = run.result.profile.to_frame(first_token)
    if request.lens and (details := find_details(run)) and details.lens is not None:
        frame["logit lens"] = details.lens.mean(axis=0, dtype=float)
    shape = getattr(run.result, "shape", None)
    data = {
        "key": run.key,
        "request": plain(request),
        "blocks": frame.to_dict("records"),
        "units": list(shape.kinds) if shape else [],
    }
    if run.result.kind == "profile" and run.result.units:
        data["unit_costs"] = plain(run.result.units)
    if not printed_as_json(data, json_path):
        print_profile(run, first_token)
        tell_where(run)


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
    from slicing.studies.requests import ProfileRequest
    from slicing.studies.store import find_stored

    fewer = amount.share()
    chosen = amount.plan(cut, which.device)
    request = ProfileRequest(model=which.source(), **measure.fields())
    run = find_stored(request) or carry_out(request)
    result: Any = run.result
    if result.shape is None:
        raise UnsupportedError(result.not_sliceable)
    if fewer is not None:
        redundancy = result.profile.redundancy(chosen.score, chosen.first_token)
        chosen = chosen.with_fewer(fewer, redundancy, result.shape)
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
    print_rows(
        [
            {
                "block": f"{result.profile.block_path}.{block}",
                "redundancy": value,
                "slice": f"{schedule.block_fractions[block]:.1%}",
                "width": schedule.widths[block],
                "held back": "capped" if data["capped"][block] else "",
            }
            for block, value in enumerate(redundancy)
        ]
    )
    out.print(f"{result.profile.text}: {wording.profiled(run.request)}.", style="dim", highlight=False)
    dense = result.shape.parameters
    for name, each in (("planned", schedule), ("constant", constant)):
        shape = each.shape_after(result.shape)
        size = wording.memory(shape.weight_bytes(DTYPES[run.environment.dtype].itemsize))
        out.print(
            f"{name} at SP {chosen.target:.2%}: mean slice {each.mean_slice:.1%}, {shape.parameters:,} "
            f"parameters ({shape.parameters / dense - 1:+.1%} against dense), {size} on disk, "
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
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --tasks: rows per forward pass.", show_default="1; on a GPU by its memory"
        ),
    ] = None,
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
    batch_size: int | None,
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
    out.print(source.label, style="bold")
    print_rows(
        [
            {
                "task": each.task,
                "metric": each.metric,
                "value": f"{each.value:.4f}",
                "± standard error": "-" if each.standard_error is None else f"{each.standard_error:.4f}",
                "examples": each.examples,
                "few-shot": each.few_shot,
            }
            for each in scores
        ]
    )


@grouped
def generate(
    which: ModelOptions,
    prompt: Annotated[str, typer.Option(help="What to continue.")] = "Mr. Speaker, the state of our Union is",
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to add at most.")] = 60,
    beside: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="A smaller model that continues it too, such as a folder that slicescope wrote: where the "
            "two part first is told, with the probability of every token.",
        ),
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0.0, max=10.0, help="Draw tokens at this temperature; 0 takes the likeliest.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Of the draw.")] = 0,
    json_path: JsonOption = None,
) -> None:
    """Continue a prompt with a model, dense or smaller, or with two side by side.

    What one prompt shows is an illustration, not evidence.
    """
    from analysis.evaluate import continue_text

    source = which.source()
    if beside is not None or temperature:
        asked = {"prompt": prompt, "new_tokens": new_tokens, "temperature": temperature, "seed": seed}
        _write_beside(source, beside, asked, json_path)
        return
    with progress_bars() as listen:
        opened = open_source(source, listen)
        listen("Generating", 0, 1)
        sample = continue_text(opened, prompt, new_tokens)
    if not printed_as_json({"model": source.label, "prompt": prompt, **plain(sample)}, json_path):
        out.print(prompt + sample.text, highlight=False)
        note(f"{sample.tokens} tokens")


def _write_beside(
    source: ModelSource, beside: str | None, asked: dict[str, Any], json_path: Path | None
) -> None:
    """Have one model, or two in turn, continue a prompt, and tell the probability of every token."""
    from analysis.sources.model import ModelSource
    from analysis.writing import Prompt, Who, first_parting, write_beside
    from app import wording

    prompt = Prompt(**asked)
    other = None if beside is None else ModelSource.parse(beside, source.device, source.dtype)
    texts: dict[Who, list[Place]] = {"dense": [], "smaller": [], "read": []}
    with progress_bars() as listen:
        dense = open_source(source, listen)
        smaller = None if other is None else open_source(other, listen)
        for said in write_beside(dense, smaller, prompt):
            texts[said.who].append(said.place)
            listen("Writing", len(texts["dense"]), prompt.new_tokens)
    models = [source.label, *([other.label] if other else [])]
    at = first_parting(texts["dense"], texts["smaller"])
    told = {who: [plain(place) for place in places] for who, places in texts.items()}
    data = {"models": models, **plain(prompt), "parting": at, **told}
    if printed_as_json(data, json_path):
        return
    for name, who in zip(models, ("dense", "smaller"), strict=False):
        note(f"{name}:")
        out.print(prompt.prompt + "".join(place.piece for place in texts[who]), highlight=False, markup=False)
    if other:
        print_rows(_side_by_side(texts["dense"], texts["smaller"]))
        for sentence in (
            wording.parting(texts["dense"], texts["smaller"], True),
            wording.agreement(texts["read"]),
        ):
            note(sentence.replace("**", ""))
        note("One prompt is an illustration, not evidence: 'slicescope evaluate' measures perplexity.")


def _side_by_side(dense: list[Place], smaller: list[Place]) -> list[dict[str, Any]]:
    """One row for every place of two texts, with a mark where the tokens differ."""
    from itertools import zip_longest

    from app.written import share, shown

    def told(name: str, place: Place | None) -> dict[str, str]:
        if place is None:
            return {name: "", f"{name}, %": ""}
        return {name: shown(place.piece), f"{name}, %": share(place.probability)}

    return [
        {
            "place": at,
            **told("dense", one),
            **told("smaller", other),
            "": "" if one and other and one.token == other.token else "≠",
        }
        for at, (one, other) in enumerate(zip_longest(dense, smaller), start=1)
    ]
