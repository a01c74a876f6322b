"""Previews: what a plan would cost, within seconds, from the bases that a profile run kept.

Nothing is stored. A preview is a re-cut in the bases of the dense stream and a small evaluation, beside the
dense model and constant slicing on the same windows.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

from analysis.bases import Bases
from analysis.device import free_memory
from analysis.errors import StorageError
from analysis.evaluate import Difference, Perplexity, difference, perplexity, safe_precision
from analysis.needs import refuse_unless_it_fits
from analysis.precision import Precision
from analysis.read_shape import read_shape
from analysis.sources.opening import OpenModel
from analysis.sources.text import TextSource
from analysis.sources.windows import token_windows
from analysis.storage import runs_folder
from analysis.values import Progress, Value, no_progress
from slicing.guard import refuse_unless_invariant
from slicing.memory import preview_need
from slicing.plans import Plan
from slicing.schedule import SlicingSchedule
from slicing.slicer import recut
from slicing.store import Opener, open_model
from slicing.studies.store import BASES_FILE, find_run

if TYPE_CHECKING:
    from torch import Tensor


class PreviewRequest(Value):
    """A plan on the bases of a stored profile run."""

    kind: Literal["preview"] = "preview"
    run: str
    """The key of a profile run that kept its bases."""
    plan: Plan
    evaluation: TextSource
    windows: int = 8
    window_length: int = 256
    against: bool = True
    """Whether constant slicing is measured too, which takes as long again."""


class Preview(Value):
    """What a plan would cost, by a re-cut without calibration; a comparison would calibrate."""

    dense: Perplexity
    planned: Perplexity
    constant: Perplexity | None
    gain: Difference | None
    """Of the plan against constant slicing, where that was measured too."""
    seconds: float
    """For the re-cut and the evaluation of the plan."""


class Previewer:
    """Keeps what previews of one run share: its bases, the windows, what was measured already."""

    def __init__(self) -> None:
        self._about: tuple[object, ...] | None = None
        self._bases: Bases | None = None
        self._windows: Tensor | None = None
        self._precision: Precision = "exact"
        self._measured: dict[SlicingSchedule | None, tuple[Perplexity, float]] = {}

    def preview(
        self, request: PreviewRequest, progress: Progress = no_progress, opener: Opener = open_model
    ) -> Preview:
        """Measure the plan; the first preview of a run also reads its bases and measures the dense model.

        Raises ``StorageError`` when the run kept no bases, and what re-cutting and evaluating raise.
        """
        run = find_run(request.run)
        if run.result.kind != "profile" or not run.result.bases:
            raise StorageError(
                f"The run {run.key} kept no bases: profile the model again with bases to preview plans."
            )
        opened = opener(run.request.model)
        shape, result = read_shape(opened.model), run.result
        redundancy = result.profile.redundancy(request.plan.score, request.plan.first_token)
        planned, constant = request.plan.schedule(redundancy, shape), request.plan.constant(shape)
        about = (run.key, request.evaluation, request.windows, request.window_length)
        if self._about != about:
            self.forget()
            size = opened.model.dtype.itemsize
            for each in (planned, constant):
                refuse_unless_it_fits("Previewing", opened.model, preview_need(shape, each, size))
            self._bases = Bases.load(runs_folder() / run.key / BASES_FILE, opened.model.device)
            self._windows = token_windows(
                request.evaluation, opened.tokenizer, request.window_length, request.windows
            )
            refuse_unless_invariant(opened.model)  # once per model, and not a part of what a preview takes
            self._precision = safe_precision(run.request.model, self._windows, opened.model)
            self._about = about
        dense, _ = self._measure(opened, None, progress)
        ours, seconds = self._measure(opened, planned, progress)
        theirs = gain = None
        if request.against:
            theirs, _ = self._measure(opened, constant, progress)
            gain = difference("constant", theirs, request.plan.allocation, ours)
        return Preview(dense=dense, planned=ours, constant=theirs, gain=gain, seconds=seconds)

    def forget(self) -> None:
        """Give the memory back."""
        self.__init__()
        free_memory()

    def _measure(
        self, opened: OpenModel, schedule: SlicingSchedule | None, progress: Progress
    ) -> tuple[Perplexity, float]:
        if schedule not in self._measured:
            assert self._bases is not None
            assert self._windows is not None
            start = time.perf_counter()
            model = opened.model if schedule is None else recut(opened.model, schedule, self._bases).model
            found = perplexity(model, self._windows, progress, "Previewing", self._precision)
            self._measured[schedule] = found, time.perf_counter() - start
            while len(self._measured) > 200:  # never the dense model, which came first
                del self._measured[list(self._measured)[1]]
        return self._measured[schedule]
