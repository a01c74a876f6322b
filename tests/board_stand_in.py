"""A study of several sizes that nobody ran, made of the comparison that ships: all losses are chosen here."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from contest_stand_in import evaluation, shipped_measurement

from analysis.shape import ModelShape, UnitShape
from slicing.depth.layout import Layout
from slicing.inner.widths import InnerWidths, SublayerWidths
from slicing.studies.requests import Trial
from slicing.studies.results import Measurement, Run, StudyResult
from slicing.studies.store import bundled_run
from slicing.studies.study import Study, leaderboard, recipes

LOSSES = {
    "slice(constant)": 1.0,
    "slice(dynamic, base=0, blocks_per_basis=3, repair=writers)": 0.5,
    "random-blocks": 0.9,
    "random-blocks(draw=1)": 1.4,
    "shortgpt": 0.6,
    "llm-streamline(repair=linear)": 0.4,
    "llm-streamline(repair=writers)": 0.3,
    "llm-streamline(share=0.5) | slice(constant, blocks_per_basis=3, repair=writers)": 0.45,
}
"""Of every recipe above dense at the first size, in nats per token; at the second twice as much."""
SIZES = (0.1, 0.2)
REMOVED = {0.1: 4, 0.2: 8}

CHANNELS = 1536
INNER = InnerWidths(
    blocks=(
        (SublayerWidths(gone=True), SublayerWidths(kept={"channels": 500})),
        *((SublayerWidths(), SublayerWidths(kept={"channels": 1200})),) * 29,
    )
)
"""What every recipe leaves that cuts inside blocks."""


def with_units(shape: ModelShape) -> ModelShape:
    """The shape of the demo model with its units, which the run that ships does not name."""
    inside = (
        UnitShape(kind="kv_groups", count=3, reader_rows=320, writer_columns=192),
        UnitShape(kind="value_pairs", count=192, reader_rows=1, writer_columns=3, parts=3),
    )
    channels = (UnitShape(kind="channels", count=CHANNELS, reader_rows=2, writer_columns=1),)
    rows = (
        (
            heads.model_copy(update={"units": inside, "cached": 384}),
            mlp.model_copy(update={"units": channels}),
        )
        for heads, mlp in shape.blocks
    )
    return shape.model_copy(update={"blocks": tuple(rows)})


def board_study(**changes: Any) -> Study:
    """The study, at two sizes; ``changes`` are arguments of ``leaderboard``."""
    shipped = bundled_run().request
    fields: dict[str, Any] = {
        **{name: getattr(shipped, name) for name in ("model", "calibration", "evaluation")},
        "recipes": recipes(*LOSSES),
        "sizes": SIZES,
        "other": getattr(shipped, "evaluation"),  # noqa: B009 (of a study)
    }
    return leaderboard(**{**fields, **changes})


def board_run(**changes: Any) -> Run:
    """The run."""
    study, shipped = board_study(**changes), bundled_run()
    result: Any = shipped.result
    found = StudyResult(
        profile=result.profile,
        shape=with_units(result.shape),
        measurements=tuple(map(_measurement, study.trials())),
        calibration=result.calibration,
        evaluation=result.evaluation,
    )
    return shipped.model_copy(update={"recorded_key": study.key, "request": study, "result": found})


def _measurement(trial: Trial) -> Measurement:
    dense = shipped_measurement("dense")
    size = trial.budget.amount if trial.budget else 0.0
    loss = LOSSES.get(trial.recipe.line, 0.2) * (1 + SIZES.index(size)) if trial.budget else 0.0
    changes: dict[str, Any] = {
        "name": trial.recipe.short,
        "title": trial.recipe.short_title,
        "evaluation": evaluation(loss),
        "other": evaluation(loss / 2),
        "deciding_seconds": 30.0,
    }
    if size:
        changes["parameters"] = round(dense.parameters * (1 - size))
    if trial.recipe.kind in ("depth", "both"):
        blocks = bundled_run().result.profile.blocks
        changes["layout"] = layout = Layout.without(blocks, range(5, 5 + REMOVED[size]))
        sliced = shipped_measurement("dynamic").schedule if trial.recipe.kind == "both" else None
        if sliced:  # of the blocks that are left
            widths = tuple(sliced.widths[top] for top in (*layout.tops, blocks))
            sliced = sliced.model_copy(update={"widths": widths})
        changes["schedule"] = sliced
    if trial.recipe.kind == "inner":
        changes["inner"] = INNER
    like = shipped_measurement("dynamic") if trial.recipe.kind == "width" else dense
    return like.model_copy(update=changes)


EARLIER = Path(__file__).parent / "data" / "board-0.1.0.json.gz"
"""The leaderboard of removal that version 0.1 shipped, as it was stored: LaCo ends at four million there."""


def earlier_board() -> Run:
    """Read the board that an earlier version stored."""
    return Run.from_json(gzip.decompress(EARLIER.read_bytes()).decode(), "it")
