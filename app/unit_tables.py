"""What the parts inside the blocks cost, as tables. Knows nothing about streamlit or plotly."""

from __future__ import annotations

import pandas as pd

from slicing.inner.costs import COSTED, UnitCosts

QUARTER = 0.25
PARTS = {"attention": "attention", "mlp": "MLP"}
"""What branches are called."""
UNITS = {"channels": "channels", "kv_groups": "KV heads", "value_pairs": "value ranks"}
"""What the kinds of units are called in a few letters."""


def unit_table(costs: UnitCosts) -> pd.DataFrame:
    """One row per attention and MLP: what all of it costs, and the cheapest quarter of its units, in nats.

    Where it was measured, also what that found and how many times the prediction it is. Columns that hold
    nothing are left out.
    """
    rows = []
    for block, branches in enumerate(costs.blocks):
        for branch in branches:
            quarters = {}
            for kind in COSTED:
                curve = branch.curve(kind)
                found = curve.nearest(QUARTER) if curve else None
                quarters[f"¼ of {UNITS[kind]}"] = found[1] if found else None
            rows.append(
                {
                    "block": block,
                    "part": PARTS[branch.kind],
                    **quarters,
                    "all of it": branch.whole,
                    "measured": branch.measured,
                    "× predicted": branch.ratio,
                }
            )
    return pd.DataFrame(rows).dropna(axis="columns", how="all")
