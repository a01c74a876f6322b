"""A comparison as the story tells it: every number is of that run."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from analysis.details import Details
from analysis.errors import StorageError
from app.figures.story import Spread, Turn
from app.planned import plan_asked
from slicing.allocation import Dynamic
from slicing.plan import Plan
from slicing.study.results import Measurement, Run, StudyResult
from slicing.study.verdicts import Comparison, read_comparison


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
