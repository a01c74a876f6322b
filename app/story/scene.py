"""What a scene of the story is, and what its notes tell the teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from app.figures.base import Drawing, Theme
from app.figures.cloud import Stage
from app.story.case import Case
from app.story.guesses import Guess


@dataclass(frozen=True)
class Exercise:
    """Something to try after the scene, with the page and the settings to begin from."""

    task: str
    page: str
    parameters: dict[str, str]


@dataclass(frozen=True)
class Notes:
    """What the teacher needs to know about a scene."""

    say: str
    minutes: int
    misconception: str
    """What students often get wrong, and what is right."""
    exercise: Exercise


@dataclass(frozen=True)
class Dial:
    """The one setting of a scene that the speaker moves."""

    name: str
    title: str
    value: Callable[[Case], float]
    lowest: Callable[[Case], float]
    highest: Callable[[Case], float]


def _nothing(case: Case) -> str:
    return ""


def _always(case: Case) -> bool:
    return True


def _as_it_is(case: Case) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True)
class Scene:
    """One scene of the story. ``setting`` is where its dial stands; scenes without one pass it over."""

    title: str
    sentence: Callable[[Case, float], str]
    """The takeaway, with the numbers of the case, in Markdown."""
    formula: Callable[[Case], str]
    """One line of LaTeX."""
    question: str
    """What to ask before the answer is shown."""
    guess: Callable[[Case], Guess]
    """What the room may guess."""
    answer: Callable[[Case], str]
    draw: Callable[[Case, float, Theme, bool], Drawing]
    """The chart; the last argument conceals the answer."""
    source: Callable[[Case], str]
    """One line in small type: model, text, and whose method or measure it is."""
    notes: Notes
    why: Callable[[Case], str] = _nothing
    """The reason behind the takeaway, in Markdown; shown with the answer, in smaller type."""
    dial: Dial | None = None
    stages: tuple[Stage, Stage] | None = None
    """Stages of the moving picture that stands in place of the chart: before the answer, and with it."""
    live: Callable[[Case, Theme, bool], str] | None = None
    """HTML that lives in place of the chart; the last argument conceals the answer."""
    still: Callable[[Case, Theme], str] | None = None
    """The same as HTML that stands still, for paper."""
    told_of: Callable[[Case], bool] = _always
    """Whether a case has what the scene shows."""
    other: Callable[[Case], Mapping[str, Any]] = _as_it_is
    """Fields that are others for a case, as for a plan that goes by another score."""

    def of(self, case: Case) -> Scene:
        """Give the scene as it is told of a case."""
        return replace(self, **self.other(case))

    def setting(self, case: Case) -> float:
        """Give the place of the dial before it is moved."""
        return self.dial.value(case) if self.dial else 0.0
