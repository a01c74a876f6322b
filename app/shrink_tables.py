"""Tables of shrinks: what was tried at each rung, and what is known of a wish before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.late import pd
from app import wording
from slicing.healing.looks import Underway
from slicing.studies.options import Option
from slicing.studies.results import ShrinkResult
from slicing.studies.underway import Come

RUNGS = {1: "preview", 2: "full", 3: "finalist"}
"""What the rungs of a shrink are called."""


def tried_table(result: ShrinkResult) -> pd.DataFrame:
    """One row for everything that was considered, in the order of trying."""
    found = pd.DataFrame(
        {
            "rung": RUNGS[each.rung],
            "recipe": each.line,
            "loss": each.nats and round(each.nats, 3),
            "parameters": each.parameters and f"{each.parameters:,}",
            "took, s": each.seconds and round(each.seconds, 1),
            "expected, s": each.expected and round(each.expected, 1),
            "why no further": each.dropped,
        }
        for each in result.tried
    )
    return found.dropna(axis="columns", how="all")


def finalist_table(result: ShrinkResult) -> pd.DataFrame:
    """The dense model and the finalists, judged on the evaluation texts."""
    return pd.DataFrame(finalist_rows(result))


def finalist_rows(result: ShrinkResult) -> list[dict[str, object]]:
    """The same as rows of plain values, without columns that are empty in all of them."""
    dense = result.dense
    rows = []
    for line, each in (
        ("dense", dense),
        *((one.recipe.line, one.measurement) for one in result.finalists),
    ):
        rows.append(
            {
                "recipe": line,
                "perplexity": round(each.evaluation.perplexity, 2),
                "95 % interval": wording.interval(each.evaluation.interval),
                "on the second text": each.other and round(each.other.perplexity, 2),
                "on search windows": each.search and round(each.search.perplexity, 2),
                "parameters": f"{each.parameters:,}",
                "vs dense": wording.percent(each.parameters / dense.parameters - 1.0, signed=True),
                "MFLOPs": round(each.flops_per_token / 1e6, 1),
                "prompt": wording.times(each.speed, "prompt"),
                "generation": wording.times(each.speed, "generation"),
            }
        )
    empty = [name for name in rows[0] if all(row[name] in (None, "") for row in rows)]
    return [{name: value for name, value in row.items() if name not in empty} for row in rows]


def option_table(options: Sequence[Option]) -> pd.DataFrame:
    """List the recipes that were judged already and answer a wish, best first."""
    found = pd.DataFrame(
        {
            "recipe": each.recipe.line,
            "perplexity": round(each.measured.evaluation.perplexity, 2),
            "of": wording.draws(each.draws),
            "times dense": round(each.times, 2),
            "second text": each.other_times and round(each.other_times, 2),
            "parameters": wording.millions(each.measured.parameters),
            "fewer": wording.percent(1.0 - each.measured.parameters / each.dense.parameters),
            "took": wording.duration(each.seconds),
        }
        for each in options
    )
    return found.dropna(axis="columns", how="all")


def come_table(found: Sequence[Come]) -> pd.DataFrame:
    """List the trials of a shrink that have come, each rung with the least loss first."""
    return pd.DataFrame(
        {
            "rung": RUNGS[each.rung],
            "recipe": each.line,
            "loss": round(each.nats, 3),
            "took, s": round(each.seconds, 1),
        }
        for each in sorted(found, key=lambda each: (each.rung, each.nats))
    )


def looks_table(training: Underway) -> pd.DataFrame:
    """Every look at a model that is being trained, so far."""
    return pd.DataFrame(
        [(training.step, look.tokens, round(look.loss, 4)) for look in training.looks],
        columns=["step", "tokens trained on", "loss, nats per token"],
    )
