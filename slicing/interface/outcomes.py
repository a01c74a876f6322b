"""What the verbs of the Python interface give: results with their tables, charts and reports."""

from __future__ import annotations

import html
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.errors import StorageError
from analysis.evaluate import Perplexity
from analysis.profile import LayerProfile
from analysis.shape import ModelShape
from analysis.sources.windows import Passage
from analysis.storage import check_new_folder, runs_folder, runs_in, write_whole
from slicing.interface.models import Given, Model, load, path_of
from slicing.interface.views import View, views
from slicing.plans import Plan
from slicing.schedule import SlicingSchedule
from slicing.studies.results import CompressResult, Measurement, Run
from slicing.studies.results import warnings as told_of
from slicing.studies.store import MODEL_FOLDER, copy_model

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from slicing.interface.home import Home

ROWS = 12
"""Rows of a table that a notebook shows of a result by itself."""


class Shown:
    """What every result can show. In a notebook it shows its main sentence and the table by itself."""

    @abstractmethod
    def _view(self) -> View: ...

    @contextmanager
    def _there(self) -> Iterator[None]:
        """Where the files of the result are found while it is shown."""
        yield

    def frame(self) -> pd.DataFrame:
        """Give the main table, a pandas frame with the unit of each column in its name."""
        with self._there():
            return self._view().table()

    def plot(self, part: str | None = None) -> go.Figure:
        """Draw a part, by its heading (see ``parts``), or the main one: a figure of plotly.

        Raises ``PlanError`` for an unknown heading.
        """
        with self._there():
            return self._view().figure(part)

    def parts(self) -> list[str]:
        """Name all that ``plot`` can draw: the headings of the report that have a chart."""
        with self._there():
            return self._view().parts()

    def report(self, path: str | Path | None = None) -> str:
        """Give the report as HTML, and write it to ``path`` where that is given (``StorageError``).

        It is one file without scripts, which needs no network.
        """
        with self._there():
            page = self._view().page()
        if path is not None:
            write_whole(path_of(path), page.encode())
        return page

    @property
    def sentence(self) -> str:
        """The main sentence."""
        with self._there():
            return self._view().sentence()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What whoever uses the result must know, a sentence each."""
        return ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.sentence}>"

    def _repr_html_(self) -> str:
        with self._there():
            view = self._view()
            sentence, more, frame = view.sentence(), view.more(), view.table()
        said = "".join(f"<p>{html.escape(each)}</p>" for each in (*more[:1], *self.warnings))
        return f"<p><b>{html.escape(sentence)}</b></p>{said}{views().as_html(frame, ROWS)}"


class Outcome(Shown):
    """A run: what was asked for, and what came of it."""

    def __init__(self, run: Run, model: Given, home: Home) -> None:
        self.run = run
        """Request and result as frozen values: ``run.to_json()`` writes all of it."""
        self._model, self._home = model, home

    @property
    def folder(self) -> Path:
        """The folder of the run. That of a run that is not stored goes with the last result that needs it."""
        with self._there():
            return runs_folder() / self.run.key

    @property
    def warnings(self) -> tuple[str, ...]:
        """What whoever uses the result must know, a sentence each."""
        return self.run.request.warnings(self.run.result.shape) + told_of(self.run.result)

    def _view(self) -> View:
        return views().of_run(self.run)

    @contextmanager
    def _there(self) -> Iterator[None]:
        with runs_in(self._home.folder):
            yield


class Profile(Outcome):
    """How redundant every block is: what ``slicing.profile`` gives. The frame has a row for every block.

    >>> import slicing
    >>> found = slicing.profile(model, text, tokenizer=tokenizer, windows=4, window_length=32, progress=False)
    >>> found.profile.values("block-influence").shape
    (3,)
    >>> found.parts()[0]
    'LR score of every block'
    """

    @property
    def profile(self) -> LayerProfile:
        """The measurements, as a frozen value."""
        return self.run.result.profile


class Judgement(Outcome):
    """Models judged on the same windows: what ``slicing.compare`` and ``slicing.study`` give.

    >>> import slicing
    >>> found = slicing.study(
    ...     model, ["shortgpt"], "blocks=1", text=text, evaluation=other, tokenizer=tokenizer, windows=8,
    ...     window_length=32, evaluation_windows=8, progress=False,
    ... )
    >>> dense, shorter = found.measurements
    >>> dense.parameters - shorter.parameters
    7744
    """

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """Every model that was judged, the dense one first, as frozen values."""
        result: Any = self.run.result
        return (*result.measurements, *result.matched)


class Smaller(Outcome):
    """A smaller model: what ``slicing.compress`` and ``slicing.heal`` give.

    The model lies in the folder of the run, and is opened when it is first used.

    >>> import slicing
    >>> smaller = slicing.compress(
    ...     model, "shortgpt", budget="blocks=1", text=text, tokenizer=tokenizer, windows=8, window_length=32,
    ...     progress=False,
    ... )
    >>> smaller.result.layout.removed
    (1,)
    >>> smaller.model.training
    False
    """

    @property
    def result(self) -> CompressResult:
        """What was made, as a frozen value."""
        result: Any = self.run.result
        return result

    @property
    def parameters(self) -> int:
        """How many parameters are left; what is shared counts once."""
        return self.result.parameters

    @property
    def dense_parameters(self) -> int:
        """How many the dense model has."""
        return self.result.dense_parameters

    @property
    def model(self) -> PreTrainedModel:
        """The model, of transformers, with frozen parameters; it shares no tensor with the dense one."""
        return self._opened().model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the dense model."""
        return self._opened().tokenizer

    def _opened(self) -> Model:
        return self._loaded

    @cached_property
    def _loaded(self) -> Model:
        request: Any = self.run.request
        where = request.model
        opened = load(self.folder / MODEL_FOLDER, device=where.device, dtype=where.dtype, progress=False)
        called = f"{where.label}, {request.recipe.line}"
        return Model(opened.model, opened.tokenizer, opened.source, called)

    def _save(self, folder: Path) -> None:
        check_new_folder(folder)
        if not (self.folder / MODEL_FOLDER).is_dir():
            raise StorageError(f"'{self.folder}' has no model any more: make it again with slicing.compress.")
        with self._there():
            copy_model(self.run, folder)


class Planned(Shown):
    """What a plan would cut where, and what it would leave: what ``slicing.plan`` gives.

    >>> import slicing
    >>> found = slicing.profile(model, text, tokenizer=tokenizer, windows=4, window_length=32, progress=False)
    >>> planned = slicing.plan(found, target=0.25, allocation="constant")
    >>> planned.schedule.widths[:-1]
    (24, 24, 24)
    >>> planned.plan == slicing.Plan(allocation="constant")
    True
    """

    def __init__(self, plan: Plan, profile: LayerProfile, shape: ModelShape) -> None:
        self.plan = plan
        """The choices, as a frozen value."""
        self._profile, self._shape = profile, shape

    @cached_property
    def schedule(self) -> SlicingSchedule:
        """The width of the stream at every place, as a frozen value."""
        return self.plan.schedule(
            self._profile.redundancy(self.plan.score, self.plan.first_token), self._shape
        )

    @property
    def parameters(self) -> int:
        """How many parameters would be left; what is shared counts once."""
        return self.schedule.shape_after(self._shape).parameters

    @property
    def dense_parameters(self) -> int:
        """How many the dense model has."""
        return self._shape.parameters

    def _view(self) -> View:
        return views().of_plan(self.plan, self._profile, self._shape)


def plan_in(given: Any) -> Plan | None:
    """Give the plan where one was given, or what ``slicing.plan`` gave; else ``None``."""
    return given.plan if isinstance(given, Planned) else given if isinstance(given, Plan) else None


class Evaluation(Shown):
    """How well one model predicts a text: what ``slicing.evaluate`` gives.

    >>> import slicing
    >>> found = slicing.evaluate(
    ...     model, text, tokenizer=tokenizer, windows=8, window_length=32, progress=False
    ... )
    >>> low, high = found.interval
    >>> low < found.perplexity < high
    True
    """

    def __init__(self, model: str, text: str, measured: Perplexity, where: tuple[Passage, ...]) -> None:
        self.model, self.text = model, text
        self.measured = measured
        """All that was measured, as a frozen value; ``measured.nll`` has the loss of every window in nats."""
        self._where = where

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-likelihood, in nats, of all predicted tokens."""
        return self.measured.perplexity

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval over windows; ``None`` below eight windows."""
        return self.measured.interval

    @property
    def protocol(self) -> str:
        """How it was measured."""
        return self.measured.protocol

    def _view(self) -> View:
        return views().of_evaluation(self.model, self.text, self.measured, self._where)
