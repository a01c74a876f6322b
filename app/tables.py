"""Every table: a pure function from results to a frame, with the unit of each column in its name.

Knows nothing about streamlit or plotly.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.evaluate import Difference
from analysis.texts import TextSource
from app import wording
from slicing.allocation import Fractions
from slicing.grid import Cell, Grid, pareto
from slicing.runs import CompareRecipe, CompareResult, Contestant, ProfileRecipe, Recipe, Run
from slicing.schedule import SlicingSchedule


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
            "95 % interval": wording.interval(each.evaluation.interval),
        }
        for each in contestants
    )


def difference_table(differences: Sequence[tuple[str, Difference]]) -> pd.DataFrame:
    """Paired differences, in percent of perplexity and in nats per token."""
    return pd.DataFrame(
        {
            "comparison": label,
            "perplexity, %": round(each.percent, 2),
            "95 % interval, %": wording.interval(each.percent_interval, 1),
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
            "95 % interval": wording.interval(each.evaluation.interval),
            "mean slice, %": round(100 * each.mean_slice, 2),
            "unbeaten": name in front,
        }
        for name, each in found
    )


def run_table(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per stored run."""
    return pd.DataFrame([_run_row(run) for run in runs])


def _size_row(each: Contestant, dense: Contestant) -> dict[str, object]:
    seconds, peak = each.slicing_seconds, each.slicing_peak_memory
    return {
        "model": each.title,
        "mean slice": wording.percent(each.mean_slice),
        "parameters": f"{each.parameters:,}",
        "vs dense": wording.percent(each.parameters / dense.parameters - 1.0, signed=True),
        "weights": wording.memory(each.bytes),
        "FLOPs per token": wording.flops(each.flops_per_token),
        "tokens/s": f"{each.evaluation.tokens_per_second:,.0f}",
        "slicing": "" if seconds is None else wording.duration(seconds),
        "peak while slicing": "" if peak is None else wording.memory(peak),
        "peak while evaluating": wording.memory(each.evaluation.peak_memory),
    }


def _perplexity(each: Contestant | None) -> str:
    return "" if each is None else f"{each.evaluation.perplexity:.2f}"


def _run_row(run: Run) -> dict[str, object]:
    recipe, result = run.recipe, run.result
    plan = None if isinstance(recipe, ProfileRecipe) else recipe.plan
    base = plan.settings.get("base") if plan else None
    row: dict[str, object] = {
        "key": run.key,
        "kind": recipe.kind,
        "model": recipe.model.label,
        "text": _text(recipe).label(),
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
    if isinstance(result, CompareResult) and plan:
        for column, name in (("dense", "dense"), ("constant", "constant"), ("planned", plan.allocation)):
            row[column] = result.contestant(name).evaluation.perplexity
        difference = result.difference("constant", plan.allocation)
        row["vs constant, %"], row["verdict"] = difference.percent, difference.verdict
    return row


def _text(recipe: Recipe) -> TextSource:
    """The text that a run's numbers were measured on."""
    if isinstance(recipe, CompareRecipe):
        return recipe.evaluation
    return recipe.text if isinstance(recipe, ProfileRecipe) else recipe.calibration
