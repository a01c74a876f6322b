"""What the parts inside the blocks cost, as tables. Knows nothing about streamlit or plotly."""

from __future__ import annotations

from analysis.late import pd
from analysis.shape import ModelShape
from app import wording
from slicing.inner.costs import COSTED, BranchCosts, UnitCosts
from slicing.inner.widths import KINDS

QUARTER = 0.25


def unit_table(costs: UnitCosts) -> pd.DataFrame:
    """One row per attention and MLP: what all of it costs, and the cheapest quarter of its units, in nats.

    Where it was measured, also what that found and how many times the prediction it is. ``massive tokens``:
    the share of the curvature that they would have, from 0 to 1. Columns that hold nothing are left out.
    """
    rows = []
    for block, branches in enumerate(costs.blocks):
        for branch in branches:
            quarters = {}
            for kind in COSTED:
                curve = branch.curve(kind)
                found = curve.nearest(QUARTER) if curve else None
                quarters[f"¼ of {wording.PARTS[kind]}"] = found[1] if found else None
            rows.append(
                {
                    "block": block,
                    "part": wording.BRANCHES[branch.kind],
                    **quarters,
                    "all of it": branch.whole,
                    "measured": branch.measured,
                    "× predicted": branch.ratio,
                    "token by token": branch.paired,
                    "massive tokens": branch.massive or None,
                }
            )
    return pd.DataFrame(rows).dropna(axis="columns", how="all")


def unit_map_table(costs: UnitCosts, shape: ModelShape, share: float) -> pd.DataFrame:
    """One row per part of every block: what goes, what that saves and costs."""
    return pd.DataFrame(
        {
            "block": each.block,
            "part": wording.PARTS[each.part],
            "units": each.units,
            "gone": each.gone,
            "parameters fewer": each.saved,
            "nats per token": each.cost,
            "perplexity, %": 100 * (wording.times_perplexity(each.cost) - 1),
            "nats per token and million": each.per_million,
        }
        for each in costs.parts(shape, share)
    )


def unit_curve_table(branch: BranchCosts) -> pd.DataFrame:
    """One row per point of the curves of an attention or MLP, and one for all of it."""
    rows = []
    for kind in COSTED:
        if curve := branch.curve(kind):
            rows += [(KINDS[kind], gone, curve.count, cost) for gone, cost in curve.points()]
    if branch.whole is not None:
        rows.append(("all of it, predicted", None, None, branch.whole))
    if branch.measured is not None:
        rows.append(("all of it, measured", None, None, branch.measured))
    frame = pd.DataFrame(rows, columns=["units", "gone", "of", "nats per token"])
    frame["perplexity, %"] = [100 * (wording.times_perplexity(cost) - 1) for cost in frame["nats per token"]]
    return frame


def unit_agreement_table(costs: UnitCosts) -> pd.DataFrame:
    """One row per attention and MLP that was measured: predicted, measured, and the one over the other."""
    return pd.DataFrame(
        {
            "block": block,
            "part": wording.BRANCHES[branch.kind],
            "predicted, nats per token": branch.whole,
            "predicted token by token": branch.paired,
            "measured, nats per token": branch.measured,
            "measured / predicted": branch.ratio,
        }
        for block, branch in costs.compared()
    )
