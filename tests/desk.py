"""A stand-in for the worker of the server, and what a person does on a page that has no browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from analysis.device import Facts
from analysis.errors import ModelError
from analysis.sources.card import ModelCard, describe
from analysis.sources.model import ModelSource
from app import proposal, shipped, state
from app.engine import Report
from app.job import Job
from app.jobs import Opened
from app.policy import Policy
from slicing.preview import Preview, PreviewRequest
from slicing.studies.results import ProfileResult
from slicing.studies.store import bundled_run


class Desk:
    """Takes tasks and does nothing."""

    def __init__(self) -> None:
        self.tasks: list[Any] = []
        self.active: tuple[Job, ...] = ()
        self.report: Report | None = None
        self.opened: Opened | None = None
        self.lost: tuple[str, ...] = ()
        self.pid: int | None = None
        self.refusal: str | None = None
        self.previewed: list[PreviewRequest] = []
        self.found: Preview | str | None = None
        self.known: dict[float, Preview | str] = {}

    def submit(self, task: Any, owner: str) -> Job:
        """Take a task, or refuse it."""
        if self.refusal:
            raise ModelError(self.refusal)
        self.tasks.append(task)
        job = Job(len(self.tasks), task, owner)
        self.active += (job,)
        return job

    def preview(self, request: PreviewRequest, owner: str) -> Any:
        """Tell what a test says."""
        self.previewed.append(request)
        return self.found

    def known_preview(self, request: PreviewRequest) -> Preview | str | None:
        """Tell what a test says of the plan at this target."""
        return self.known.get(request.plan.target)

    def cancel(self, job: Job) -> None:
        """Forget a job."""
        job.state = "cancelled"
        self.active = tuple(each for each in self.active if each is not job)

    stop_now = cancel

    def take_closed(self, owner: str) -> list[Any]:
        """Nothing is ever closed."""
        return []

    def position(self, job: Job) -> int:
        """How many are before this one."""
        return self.active.index(job)


def describe_unless_demo(source: ModelSource, told: Facts) -> ModelCard:
    """The demo model may not be installed, and reading its GGUF file takes seconds."""
    if source.kind == "demo":
        raise ModelError("The demo model is not installed.")
    return describe(source, told)


def seated(monkeypatch: pytest.MonkeyPatch, root: Path, demo: bool = False) -> Desk:
    """A desk in the place of the worker; ``demo``: the demo model is there."""
    desk = Desk()
    monkeypatch.setattr(state, "enforced", lambda: Policy(roots=(root,)))
    monkeypatch.setattr(state, "worker", lambda: desk)
    if not demo:
        monkeypatch.setattr(state, "describe", describe_unless_demo)
    state._card.clear()
    return desk


def words(app: AppTest) -> str:
    """All that a page says."""
    kinds = ("title", "header", "subheader", "markdown", "caption", "error", "warning", "info", "text")
    return "\n".join(str(element.value) for kind in kinds for element in getattr(app, kind))


def charts(app: AppTest) -> list[str]:
    """The keys of the charts on a page."""
    return [str(chart.key) for chart in app.get("plotly_chart")]


def press(app: AppTest, label: str) -> AppTest:
    """Press the button of this name."""
    next(button for button in app.button if button.label == label).click().run()
    assert not app.exception
    return app


def with_bases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the bundled run be one that kept its bases."""
    run = bundled_run()
    assert run.result.kind == "study"
    result = ProfileResult(
        profile=run.result.profile,
        shape=run.result.shape,
        not_sliceable=None,
        text=run.result.calibration,
        bases=True,
    )
    recipe = proposal.with_bases(run)
    monkeypatch.setattr(
        shipped, "bundled_run", lambda: run.model_copy(update={"request": recipe, "result": result})
    )
