"""The command that holds two stored runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analysis.storage import check_new_file
from app.cli.options import JsonOption
from app.cli.rows import print_rows
from app.cli.terminal import out, plain, printed_as_json, write_new

if TYPE_CHECKING:
    from analysis.differences import ProfileDifference
    from analysis.evaluate import Difference
    from slicing.studies.results import Run


def difference(
    before: Annotated[
        str, typer.Argument(help="The key of a run, its first digits, 'demo' or 'demo-energy'.")
    ],
    after: Annotated[str, typer.Argument(help="The key of the run that is held against it.")],
    score: Annotated[
        str, typer.Option(help="The score whose measurement is compared; of LR that is 1 − mean cosine.")
    ] = "lr",
    first_token: Annotated[
        bool, typer.Option("--first-token", help="Count the first token of each window.")
    ] = False,
    percent: Annotated[
        bool, typer.Option("--percent", help="Give differences in percent of the run before.")
    ] = False,
    csv_path: Annotated[
        Path | None,
        typer.Option(
            "--csv",
            callback=lambda path: path if path is None else check_new_file(path),
            help="Write the blocks to this file; it must not exist yet.",
        ),
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """Hold two runs side by side: their profiles block by block, and their models window by window.

    Differences are AFTER less BEFORE, with 95 % intervals: paired where both runs saw the same windows.
    """
    from app import wording
    from slicing.studies.beside import difference_of_profiles, why_not_paired
    from slicing.studies.store import named_run

    runs = named_run(before), named_run(after)
    found = difference_of_profiles(*runs, score, first_token, percent)
    models, why = _models(*runs), why_not_paired(*runs)
    data = {
        "before": runs[0].key,
        "after": runs[1].key,
        "score": score,
        "paired": found.paired,
        "windows": list(found.windows),
        "blocks": found.to_frame().to_dict("records"),
        "models": [{**plain(each), "verdict": each.verdict} for each in models],
        "models_not_paired": why,
    }
    if printed_as_json(data, json_path):
        return
    for which, run in zip(("before", "after"), runs, strict=True):
        out.print(f"{which}: {wording.run_line(run)}", highlight=False)
    out.print()
    print_rows(_rows(found))
    for sentence in (
        f"Compared: {wording.change_title(score)}.",
        wording.profiles_apart(found),
        wording.how_sure(found),
        *map(wording.models_apart, models),
        *([why] if why else []),
    ):
        out.print(sentence, highlight=False)
    if csv_path:
        from app.cells import csv

        write_new(csv_path, csv(found.to_frame()))


def _models(first: Run, second: Run) -> list[Difference]:
    """Pair the models of the same name in both runs, where their windows are the same."""
    from slicing.studies.beside import difference_of_models, judged_models, why_not_paired

    if why_not_paired(first, second):
        return []
    others = {each.title: each for each in judged_models(second)}
    return [
        difference_of_models(each, others[each.title])
        for each in judged_models(first)
        if each.title in others
    ]


def _rows(found: ProfileDifference) -> list[dict[str, Any]]:
    digits, unit = (1, " %") if found.relative else (4, "")
    rows: list[dict[str, Any]] = []
    for place, block in enumerate(found.blocks.tolist()):
        between = ""
        if found.interval is not None:
            low, high = found.interval[place]
            between = f"{low:+.{digits}f} to {high:+.{digits}f}{unit}"
        rows.append(
            {
                "block": block,
                "before": f"{found.first[place]:.4f}",
                "after": f"{found.second[place]:.4f}",
                "difference": f"{found.difference[place]:+.{digits}f}{unit}",
                "95 % interval": between,
                "clear": "*" if found.clear[place] else "",
            }
        )
    return rows
