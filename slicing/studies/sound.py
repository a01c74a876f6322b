"""Whether a run that was read makes sense: its numbers, its lists, and what its request says of them.

A file may have the form of a run and still say what no run does, and a page that shows runs would end at
that. Whatever shows a run may rely on what is checked here. Knows nothing about files.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from analysis.details import Details
from analysis.device import DTYPES
from analysis.errors import StorageError, one_line, unknown_name
from analysis.evaluate import Perplexity
from analysis.profile import LayerProfile
from analysis.scores import SCORES, find_score
from analysis.shape import ModelShape
from analysis.values import Value
from slicing.depth.layout import Layout
from slicing.inner.costs import COSTED, UnitCosts
from slicing.inner.widths import KINDS, units_of
from slicing.studies.recipe import Recipe
from slicing.studies.requests import (
    SEARCHED,
    CompressRequest,
    ProfileRequest,
    SearchRequest,
    ShrinkRequest,
    Trial,
)
from slicing.studies.results import (
    CompressResult,
    Measurement,
    ProfileResult,
    Run,
    SearchResult,
    ShrinkResult,
    StudyResult,
    TextUsed,
    TrialResult,
)
from slicing.studies.study import Study

YEARS = 2000, 2200
"""Runs are made from the first of these years on and before the second."""
LARGEST = 1e30
"""No number of a run is larger, but for perplexities."""
MOST_NATS = 1e6
"""No loss of a window is larger, in nats per token."""
NAME_LENGTH, TEXT_LENGTH = 4096, 1_000_000
"""Characters of a name, such as that of a model, and of a text, such as a prompt, at most."""
LINES = "\t\n\r"
TEXTS: dict[tuple[str, str], str | None] = {
    ("Trial", "prompt"): None,
    ("Study", "prompt"): None,
    ("Sample", "text"): None,
    ("Passage", "document"): None,
    ("Passage", "begins"): None,
    ("Note", "text"): LINES,
}
"""Strings that are no names, by class and field, and which control characters they may hold: ``None`` for
all, since nobody chose what a text or a model says."""
Problems = Iterator[str]
"""What is wrong, each with what is allowed."""


def require_sound(run: Run, origin: str) -> None:
    """Raise ``StorageError``, which names ``origin`` and what is wrong, for a run that makes no sense."""
    _refuse(_problems(run), origin)


def require_plain(value: Value, origin: str) -> None:
    """Raise ``StorageError`` where a string is too long, or holds control characters that it may not."""
    _refuse(_of_strings(value, type(value).__name__.lower()), origin)


def require_fitting(details: Details, run: Run, origin: str) -> None:
    """Raise ``StorageError`` where these are not the details of the run's profile."""
    blocks = run.result.profile.blocks
    if not details.fit(blocks):
        raise StorageError(
            f"{origin} holds details that are not those of a profile of {blocks} blocks: profile the model "
            "again."
        )


def _refuse(problems: Problems, origin: str) -> None:
    try:
        problem = next(problems, None)
    except Exception as error:  # a run can contradict itself in more ways than are thought of here
        problem = one_line(error)
    if problem:
        raise Run.unreadable(problem, origin)


def _problems(run: Run) -> Problems:
    request, result = run.request, run.result
    yield from _of_date(run.created)
    if result.kind != request.kind:
        yield f"the request is of the kind '{request.kind}', but the result of the kind '{result.kind}'"
    if run.environment.dtype not in DTYPES:
        yield unknown_name("dtype", run.environment.dtype, DTYPES)
    yield from _of_request(request)
    yield from _of_profile(result.profile)
    for name in type(run).model_fields:
        yield from _of_numbers(getattr(run, name), name)
    shape: ModelShape | None = getattr(result, "shape", None)
    if shape is not None:
        yield from _of_shape(shape, result.profile.blocks)
    for name in ("text", "calibration", "evaluation", "windows"):
        if isinstance(used := getattr(result, name, None), TextUsed):
            yield from _of_text(used, f"result.{name}")
    yield from CHECKS[result.kind](request, result)


# Requests


def _of_date(created: datetime) -> Problems:
    if created.tzinfo is None:
        yield f"created: '{created.isoformat()}' has no time zone, as '2026-11-23T11:40:18Z' has"
    elif not YEARS[0] <= created.year < YEARS[1]:
        yield f"created: the year is {created.year}, but must be from {YEARS[0]} to {YEARS[1] - 1}"


LEAST = {
    "windows": 1,
    "drawn": 1,
    "calibration_windows": 1,
    "profile_windows": 1,
    "evaluation_windows": 1,
    "search_windows": 1,
    "window_length": 2,
    "new_tokens": 0,
    "speed_rounds": 0,
    "task_limit": 1,
    "jitter": 0,
    "healing_tokens": 0,
}
"""The least that a request may ask for."""


def _of_request(request: Value) -> Problems:
    for name, least in LEAST.items():
        if (asked := getattr(request, name, None)) is not None:
            yield from _at_least(f"request.{name}", asked, least)
    for name in getattr(request, "probes", ()):
        find_score(name)
    recipes: Sequence[Recipe] = getattr(request, "recipes_used", tuple)()
    for step in (step for recipe in recipes for step in recipe.steps):
        find_score(getattr(step, "score", "lr"))


# Results


def _of_profile(profile: LayerProfile) -> Problems:
    for name, least in (("blocks", 1), ("windows", 1), ("window_length", 2)):
        yield from _at_least(f"profile.{name}", getattr(profile, name), least)
    passed = {score.measurement for score in SCORES.values() if score.measure}
    # A score that was added since was not measured then, and the profile does not offer it.
    if "cosine" not in profile.measurements:
        yield "profile.measurements: 'cosine' is missing, which every profile has"
        return
    for name, measurement in profile.measurements.items():
        where = f"profile.measurements.{name}"
        # A probe may take other windows than the profile, or none.
        count = profile.windows if name in passed else max(len(measurement.rest), 1)
        for part, rows in (("rest", measurement.rest), ("first", measurement.first)):
            if rows is None:
                continue
            yield from _of_length(f"{where}.{part}", rows, count, "one row for each window")
            for row in rows:
                yield from _of_length(f"{where}.{part}", row, profile.blocks, "one value for each block")
            if np.abs(np.asarray(rows)).max() > LARGEST:
                yield f"{where}.{part}: a value is larger than {LARGEST:g}"
    cosine = np.asarray(profile.measurements["cosine"].rest)
    if np.abs(cosine).max() > 1.001:  # rounding may take it a little beyond
        yield f"profile.measurements.cosine: got {np.abs(cosine).max():g}, but a cosine is from -1 to 1"


def _of_shape(shape: ModelShape, blocks: int) -> Problems:
    for name in ("hidden_size", "vocab_size"):
        yield from _at_least(f"shape.{name}", getattr(shape, name), 1)
    yield from _of_length("shape.blocks", shape.blocks, blocks, "as the profile says")
    if not all(shape.blocks):
        yield "shape.blocks: a block has no sub-layers, but each has one at least"
    for sublayer in shape.sublayers:
        for name, value in sublayer:
            if isinstance(value, int):
                yield from _at_least(f"shape.blocks: {name}", value, 0)


def _of_text(used: TextUsed, where: str) -> Problems:
    yield from _at_least(f"{where}.windows", used.windows, 1)
    yield from _at_least(f"{where}.window_length", used.window_length, 2)
    if used.passages:
        yield from _of_length(f"{where}.passages", used.passages, used.windows, "one for each window")


def _of_layout(layout: Layout, blocks: int) -> Problems:
    if layout.blocks != blocks:
        yield f"layout.blocks: got {layout.blocks}, but the profile is of {blocks} blocks"
    if layout.count < 1:
        yield "layout.groups: no block is gone, but one is at least where blocks are removed"


def _of_pair(dense: Perplexity | None, other: Perplexity | None) -> Problems:
    if (dense is None) != (other is None):
        yield "result: one of the two models was evaluated, but the other was not"
    for each in (dense, other):
        if each:
            yield from _of_perplexity(each, "result", len(dense.nll if dense else ()))


def _of_measurements(
    trials: Sequence[Trial],
    measured: Sequence[Measurement],
    result: TrialResult | StudyResult | ShrinkResult,
    where: str,
) -> Problems:
    yield from _of_length(where, measured, len(trials), "one for each trial of the request")
    for trial, each in zip(trials, measured, strict=True):
        here = f"{where}.{each.name[:80]}"
        axes = {step.axis for step in trial.recipe.steps}
        if (each.layout is None) == ("blocks" in axes):
            yield f"{here}: a layout belongs to a model that blocks are taken out of, and to no other"
        if (each.schedule is None) == ("stream" in axes):
            yield f"{here}: a schedule belongs to a model that is sliced, and to no other"
        if (each.inner is None) == ("inner" in axes):
            yield f"{here}: inner widths belong to a model that is cut inside its blocks, and to no other"
        if [told.step for told in each.healed] != [s.name for s in trial.recipe.steps if s.axis == "weights"]:
            yield f"{here}: what healing did is told of each step that heals, and of no other"
        if (each.int8 is None) == trial.int8:
            yield f"{here}.int8: it belongs to a request that asks for it, and to no other"
        yield from _of_measurement(each, here, result, other=trial.other is not None)


def _of_measurement(
    each: Measurement, where: str, result: TrialResult | StudyResult | ShrinkResult, other: bool
) -> Problems:
    yield from _at_least(f"{where}.parameters", each.parameters, 1)
    yield from _of_made(each, result.shape)
    yield from _of_perplexity(each.evaluation, f"{where}.evaluation", result.evaluation.windows)
    if (each.other is None) == other:
        yield f"{where}.other: a second perplexity belongs to a request with a second text, and to no other"
    if each.search:
        yield from _of_perplexity(each.search, f"{where}.search", min(result.evaluation.windows, SEARCHED))
    if each.other:
        yield from _of_perplexity(each.other, f"{where}.other", result.evaluation.windows)
    if each.int8:
        yield from _at_least(f"{where}.int8.bytes", each.int8.bytes, 1)
        yield from _of_perplexity(each.int8.evaluation, f"{where}.int8", result.evaluation.windows)
    if each.speed:
        yield from _at_least(f"{where}.speed.rounds", each.speed.rounds, 1)


def _of_made(each: Measurement | CompressResult, shape: ModelShape) -> Problems:
    blocks = shape.block_count
    if each.layout:
        yield from _of_layout(each.layout, blocks)
        shape = each.layout.shape_after(shape)
    if each.schedule:
        each.schedule.check_fits(shape)
    if each.inner:
        each.inner.check_fits(shape)
    for healed in each.healed:
        losses = healed.before, healed.after
        if not (min(losses) >= 0.0 and max(losses) <= MOST_NATS):
            yield f"healed: a loss of '{healed.step}' is not from 0 to {MOST_NATS:g} nats per token"
    if each.sink and not (0 <= each.sink.block < blocks and 0.0 <= each.sink.ratio < 1.0):
        yield f"sink: got block {each.sink.block} and a ratio of {each.sink.ratio:g}, which none can have"


def _of_perplexity(each: Perplexity, where: str, windows: int) -> Problems:
    yield from _of_length(f"{where}.nll", each.nll, max(windows, 1), "one loss for each window")
    if not each.perplexity > 0.99:
        yield f"{where}.perplexity: got {each.perplexity:g}, but a perplexity is 1 or more"
    if not each.tokens_per_second > 0:
        yield f"{where}.tokens_per_second: got {each.tokens_per_second:g}, but it must be above 0"
    if max(map(abs, each.nll)) > MOST_NATS:
        yield f"{where}.nll: a loss is larger than {MOST_NATS:g} nats per token"


# What holds of each kind of result


def _of_profile_result(request: ProfileRequest, result: ProfileResult) -> Problems:
    if result.layout:
        wanted, why = result.profile.blocks, "one for each block of the profile"
        yield from _of_length("result.layout.groups", result.layout.groups, wanted, why)
    if result.units:
        yield from _of_units(result.units, result.shape)


def _of_units(costs: UnitCosts, shape: ModelShape | None) -> Problems:
    """Whether there are costs for every branch of a model of this shape, and curves grow over its units."""
    if shape is None:
        yield "result.units: a model without a shape has no units, and no costs of them"
        return
    costs.check_fits(shape)
    for block, row in zip(costs.blocks, shape.blocks, strict=True):
        for branch in block:
            for kind in COSTED:
                if (curve := branch.curve(kind)) is None:
                    continue
                units = units_of(row[branch.row], kind)
                if curve.count * (units.parts if kind == "value_pairs" else 1) != units.count:
                    yield f"result.units: {curve.count} {KINDS[kind]}, but the shape has {units.count}"
            if branch.kv_groups and sorted(branch.order) != list(range(branch.kv_groups.count)):
                yield "result.units: the order of heads names each of them once"


def _of_search(request: SearchRequest, result: SearchResult) -> Problems:
    result.schedule.check_fits(result.shape)
    yield from _of_length("result.shares", result.shares, result.profile.blocks, "one for each block")
    yield from _at_least("the number of result.losses", len(result.losses), 1)


def _of_compressed(request: CompressRequest, result: CompressResult) -> Problems:
    if result.layout is None and result.schedule is None and result.inner is None:
        yield "result: neither a layout, nor a schedule, nor inner widths tell what was made"
    if result.layout:
        yield from _of_layout(result.layout, result.profile.blocks)
    if result.schedule and result.shape is None:
        yield "result.schedule: a model without a shape cannot be sliced"
    if result.shape:
        yield from _of_made(result, result.shape)
    yield from _of_pair(result.dense, result.smaller)
    yield from _at_least("result.parameters", result.parameters, 1)
    yield from _at_least("result.dense_parameters", result.dense_parameters, 1)


def _of_trial(request: Trial, result: TrialResult) -> Problems:
    yield from _of_measurements([request], [result.measurement], result, "result.measurement")


def _of_study(request: Study, result: StudyResult) -> Problems:
    yield from _of_measurements(request.trials(), result.measurements, result, "result.measurements")
    matches = request.matches()
    again = [request.matched_trial(trial, 1) for trial in matches]
    yield from _of_measurements(again, result.matched, result, "result.matched")


def _of_shrink(request: ShrinkRequest, result: ShrinkResult) -> Problems:
    yield from _at_least("the number of result.finalists", len(result.finalists), 1)
    yield from _at_least("result.size", result.size, 1)
    if not result.tokens_per_second > 0:
        yield f"result.tokens_per_second: got {result.tokens_per_second:g}, but it must be above 0"
    trials = [request.trial(Recipe(), None, 3)]
    trials += [request.trial(each.recipe, each.budget, 3) for each in result.finalists]
    measured = [result.dense, *(each.measurement for each in result.finalists)]
    yield from _of_measurements(trials, measured, result, "result.finalists")
    for each in result.tried:
        Recipe.parse(each.line)


CHECKS: dict[str, Callable[[Any, Any], Problems]] = {
    "profile": _of_profile_result,
    "search": _of_search,
    "compress": _of_compressed,
    "trial": _of_trial,
    "study": _of_study,
    "shrink": _of_shrink,
}
"""By the kind of a result: what holds of it and of its request."""


# What holds of everything


def _at_least(where: str, got: int, least: int) -> Problems:
    if got < least:
        yield f"{where}: got {got}, but it must be {least} or more"


def _of_length(where: str, got: Sequence[Any], wanted: int, why: str) -> Problems:
    if len(got) != wanted:
        yield f"{where}: got {len(got)}, but there must be {wanted}, {why}"


def _of_numbers(value: Any, where: str) -> Problems:
    """What is too large to be computed with, anywhere but in the profile."""
    if isinstance(value, Value):
        for name, each in value:
            if not isinstance(each, LayerProfile) and name != "perplexity":
                yield from _of_numbers(each, f"{where}.{name}")
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield from _of_numbers(each, f"{where}.{name}")
    elif isinstance(value, tuple):
        for each in value:
            yield from _of_numbers(each, where)
    elif isinstance(value, float) and not abs(value) <= LARGEST:
        yield f"{where}: got {value:g}, but a number is finite and {LARGEST:g} at most"
    elif isinstance(value, int) and not abs(value) < 2**63:
        yield f"{where}: got a number of {math.log10(abs(value)):.0f} digits, but 18 are the most"


def _of_strings(value: Any, where: str, allowed: str | None = "", most: int = NAME_LENGTH) -> Problems:
    if isinstance(value, Value):
        for name, each in value:
            field = type(value).__name__, name
            most = TEXT_LENGTH if field in TEXTS else NAME_LENGTH
            yield from _of_strings(each, f"{where}.{name}", TEXTS.get(field, ""), most)
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield from _of_strings(name, f"{where}, a name in it")
            yield from _of_strings(each, f"{where}.{name}"[:200])
    elif isinstance(value, tuple):
        for each in value:
            yield from _of_strings(each, where)
    elif isinstance(value, str | Path):
        if len(said := str(value)) > most:
            yield f"{where}: got {len(said):,} characters, but {most:,} are the most"
        wrong = (each for each in said if unicodedata.category(each) == "Cc" and each not in (allowed or ""))
        if allowed is not None and (control := next(wrong, None)):
            yield f"{where}: got the control character {control!a}, but it may hold none"
