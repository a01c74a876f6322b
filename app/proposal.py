"""What the forms of a new study start from: the model and the texts of the run that is shown, and a plan; and
the profile of a run once more, with more in it.

Knows nothing about streamlit or sessions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from analysis.sources.text import TextSource
from slicing.plans import Plan
from slicing.studies.requests import Judged, ProfileRequest
from slicing.studies.results import Run
from slicing.studies.study import Study, comparison

_DRAWN = ("calibration_windows", "profile_windows", "calibration_precision")


class Proposal(NamedTuple):
    """A model, texts and a plan, as a form shows them first."""

    judged: Judged
    plan: Plan
    one_shot: bool = False
    repair: str = "none"
    jitter: int = 0

    def comparison(self) -> Study:
        """The comparison of the plan with constant slicing."""
        judged = {name: getattr(self.judged, name) for name in Judged.model_fields}
        how = {"one_shot": self.one_shot, "repair": self.repair, "jitter": self.jitter}
        return comparison(self.plan, **how, **judged)


def propose(run: Run, plan: Plan) -> Proposal:
    """Propose a plan on the model and text whose profile a run holds; of a comparison all it asks for."""
    request = run.request
    if request.kind == "study" and request.view == "comparison":
        judged = Judged(**{name: getattr(request, name) for name in Judged.model_fields})
        ways = (each for each in request.recipes[-1].steps if each.axis == "stream")
        if step := next(ways, None):  # else it compares a recipe that has no way of slicing to go on with
            return Proposal(judged, plan, getattr(step, "one_shot", False), step.repair, request.jitter)
        return Proposal(judged, plan, jitter=request.jitter)
    drawn: dict[str, Any] = {}
    if request.kind != "profile":
        drawn = {name: getattr(request, name) for name in _DRAWN}
    elif request.drawn:
        drawn = {"calibration_windows": request.drawn, "profile_windows": request.windows}
    judged = Judged(
        model=request.model,
        calibration=request.profile_text,
        **drawn,
        evaluation=TextSource.parse("demo", "evaluation"),
        window_length=request.window_length,
        seed=request.profile_draw[2],
        new_tokens=40,
        speed_rounds=5,
    )
    return Proposal(judged, plan)


def with_bases(run: Run) -> ProfileRequest:
    """The profile of a run anew, keeping the bases that previews need."""
    return _profile_anew(run, bases=True)


def with_units(run: Run, measured: bool = False) -> ProfileRequest:
    """The profile of a run anew, with what units cost, and measured what whole attentions and MLPs do."""
    return _profile_anew(run, units=True, units_measured=measured)


def _profile_anew(run: Run, **fields: Any) -> ProfileRequest:
    request = run.request
    if request.kind == "profile":
        return request.model_copy(update=fields)
    _, drawn, seed = request.profile_draw
    return ProfileRequest(
        model=request.model,
        text=request.profile_text,
        windows=drawn,
        window_length=request.window_length,
        seed=seed,
        **fields,
    )
