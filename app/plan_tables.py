"""A plan over its target as a frame. Knows nothing about streamlit or plotly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from analysis.late import pd
from slicing.over_targets import SizesOverTargets

if TYPE_CHECKING:
    from slicing.preview import Preview


def over_targets_table(sizes: SizesOverTargets, previews: Mapping[float, Preview]) -> pd.DataFrame:
    """One row per target of a plan: its size, and the preview there where one was measured."""
    size = dict(zip(sizes.targets, sizes.parameters, strict=True))
    return pd.DataFrame(
        {
            "target (SP), %": round(100 * target, 1),
            "parameters": size.get(target),
            "of dense, %": round(100 * size[target] / sizes.dense, 2) if target in size else None,
            "preview perplexity": previews[target].planned.perplexity if target in previews else None,
        }
        for target in sorted({*sizes.targets, *previews})
    )
