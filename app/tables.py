"""Every table: a pure function from results to a frame, with the unit of each column in its name.

Knows nothing about streamlit or plotly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from analysis.cloud import Cloud
from analysis.details import Details
from analysis.differences import ProfileDifference
from analysis.evaluate import Difference, Perplexity, perplexity_of
from analysis.late import pd
from analysis.profile import LayerProfile
from analysis.shape import ModelShape
from analysis.sources.text import TextSource
from app import wording
from app.map_rows import map_rows
from slicing.allocation import Fractions
from slicing.budget import Budget
from slicing.healing.record import Healed
from slicing.schedule import SlicingSchedule
from slicing.studies.recipe import Recipe
from slicing.studies.results import CompressResult, Measurement, Request, Run, TextUsed
from slicing.studies.store import Broken
from slicing.studies.verdicts import Board, Comparison, Map, Standing, Table, pareto, read_comparison


def schedule_table(
    schedule: SlicingSchedule,
    constant: SlicingSchedule,
    fractions: Fractions,
    redundancy: Sequence[float],
    block_path: str,
) -> pd.DataFrame:
    """One row per block: what decides, and what it keeps."""
    blocks = range(len(redundancy))
    return pd.DataFrame(
        {
            "block": blocks,
            "module": [f"{block_path}.{block}" for block in blocks],
            "redundancy": redundancy,
            "slice, %": [100.0 * each for each in schedule.block_fractions],
            "width": schedule.widths[:-1],
            "constant slice, %": [100.0 * each for each in constant.block_fractions],
            "constant width": constant.widths[:-1],
            "held back": fractions.capped,
        }
    ).round(3)


def cloud_table(cloud: Cloud, width: int) -> pd.DataFrame:
    """One row per block whose stream was kept: what a cut at ``width`` takes of its energy."""
    gone, places = cloud.principal.shape[1] - width, range(len(cloud.blocks))
    return pd.DataFrame(
        {
            "before block": cloud.blocks,
            f"{gone} thinnest principal directions, %": [
                round(100 * cloud.beyond(place, width), 3) for place in places
            ],
            f"{gone} weakest axes of the model, %": [
                round(100 * float(cloud.own[place, width:].sum()), 3) for place in places
            ],
        }
    )


def token_table(details: Details, window: int, block: int) -> pd.DataFrame:
    """One row per token of a window: how strongly a block changed it."""
    tokens = details.tokens[window]
    return pd.DataFrame(
        {
            "place": range(len(tokens)),
            "token": [details.piece(int(token)) for token in tokens],
            "token id": tokens,
            "change (1 − cosine)": details.change[window, :, block].astype(np.float32).round(4),
        }
    )


def token_path_table(details: Details, window: int, place: int) -> pd.DataFrame:
    """One row per block: how strongly it changed one token, beside the mean of the other tokens."""
    own, mean = details.path(window, place), details.mean_change()
    return pd.DataFrame(
        {
            "block": range(own.size),
            "change (1 − cosine)": own.round(4),
            "mean of all tokens": mean.round(4),
            "× mean": (own / np.maximum(mean, 1e-6)).round(2),
        }
    )


def similarity_table(details: Details, by: str = "similarity") -> pd.DataFrame:
    """Tabulate how alike the stream is at every two depths, by a measure in ``LIKENESSES``."""
    values = details.maps()[by]
    frame = pd.DataFrame(values.round(4), columns=[str(i) for i in range(len(values))])
    frame.insert(0, "depth", range(len(frame)))
    return frame


def lens_table(details: Details) -> pd.DataFrame:
    """One row per block: how well the head predicts straight after it, with the spread over windows."""
    assert details.lens is not None
    nats, perplexities = details.lens.astype(np.float64), details.lens_perplexities()
    count = len(perplexities)
    return pd.DataFrame(
        {
            "after block": range(count),
            "blocks left out": range(count - 1, -1, -1),
            "nats per token": nats.mean(axis=0).round(4),
            "± sd": (nats.std(axis=0, ddof=1) if len(nats) > 1 else np.zeros(count)).round(4),
            "perplexity": perplexities.round(2),
            "× dense": (perplexities / perplexities[-1]).round(3),
        }
    )


def split_table(details: Details) -> pd.DataFrame:
    """One row per block: what its heads and its MLP add to the change, of the norm entering."""
    assert details.split is not None
    heads, mlp = details.split.T
    return pd.DataFrame(
        {
            "block": range(len(heads)),
            "heads, of the norm": heads.round(4),
            "MLP, of the norm": mlp.round(4),
            "heads, % of the change": (100 * heads / (heads + mlp)).round(1),
        }
    )


def damage_table(profile: LayerProfile, damage: str, first_token: bool = False) -> pd.DataFrame:
    """One row per block: its LR score and the damage that was measured, with its spread over windows."""
    return pd.DataFrame(
        {
            "block": range(profile.blocks),
            "LR score": profile.values("lr", first_token).round(4),
            f"{damage}, nats per token": profile.values(damage).round(4),
            "± sd": profile.spread(damage).round(4),
        }
    )


def overlay_table(
    profiles: Sequence[tuple[str, LayerProfile]], score: str, first_token: bool = False
) -> pd.DataFrame:
    """One row per block of every profile: its relative depth and its score."""
    return pd.concat(
        pd.DataFrame(
            {
                "run": name,
                "block": range(profile.blocks),
                "relative depth, %": (100 * (np.arange(profile.blocks) + 0.5) / profile.blocks).round(1),
                score: profile.values(score, first_token).round(4),
            }
        )
        for name, profile in profiles
    )


def profile_difference_table(found: ProfileDifference, names: Sequence[str]) -> pd.DataFrame:
    """One row per block of two profiles: what each changes, the difference and its interval."""
    return found.to_frame().rename(columns=dict(zip(("first", "second"), names, strict=True))).round(5)


def passage_table(comparison: Comparison, baseline: str, contender: str) -> pd.DataFrame:
    """One row per evaluation window: where it lies, and how much more one model loses on it than another."""
    base, other = (comparison.measured[name].evaluation for name in (baseline, contender))
    return window_table(base, other, comparison.result.evaluation, (baseline, contender))


def window_table(
    first: Perplexity, second: Perplexity, used: TextUsed, names: tuple[str, str]
) -> pd.DataFrame:
    """One row per window ``used``: where it lies, and how much more the second model loses than the first."""
    base, other, where = first.nll, second.nll, used.passages
    return pd.DataFrame(
        {
            "window": range(len(base)),
            "document": [each.document for each in where] or "",
            "begins": [each.begins for each in where] or "",
            f"{names[0]}, nats per token": base,
            f"{names[1]}, nats per token": other,
            "difference": np.subtract(other, base),
        }
    ).round(4)


def size_table(comparison: Comparison) -> pd.DataFrame:
    """The four sizes of every model, and what it took to make and run it."""
    dense = comparison.measured["dense"]
    return pd.DataFrame([_size_row(each, dense) for each in comparison.measured.values()])


def perplexity_table(measured: Iterable[Measurement]) -> pd.DataFrame:
    """Perplexity with its interval."""
    return pd.DataFrame(
        {
            "model": each.title,
            "perplexity": round(each.evaluation.perplexity, 3),
            "95 % interval": wording.interval(each.evaluation.interval),
        }
        for each in measured
    )


def difference_table(differences: Sequence[tuple[str, Difference]]) -> pd.DataFrame:
    """Paired differences, in percent of perplexity and in nats per token."""
    found = pd.DataFrame(
        {
            "comparison": label,
            "perplexity, %": round(each.percent, 2),
            "95 % interval, %": wording.interval(each.percent_interval, 1),
            "nats per token": round(each.nats, 4),
            "noise moves it by, %": _in_percent(each.noise),
            "verdict": each.verdict,
            "windows": each.windows,
        }
        for label, each in differences
    )
    return found.round(4).dropna(axis="columns", how="all")


def text_table(run: Run) -> pd.DataFrame:
    """The windows a run really saw, with the digest of their tokens."""
    roles = ("text", "calibration", "evaluation")
    used = {role: getattr(run.result, role) for role in roles if hasattr(run.result, role)}
    return pd.DataFrame({"role": role, **text.model_dump()} for role, text in used.items())


def map_table(found: Map, board: Board) -> pd.DataFrame:
    """One row per budget, one column per base: the change of perplexity against the baseline."""
    return pd.DataFrame(map_rows(found, board))


def trial_table(board: Board) -> pd.DataFrame:
    """One row per model that ran: size and perplexity, and whether anything beats it in both."""
    found = wording.models(board)
    front = pareto([(each.title, each.measured) for each in found])
    return pd.DataFrame(
        {
            "recipe": each.recipe.line,
            "title": each.recipe.title,
            "budget": each.budget.title if each.budget else "",
            "parameters": each.measured.parameters,
            "perplexity": round(each.measured.evaluation.perplexity, 3),
            "95 % interval": wording.interval(each.measured.evaluation.interval),
            "mean slice, %": round(100 * each.measured.mean_slice, 2),
            "unbeaten": each.title in front,
        }
        for each in found
    )


def widths_table(schedules: Sequence[tuple[str, SlicingSchedule]]) -> pd.DataFrame:
    """One row per block of every schedule: what it loses and keeps."""
    return pd.concat(
        pd.DataFrame(
            {
                "run": name,
                "block": range(len(schedule.block_fractions)),
                "slice, %": [round(100 * each, 2) for each in schedule.block_fractions],
                "width": schedule.widths[:-1],
            }
        )
        for name, schedule in schedules
    )


def together_table(comparisons: Sequence[tuple[str, Comparison]]) -> pd.DataFrame:
    """One row per model of every comparison."""
    return pd.DataFrame(
        {
            "run": name,
            "model": each.title,
            "perplexity": round(each.evaluation.perplexity, 2),
            "95 % interval": wording.interval(each.evaluation.interval),
            "parameters": f"{each.parameters:,}",
            "text": comparison.result.evaluation.label,
        }
        for name, comparison in comparisons
        for each in comparison.measured.values()
    )


def run_table(runs: Sequence[Run], labels: Sequence[str], broken: Sequence[Broken] = ()) -> pd.DataFrame:
    """One row per stored run, with what people call it; those that cannot be read come last."""
    named = zip(runs, labels, strict=True)
    rows = [{"name": label or wording.title(run.request), **_run_row(run)} for run, label in named]
    unreadable = [
        {"name": each.problem, "key": each.name, "kind": wording.UNREADABLE, "made": None} for each in broken
    ]
    return pd.DataFrame([*rows, *unreadable])


def task_table(measured: Iterable[Measurement]) -> pd.DataFrame | None:
    """Tabulate what everyone scores on every task, with the standard error; ``None`` where none was run."""
    rows = [
        {
            "model": each.title,
            "task": score.task,
            "metric": score.metric,
            "score": round(score.value, 4),
            "± standard error": score.standard_error and round(score.standard_error, 4),
            "examples": score.examples,
            "perplexity": round(each.evaluation.perplexity, 2),
        }
        for each in measured
        for score in each.tasks
    ]
    return pd.DataFrame(rows) if rows else None


def int8_table(measured: Iterable[Measurement]) -> pd.DataFrame | None:
    """Tabulate everyone beside its int8 form: size and perplexity; ``None`` where none was measured."""
    rows = [
        {
            "model": each.title,
            "parameters": f"{each.parameters:,}",
            "weights": wording.memory(each.bytes),
            "weights in int8": wording.memory(each.int8.bytes),
            "perplexity": round(each.evaluation.perplexity, 2),
            "perplexity in int8": round(each.int8.evaluation.perplexity, 2),
            "int8 costs, %": round(
                100 * (each.int8.evaluation.perplexity / each.evaluation.perplexity - 1), 2
            ),
        }
        for each in measured
        if each.int8
    ]
    return pd.DataFrame(rows) if rows else None


def recipe_table(recipes: Sequence[Recipe], baseline: Recipe | None = None) -> pd.DataFrame:
    """One row per recipe: what one copies, what it is, and what it is there for."""

    def told(recipe: Recipe) -> str:
        if recipe == baseline:
            return "baseline"
        return "random baseline" if recipe.by_chance else "baseline to beat" if recipe.control else ""

    return pd.DataFrame(
        {"recipe": each.line, "title": each.title, "what for": told(each)} for each in recipes
    )


def healing_table(healed: Sequence[Healed]) -> pd.DataFrame:
    """Every look at a model while it was trained."""
    return pd.DataFrame(
        {
            "step": each.step,
            "tokens trained on": look.tokens,
            "loss, nats per token": round(look.loss, 4),
            "labels predicted correctly, %": (right := each.accuracy_at(place)) and round(100.0 * right, 1),
        }
        for each in healed
        for place, look in enumerate(each.looks)
    ).dropna(axis="columns", how="all")


def compress_table(result: CompressResult) -> pd.DataFrame:
    """One row: what is left, and what it is worth."""
    return pd.DataFrame(
        {
            "blocks": [result.layout and result.layout.label],
            "left": [result.layout and len(result.layout.groups)],
            "inside blocks": [result.inner and result.inner.label],
            "mean slice": [result.schedule and wording.percent(result.schedule.mean_slice)],
            "parameters": [f"{result.parameters:,}"],
            "vs dense": [wording.percent(result.parameters / result.dense_parameters - 1.0, signed=True)],
            "perplexity": [result.smaller and round(result.smaller.perplexity, 2)],
            "dense": [result.dense and round(result.dense.perplexity, 2)],
            "opens without our code": [result.plain],
        }
    ).dropna(axis="columns", how="all")


def ranking_table(table: Table, shape: ModelShape | None = None) -> pd.DataFrame:
    """All recipes at one budget, best first, after the dense model; ``shape`` is that model's."""
    if table.dense is None or not table.standings:
        return pd.DataFrame()
    dense = table.dense
    rows = [{"recipe": "dense", "title": "Dense", "budget": "", **_measured_row(dense, dense)}]
    rows += [_standing_row(each, table, dense, shape) for each in table.standings]
    found = pd.DataFrame(rows).round(3).dropna(axis="columns", how="all")
    return found.fillna({"blocks": "all blocks"}) if "blocks" in found else found


def _standing_row(
    each: Standing, table: Table, dense: Measurement, shape: ModelShape | None
) -> dict[str, object]:
    gain, other = each.gain, each.other_gain
    low, high = (gain.percent_interval if gain else None) or (None, None)
    return {
        "recipe": each.name,
        "title": each.recipe.title,
        "budget": table.budget.title,
        **_measured_row(each.runs[0], dense),
        "perplexity": each.perplexity,
        "noise moves it by, %": _in_percent(each.noise),
        "× dense": perplexity_of(each.nats),
        "excess loss, %": 100 * each.share,
        "vs baseline, %": gain.percent if gain else None,
        "from": low,
        "to": high,
        "noise moves that by, %": gain and _in_percent(gain.noise),
        "verdict": gain.verdict if gain else "baseline",
        "second text": each.other_perplexity,
        "× dense there": None if each.other_nats is None else perplexity_of(each.other_nats),
        "excess loss there, %": None if each.other_share is None else 100 * each.other_share,
        "vs baseline there, %": other.percent if other else None,
        "free bits, at most %": shape and _free_bits(each.runs[0], shape),
        "seeds": len(each.runs),
        "seconds, one timing": round(each.seconds),
    }


def _in_percent(nats: float | None) -> float | None:
    """A difference of mean losses as one of perplexity in percent."""
    return None if nats is None else 100 * (perplexity_of(nats) - 1)


def _free_bits(each: Measurement, shape: ModelShape) -> float | None:
    """The share of a sliced model's storage that its symmetries would save, at most."""
    if each.schedule is None:
        return None
    if each.layout:
        shape = shape.model_copy(update={"blocks": tuple(shape.blocks[top] for top in each.layout.tops)})
    return 100 * each.schedule.symmetric_parameters(shape) / each.parameters


def _measured_row(each: Measurement, dense: Measurement) -> dict[str, object]:
    """What every model of a ranking has; the order is that of the columns."""
    return {
        "perplexity": each.evaluation.perplexity,
        "noise moves it by, %": None,
        "× dense": 1.0,
        "excess loss, %": 0.0,
        "vs baseline, %": None,
        "from": None,
        "to": None,
        "noise moves that by, %": None,
        "verdict": "",
        "second text": each.other and each.other.perplexity,
        "× dense there": 1.0 if each.other else None,
        "excess loss there, %": 0.0 if each.other else None,
        "vs baseline there, %": None,
        **{f"{task.task}, {task.metric}": task.value for task in each.tasks},
        "tokens trained on": sum(told.tokens for told in each.healed) or None,
        "parameters": each.parameters,
        "MB": each.int8 and each.bytes / 1e6,
        "MB in int8": each.int8 and each.int8.bytes / 1e6,
        "perplexity in int8": each.int8 and each.int8.evaluation.perplexity,
        "blocks": each.layout.label if each.layout else None,
        "inside blocks": each.inner.label if each.inner else None,
        "mean slice, %": 100 * each.mean_slice if each.schedule else None,
        "prompt, × dense": wording.times(each.speed, "prompt") or None,
        "generation, × dense": wording.times(each.speed, "generation") or None,
        "free bits, at most %": None,
        "seeds": None,
        "seconds, one timing": None,
    }


def _size_row(each: Measurement, dense: Measurement) -> dict[str, object]:
    peak = each.slicing_peak_memory
    return {
        "model": each.title,
        "mean slice": wording.percent(each.mean_slice),
        "parameters": f"{each.parameters:,}",
        "vs dense": wording.percent(each.parameters / dense.parameters - 1.0, signed=True),
        "weights": wording.memory(each.bytes),
        "FLOPs per token": wording.flops(each.flops_per_token),
        "prompt": wording.times(each.speed, "prompt"),
        "generation": wording.times(each.speed, "generation"),
        "peak while slicing": "" if peak is None else wording.memory(peak),
        "peak while evaluating": wording.memory(each.evaluation.peak_memory),
    }


def _run_row(run: Run) -> dict[str, object]:
    request = run.request
    budgets, recipes = _asked(request)
    target = budgets[0].target if len(budgets) == 1 else None
    base = _base(recipes[-1]) if recipes and len(recipes) <= 2 else None
    row: dict[str, object] = {
        "key": run.key,
        "kind": request.kind,
        "model": request.model.label,
        "text": _text(request).label,
        "recipe": recipes[-1].line if 0 < len(recipes) <= 2 else f"{len(recipes)} recipes" if recipes else "",
        "SP, %": None if target is None else 100.0 * target,
        "SB, %": None if base is None else 100.0 * base,
        "dense": None,
        "constant": None,
        "planned": None,
        "vs constant, %": None,
        "verdict": "",
        "made": run.created,
        "took": wording.duration(run.seconds),
    }
    if request.kind == "study" and run.result.kind == "study" and request.view == "comparison":
        found = read_comparison(request, run.result)
        for column, name in (("dense", "dense"), ("constant", "constant"), ("planned", found.planned)):
            row[column] = found.measured[name].evaluation.perplexity
        if found.planned != "constant":
            difference = found.difference("constant", found.planned)
            row["vs constant, %"], row["verdict"] = difference.percent, difference.verdict
    return row


def _asked(request: Request) -> tuple[Sequence[Budget], Sequence[Recipe]]:
    """The budgets and the recipes of a request."""
    if request.kind == "search":
        return (Budget(amount=request.plan.target),), request.recipes_used()
    if request.kind == "study":
        return request.budgets, request.recipes
    budget: Budget | None = getattr(request, "budget", None)
    return (budget,) if budget else (), request.recipes_used()


def _base(recipe: Recipe) -> float | None:
    """The base of a recipe that slices by a rule that has one."""
    rules = [rule() for step in recipe.steps if (rule := getattr(step, "rule", None))]
    return getattr(rules[0], "base", None) if rules else None


def _text(request: Request) -> TextSource:
    """The text that a run's numbers were measured on."""
    return getattr(request, "evaluation", None) or request.profile_text
