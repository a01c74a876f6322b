"""How a run is told on the terminal: a study by its view, everything else by its profile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.cli.terminal import out, table_of

if TYPE_CHECKING:
    from analysis.evaluate import Difference
    from slicing.study.results import Run
    from slicing.study.study import Study
    from slicing.study.verdicts import Board, Comparison


def print_run(run: Run) -> None:
    """Print what a run found."""
    from slicing.study.verdicts import read_board, read_comparison

    if run.request.kind != "study" or run.result.kind != "study":
        out.print(run.result.profile.to_frame().round(3).to_string(index=False), highlight=False)
    elif run.request.view == "comparison":
        _show_comparison(read_comparison(run.request, run.result))
    else:
        _show_board(run.request, read_board(run.request, run.result), run)


def _show_board(study: Study, board: Board, run: Run) -> None:
    """A map where its recipes make one, else a ranking for each budget, and what all say together."""
    from app import wording
    from app.tables import map_table, ranking_table
    from slicing.study.verdicts import read_map

    assert run.result.kind == "study"
    found = read_map(board) if study.view == "map" else None
    if found:
        out.print(map_table(found, board).to_string(index=False), highlight=False)
        out.print(wording.map_reading(study))
        return
    for table in board.tables:
        out.print(table.budget.title, style="bold", highlight=False)
        out.print(ranking_table(table, run.result.shape).to_string(index=False), highlight=False)
        if study.view != "frontier":
            _tell(wording.ranking(table))
    if study.view == "frontier":
        _tell(wording.frontier(board))


def _tell(sentences: list[str]) -> None:
    for sentence in sentences:
        out.print(sentence, highlight=False)


def _show_comparison(found: Comparison) -> None:
    from app.tables import int8_table, task_table
    from app.wording import noise_reading, sequential_or_one_shot, window_reading

    table = table_of()
    for column in ("model", "perplexity", "95 % interval", "slice", "parameters", "MFLOPs"):
        table.add_column(column, no_wrap=True, justify="left" if column == "model" else "right")
    dense, result = found.measured["dense"], found.result
    for each in found.measured.values():
        interval = each.evaluation.interval
        table.add_row(
            each.name,
            f"{each.evaluation.perplexity:.2f}",
            f"{interval[0]:.1f} to {interval[1]:.1f}" if interval else "-",
            f"{each.mean_slice:.1%}",
            f"{each.parameters / 1e6:.1f}M {each.parameters / dense.parameters - 1:+.1%}",
            f"{each.flops_per_token / 1e6:.0f}",
        )
    out.print(table)
    _tell([_sentence(each) for each in found.differences])
    if (scores := task_table(found.measured.values())) is not None:
        out.print(scores.to_string(index=False), highlight=False)
    if (eight := int8_table(found.measured.values())) is not None:
        out.print(eight.to_string(index=False), highlight=False)
    out.print("MFLOPs are those of the linear maps for one token.", style="dim")
    out.print(f"{result.evaluation.label}: {dense.evaluation.protocol}.", style="dim", highlight=False)
    out.print(window_reading(result.evaluation), style="dim", highlight=False)
    out.print(sequential_or_one_shot(found.study), style="dim")
    if repeated := noise_reading(found.study):
        out.print(repeated, style="dim", highlight=False)
    for each in found.measured.values():
        if each.sample:
            out.print(f"{each.title} continues (an illustration, not evidence):", style="bold")
            out.print(each.sample.text.strip(), highlight=False)


def _sentence(each: Difference) -> str:
    from app.wording import noise

    between = ""
    if each.percent_interval:
        low, high = each.percent_interval
        between = f", 95 % interval {low:+.1f} to {high:+.1f} %"
    if moved := noise(each):
        between += f"; {moved}"
    return (
        f"{each.contender} against {each.baseline}: {each.percent:+.1f} % perplexity "
        f"({each.nats:+.3f} nats per token{between}): {each.verdict}"
    )
