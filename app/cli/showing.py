"""How a run is told on the terminal: what it asked, and what came of it, in sentences and its main table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from app.cli.rows import print_rows
from app.cli.terminal import out

if TYPE_CHECKING:
    from analysis.evaluate import Difference, Perplexity
    from analysis.shape import ModelShape
    from slicing.inner.costs import UnitCosts
    from slicing.studies.results import CompressResult, Measurement, Run
    from slicing.studies.study import Study
    from slicing.studies.verdicts import Board, Comparison, Standing, Table

RECIPES = 8
"""Recipes whose lines are printed, at most."""


def print_asked(run: Run) -> None:
    """Print what a run is called, and what it asked of which model and texts, on which device."""
    from app import wording
    from slicing.library import note_of

    request, result = run.request, run.result
    named = note_of(run.key)
    if named.label:
        out.print(named.label, style="bold", highlight=False)
    out.print(wording.run_line(run), style="" if named.label else "bold", highlight=False)
    _tell(filter(None, [named.text]))
    _tell(f"Note on block {block}: {text}" for block, text in named.blocks.items())
    recipes = request.recipes_used()
    for recipe in recipes[:RECIPES]:
        out.print(f"  {recipe.line}", highlight=False)
    if len(recipes) > RECIPES:
        out.print(f"  and {len(recipes) - RECIPES} more recipes", highlight=False)
    for role, what in (
        ("text", "Measured on"),
        ("calibration", "Calibrated on"),
        ("windows", "Searched on"),
        ("evaluation", "Judged on"),
    ):
        if used := getattr(result, role, None):
            out.print(f"{what} {used.told}.", highlight=False)
    if told := wording.precision_reading(request):
        out.print(told, highlight=False)
    where = run.environment
    out.print(
        f"Made on {where.device_name or where.device} in {where.dtype}, in {wording.duration(run.seconds)}.",
        highlight=False,
    )
    out.print()


def print_run(run: Run) -> None:
    """Print what a run found."""
    _SHOWN[run.request.kind](run)
    for warning in _warnings(run):
        out.print(warning, style="yellow", highlight=False)


def _warnings(run: Run) -> tuple[str, ...]:
    from slicing.studies.results import warnings

    return warnings(run.result)


def _tell(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        out.print(sentence, highlight=False)


# Profiles


def print_profile(run: Run, first_token: bool = False) -> None:
    """Print the scores of every block, and what units cost where that was asked for."""
    from analysis.evaluate import at_a_time
    from analysis.scores import find_score
    from app import wording

    request, result = run.request, run.result
    profile, further = result.profile, _probed(run)
    columns = {
        "cosine": profile.measured("lr", first_token).mean(axis=0),
        "LR score": profile.values("lr", first_token),
        "± sd": profile.spread("lr", first_token),
        "block influence": profile.values("block-influence", first_token),
        "angular distance": profile.values("angular", first_token),
        **further,
    }
    print_rows(
        [
            {
                "block": f"{profile.block_path}.{block}",
                **{name: float(values[block]) for name, values in columns.items()},
            }
            for block in range(profile.blocks)
        ]
    )
    out.print("LR score: 1 is the block that changes its input least, 0 the one that changes it most.")
    if "lr-published" in profile.scores():  # apart from the scale it differs in the last block alone
        true, released = (profile.values(name, first_token)[-1] for name in ("lr", "lr-published"))
        if abs(released - true) >= 0.0005:  # as it is printed
            score = find_score("lr-published")
            out.print(f"{score.title}: {released:.3f} for the last block, not {true:.3f}. {score.about}")
    shape = getattr(result, "shape", None)
    if shape and shape.kinds:
        out.print(f"{wording.units_inside(shape.kinds)}.", highlight=False)
    told = f"{profile.text}: {wording.profiled(request)}{at_a_time(profile.batch)}."
    out.print(told, style="dim", highlight=False)
    if result.kind == "profile" and result.units:
        print_units(result.units)


def _probed(run: Run) -> dict[str, Any]:
    """The scores with passes of their own, and the logit lens, where they were asked for."""
    from slicing.studies.store import find_details

    request: Any = run.request
    found = {name: run.result.profile.values(name) for name in getattr(request, "probes", ())}
    if getattr(request, "lens", False) and (details := find_details(run)) and details.lens is not None:
        found["logit lens"] = details.lens.mean(axis=0, dtype=float)
    return found


def print_units(costs: UnitCosts) -> None:
    """Print what every branch and its units cost, and how well that was predicted."""
    from app import wording
    from app.unit_tables import unit_table

    frame = unit_table(costs).drop(columns="× predicted", errors="ignore")  # which sentences tell
    frame.insert(0, "of block", frame["block"].astype(str) + " " + frame["part"])
    frame = frame.drop(columns=["block", "part"])
    shares = ", and the share of the curvature of massive tokens" if "massive tokens" in frame else ""
    out.print(f"What parts inside the blocks cost, in nats per token{shares}", style="bold")
    names, *columns = frame.columns
    print_rows(
        [
            {names: row[names], **{column: _two_digits(row[column]) for column in columns}}
            for row in frame.to_dict("records")
        ]
    )
    _tell((wording.units_found(costs), *wording.units_agreement(costs)))
    if paired := wording.units_agreement(costs, "paired"):
        out.print(f"Predicted token by token: {' '.join(paired)}", highlight=False)


def _two_digits(value: float) -> str:
    """A number of a table in two digits, and nothing where there is none."""
    return "" if value != value else f"{value:.2g}"


# Models that were made


def print_compressed(run: Run) -> None:
    """Print what was made of a model, and what it is worth."""
    result: Any = run.result
    request: Any = run.request
    _tell(compressed(request, result, run.seconds))
    rows = [
        _judged_row("dense", result.dense_parameters, result.dense_parameters, result.dense),
        _judged_row("smaller", result.parameters, result.dense_parameters, result.smaller),
    ]
    print_rows(rows)
    if result.smaller:
        out.print(f"{result.smaller.protocol}.", style="dim", highlight=False)


def compressed(request: Any, result: CompressResult, seconds: float, place: str = "") -> Iterator[str]:
    """Say what a model became by its recipe, a sentence each.

    ``seconds``: what all of it took, judging too; ``place`` is where it lies.
    """
    from app import wording

    asked = request.budget.amount if request.budget.measure == "parameters" else None
    size = wording.fewer(1.0 - result.parameters / result.dense_parameters, asked)
    told = [f"{result.parameters:,} parameters are left, {size}"]
    if layout := result.layout:
        told.insert(0, f"{len(layout.groups)} of {layout.blocks} blocks ({layout.label})")
    if result.inner:
        told.insert(0, result.inner.label)
    if result.schedule:
        told.append(f"mean slice {wording.percent(result.schedule.mean_slice)}")
    yield f"{request.recipe.title}."
    made, whole = wording.duration(result.seconds), wording.duration(max(seconds, result.seconds))
    took = f"made in {made}" + ("" if whole == made else f", {whole} with all that it takes")
    yield f"{', '.join(told)}; {took}{f': {place}' if place else '.'}"
    if not result.schedule and request.recipe.repaired != "none":
        if result.repair is None:
            yield "No cut has a block before it that could be fitted, so nothing was repaired."
        elif not result.repair.kept:
            yield "The repair lowered no loss on the windows held out, so it was not kept."
    for healed in result.healed:
        yield healed.told


def _judged_row(name: str, parameters: int, dense: int, judged: Perplexity | None) -> dict[str, Any]:
    from app import wording

    return {
        "model": name,
        "perplexity": judged and f"{judged.perplexity:.2f}",
        "95 % interval": judged and wording.interval(judged.interval),
        "parameters": parameters,
        "vs dense": wording.percent(parameters / dense - 1.0, signed=True),
    }


def _print_trial(run: Run) -> None:
    result: Any = run.result
    each = result.measurement
    print_rows([_judged_row(each.name, each.parameters, result.shape.parameters, each.evaluation)])
    _tell(healed.told for healed in each.healed)
    out.print(f"{each.evaluation.protocol}.", style="dim", highlight=False)


def _print_search(run: Run) -> None:
    result: Any = run.result
    print_rows(
        [
            {"block": f"{result.profile.block_path}.{block}", "slice": f"{share:.1%}", "width": width}
            for block, (share, width) in enumerate(zip(result.shares, result.schedule.widths, strict=False))
        ]
    )
    out.print(
        f"{result.evaluations} previews brought the loss on the search's windows from "
        f"{result.losses[0]:.3f} to {result.losses[-1]:.3f} nats per token.",
        highlight=False,
    )


def print_shrunk(run: Run) -> None:
    """Print the answer to a wish, its evidence and the finalists."""
    from app import wording
    from app.shrink_tables import finalist_rows

    request: Any = run.request
    result: Any = run.result
    _tell(wording.shrunk(request, result))
    print_rows(finalist_rows(result))


# Studies


def _print_study(run: Run) -> None:
    from slicing.studies.verdicts import read_board, read_comparison

    request: Any = run.request
    result: Any = run.result
    if request.view == "comparison":
        _show_comparison(read_comparison(request, result))
    else:
        _show_board(request, read_board(request, result), result.shape)


def _show_board(study: Study, board: Board, shape: ModelShape) -> None:
    """A map where its recipes make one, else a ranking for each budget, and what all say together."""
    from app import wording
    from app.map_rows import map_rows
    from slicing.studies.verdicts import read_map

    found = read_map(board) if study.view == "map" else None
    if found:
        print_rows(map_rows(found, board))
        out.print(wording.map_reading(study))
        return
    for table in board.tables:
        out.print(table.budget.title, style="bold", highlight=False)
        print_rows(_ranking_rows(table, shape))
        if study.view != "frontier":
            _tell(wording.ranking(table))
    out.print(wording.RANKING_READING, style="dim", highlight=False)
    if study.view == "frontier":
        _tell(wording.frontier(board))


def _ranking_rows(table: Table, shape: ModelShape) -> list[dict[str, Any]]:
    """The dense model, then all recipes at one budget, best first."""
    if table.dense is None or not table.standings:
        return []
    dense = table.dense
    rows = [_standing_row(each, shape) for each in table.standings]
    first = {
        **dict.fromkeys(rows[0]),  # the order of the columns
        "recipe": "dense",
        "perplexity": f"{dense.evaluation.perplexity:.2f}",
        "× dense": "1.00",
        "second text": dense.other and f"{dense.other.perplexity:.2f}",
        "parameters": dense.parameters,
    }
    return [first, *rows]


def _standing_row(each: Standing, shape: ModelShape) -> dict[str, Any]:
    from analysis.evaluate import perplexity_of
    from app import wording

    gain, run, other = each.gain, each.runs[0], each.other_perplexity
    return {
        "recipe": each.name,
        "perplexity": f"{each.perplexity:.2f}",
        "excess loss": wording.percent(each.share),
        "vs baseline": wording.change(gain) if gain else None,
        "verdict": gain.verdict if gain else "baseline",
        "95 % interval, %": wording.interval(gain.percent_interval, 1) if gain else None,
        "× dense": f"{perplexity_of(each.nats):.2f}",
        "noise moves it by": each.noise and wording.percent(perplexity_of(each.noise) - 1),
        "noise moves that by": gain and gain.noise and wording.percent(perplexity_of(gain.noise) - 1),
        "second text": None if other is None else f"{other:.2f}",
        "parameters": run.parameters,
        "vs dense": wording.percent(run.parameters / shape.parameters - 1.0, signed=True),
        "blocks": run.layout and run.layout.label,
        "inside blocks": run.inner and run.inner.label,
        "prompt, × dense": wording.times(run.speed, "prompt"),
        "generation, × dense": wording.times(run.speed, "generation"),
        **{f"{task.task}, {task.metric}": task.value for task in run.tasks},
        "MB in int8": run.int8 and f"{run.int8.bytes / 1e6:.1f}",
        "perplexity in int8": run.int8 and f"{run.int8.evaluation.perplexity:.2f}",
        "seeds": len(each.runs),
        "seconds": round(each.seconds),
    }


def _show_comparison(found: Comparison) -> None:
    from app import wording

    dense, result = found.measured["dense"], found.result
    print_rows([_compared_row(each, dense) for each in found.measured.values()])
    _tell([wording.without_colours(wording.verdict(found)), *map(_sentence, found.differences)])
    for rows in (_task_rows(found.measured.values()), _int8_rows(found.measured.values())):
        print_rows(rows)
    out.print("MFLOPs are those of the linear maps for one token.", style="dim")
    out.print(f"{result.evaluation.label}: {dense.evaluation.protocol}.", style="dim", highlight=False)
    out.print(wording.window_reading(result.evaluation), style="dim", highlight=False)
    out.print(wording.sequential_or_one_shot(found.study), style="dim")
    for reading in wording.study_reading(found.study):
        out.print(reading, style="dim", highlight=False)
    for each in found.measured.values():
        if each.sample:
            out.print(f"{each.title} continues (an illustration, not evidence):", style="bold")
            out.print(each.sample.text.strip(), highlight=False)


def _compared_row(each: Measurement, dense: Measurement) -> dict[str, Any]:
    from app import wording

    interval = each.evaluation.interval
    return {
        "model": each.name,
        "perplexity": f"{each.evaluation.perplexity:.2f}",
        "95 % interval": f"{interval[0]:.1f} to {interval[1]:.1f}" if interval else "-",
        "slice": wording.percent(each.mean_slice),
        "parameters": f"{wording.millions(each.parameters)} "
        + wording.percent(each.parameters / dense.parameters - 1.0, signed=True),
        "MFLOPs": f"{each.flops_per_token / 1e6:.0f}",
    }


def _task_rows(measured: Iterable[Measurement]) -> list[dict[str, Any]]:
    return [
        {
            "model": each.title,
            "task": score.task,
            "metric": score.metric,
            "score": f"{score.value:.4f}",
            "± standard error": score.standard_error and f"{score.standard_error:.4f}",
            "examples": score.examples,
        }
        for each in measured
        for score in each.tasks
    ]


def _int8_rows(measured: Iterable[Measurement]) -> list[dict[str, Any]]:
    from app import wording

    return [
        {
            "model": each.title,
            "weights": wording.memory(each.bytes),
            "in int8": wording.memory(each.int8.bytes),
            "perplexity": f"{each.evaluation.perplexity:.2f}",
            "perplexity in int8": f"{each.int8.evaluation.perplexity:.2f}",
        }
        for each in measured
        if each.int8
    ]


def _sentence(each: Difference) -> str:
    from app.wording import noise, typeset

    between = ""
    if each.percent_interval:
        low, high = each.percent_interval
        between = f", 95 % interval {low:+.1f} to {high:+.1f} %"
    if moved := noise(each):
        between += f"; {moved}"
    numbers = typeset(f"{each.percent:+.1f} % perplexity ({each.nats:+.3f} nats per token{between})")
    return f"{each.contender} against {each.baseline}: {numbers}: {each.verdict}"


_SHOWN: dict[str, Callable[[Run], None]] = {
    "profile": print_profile,
    "search": _print_search,
    "compress": print_compressed,
    "trial": _print_trial,
    "study": _print_study,
    "shrink": print_shrunk,
}
"""How each kind of run is shown."""
