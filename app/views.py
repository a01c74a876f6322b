"""What the Python interface shows of results: a sentence, a table, charts, and a page.

``slicing`` imports nothing of this package. It finds this module by the entry point ``slicescope.views`` of
``pyproject.toml``. Knows nothing about streamlit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import pandas as pd

from analysis.errors import PlanError, unknown_name
from analysis.evaluate import Perplexity
from analysis.profile import LayerProfile
from analysis.shape import ModelShape
from analysis.sources.windows import Passage
from app import wording
from app.cells import html_table
from app.figures.compare import draw_losses
from app.report import Section, Summary, build_page, build_report, every_section, summary
from app.report.shown import cut_section
from slicing.plans import Plan
from slicing.studies.results import Run

if TYPE_CHECKING:
    import plotly.graph_objects as go


class View:
    """One result as it is shown. Nothing is drawn before it is asked for."""

    def __init__(
        self,
        summed_up: Callable[[], Summary],
        every_section: Callable[[], Iterable[Section]],
        page: Callable[[], str],
    ) -> None:
        self._summed_up, self._sections, self._page = summed_up, every_section, page

    def sentence(self) -> str:
        """The main sentence."""
        return self._summed_up().verdict

    def more(self) -> tuple[str, ...]:
        """What is told behind it, a sentence or two each."""
        return self._summed_up().said

    def table(self) -> pd.DataFrame:
        """The table of the first part."""
        return next(iter(self._sections())).table

    def parts(self) -> list[str]:
        """The headings of all parts that have a chart, in their order."""
        return [each.title for each in self._drawn()]

    def figure(self, part: str | None = None) -> go.Figure:
        """The chart of a part by its heading, or the first one (``PlanError`` for an unknown heading)."""
        for each in self._drawn():
            if each.drawing and part in (None, each.title):
                return each.drawing.figure
        raise PlanError(unknown_name("part with a chart", str(part), self.parts()))

    def page(self) -> str:
        """The report: one HTML file without scripts, which needs no network."""
        return self._page()

    def _drawn(self) -> Iterator[Section]:
        return (each for each in self._sections() if each.drawing)


def of_run(run: Run) -> View:
    """Show a run, stored or not."""
    return View(
        lambda: summary(run, lambda key: False), lambda: every_section(run), lambda: build_report(run)
    )


def of_plan(plan: Plan, profile: LayerProfile, shape: ModelShape) -> View:
    """Show what a plan would cut where."""
    redundancy = profile.redundancy(plan.score, plan.first_token)
    planned, constant = plan.schedule(redundancy, shape), plan.constant(shape)
    title = f"Plan for {profile.model}: {wording.plan_line(plan)}"

    def parts() -> Iterator[Section]:
        drawn = cut_section(plan, profile, planned, constant, plan.allocation)
        yield drawn._replace(title="What would be cut where")

    left, other = (each.shape_after(shape).parameters for each in (planned, constant))
    found = Summary(
        f"{wording.parameters(left)} of {wording.parameters(shape.parameters)} parameters would be left; "
        f"constant slicing would leave {wording.parameters(other)}.",
        (wording.reduction(planned, shape).replace("**", ""),),
    )
    return View(lambda: found, parts, lambda: build_page(title, profile.text, found, list(parts())))


def of_evaluation(model: str, text: str, measured: Perplexity, where: tuple[Passage, ...]) -> View:
    """Show how well one model predicts a text."""
    drawing = draw_losses(measured, where)
    table = pd.DataFrame(
        {
            "window": range(len(measured.nll)),
            "document": [each.document for each in where] or None,
            "begins": [each.begins for each in where] or None,
            "nats per token": measured.nll,
        }
    ).dropna(axis="columns", how="all")
    verdict, _, more = drawing.takeaway.partition("; ")
    found = Summary(
        f"{model}: {verdict[0].lower()}{verdict[1:]}.",
        (more[0].upper() + more[1:],),
        notes=(f"{text}: {measured.protocol}.",),
    )
    parts = [Section("Perplexity of every window", drawing, table)]
    title = f"Perplexity of {model}"
    return View(lambda: found, lambda: parts, lambda: build_page(title, text, found, parts))


def as_html(table: pd.DataFrame, most: int) -> str:
    """A table as HTML, with at most so many rows; what is left out is told below it."""
    more = len(table) - most
    told = f"<p>{more} more rows: .frame() has all of them.</p>" if more > 0 else ""
    return html_table(table.head(most).round(4)) + told
