"""Every table: a pure function from results to a frame, with the unit of each column in its name.

Knows nothing about streamlit or plotly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.details import Details
from analysis.evaluate import Difference, perplexity_of
from analysis.profile import LayerProfile
from analysis.shape import ModelShape
from analysis.sources.text import TextSource
from app import wording
from slicing.allocation import Fractions
from slicing.study.verdicts import Table
from slicing.study.verdicts import Cell, pareto
from slicing.grid import Grid
from slicing.runs import CompareRecipe, CompareResult, Contestant, ProfileRecipe, RemoveResult
from slicing.study.recipe import Recipe
from slicing.study.results import Run
from slicing.schedule import SlicingSchedule
from slicing.study.store import Broken


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


def similarity_table(details: Details, by: str = "similarity") -> pd.DataFrame:
    """How alike the stream is at every two depths, by a measure in ``LIKENESSES``: a row for each."""
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


def passage_table(result: CompareResult, baseline: str, contender: str) -> pd.DataFrame:
    """One row per evaluation window: where it lies, and how much more one model loses on it than another."""
    base, other = (result.contestant(name).evaluation.nll for name in (baseline, contender))
    where = result.evaluation.passages
    return pd.DataFrame(
        {
            "window": range(len(base)),
            "document": [each.document for each in where] or "",
            "begins": [each.begins for each in where] or "",
            f"{baseline}, nats per token": base,
            f"{contender}, nats per token": other,
            "difference": np.subtract(other, base),
        }
    ).round(4)


def size_table(result: CompareResult) -> pd.DataFrame:
    """The four sizes of every contestant, and what it took to make and run it."""
    dense = result.contestant("dense")
    return pd.DataFrame([_size_row(each, dense) for each in result.contestants])


def perplexity_table(contestants: Sequence[Contestant]) -> pd.DataFrame:
    """Perplexity with its interval."""
    return pd.DataFrame(
        {
            "model": each.title,
            "perplexity": round(each.evaluation.perplexity, 3),
            "95 % interval": wording.told_interval(each.evaluation.interval),
        }
        for each in contestants
    )


def difference_table(differences: Sequence[tuple[str, Difference]]) -> pd.DataFrame:
    """Paired differences, in percent of perplexity and in nats per token."""
    return pd.DataFrame(
        {
            "comparison": label,
            "perplexity, %": round(each.percent, 2),
            "95 % interval, %": wording.told_interval(each.percent_interval, 1),
            "nats per token": round(each.nats, 4),
            "verdict": each.verdict,
            "windows": each.windows,
        }
        for label, each in differences
    )


def text_table(run: Run) -> pd.DataFrame:
    """The windows a run really saw, with the digest of their tokens."""
    roles = ("text", "calibration", "evaluation")
    used = {role: getattr(run.result, role) for role in roles if hasattr(run.result, role)}
    return pd.DataFrame({"role": role, **text.model_dump()} for role, text in used.items())


def grid_table(grid: Grid) -> pd.DataFrame:
    """One row per target, one column per base: the change of perplexity against constant slicing."""

    def told(cell: Cell) -> str:
        if cell.trial is None:
            return "constant"
        if cell.gain is None:
            return ""
        clear = cell.gain.verdict in ("better", "worse")
        return wording.change(cell.gain) + ("*" if clear else "")

    return pd.DataFrame(
        {
            "target (SP)": wording.percent(target),
            "constant": _perplexity(grid.constant[target]),
            **{f"SB {100 * base:g} %": told(grid.cell(base, target)) for base in grid.recipe.bases},
        }
        for target in grid.recipe.targets
    )


def trial_table(grid: Grid) -> pd.DataFrame:
    """One row per model that ran: size and perplexity, and whether anything beats it in both."""
    found = grid.contestants()
    front = pareto(found)
    return pd.DataFrame(
        {
            "model": name,
            "parameters": each.parameters,
            "perplexity": round(each.evaluation.perplexity, 3),
            "95 % interval": wording.told_interval(each.evaluation.interval),
            "mean slice, %": round(100 * each.mean_slice, 2),
            "unbeaten": name in front,
        }
        for name, each in found
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


def together_table(results: Sequence[tuple[str, CompareResult]]) -> pd.DataFrame:
    """One row per contestant of every comparison."""
    return pd.DataFrame(
        {
            "run": name,
            "model": each.title,
            "perplexity": round(each.evaluation.perplexity, 2),
            "95 % interval": wording.told_interval(each.evaluation.interval),
            "parameters": f"{each.parameters:,}",
            "text": result.evaluation.label,
        }
        for name, result in results
        for each in result.contestants
    )


def run_table(runs: Sequence[Run], labels: Sequence[str], broken: Sequence[Broken] = ()) -> pd.DataFrame:
    """One row per stored run, with what people call it; those that cannot be read come last."""
    named = zip(runs, labels, strict=True)
    rows = [{"name": label or wording.title(run.recipe), **_run_row(run)} for run, label in named]
    unreadable = [
        {"name": each.problem, "key": each.name, "kind": wording.UNREADABLE, "made": None} for each in broken
    ]
    return pd.DataFrame([*rows, *unreadable])


def task_table(contestants: Sequence[Contestant]) -> pd.DataFrame | None:
    """What everyone scores on every task, with the standard error; ``None`` where no task was run."""
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
        for each in contestants
        for score in each.tasks
    ]
    return pd.DataFrame(rows) if rows else None


def contest_table(table: Table) -> pd.DataFrame:
    """Everyone of a contest, best first."""
    second = table.dense is not None and table.dense.other is not None
    rows: list[dict[str, object]] = []
    if table.dense:
        row: dict[str, object] = {"entry": "dense", "perplexity": table.dense.evaluation.perplexity}
        if second and table.dense.other:
            row["second text"] = table.dense.other.perplexity
        rows.append({**row, "parameters": table.dense.parameters})
    for each in table.standings:
        low, high = (each.gain.percent_interval if each.gain else None) or (None, None)
        row = {
            "entry": each.entry.name,
            "perplexity": each.perplexity,
            "loss kept, %": 100 * each.share,
            "vs constant, %": each.gain.percent if each.gain else None,
            "from": low,
            "to": high,
            "verdict": each.gain.verdict if each.gain else "",
        }
        if second:
            row |= {
                "second text": each.other_perplexity,
                "loss kept there, %": None if each.other_share is None else 100 * each.other_share,
                "vs constant there, %": each.other_gain.percent if each.other_gain else None,
            }
        rows.append(
            {
                **row,
                "parameters": each.parameters,
                "seeds": len(each.runs),
                "seconds, one timing": round(each.seconds),
            }
        )
    return pd.DataFrame(rows).round(2)


def removal_table(result: RemoveResult) -> pd.DataFrame:
    """One row: what is left, and what it is worth."""
    return pd.DataFrame(
        {
            "blocks": [result.layout.label],
            "left": [len(result.layout.groups)],
            "parameters": [f"{result.parameters:,}"],
            "vs dense": [wording.percent(result.parameters / result.dense_parameters - 1.0, signed=True)],
            "perplexity": [result.reduced and round(result.reduced.perplexity, 2)],
            "dense": [result.dense and round(result.dense.perplexity, 2)],
            "opens without our code": [result.plain],
        }
    ).dropna(axis="columns", how="all")


def board_table(table: Table, shape: ModelShape | None = None) -> pd.DataFrame:
    """Everyone at one size of a leaderboard, best first, after the dense model; ``shape`` is that model's."""
    if table.dense is None:
        return pd.DataFrame()
    dense = table.dense
    rows = [{"entry": "dense", **_board_row(dense, dense)}]
    for each in table.standings:
        gain = each.gain
        low, high = (gain.percent_interval if gain else None) or (None, None)
        row = _board_row(each.runs[0], dense) | {
            "perplexity": each.perplexity,
            "× dense": perplexity_of(each.nats),
            "vs constant, %": gain.percent if gain else None,
            "from": low,
            "to": high,
            "verdict": gain.verdict if gain else "",
            "seeds": len(each.runs),
            "seconds, one timing": round(each.seconds),
            "free bits, at most %": shape and _free_bits(each.runs[0], shape),
        }
        if each.other_nats is not None:
            row |= {"second text": each.other_perplexity, "× dense there": perplexity_of(each.other_nats)}
        rows.append({"entry": each.entry.name, **row})
    return pd.DataFrame(rows).round(3).dropna(axis="columns", how="all")


def _free_bits(each: Contestant, shape: ModelShape) -> float | None:
    """The share of a sliced model's storage that its symmetries would save, at most."""
    if each.schedule is None:
        return None
    if each.layout:
        shape = shape.model_copy(update={"blocks": tuple(shape.blocks[top] for top in each.layout.tops)})
    return 100 * each.schedule.symmetric_parameters(shape) / each.parameters


def _board_row(each: Contestant, dense: Contestant) -> dict[str, object]:
    """What every model of a leaderboard has; the order is that of the columns."""
    return {
        "perplexity": each.evaluation.perplexity,
        "× dense": 1.0,
        "second text": each.other and each.other.perplexity,
        "× dense there": 1.0 if each.other else None,
        "vs constant, %": None,
        "from": None,
        "to": None,
        "verdict": "",
        **{f"{task.task}, {task.metric}": task.value for task in each.tasks},
        "parameters": each.parameters,
        "blocks": each.layout.label if each.layout else "all blocks",
        "mean slice, %": 100 * each.mean_slice if each.schedule else None,
        "prompt, × dense": wording.times(each.speed, "prompt"),
        "generation, × dense": wording.times(each.speed, "generation"),
        "free bits, at most %": None,
        "seeds": None,
        "seconds, one timing": None,
    }


def _size_row(each: Contestant, dense: Contestant) -> dict[str, object]:
    peak = each.slicing_peak_memory
    return {
        "model": each.title,
        "mean slice": wording.percent(each.mean_slice),
        "parameters": f"{each.parameters:,}",
        "vs dense": wording.percent(each.parameters / dense.parameters - 1.0, signed=True),
        "weights": wording.told_memory(each.bytes),
        "FLOPs per token": wording.flops(each.flops_per_token),
        "prompt": wording.times(each.speed, "prompt"),
        "generation": wording.times(each.speed, "generation"),
        "peak while slicing": "" if peak is None else wording.told_memory(peak),
        "peak while evaluating": wording.told_memory(each.evaluation.peak_memory),
    }


def _perplexity(each: Contestant | None) -> str:
    return "" if each is None else f"{each.evaluation.perplexity:.2f}"


ONE_PLAN = ("slice", "compare", "search", "trial")
"""The kinds of recipe that slice by one plan."""


def _run_row(run: Run) -> dict[str, object]:
    recipe, result = run.recipe, run.result
    plan = getattr(recipe, "plan", None) if recipe.kind in ONE_PLAN else None
    base = plan.settings.get("base") if plan else None
    row: dict[str, object] = {
        "key": run.key,
        "kind": recipe.kind,
        "model": recipe.model.label,
        "text": _text(recipe).label,
        "method": "" if isinstance(recipe, ProfileRecipe) else recipe.method,
        "SP, %": None if plan is None else 100.0 * plan.target,
        "SB, %": 100.0 * base if isinstance(base, float) else None,
        "dense": None,
        "constant": None,
        "planned": None,
        "vs constant, %": None,
        "verdict": "",
        "made": run.created,
        "took": wording.duration(run.seconds),
    }
    if isinstance(recipe, CompareRecipe) and isinstance(result, CompareResult):
        for column, name in (("dense", "dense"), ("constant", "constant"), ("planned", recipe.planned)):
            row[column] = result.contestant(name).evaluation.perplexity
        difference = result.difference("constant", recipe.planned)
        row["vs constant, %"], row["verdict"] = difference.percent, difference.verdict
    return row


def _text(recipe: Recipe) -> TextSource:
    """The text that a run's numbers were measured on."""
    if isinstance(recipe, ProfileRecipe):
        return recipe.text
    evaluation = getattr(recipe, "evaluation", None)
    return recipe.calibration if evaluation is None else evaluation
