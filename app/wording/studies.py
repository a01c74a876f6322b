"""What a study says, in sentences: who loses least, what is clear, and what else is near."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from analysis.evaluate import perplexity_of
from analysis.scores import find_score
from app.wording.numbers import counted, draws, duration, percent, typeset
from app.wording.results import evidence, noise, study_reading
from app.wording.titles import budgets_line
from slicing.budget import Budget
from slicing.studies.recipe import Kind, Recipe
from slicing.studies.results import Measurement, Run
from slicing.studies.study import Study
from slicing.studies.verdicts import Board, Rival, Standing, Table, rivals

MAP_READING = (
    "Change of perplexity against constant slicing at the same target; ▼ better and ▲ worse where the "
    "verdict, corrected for all cells, is clear (in the table: *), else ≈."
)
"""How to read a map; ``map_reading`` adds what is repeated."""
INT8_READING = (
    "In int8 every matrix has 8 bits for a weight, and a scale for each output channel: a way to make the "
    "dense model smaller, too, and one that a smaller model can take as well."
)
RANKING_READING = typeset(
    "Excess loss: nats per token above the dense model, where 100 % is what the baseline, the first recipe "
    "of the study, loses at this size, and 0 % is dense."
)
"""How to read a ranking."""
FRONTIER_READING = (
    "All recipes of a size have the same number of parameters, to a rounding step, but for a linear "
    "replacement, which is a matrix more for each cut; they see the same windows. Circles: not repaired; "
    "squares: a linear replacement of each cut; triangles: the output projection in front of each fitted; "
    "diamonds: the block in front of each trained; stars: all output projections fitted."
)
"""How to read sizes against losses."""
NOT_RUN = (
    (
        "Sheared LLaMA",
        "Xia et al., ICLR 2024",
        "masks trained on 0.4 billion tokens, then 50 billion tokens of training",
    ),
    (
        "DISP-LLM",
        "Gao et al., NeurIPS 2024",
        "a hypernetwork trained through the model for 10,000 steps of 2,048 tokens",
    ),
    (
        "Bypass Back-propagation",
        "Gao et al., ACL 2025",
        "a policy trained on 120,000 sequences, with two passes through the model for each",
    ),
)
"""Methods that take part in no study because they train, and what they take as published."""
KINDS: dict[Kind, str] = {
    "width": "the best that slices",
    "depth": "the best that removes blocks",
    "inner": "the best that cuts inside blocks",
    "both": "the best that does both",
}
"""What a recipe makes smaller, in words."""


class Named(NamedTuple):
    """A model of a study, with what it is called there."""

    title: str
    recipe: Recipe
    budget: Budget | None
    """``None`` for the dense model."""
    measured: Measurement


def map_reading(study: Study) -> str:
    """Say how to read the map of a study."""
    return " ".join((MAP_READING, *study_reading(study)))


def models(board: Board) -> list[Named]:
    """Name all models of a study that ran, by their recipes and budgets; of several seeds the first."""
    dense = [Named("Dense", Recipe(), None, board.dense)] if board.dense else []
    found = [
        Named(
            f"{each.recipe.title}, {budgets_line((table.budget,))}", each.recipe, table.budget, each.runs[0]
        )
        for table in board.tables
        for each in table.standings
    ]
    return [*dense, *found]


def trials_size(study: Study, like: Run) -> str:
    """Say how many trials there are, and how long they take at the pace of another run of the same model."""
    trials = len(study.trials()) + len(study.matches())
    told = (
        f"{counted(trials, 'trial')}: the dense model, and every recipe at every budget with every seed; "
        f"{_once(study)} run with the first seed alone."
    )
    if study.jitter:
        told += f" Each calibrated recipe is repeated with noise, {counted(study.jitter, 'time')}."
    if like.result.kind == "study" and like.request.model == study.model:
        pace = like.result.measurements[0].evaluation.tokens_per_second
        seconds = sum(work for _, work in study.phases()) / pace
        told += f" About {duration(seconds)} at the pace of the run shown on Profile."
    return told + " Trials that are stored are not run again."


def baseline_name(study: Study) -> str:
    """Name what all recipes of a study are measured by, within a sentence."""
    baseline = study.baseline
    usual = baseline.short == "constant" and baseline.repaired == "none"
    return "constant slicing" if usual else quoted(baseline)


def quoted(recipe: Recipe) -> str:
    """The title of a recipe in quotation marks, since it has commas of its own."""
    return f"“{recipe.title}”"


def _listed(standings: Iterable[Standing]) -> str:
    return "; ".join(quoted(each.recipe) for each in standings)


def random_band(table: Table) -> tuple[float, float] | None:
    """Find the least and the largest excess loss, of the baseline's, of two random baselines or more."""
    drawn = [each.share for each in table.standings if each.recipe.by_chance]
    return (min(drawn), max(drawn)) if len(drawn) > 1 else None


def ranking(table: Table) -> list[str]:
    """Say who loses least at a budget, what is clearly better, and whether that is more than chance."""
    best, baseline = table.best, table.baseline
    if best is None or baseline is None:
        return ["Nothing has run beside the baseline yet."]
    other = f", {percent(best.other_share)} on the second text" if best.other_share is not None else ""
    told = [
        f"{quoted(best.recipe)} loses least: excess loss {percent(best.share)}{other} "
        f"({baseline_name(table.study)} = 100\N{NO-BREAK SPACE}%)"
        + (f"; {best.gain.verdict}: {evidence(best.gain)}." if best.gain else ".")
    ]
    rules = [each for each in table.standings if each.gain and not each.recipe.control]
    rules = [each for each in rules if each.recipe.repaired == "none" and not _shared(each.recipe)]
    if rules:
        clear = [each for each in rules if each.gain and each.gain.verdict == "better"]
        named = f": {_listed(clear)}" if clear else ""
        told.append(
            f"{len(clear)} of {len(rules)} recipes with neither repair nor shared bases are clearly better "
            f"than {baseline_name(table.study)}{named}."
        )
    if band := random_band(table):
        inside = [each for each in rules if each.share >= band[0]]
        beaten = f"not better than that: {_listed(inside)}." if inside else "every other recipe is better."
        told.append(
            f"Random baselines have an excess loss of {percent(band[0])} to {percent(band[1])}; {beaten}"
        )
    told += _gained(table)
    told.append(f"Intervals are over evaluation windows; {_draws(table.study)}.")
    return [*told, *study_reading(table.study)]


def windows_of_both(study: Study) -> str:
    """Say how many windows a study reads of the text it calibrates on and of the one it judges on."""
    first, second, length = study.calibration_windows, study.evaluation_windows, study.window_length
    if first == second:
        return f"{counted(first, 'window')} of {length:,} tokens of each"
    return f"{first:,} and {second:,} windows of {length:,} tokens"


def _draws(study: Study) -> str:
    if len(study.seeds) == 1:
        return "one draw of calibration windows, and another moves the numbers too"
    return f"{len(study.seeds)} draws of calibration windows are averaged; {_once(study)} had one draw"


def _once(study: Study) -> str:
    """Name what the first seed alone calibrates."""
    if not study.redrawn:
        return "baselines to beat"
    return f"all but {counted(len({*study.redrawn, study.baseline}), 'recipe')}"


def _shared(recipe: Recipe) -> int:
    """How many blocks share a basis; 0 for none."""
    return max((getattr(step, "blocks_per_basis", 0) for step in recipe.steps), default=0)


def _gained(table: Table) -> list[str]:
    """Say what repair and shared bases gain, for the recipes that take part with and without."""
    told = []
    for what, without in (
        ("Repair takes", {"repair": "none"}),
        ("Shared bases take", {"blocks_per_basis": 0}),
    ):
        moves = [
            f"of {quoted(one.recipe)} from {percent(one.share)} to {percent(each.share)} ({by})"
            for each in table.standings
            if (one := _same_without(table, each.recipe, without))
            and (by := each.recipe.repaired if "repair" in without else f"{_shared(each.recipe)} blocks")
        ]
        if moves:
            told.append(f"{what} the excess loss {'; '.join(moves)}.")
    return told


def _same_without(table: Table, recipe: Recipe, without: Mapping[str, object]) -> Standing | None:
    """The standing of the same recipe without something in its last step, where that is another recipe."""
    *before, last = recipe.cutting
    after = recipe.steps[len(recipe.cutting) :]
    if all(getattr(last, name, usual) == usual for name, usual in without.items()):
        return None
    return table.standing(Recipe(steps=(*before, last.model_copy(update=dict(without)), *after)).line)


def frontier(board: Board) -> list[str]:
    """Say which recipe to take at each size, and what else is near."""
    told = [f"{each.size} {'; '.join((each.take, *each.near))}." for each in choices(board)]
    return [*told, *choices_reading(board)] if told else [f"{board.done} of {board.total} trials have run."]


class Choice(NamedTuple):
    """Which recipe to take at a size, in parts of a sentence."""

    size: str
    take: str
    near: tuple[str, ...]
    """Tell what else is near: the best of every other kind."""


def choices(board: Board) -> list[Choice]:
    """Say which recipe to take at each size that has run, and what else is near."""
    sizes = zip(board.tables, rivals(board), strict=True)
    return [choice for table, others in sizes if (choice := _which_one(table, others))]


def choices_reading(board: Board) -> list[str]:
    """Say what the intervals of these choices are over, and how often they were drawn."""
    return [f"Intervals are over evaluation windows; {_draws(board.study)}.", *study_reading(board.study)]


def _which_one(table: Table, others: Sequence[Rival]) -> Choice | None:
    """Say which one to use at a size, drawn from the numbers."""
    winner = table.best_of()
    if winner is None or table.dense is None:
        return None
    told = (
        f"take {quoted(winner.recipe)}: perplexity "
        f"{winner.perplexity:.2f} ({draws(len(winner.runs))}), {_times_dense(winner.nats)} the dense model's"
    )
    if winner.other_perplexity is not None and winner.other_nats is not None:
        told += f", and {winner.other_perplexity:.2f}, {_times_dense(winner.other_nats)}, on the second text"
    near = []
    for kind, rival, gap in others:
        clear = "" if gap.verdict == "worse" else f", {gap.verdict}"
        if gap.drowned:
            clear += f" ({noise(gap)})"
        found = f"{rival.perplexity:.2f} ({draws(len(rival.runs))})"
        near.append(f"{KINDS[kind]}, {quoted(rival.recipe)}, has {found}{clear}")
    return Choice(f"At {budgets_line((table.budget,))}", told, tuple(near))


def _times_dense(nats: float) -> str:
    return f"{perplexity_of(nats):.2f} times"


def known_issues(recipes: Iterable[Recipe]) -> list[tuple[str, str]]:
    """Find the known issues of what recipes do, each title of a step or score with its sentence, once."""
    steps = [step for recipe in recipes for step in recipe.steps]
    scores = [find_score(name) for step in steps if (name := getattr(step, "score", None))]
    known = [
        *((step.title, step.issue) for step in steps),
        *((score.title, score.known_issue) for score in scores),
    ]
    return list(dict.fromkeys(each for each in known if each[1]))
