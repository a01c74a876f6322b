"""A comparison as the story tells it: every number is of that run."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from analysis.details import Details
from analysis.errors import StorageError
from analysis.scores import find_score
from app.figures.cloud import CloudView
from app.figures.dial import DialView, Size
from app.figures.story import Rival, Spread, Turn
from app.planned import plan_asked
from slicing.allocation import Dynamic
from slicing.plans import Plan
from slicing.studies.recipe import Recipe
from slicing.studies.results import Measurement, Run, StudyResult
from slicing.studies.store import bundled_board, bundled_dial, bundled_widths
from slicing.studies.verdicts import Comparison, Standing, Table, read_board, read_comparison

REMOVING = 1
"""So many ways to remove blocks are told of without a repair, and as many with one."""


class Case(NamedTuple):
    """A comparison as the story needs it."""

    comparison: Comparison
    asked: Plan
    """The plan that was compared."""
    details: Details | None

    @property
    def result(self) -> StudyResult:
        """The comparison, read from near."""
        return self.comparison.result

    @property
    def model(self) -> str:
        """The name of the model."""
        return self.result.profile.model

    @property
    def measured(self) -> dict[str, Measurement]:
        """The models by their names."""
        return self.comparison.measured

    @property
    def planned(self) -> str:
        """The name of what the plan made."""
        return self.comparison.planned

    @property
    def cosine(self) -> np.ndarray:
        """The mean cosine of every block, first tokens left out, (L,)."""
        return self.result.profile.measured("lr").mean(axis=0)

    @property
    def score(self) -> str:
        """The score that the plan was made from."""
        return self.result.profile.held(self.asked.score)

    @property
    def by_change(self) -> bool:
        """Whether that score tells how much a block changes its input; others are measured otherwise."""
        return find_score(self.score).measure is not None

    @property
    def redundancy(self) -> tuple[float, ...]:
        """Give what the plan was made from, (L,): higher is more redundant."""
        return self.result.profile.redundancy(self.score, self.asked.first_token)

    @property
    def turns(self) -> tuple[Turn, Turn]:
        """The block that changes its input most, and the one that changes it least."""
        cosine = self.cosine
        growth = None if self.details is None else self.details.growth
        most, least = (
            Turn(block, float(cosine[block]), None if growth is None else float(growth[block]))
            for block in (int(cosine.argmin()), int(cosine.argmax()))
        )
        return most, least

    @property
    def spread(self) -> Spread:
        """The cosine over tokens, or over windows where no single tokens were kept."""
        if self.details is not None:
            cosine = 1.0 - self.details.change.astype(np.float32)
            low, middle, high = np.percentile(cosine[:, 1:], [5, 50, 95], axis=(0, 1))
            return Spread(low, middle, high, cosine[:, 0].mean(axis=0))
        low, middle, high = np.percentile(self.result.profile.measured("lr"), [5, 50, 95], axis=0)
        first = self.result.profile.measurements["cosine"].first
        return Spread(low, middle, high, None if first is None else np.asarray(first).mean(axis=0))

    @property
    def plan(self) -> Plan:
        """The run's plan; where its rule has no base, the dynamic rule at the same target."""
        plan = self.asked
        if plan.allocation == "dynamic":
            return plan
        base = min(Dynamic.model_fields["base"].default, plan.target)
        return Plan(**{**dict(plan), "allocation": "dynamic", "settings": {"base": base}})

    @property
    def base(self) -> float:
        """SB of the plan."""
        return float(self.plan.rule().model_dump()["base"])

    @property
    def cloud(self) -> CloudView | None:
        """The cloud and what equal slices cost; ``None`` where the run kept no cloud, or cut nothing."""
        kept, stops = self.details and self.details.cloud, self.widths
        if self.details is None or kept is None or len(stops) < 2:
            return None
        cut = _width(self.measured["constant"])
        if cut is None or round(cut) >= kept.principal.shape[1]:
            return None
        return CloudView(
            kept.few(), self.details.pieces, stops, cut, f"{self.model} {self.result.calibration.digest}"
        )

    @property
    def widths(self) -> tuple[tuple[float, float], ...]:
        """Mean widths of the stream under equal slices whose perplexity was measured, each with it.

        From the dense width down. Beside this run the study of sizes that ships is asked, where it made the
        same slices of the same model on the same windows.
        """
        run, found = bundled_widths(), {}
        study, theirs = run.request, run.result
        if study.kind == "study" and theirs.kind == "study" and self._same_windows(theirs):
            alike = study.model == self.comparison.study.model
            if alike and study.baseline == self.comparison.study.baseline:
                found = {_width(each): each.evaluation.perplexity for each in theirs.measurements}
        found |= {_width(self.measured["constant"]): self.measured["constant"].evaluation.perplexity}
        found.pop(None, None)
        dense = float(self.result.shape.hidden_size), self.measured["dense"].evaluation.perplexity
        return (dense, *sorted(((w, p) for w, p in found.items() if w and w < dense[0]), reverse=True))

    @property
    def dial(self) -> DialView | None:
        """One prompt at several sizes, of the study that ships; ``None`` where its windows are others."""
        run = bundled_dial()
        study, theirs = run.request, run.result
        if study.kind != "study" or theirs.kind != "study" or study.model != self.comparison.study.model:
            return None
        if not self._same_windows(theirs):
            return None
        dense = next(each for each in theirs.measurements if each.name == "dense")
        sizes = [
            Size(
                each.parameters,
                1.0 - each.parameters / dense.parameters,
                each.evaluation.perplexity,
                each.sample.text if each.sample else "",
            )
            for each in sorted(theirs.measurements, key=lambda each: -each.parameters)
        ]
        return DialView(study.prompt, tuple(sizes), run.key)

    @property
    def way(self) -> str:
        """How the models of the dial were made smaller."""
        study = bundled_dial().request
        return study.recipes[0].short_title if study.kind == "study" else ""

    def _same_windows(self, other: StudyResult) -> bool:
        ours = self.result
        return (ours.calibration.digest, ours.evaluation.digest) == (
            other.calibration.digest,
            other.evaluation.digest,
        )

    @property
    def rivals(self) -> tuple[Rival, ...]:
        """Other ways to the same size, of the leaderboard that ships; none where its windows are others."""
        run = bundled_board()
        study, theirs = run.request, run.result
        if study.kind != "study" or theirs.kind != "study" or study.model != self.comparison.study.model:
            return ()
        if theirs.evaluation.digest != self.result.evaluation.digest:
            return ()
        size = self.measured[self.planned].parameters
        tables = [table for table in _tables(run.key) if table.baseline and table.dense]
        nearest = min(tables, key=lambda table: abs(_first(table).parameters - size), default=None)
        return _rivals(nearest) if nearest else ()

    def largest_cut(self, base: float, target: float) -> float:
        """Give what the most redundant block loses by the rule, the largest fraction at most."""
        values = np.asarray(self.redundancy)
        mean = float(np.mean(values - values.min()) / np.ptp(values)) if np.ptp(values) > 0 else 1.0
        return min(base + (target - base) / mean, self.plan.max_fraction)

    def planned_at(self, base: float | None = None, target: float | None = None) -> Plan:
        """The same plan with another base or target (``PlanError`` when they do not go together)."""
        plan = self.plan
        settings = plan.settings if base is None else {"base": base}
        target = plan.target if target is None else target
        return Plan(**{**dict(plan), "target": target, "settings": settings})


def case_of(run: Run, details: Details | None) -> Case:
    """Take the run as a case to tell (``StorageError`` when it is no comparison)."""
    request, result = run.request, run.result
    if request.kind == "study" and result.kind == "study" and request.view == "comparison":
        plan = plan_asked(request)
        if plan:
            return Case(read_comparison(request, result), plan, details)
    kind = getattr(request, "view", request.kind)
    raise StorageError(
        f"The story needs a comparison, but the run {run.key} is of the kind '{kind}': open a comparison "
        "instead."
    )


def _width(measured: Measurement) -> float | None:
    """The mean width of the stream over blocks; ``None`` for a model that is not sliced."""
    schedule = measured.schedule
    return None if schedule is None else float(np.mean(schedule.widths[:-1]))


@lru_cache(maxsize=1)
def _tables(key: str) -> tuple[Table, ...]:
    """The tables of the leaderboard that ships, by its key: reading it anew would slow every scene."""
    run = bundled_board()
    assert run.request.kind == "study" and run.result.kind == "study", "it is a study"
    return read_board(run.request, run.result).tables


def _first(table: Table) -> Measurement:
    assert table.baseline, "tables without one were left out"
    return table.baseline.runs[0]


def _rivals(table: Table) -> tuple[Rival, ...]:
    """The dense model, constant slicing, the best slicing, ways to remove blocks, and the best of all."""
    rightful = [each for each in table.standings if not each.recipe.by_chance and not each.recipe.control]
    slicing = [each for each in rightful if each.recipe.kind == "width"][:1]
    removing = [each for each in rightful if each.recipe.kind == "depth"]
    plain = [each for each in removing if not _repaired(each.recipe)][:REMOVING]
    mended = [each for each in removing if _repaired(each.recipe)][:REMOVING]
    chosen = [*filter(None, [table.baseline]), *slicing, *plain, *mended, *rightful[:1]]
    once = {each.recipe.line: each for each in chosen}
    assert table.dense, "tables without one were left out"
    dense = Rival("Dense", None, table.dense.evaluation.perplexity, table.dense.parameters)
    made = (_rival(each, each is table.baseline) for each in once.values())
    told = sorted(made, key=lambda each: -each.perplexity)
    return (dense, *told)


def _rival(each: Standing, is_baseline: bool) -> Rival:
    made = each.runs[0]
    name, kind = _name(each.recipe), each.recipe.kind
    return Rival(name, kind, each.perplexity, made.parameters, is_baseline)


def _name(recipe: Recipe) -> str:
    """A short name: the method's own, where its title has it in brackets."""
    if recipe.kind == "width":
        name = f"{recipe.short_title.partition(' (')[0]} slicing"
    elif recipe.kind == "inner":
        name = "Inside the blocks"
    else:
        name = ", then ".join(re.findall(r"\(([^)]+)\)", recipe.short_title)) or recipe.short_title
    return f"{name}, repaired" if _repaired(recipe) else name


def _repaired(recipe: Recipe) -> bool:
    return any(getattr(step, "repair", "none") != "none" for step in recipe.steps)
