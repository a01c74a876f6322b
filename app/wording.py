"""What the pages say: numbers with their units, results in sentences, recipes as commands.

Knows nothing about streamlit or plotly.
"""

from __future__ import annotations

import math
import re
import shlex
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal

from analysis.details import Details
from analysis.errors import TextError, visible
from analysis.evaluate import Difference, perplexity_of
from analysis.shape import ModelShape
from analysis.sources.demo_text import DEMO_SPLITS
from analysis.sources.model import ModelSource
from analysis.sources.presets import PRESETS, Role
from analysis.sources.text import TextSource
from analysis.sources.windows import count_documents
from analysis.speed import COVERED, Ratio, Speed
from app.engine import Load, Task, Unload
from app.job import Job
from app.jobs import Closed, Opened
from slicing.allocation import Allocation
from slicing.bench import phases
from slicing.study.verdicts import Board, Rival, rivals
from slicing.board import Kind, best
from slicing.study.verdicts import Standing, Table
from slicing.plan import Plan
from slicing.preview import Preview
from slicing.repairs import find_repair
from slicing.runs import DECIDING, CompareRecipe, CompareResult, Contestant, ContestRecipe, Evaluated, Extras, LeaderboardRecipe, ProfileRecipe, RemoveRecipe, SearchRecipe, SliceRecipe, SweepRecipe, TrialRecipe
from slicing.study.requests import Calibrated, drawn_for
from app.journal import Entry
from slicing.study.recipe import Recipe
from slicing.steps.removal import Removal
from slicing.study.results import Run, TextUsed
from app.controls import number
from slicing.schedule import SlicingSchedule


def percent(fraction: float, signed: bool = False) -> str:
    """``0.25`` as ``25.0 %``, which no line break parts."""
    return _minus(
        f"{100 * fraction:+.1f}\N{NO-BREAK SPACE}%" if signed else f"{100 * fraction:.1f}\N{NO-BREAK SPACE}%"
    )


def told_memory(size: int) -> str:
    """Bytes in MiB or GiB."""
    gap = "\N{NO-BREAK SPACE}"
    return f"{size / 2**30:.2f}{gap}GiB" if size >= 2**30 else f"{size / 2**20:.0f}{gap}MiB"


def millions(count: int) -> str:
    """A count of parameters or FLOPs in millions or billions."""
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"


def flops(count: int) -> str:
    """FLOPs for one token."""
    return f"{count / 1e9:.2f} GFLOPs" if count >= 1e9 else f"{count / 1e6:.0f} MFLOPs"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, as coarse as one would say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def told_interval(pair: tuple[float, float] | None, digits: int = 2) -> str:
    """A 95 % interval, or why there is none."""
    if pair is None:
        return "no interval below 8 windows"
    return _minus(f"{pair[0]:.{digits}f} to {pair[1]:.{digits}f}")


_MARKDOWN = re.compile(
    r"[\\`*_\[\]<>$~#|!&]|^[-+=]|:(?=\S)|(?<=://)|(?<=:)(?=[\w+/-]+:)|(?<=www)(?=\.)|(?=@)"
)
_ARROWS = re.compile(r"(?<!\S)([<>~-])(?=(->|>|-|=)(?!\S))")
_NUMBERED = re.compile(r"^(\d+)(?=[.)](\s|$))")
_BREAK = "\N{WORD JOINER}"
"""Seen by nobody; but with it inside, an address is no link, and a name between colons no picture."""


def verbatim(text: str) -> str:
    """The text as a line of Markdown that shows it as it is: what people, files and addresses say is never
    markup.
    """
    line = _ARROWS.sub(rf"\1{_BREAK}", re.sub(r"[ \t\r\n]+", " ", visible(text)).strip(" "))
    marked = _MARKDOWN.sub(lambda found: f"\\{found[0]}" if found[0] else _BREAK, line)
    return _NUMBERED.sub(r"\1\\", marked)


def title(task: Task) -> str:
    """What a job does, as a heading."""
    if isinstance(task, Unload):
        return "Unload the model"
    if isinstance(task, Load):
        return f"Load {task.source.label}"
    if isinstance(task, ProfileRecipe):
        return f"Profile {task.model.label}"
    preview = " (preview bases)" if task.method == "preview" else ""
    if isinstance(task, SweepRecipe):
        bases, targets = ("/".join(f"{100 * each:g}" for each in row) for row in (task.bases, task.targets))
        return f"Sweep {task.model.label}, SB {bases} % by SP {targets} %{preview}"
    if isinstance(task, ContestRecipe):
        size = "equal parameters" if task.equal == "parameters" else "equal mean slice"
        return f"Contest of {len(task.entries)} on {task.model.label}, SP {percent(task.plan.target)}, {size}"
    if isinstance(task, LeaderboardRecipe):
        sizes = "/".join(f"{100 * each:g}" for each in task.sizes)
        return f"Leaderboard of {len(task.entries)} on {task.model.label}, {sizes} % fewer parameters"
    if isinstance(task, RemoveRecipe):
        return f"Remove {task.blocks} of the blocks of {task.model.label}, {removal_line(task.removal)}"
    verb = {"slice": "Slice", "compare": "Compare", "trial": "Try", "search": "Search"}[task.kind]
    plan = "dense" if task.plan is None else plan_line(task.plan)
    if isinstance(task, TrialRecipe) and task.removal:
        rest = f", {plan}" if task.plan else ""
        plan = f"{percent(task.fewer or 0.0)} fewer parameters, {removal_line(task.removal)}{rest}"
    return f"{verb} {task.model.label}, {plan}{' + repair' if task.repair else ''}{preview}"


def progress(job: Job, ahead: int) -> str:
    """Where a waiting or running job is."""
    if job.fetching:
        if job.total <= 1:
            return "Fetching: asking the Hub"
        left = f" · about {duration(job.seconds_left)} left" if job.seconds_left is not None else ""
        return f"Fetching {told_memory(job.done)} of {told_memory(job.total)}{left}"
    if job.state == "queued":
        return f"Queued, {ahead} ahead"
    count = f", {job.done} of {job.total}" if job.total > 1 else ""
    left = f" · about {duration(job.seconds_left)} left" if job.seconds_left is not None else ""
    if job.cancelling:
        return f"Cancelling after this step ({job.phase})"
    return f"{job.phase}{count}{left}"


def ago(seconds: float) -> str:
    """How long ago something was, as one would say it."""
    if seconds < 90:
        return "just now" if seconds < 20 else "a minute ago"
    minutes = round(seconds / 60)
    hours = round(seconds / 3600)
    return f"{minutes} minutes ago" if minutes < 90 else f"{hours} hours ago"


def closes(opened: Opened, owner: str) -> str:
    """What loading another model does to the one that is open."""
    who = "you" if opened.owner == owner else "another person"
    when = ago(time.monotonic() - opened.since)
    return f"This closes **{verbatim(opened.source.label)}**, which {who} opened {when}."


def was_closed(closed: Closed) -> str:
    """What another person's task did to a model that one used."""
    label, again = verbatim(closed.source.label), "Your next job on it opens it again."
    if closed.instead is None:
        return f"**{label}** is closed, since another person ended the process that held it. {again}"
    instead = verbatim(closed.instead.label)
    if closed.instead == closed.source.model_copy(
        update={"device": closed.instead.device, "dtype": closed.instead.dtype}
    ):
        instead = f"it as {closed.instead.dtype} on {closed.instead.device}"
    return f"**{label}** is closed, since another person opened **{instead}**. {again}"


def plan_line(plan: Plan) -> str:
    """A plan in one line."""
    rule = plan.rule()
    settings = [
        f"{_short(type(rule), name)} {percent(value) if is_share(type(rule), name) else f'{value:g}'}"
        for name, value in plan.settings.items()
        if isinstance(value, float)
    ]
    span = [f"{plan.span} blocks to a basis"] if plan.span else []
    return ", ".join([plan.allocation, f"SP {percent(plan.target)}", *settings, *span])


def removal_line(removal: Removal) -> str:
    """A removal in one line."""
    closing = "" if removal.closing == "none" else f", {find_repair(removal.closing).title}"
    share = ""
    if removal.slices:
        share = (
            ", a searched share"
            if isinstance(removal.share, str)
            else f", {percent(removal.share)} of what goes"
        )
    settings = [
        value if isinstance(value, str) else f"{name} {value:g}" for name, value in removal.settings.items()
    ]
    return f"blocks by {', '.join([removal.method, *settings])}{share}{closing}"


def is_share(rule: type[Allocation], name: str) -> bool:
    """Whether a setting is a share of the width, told in percent, and no number with bounds of its own."""
    field = rule.model_fields[name]
    return field.annotation is float and not any(
        hasattr(bound, which) for bound in field.metadata for which in ("ge", "gt")
    )


def told_outliers(blocks: Sequence[int], left_off: bool) -> str:
    """What an outlier does to a chart, and whether it is left off."""
    listed = ", ".join(map(str, blocks))
    what = "left off" if left_off else "far out"
    if len(blocks) == 1:
        return f"Block {listed} is {what}: it compresses the rest"
    return f"Blocks {listed} are {what}: they compress the rest"


def pair(details: Details, first: int, second: int, by: str = "similarity") -> str:
    """What a measure in ``LIKENESSES`` says of two depths."""
    if first == second:
        return "These are the same depth: choose two."
    first, second = min(first, second), max(first, second)
    value = float(details.maps()[by][first, second])
    ends = f"between the stream entering block {first} and after block {second - 1}"
    between = second - first
    blocks = f"block {first}" if between == 1 else f"the {between} blocks {first} to {second - 1}"
    turn = "turns" if between == 1 else "together turn"
    if by == "angular":
        return (
            f"Angle **{value:.3f} π** at the last token, mean over windows, {ends}: {blocks} {turn} it by "
            f"{180 * value:.0f}°."
        )
    if by == "cka":
        return (
            f"CKA **{value:.3f}** {ends}: it would be 1 if {blocks} did no more than turn and scale the "
            "stream as a whole."
        )
    angle = math.degrees(math.acos(max(-1.0, min(1.0, value))))
    return f"Mean cosine **{value:.3f}** {ends}: {blocks} {turn} it by about {angle:.0f}°."


LENS_READING = (
    "After each block the stream goes straight to the final norm and the head, and the blocks above are left "
    "out: the loss of the model cut off there, on the windows of the profile. Sources: nostalgebraist, "
    "Interpreting GPT: The Logit Lens, 2020; Yuan et al., Why Lift so Heavy?, IJCNN 2025."
)
"""What the logit lens shows."""


UNREADABLE = "cannot be read"
"""In the place of the kind of a stored run that is broken."""


def profile_name(run: Run) -> str:
    """A run's profile in a legend: model and text."""
    profile = run.result.profile
    return f"{profile.model} on {profile.text}"


def profiled(recipe: Recipe) -> str:
    """Say which windows the profile of a run was measured on. Equal words mean equal windows."""
    windows, drawn, seed = recipe.profile_draw
    of = "" if windows == drawn else f"the first {windows} of "
    return f"{of}{drawn} windows of {recipe.window_length:,} tokens, drawn with seed {seed}"


def run_line(run: Run) -> str:
    """A run in one line, for headings and pickers."""
    return f"{title(run.recipe)} · {run.created:%d %b %Y %H:%M} UTC"


def trials_size(recipe: SweepRecipe | ContestRecipe | LeaderboardRecipe, like: Run) -> str:
    """How many trials there are, and how long they take at the pace of another run of the same model."""
    trials = len(recipe.trials())
    if isinstance(recipe, SweepRecipe):
        who = "the dense model, constant slicing at every target, and the cells"
    else:
        who = "the dense model, and every entry with every seed, controls with the first alone"
    told = f"{trials} trials: {who}."
    if isinstance(like.result, CompareResult) and like.recipe.model == recipe.model:
        pace = like.result.contestant("dense").evaluation.tokens_per_second
        tokens = sum(weight for _, weight in phases(recipe))
        told += f" About {duration(tokens / pace)} at the pace of the run shown on Profile."
    return told + " Trials that are stored are not run again."


def reduction(schedule: SlicingSchedule, shape: ModelShape) -> str:
    """What the mean slice means in parameters, which is not the same number."""
    change = schedule.shape_after(shape).parameters / shape.parameters - 1.0
    parameters = f"{percent(abs(change))} {'fewer' if change <= 0 else 'more'} parameters"
    if schedule.span:
        why = f"a shortcut matrix stands after every {schedule.span} blocks, not after every sub-layer"
    else:
        why = "every cut adds shortcut matrices"
    return (
        f"A {percent(schedule.mean_slice)} mean slice means **{parameters}** here: {why}, and the embedding "
        "is counted too."
    )


def paired_differences(result: CompareResult, planned: str) -> list[tuple[str, Difference]]:
    """The differences that decide, each with the condition it holds at."""
    if planned == "constant":
        return [("against dense", result.difference("dense", planned))]
    return [
        ("at equal mean slice", result.difference("constant", planned)),
        ("at equal parameters", result.difference("constant-matched", planned)),
    ]


def verdict(result: CompareResult, planned: str) -> str:
    """The one sentence of a comparison, in Markdown: at equal mean slice and at equal parameters."""
    if planned == "constant":
        return (
            f"Constant slicing costs {change(result.difference('dense', planned))} perplexity against dense."
        )
    slices, parameters = (each for _, each in paired_differences(result, planned))
    name = planned.capitalize()
    if "too few windows to tell" in (slices.verdict, parameters.verdict):
        return (
            f"Too few windows to tell: {name} measured {change(slices)} perplexity against constant, "
            "but a verdict needs 8 evaluation windows or more."
        )
    words = {
        "better": "predicts :green[better] than constant slicing",
        "worse": "predicts :orange[worse] than constant slicing",
        "no clear difference": "shows no clear difference to constant slicing",
    }
    if slices.verdict == parameters.verdict:
        return (
            f"{name} slicing {words[slices.verdict]}: {change(slices)} perplexity at equal mean slice, "
            f"{change(parameters)} at equal parameters."
        )
    return (
        f"{name} slicing {words[slices.verdict]} at equal mean slice ({change(slices)} perplexity), and "
        f"{words[parameters.verdict]} at equal parameters ({change(parameters)})."
    )


def window_reading(evaluation: TextUsed) -> str:
    """From how many documents the windows are, and what that means for intervals over them."""
    windows, documents = evaluation.windows, count_documents(evaluation.passages)
    if not documents:
        return "From how many documents the windows are was not stored with this run."
    told = f"{_counted(windows, 'window')} from {_counted(documents, 'document')}"
    if documents == windows:
        return f"{told}, by what stands in the middle of each."
    return (
        f"{told}: windows of one document resemble each other, so that an interval over them is narrower "
        "than one over as many new documents would be."
    )


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


GRID_READING = (
    "Change of perplexity against constant slicing at the same target; ▼ better and ▲ worse where the "
    "verdict, corrected for all cells, is clear (in the table: *), else ≈."
)


CONTEST_READING = (
    "Loss kept: nats per token above the dense model, where 100 % is what constant slicing loses at this "
    "size and 0 % is dense."
)


def plain(markdown: str) -> str:
    """A sentence of ours without the colours that Markdown gives it."""
    return re.sub(r":\w+\[(.*?)\]", r"\1", markdown)


METHODS = {
    "faithful": "Sliced faithfully: each basis found on the part that was sliced already.",
    "preview": "A preview: all bases from one pass over the dense model; faithful slicing costs less.",
}
"""How bases were found, said beside every result."""


def preview_verdict(gain: Difference) -> str:
    """What a preview says about the plan against constant slicing."""
    if gain.percent_interval is None:
        return gain.verdict
    low, high = gain.percent_interval
    return f"{gain.verdict}; {_minus(f'95 % {low:+.1f} to {high:+.1f} %')}"


def preview(found: Preview) -> str:
    """How a preview was measured, and what it is not."""
    return (
        f"Preview in {found.seconds:.1f} s: bases of the dense stream, no calibration; "
        f"{found.planned.protocol}. Faithful slicing, as Compare does it, costs less perplexity."
    )


def times(timed: Speed | None, what: Literal["prompt", "generation"]) -> str:
    """Say how many times as fast as dense a model is, with the range over rounds, or why that is unknown."""
    if timed is None:
        return ""
    if timed.coverage < COVERED:
        return "too few rounds to tell"
    ratio: Ratio = getattr(timed, what)
    if not ratio.clear:
        return "too noisy to tell"
    return f"{ratio.median:.2f}× ({ratio.low:.2f} to {ratio.high:.2f})"


def speed(timed: Speed) -> str:
    """How speed was measured, and how to read it."""
    return (
        f"Prompt and generation: times as fast as dense. {timed.protocol.capitalize()}. The range over "
        f"rounds holds the true median in {100 * timed.coverage:.0f} % of cases. Where it spans more than a "
        "fifth, the machine was too busy to tell: time again when it is quiet, with more rounds."
    )


def evidence(each: Difference) -> str:
    """One paired difference with its interval, in percent and in nats."""
    between = "no interval below 8 windows"
    if each.percent_interval:
        low, high = each.percent_interval
        between = _minus(f"95 % interval {low:+.1f} to {high:+.1f} %")
    nats = _minus(f"{each.nats:+.3f} nats per token")
    among = f" · verdict corrected for {each.comparisons} comparisons" if each.comparisons > 1 else ""
    return f"{change(each)} perplexity · {between} · {nats} · {each.windows} windows, paired{among}"


def text_argument(source: TextSource, role: Role) -> str:
    """What ``TextSource.parse`` reads as this source."""
    if source.kind == "demo":
        return "demo" if source.split == role else f"demo:{source.split}"
    if source.kind == "file":
        return source.location
    for name in PRESETS:
        for said in (name, f"{name}:{source.split}"):
            with suppress(TextError):  # of a split that this preset does not know
                if TextSource.parse(said, role) == source:
                    return said
    config = f"/{source.config}" if source.config else ""
    revision = f"@{source.revision}" if source.revision else ""
    return f"{source.location}{config}{revision}:{source.split}"


def text_title(argument: str) -> str:
    """A text, as written for ``TextSource.parse``, for people."""
    name, _, split = argument.partition(":")
    if name == "demo":
        years = DEMO_SPLITS.get(split)
        return f"State of the Union {years.first}-{years.last}" if years else "State of the Union (demo)"
    if name in PRESETS:
        return PRESETS[name].title + (f" ({split})" if split else "")
    return argument


def command(recipe: Recipe) -> str:
    """The command that repeats the recipe: model and plan, and whatever else differs from the default.

    A trial is repeated as the sweep of its one cell, or the contest of its one entry; a search as the trial
    of what it found.
    """
    if isinstance(recipe, TrialRecipe):
        if recipe.fewer is not None:
            return command(_board_of(recipe))
        plan = recipe.plan or Plan()
        swept = "base" in plan.settings or plan.published_constant or recipe.plan is None
        swept = swept and recipe.equal == "slice" and recipe.other is None
        return command(_sweep_of(recipe) if swept else _contest_of(recipe))
    if isinstance(recipe, SearchRecipe):
        shared = {name: getattr(recipe, name) for name in Calibrated.model_fields}
        evaluation = recipe.calibration
        return command(TrialRecipe(**shared, plan=recipe.plan, evaluation=evaluation, equal="parameters"))
    words = ["slicescope", recipe.kind]
    if isinstance(recipe, SliceRecipe):
        words += ["--out", "sliced-model"]
    if isinstance(recipe, RemoveRecipe):
        words += ["--out", "smaller-model"]
    words += _model_flags(recipe.model)
    default: Any = type(recipe).model_fields
    flags: dict[str, tuple[Any, Any]] = {}
    if isinstance(recipe, ProfileRecipe):
        flags["text"] = (text_argument(recipe.text, "calibration"), "demo")
        flags["windows"] = (recipe.windows, default["windows"].default)
        if recipe.drawn != drawn_for(recipe.windows):
            flags["calibration-windows"] = (recipe.drawn or recipe.windows, None)
    else:
        if not isinstance(recipe, ContestRecipe | LeaderboardRecipe | RemoveRecipe):
            words += _plan_flags(recipe.plan, swept=isinstance(recipe, SweepRecipe))
        flags["calibration"] = (text_argument(recipe.calibration, "calibration"), "demo")
        flags["calibration-windows"] = (recipe.calibration_windows, default["calibration_windows"].default)
        flags["profile-windows"] = (recipe.profile_windows, min(8, recipe.calibration_windows))
        text = recipe.evaluation
        flags["evaluation"] = ("demo" if text is None else text_argument(text, "evaluation"), "demo")
        windows = 0 if text is None else recipe.evaluation_windows
        flags["evaluation-windows"] = (windows, default["evaluation_windows"].default)
    if isinstance(recipe, CompareRecipe):
        flags["prompt"] = (recipe.prompt, default["prompt"].default)
        flags["new-tokens"] = (recipe.new_tokens, default["new_tokens"].default)
        flags["speed-rounds"] = (recipe.speed_rounds, default["speed_rounds"].default)
        flags["tasks"] = (",".join(recipe.tasks), "")
        flags["limit"], flags["include"] = (recipe.task_limit, None), (recipe.task_folder, None)
    if isinstance(recipe, SweepRecipe):
        flags["bases"], flags["targets"] = (_listed(recipe.bases), None), (_listed(recipe.targets), None)
    flags["window-length"] = (recipe.window_length, default["window_length"].default)
    flags["seed"] = (recipe.seed, default["seed"].default)
    if isinstance(recipe, ProfileRecipe):
        if recipe.probes:
            flags["probe"] = (",".join(recipe.probes), None)
        words += _changed(flags)
        return shlex.join(words + ["--bases"] * recipe.bases + ["--lens"] * recipe.lens)
    flags["method"] = (recipe.method, default["method"].default)
    if isinstance(recipe, ContestRecipe | LeaderboardRecipe):
        del flags["seed"]
        words += _contest_flags(recipe) if isinstance(recipe, ContestRecipe) else _board_flags(recipe)
    if isinstance(recipe, RemoveRecipe):
        by = Entry(removal=recipe.removal.model_copy(update={"closing": "none"})).name.removeprefix("remove:")
        flags["blocks"] = (recipe.blocks, default["blocks"].default)
        flags["by"] = (by, Removal().method)
        flags["closing"] = (recipe.removal.closing, "writers")
        flags["search-windows"] = (recipe.search_windows, default["search_windows"].default)
    lens = isinstance(recipe, CompareRecipe) and recipe.lens
    return shlex.join(words + _changed(flags) + ["--repair"] * recipe.repair + ["--lens"] * lens)


def _sweep_of(trial: TrialRecipe) -> SweepRecipe:
    plan = trial.plan or Plan()
    base = plan.settings.get("base", 0.0)
    shared = {name: getattr(trial, name) for name in Evaluated.model_fields}
    # Of constant slicing, what it shares with the cells that it is measured by.
    shape = {name: getattr(plan, name) for name in ("rounding", "max_fraction", "embedding")}
    swept = plan if "base" in plan.settings else Plan(**shape)
    return SweepRecipe(
        **shared, plan=swept, bases=(base if isinstance(base, float) else 0.0,), targets=(plan.target,)
    )


def contest(table: Table) -> list[str]:
    """What a contest says, in sentences: who loses least, who is better, whether that is more than luck."""
    best, constant = table.best, table.standing("constant")
    if best is None or constant is None:
        return [f"{table.done} of {table.total} trials have run."]
    told = [
        f"{best.entry.name} loses least: {percent(best.share)} of what constant slicing loses"
        + (f", {percent(best.other_share)} on the second text" if best.other_share is not None else "")
        + (f" ({best.gain.verdict}: {evidence(best.gain)})." if best.gain else ".")
    ]
    rules = [each for each in table.standings if each.gain and not each.entry.control]
    rules = [each for each in rules if not (each.entry.repair or each.entry.span)]
    if rules:
        clear = [each.entry.name for each in rules if each.gain and each.gain.verdict == "better"]
        named = f": {', '.join(clear)}" if clear else ""
        told.append(
            f"{len(clear)} of {len(rules)} ways to decide, with neither repair nor shared bases, are clearly "
            f"better than constant slicing{named}."
        )
    if band := chance(table):
        inside = [each.entry.name for each in rules if each.share >= band[0]]
        told.append(
            f"Shares drawn at random keep {percent(band[0])} to {percent(band[1])} of the loss; "
            + (
                f"no better than chance: {', '.join(inside)}."
                if inside
                else "every rule is better than that."
            )
        )
    for what, field in (("Repair takes", "repair"), ("Shared bases take", "span")):
        if pairs := _pairs(table, field):
            moves = (f"{a.entry.name} from {percent(a.share)} to {percent(b.share)}" for a, b in pairs)
            told.append(f"{what} {', '.join(moves)}.")
    seeds = len(table.recipe.seeds)
    draws = (
        "one draw of calibration windows, and another moves the numbers too"
        if seeds == 1
        else f"{seeds} draws of calibration windows are averaged, for controls one"
    )
    told.append(f"Intervals are over evaluation windows; {draws}.")
    return told


def board(board: Board) -> list[str]:
    """What a leaderboard says, in sentences: which one to take at each size, and what else is near."""
    sizes = zip(board.tables, rivals(board), strict=True)
    told = [sentence for table, others in sizes if (sentence := _which_one(table, others))]
    if not told:
        return [f"{board.done} of {board.total} trials have run."]
    seeds = len(board.recipe.seeds)
    draws = "one draw" if seeds == 1 else f"{seeds} draws"
    told.append(f"Intervals are over evaluation windows; {draws} of calibration windows.")
    return told


def _which_one(table: Table, others: Sequence[Rival]) -> str | None:
    """Which one to use at a size, in one sentence drawn from the numbers."""
    winner = best(table)
    if winner is None or table.dense is None:
        return None
    told = (
        f"At {percent(table.recipe.fewer or 0.0)} fewer parameters take {winner.entry.name}: perplexity "
        f"{winner.perplexity:.2f}, {_times_dense(winner.nats)} the dense model's"
    )
    if winner.other_perplexity is not None and winner.other_nats is not None:
        told += f", and {winner.other_perplexity:.2f}, {_times_dense(winner.other_nats)}, on the second text"
    beaten = []
    for kind, rival, gap in others:
        clear = "" if gap.verdict == "worse" else f", {gap.verdict}"
        beaten.append(f"{KINDS[kind]} ({rival.entry.name}) has {rival.perplexity:.2f}{clear}")
    return f"{told}; {'; '.join(beaten)}." if beaten else f"{told}."


def _times_dense(nats: float) -> str:
    return f"{perplexity_of(nats):.2f} times"


KINDS: dict[Kind, str] = {
    "width": "the best that slices",
    "depth": "the best that removes blocks",
    "both": "the best that does both",
}
"""What an entry makes smaller, in words."""
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
"""Methods that are not on the board because they train, and what they take as published."""
BOARD_READING = (
    "All entries of a size have the same number of parameters, to a rounding step, and with '+matrix' a "
    "matrix more for each gap; they see the same windows. Circles: gaps left open, or nothing repaired; "
    "squares: a matrix over each gap; triangles: the writer in front of each fitted; diamonds: the block in "
    "front of each trained; stars: all writers fitted."
)
"""How to read a leaderboard."""


def _pairs(table: Table, field: str) -> list[tuple[Standing, Standing]]:
    """Those entries that take part without something, and with it."""
    found = []
    for each in table.standings:
        usual = type(each.entry).model_fields[field].default
        without = table.standing(each.entry.model_copy(update={field: usual}).name)
        if without and getattr(each.entry, field) != usual:
            found.append((without, each))
    return found


def chance(table: Table) -> tuple[float, float] | None:
    """What random draws keep of constant slicing's loss, from and to; ``None`` below two draws."""
    drawn = [each.share for each in table.standings if each.entry.by_chance]
    return (min(drawn), max(drawn)) if len(drawn) > 1 else None


def repaired(each: Contestant) -> str | None:
    """What repair did to a model, or ``None`` where it was not asked for."""
    told = each.repair
    if told is None:
        return None
    back = sum(row.ridge is None for row in told.sublayers)
    losses = f"{told.unrepaired:.3f} to {told.repaired:.3f} nats per token on held-out windows"
    kept = "it was kept" if told.kept else "it was not kept"
    return (
        f"Repair of {each.title.lower()} took the loss from {losses}: {kept}; {back} of its "
        f"{len(told.sublayers)} fits gained nothing and were left out."
    )


def _entry_of(trial: TrialRecipe) -> Entry:
    if trial.plan is None:
        return Entry(removal=trial.removal)
    shared = {name: getattr(trial.plan, name) for name in DECIDING}
    return Entry(**shared, repair=trial.repair, removal=trial.removal)


def _board_of(trial: TrialRecipe) -> LeaderboardRecipe:
    plan = trial.plan or Plan()
    entries = dict.fromkeys(each.name for each in (Entry(), _entry_of(trial)))
    return LeaderboardRecipe(
        **{name: getattr(trial, name) for name in Extras.model_fields if name != "repair"},
        plan=Plan(rounding=plan.rounding, embedding=plan.embedding),
        entries=tuple(Entry.parse(name) for name in entries),
        seeds=(trial.seed,),
        sizes=(trial.fewer or 0.0,),
    )


def _board_flags(recipe: LeaderboardRecipe) -> list[str]:
    usual, usual_plan = LeaderboardRecipe.model_fields, Plan()
    flags: dict[str, tuple[Any, Any]] = {
        "sizes": (_listed(recipe.sizes), _listed(usual["sizes"].default)),
        "seeds": (_listed(recipe.seeds), _listed(usual["seeds"].default)),
        "search-windows": (recipe.search_windows, usual["search_windows"].default),
        "other": (text_argument(recipe.other, "evaluation") if recipe.other else "", "demo:out-of-style"),
        "rounding": (recipe.plan.rounding, usual_plan.rounding),
        "embedding": (recipe.plan.embedding, usual_plan.embedding),
        "speed-rounds": (recipe.speed_rounds, usual["speed_rounds"].default),
        "tasks": (",".join(recipe.tasks), ""),
        "limit": (recipe.task_limit, None),
        "include": (recipe.task_folder, None),
    }
    if recipe.entries != usual["entries"].default:
        flags["entries"] = (",".join(entry.name for entry in recipe.entries), None)
    return _changed(flags)


def _contest_of(trial: TrialRecipe) -> ContestRecipe:
    shared = {name: getattr(trial, name) for name in Extras.model_fields if name not in ("repair", "other")}
    entries = [Entry(allocation="constant")]
    plan = trial.plan or Plan()
    if trial.plan:
        entry = _entry_of(trial)
        entries += [entry] if entry not in entries else []
    return ContestRecipe(
        **shared,
        plan=plan.model_copy(update={"allocation": "constant", "settings": {}, "span": 0}),
        entries=tuple(entries),
        seeds=(trial.seed,),
        equal=trial.equal,
        other=trial.other,
    )


def _contest_flags(recipe: ContestRecipe) -> list[str]:
    usual = ContestRecipe.model_fields
    plan, usual_plan = recipe.plan, Plan()
    flags: dict[str, tuple[Any, Any]] = {
        "target": (plan.target, usual_plan.target),
        "seeds": (_listed(recipe.seeds), _listed(usual["seeds"].default)),
        "equal": (recipe.equal, usual["equal"].default),
        "other": (text_argument(recipe.other, "evaluation") if recipe.other else "", "demo:out-of-style"),
    }
    for name in ("max_fraction", "rounding", "embedding"):
        flags[name.replace("_", "-")] = (getattr(plan, name), getattr(usual_plan, name))
    if recipe.entries != usual["entries"].default:
        flags["entries"] = (",".join(entry.name for entry in recipe.entries), None)
    return _changed(flags)


def _listed(values: Sequence[float]) -> str:
    return ",".join(number(value) for value in values)


def _model_flags(model: ModelSource) -> list[str]:
    location = model.location + (f"@{model.revision}" if model.revision else "")
    where = "demo" if model.kind == "demo" else location
    return ["--model", where, *_changed({"device": (model.device, "auto"), "dtype": (model.dtype, "auto")})]


def _plan_flags(plan: Plan, swept: bool) -> list[str]:
    """A plan's flags; a sweep names its bases and targets elsewhere."""
    usual = Plan()
    own = {"allocation": plan.allocation, "target": plan.target, **plan.settings}
    flags: dict[str, tuple[Any, Any]] = {
        name: (_listed(value) if isinstance(value, tuple) else value, None)
        for name, value in own.items()
        if not (swept and name in ("target", "base"))
    }
    for name in ("score", "max_fraction", "rounding", "embedding", "span"):
        flags[name.replace("_", "-")] = (getattr(plan, name), getattr(usual, name))
    return _changed(flags) + (["--first-token"] if plan.first_token else [])


def _changed(flags: dict[str, tuple[Any, Any]]) -> list[str]:
    words: list[str] = []
    for name, (value, usual) in flags.items():
        if value != usual:
            words += [f"--{name}", number(value) if isinstance(value, float) else str(value)]
    return words


def _short(rule: Any, name: str) -> str:
    """``SB`` of ``Slice base (SB)``; a field without an abbreviation has its title, within a line."""
    full = rule.model_fields[name].title or name
    return full.rpartition("(")[2].rstrip(")") if "(" in full else full.lower()


def kept_model(plain: bool) -> str:
    """Who opens a model with fewer blocks that is kept; ``plain`` is one without matrices in their place."""
    others = (
        "and so do other tools for models of its architecture."
        if plain
        else "and transformers 5.23 or later does with `trust_remote_code=True`. The matrices in the place "
        "of blocks need the modelling files in the folder; other tools do not open it."
    )
    return f"This model is kept in this folder; the Model page opens it, {others}"


def change(each: Difference) -> str:
    """A paired difference as a signed change of perplexity."""
    return _minus(f"{each.percent:+.1f} %")


def _minus(text: str) -> str:
    return text.replace("-", "−")
